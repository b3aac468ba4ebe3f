"""Constructor arguments: an invalid one raises an error that names it."""
import mmap
import socket

import pytest

import fastlog


@pytest.mark.parametrize("options, error, message", [
    ({"address": 7}, TypeError, "address.*str or os.PathLike.*host, port"),
    ({"address": b"/dev/log"}, TypeError, "address"),
    ({"address": ("host",)}, TypeError, "address"),
    ({"address": ("host", "514")}, TypeError, "address must have an int as port"),
    ({"address": ("host", 0)}, ValueError, "address must have a port from 1 to 65535"),
    ({"address": ("host", 65536)}, ValueError, "address must have a port"),
    ({"address": (b"host", 514)}, TypeError, "address must have a str as host"),
    ({"address": ("", 514)}, ValueError, "address must have a host name"),
    ({"address": (254 * "x", 514)}, ValueError, "address must have a host name"),
    ({"address": ("a\0b", 514)}, ValueError, "address must not contain a NUL"),
    ({"address": ("\u00fc" * 64 + ".x", 514)}, ValueError, "address must have a valid host name"),
    ({"framing": "lines"}, ValueError, "framing.*'octet-counting'"),
    ({"framing": "newline"}, ValueError, "framing.*SOCK_STREAM"),
    ({"framing": 1, "socktype": socket.SOCK_STREAM}, TypeError, "framing"),
    ({"address": ""}, ValueError, "address must not be empty"),
    ({"address": "/" + 107 * "x"}, ValueError, "address must be at most 107 bytes"),
    ({"address": "\0" + 108 * "x"}, ValueError, "address must be at most 108 bytes"),
    ({"address": "/" + 54 * "\u00e9"}, ValueError, "has 109"),
    ({"address": "/a\0b"}, ValueError, "address must not contain a NUL"),
    ({"facility": "nonsense"}, ValueError, "facility.*local0.*'nonsense'"),
    ({"facility": 24}, ValueError, "facility.*0 to 23"),
    ({"facility": -1}, ValueError, "facility"),
    ({"facility": 1.0}, TypeError, "facility.*float"),
    ({"facility": True}, TypeError, "facility"),
    ({"socktype": socket.SOCK_RAW}, ValueError, "socktype.*SOCK_DGRAM"),
    ({"socktype": "stream"}, ValueError, "socktype"),
    ({"timeout": -1}, ValueError, "timeout"),
    ({"timeout": "1"}, TypeError, "timeout"),
    ({"protocol": "rfc0"}, ValueError, "protocol.*'stdlib'"),
    ({"protocol": None}, TypeError, "protocol"),
    ({"ident": b"tag"}, TypeError, "ident"),
    ({"append_nul": 1}, TypeError, "append_nul"),
    ({"capacity": 3 * mmap.PAGESIZE}, ValueError, "capacity.*power of two"),
    ({"capacity": mmap.PAGESIZE // 2}, ValueError, "capacity.*power of two"),
    ({"capacity": 1 << 31}, ValueError, "capacity"),
    ({"capacity": 0}, ValueError, "capacity"),
    ({"capacity": -4096}, ValueError, "capacity"),
    ({"capacity": 4096.0}, TypeError, "capacity"),
    ({"capacity": True}, TypeError, "capacity"),
    ({"overflow": "wait"}, ValueError, "overflow.*'block'.*'drop_new'"),
    ({"overflow": 1}, TypeError, "overflow"),
    ({"block_timeout": -0.1}, ValueError, "block_timeout"),
    ({"block_timeout": float("inf")}, ValueError, "block_timeout"),
    ({"block_timeout": float("nan")}, ValueError, "block_timeout"),
    ({"block_timeout": None}, TypeError, "block_timeout"),
    ({"linger": "2ms"}, TypeError, "linger"),
    ({"linger": -1}, ValueError, "linger"),
    ({"urgent_level": "LOUD"}, ValueError, "urgent_level.*'LOUD'"),
    ({"urgent_level": None}, TypeError, "urgent_level"),
    ({"close_timeout": True}, TypeError, "close_timeout"),
    ({"close_timeout": 1e12}, ValueError, "close_timeout"),
    ({"no_such_option": 1}, TypeError, "no_such_option"),
], ids=lambda value: repr(value)[:40] if isinstance(value, dict) else "")
def test_invalid_argument_is_rejected(options, error, message):
    """An invalid argument raises an error that names it."""
    with pytest.raises(error, match=message):
        fastlog.SysLogHandler(**{"address": "/nowhere", **options})


@pytest.mark.parametrize("method", ["flush", "close"])
def test_invalid_timeout_is_rejected(handler, method):
    """flush() and close() raise a TypeError if the timeout is not a number."""
    with pytest.raises(TypeError, match="timeout"):
        getattr(handler, method)("soon")


def test_urgent_level_by_name(make_handler):
    """urgent_level may be the name of a level."""
    assert make_handler("/nowhere", urgent_level="WARNING").urgent_level == 30


def test_longest_paths_are_accepted(make_handler):
    """A path of 107 bytes and an abstract name of 107 bytes are accepted."""
    make_handler("/" + 106 * "x")
    make_handler("\0" + 107 * "x")
