"""Constructor arguments: an invalid one raises an error that names it."""
import logging
import mmap
import socket

import pytest

import fastlog


@pytest.mark.parametrize("options, error, message", [
    ({"address": 7}, TypeError, "address.*str or os.PathLike.*host, port"),
    ({"address": b"/dev/log"}, TypeError, "address"),
    ({"address": ("host",)}, TypeError, "address"),
    ({"address": ("host", 514.0)}, TypeError, "address must have an int as port"),
    ({"address": ("host", b"514")}, TypeError, "address must have an int as port"),
    ({"address": ("host", True)}, TypeError, "address must have an int as port"),
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
    ({"socktype": socket.SOCK_SEQPACKET}, ValueError, "socktype.*SOCK_DGRAM"),
    ({"socktype": "raw"}, ValueError, "socktype.*\"tcp\""),
    ({"socktype": "1"}, ValueError, "socktype"),
    ({"socktype": True}, ValueError, "socktype"),
    ({"socktype": b"tcp"}, ValueError, "socktype"),
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


@pytest.mark.parametrize("name", ["WARNING", "warning", "Warn"])
def test_urgent_level_by_name(make_handler, name):
    """urgent_level may be the name of a level, in any case."""
    assert make_handler("/nowhere", urgent_level=name).urgent_level == 30


def test_urgent_level_by_the_name_of_a_custom_level(make_handler):
    """urgent_level may be the name of a level that the program has added."""
    logging.addLevelName(35, "Loud")
    try:
        assert make_handler("/nowhere", urgent_level="Loud").urgent_level == 35
    finally:
        logging._levelToName.pop(35)
        logging._nameToLevel.pop("Loud")


@pytest.mark.parametrize("facility", ["local0", "LOCAL0", "Local0", "LOG_LOCAL0", "log_local0"])
@pytest.mark.parametrize("cls", [fastlog.SysLogHandler, fastlog.JournalHandler])
def test_names_of_facilities(make_handler, facility, cls):
    """A facility may be named as in syslog.conf or as in syslog.h, in any case."""
    assert make_handler("/nowhere", cls=cls, facility=facility).facility == "local0"


def test_every_name_of_the_standard_library_is_a_facility(make_handler):
    """Each name in facility_names is accepted as it is."""
    for name in fastlog.SysLogHandler.facility_names:
        assert make_handler("/nowhere", facility=name).facility == name


@pytest.mark.parametrize("ident", ["shop", "shop7", "caf\u00e9"])
def test_ident_without_a_separator_is_reported(make_handler, capsys, ident):
    """One line on stderr reports an ident that would run together with each message."""
    handler = make_handler("/nowhere", ident=ident)
    assert capsys.readouterr().err == (
        f"fastlog: ident={ident!r} and the message run together; did you mean "
        f"'{ident}: '?\n")
    assert handler.ident == ident


@pytest.mark.parametrize("ident", [None, "", "shop: ", "shop:", "shop[7]", "[shop]", "shop "])
def test_ident_with_a_separator_is_not_reported(make_handler, capsys, ident):
    """An ident that ends in something else than a letter or a digit is not reported."""
    make_handler("/nowhere", ident=ident)
    assert capsys.readouterr().err == ""


def test_longest_paths_are_accepted(make_handler):
    """A path of 107 bytes and an abstract name of 107 bytes are accepted."""
    make_handler("/" + 106 * "x")
    make_handler("\0" + 107 * "x")
