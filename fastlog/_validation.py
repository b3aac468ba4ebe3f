"""Validation of constructor arguments, and the options object that carries them to an Engine.

A bad argument raises a TypeError or ValueError that names it.
"""
from __future__ import annotations

import logging
import math
import os
import socket

from fastlog import _core

TYPE_CHECKING = False  # importing typing takes as long as all of fastlog
if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

#: The sockets on which syslog listens on Linux: the traditional path, then journald's own.
DEFAULT_PATHS = ("/dev/log", "/run/systemd/journal/dev-log")

#: The framings that a program can choose: RFC 6587 sections 3.4.1 and 3.4.2.
STREAM_FRAMINGS = ("octet-counting", "newline")

PROTOCOLS = ("stdlib", "rfc3164", "rfc5424")

#: What happens to a record longer than max_size. "shorten" truncates it.
OVERSIZES = ("shorten", "split")

#: The default max_size in bytes where records are split: rsyslog's default maxMessageSize, 8k.
SPLIT_SIZE = 8192

_SIZE_MIN = 480   # bytes that every receiver must accept: RFC 5424 section 6.1
_HOST_MAX = 253   # bytes, without the final dot: RFC 1035 section 2.3.4
_PATH_MAX = 107   # sun_path has 108 bytes, one of which is the final NUL: unix(7)
_CAPACITY_MIN = os.sysconf("SC_PAGE_SIZE")
_CAPACITY_MAX = 1 << 30


def choice(name: str, value: object, allowed: tuple[str, ...]) -> str:
    """Return `value`, which must be one of the `allowed` strings."""
    if not isinstance(value, str):
        raise TypeError(f"{name} must be a str, not {type(value).__name__}")
    if value not in allowed:
        raise ValueError(f"{name} must be one of {', '.join(map(repr, allowed))}, not {value!r}")
    return value


def seconds(name: str, value: object) -> float:
    """Return a duration in seconds, from 0 to 1e9. Infinity is refused: it would never end."""
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        raise TypeError(f"{name} must be a number of seconds, not {type(value).__name__}")
    if not (math.isfinite(value) and 0 <= value <= 1e9):
        raise ValueError(f"{name} must be between 0 and 1e9 seconds, not {value!r}")
    return float(value)


def ring_capacity(value: object) -> int:
    """Return the size of a ring in bytes."""
    if isinstance(value, bool) or not isinstance(value, int):
        raise TypeError(f"capacity must be an int, not {type(value).__name__}")
    if not _CAPACITY_MIN <= value <= _CAPACITY_MAX or value & (value - 1):
        raise ValueError(
            f"capacity must be a power of two from {_CAPACITY_MIN} to {_CAPACITY_MAX} bytes, "
            f"not {value!r}")
    return value


def max_size(value: object, split: bool) -> int:
    """Return the limit of a record in bytes, or 0 for none."""
    if value is None:
        return SPLIT_SIZE if split else 0
    if isinstance(value, bool) or not isinstance(value, int):
        raise TypeError(f"max_size must be an int or None, not {type(value).__name__}")
    if not _SIZE_MIN <= value <= _CAPACITY_MAX:
        raise ValueError(f"max_size must be from {_SIZE_MIN} to {_CAPACITY_MAX} bytes, "
                         f"not {value!r}")
    return value


def facility(value: object, names: Mapping[str, int]) -> int | str:
    """Return a facility as it was given: a number from 0 to 23 or a key of `names`."""
    if isinstance(value, str):
        if value not in names:
            raise ValueError(f"facility must be a number or one of {', '.join(names)}, "
                             f"not {value!r}")
        return value
    if isinstance(value, bool) or not isinstance(value, int):
        raise TypeError(f"facility must be an int or a str, not {type(value).__name__}")
    if not 0 <= value <= 23:  # RFC 5424 section 6.2.1
        raise ValueError(f"facility must be a name or a number from 0 to 23, not {value}")
    return value


def socktype(value: object) -> int | None:
    """Return a socket type, or None."""
    if value is None or value in (socket.SOCK_DGRAM, socket.SOCK_STREAM):
        return value  # type: ignore[return-value]
    raise ValueError(f"socktype must be socket.SOCK_DGRAM, socket.SOCK_STREAM or None, "
                     f"not {value!r}")


def stream_framing(value: object, socktype: int | None) -> str | None:
    """Return a framing, which requires a stream socket, or None."""
    if value is None:
        return None
    framing = choice("framing", value, STREAM_FRAMINGS)
    if socktype != socket.SOCK_STREAM:
        raise ValueError("framing is for streams: it needs socktype=socket.SOCK_STREAM")
    return framing


def level(name: str, value: object) -> int:
    """Return the number of a level. Like Logger.setLevel, accept a number or a known name."""
    if isinstance(value, str):
        number = logging.getLevelName(value)
        if not isinstance(number, int):
            raise ValueError(f"{name} must be a known level, not {value!r}")
        return number
    if isinstance(value, bool) or not isinstance(value, int):
        raise TypeError(f"{name} must be an int or a str, not {type(value).__name__}")
    return value


def optional(name: str, value: object, kind: type) -> None:
    """Check that `value` is None or an instance of `kind`."""
    if value is not None and not isinstance(value, kind):
        raise TypeError(f"{name} must be a {kind.__name__} or None, not {type(value).__name__}")


def spool_path(value: object) -> str | os.PathLike[str]:
    """Return the path of a spool, which need not exist."""
    if not isinstance(value, (str, os.PathLike)):
        raise TypeError(f"spool must be a str, os.PathLike or None, not {type(value).__name__}")
    if not os.fsdecode(value) or "\0" in os.fsdecode(value):
        raise ValueError(f"spool must be the path of a file, not {value!r}")
    return value


# --- addresses -----------------------------------------------------------------------------------

def syslog_address(value: object) -> tuple[tuple[str, ...], str, int]:
    """Return (paths, host, port). Either `paths` is empty, or `host` is."""
    if value is None:
        return DEFAULT_PATHS, "", 0
    if isinstance(value, (str, os.PathLike)):
        return (socket_path(value),), "", 0
    return (), *host_and_port(value)


def socket_path(value: str | os.PathLike[str]) -> str:
    """Return the path of a unix socket. A leading NUL means the abstract namespace."""
    path = os.fsdecode(value)
    encoded = os.fsencode(path)
    if not encoded:
        raise ValueError("address must not be empty")
    limit = _PATH_MAX + (encoded[0] == 0)
    if len(encoded) > limit:
        raise ValueError(f"address must be at most {limit} bytes, which is all that the address of "
                         f"a unix socket holds; {path!r} has {len(encoded)}")
    if b"\0" in encoded[1:] and encoded[0]:
        raise ValueError(f"address must not contain a NUL: {path!r}")
    return path


def absolute_socket_path(path: str) -> bytes:
    """Return a path that still works after the program has changed its working directory.

    A path that would become too long stays relative.
    """
    encoded = os.fsencode(path)
    if encoded[0] == 0:
        return encoded
    absolute = os.path.abspath(encoded)
    return absolute if len(absolute) <= _PATH_MAX else encoded


def host_and_port(value: object) -> tuple[str, int]:
    """Return a network address. The name is not looked up."""
    if not isinstance(value, (tuple, list)) or len(value) != 2:
        raise TypeError(
            "address must be a str or os.PathLike, the path of a unix socket, a tuple "
            f"(host, port), or None, not {value!r}")
    host, port = value
    if not isinstance(host, str):
        raise TypeError(f"address must have a str as host, not {type(host).__name__}")
    if isinstance(port, bool) or not isinstance(port, int):
        raise TypeError(f"address must have an int as port, not {type(port).__name__}")
    if not 0 < port < 65536:
        raise ValueError(f"address must have a port from 1 to 65535, not {port}")
    if not host or len(encoded_host(host)) > _HOST_MAX:
        raise ValueError(f"address must have a host name of 1 to {_HOST_MAX} bytes, not {host!r}")
    return host, port


def encoded_host(host: str) -> bytes:
    """Return a host name as a resolver takes it: beyond ASCII by IDNA, as the socket module."""
    try:
        encoded = host.encode("ascii")
    except UnicodeEncodeError:
        try:
            encoded = host.encode("idna")
        except UnicodeError as error:
            raise ValueError(f"address must have a valid host name, not {host!r}") from error
    if b"\0" in encoded:
        raise ValueError(f"address must not contain a NUL: {host!r}")
    return encoded


# --- the options of an engine --------------------------------------------------------------------

class EngineOptions:
    """The options of one Engine, validated. Treat an instance as immutable.

    paths: paths of unix sockets, tried in order at each connect. Empty with a host.
    hostname, port: a network address. The writer looks the name up.
    socktype: a socket type, or None for a datagram socket with a stream socket as second choice.
    connect_timeout: seconds for a TCP connect, or 0 for the kernel's own timeout.
    adopting: whether sockets are handed over by Engine.adopt() instead of connected.
    framing: a key of fastlog._core.FRAMINGS.
    capacity: bytes of the ring.
    overflow: a key of fastlog._core.OVERFLOW_POLICIES.
    block_timeout: seconds without progress after which records are dropped.
    linger: seconds of the writer's shortest poll interval, or 0 for none.
    max_size: bytes of a record without its framing, or 0 for no limit but the ring's.
    split: whether a longer record becomes several instead of being truncated.

    Raises TypeError or ValueError, which names the argument.
    """

    __slots__ = ("adopting", "block_timeout", "capacity", "connect_timeout", "framing", "host",
                 "hostname", "linger", "max_size", "overflow", "paths", "port", "service",
                 "socktype", "split")

    def __init__(
        self,
        paths: Sequence[str],
        hostname: str = "",
        port: int = 0,
        *,
        socktype: int | None = None,
        connect_timeout: float = 0.0,
        adopting: bool = False,
        framing: str | None = None,
        capacity: int,
        overflow: str = "block",
        block_timeout: float = 0.2,
        linger: float = 0.0,
        max_size: int = 0,
        split: bool = False,
    ) -> None:
        self.paths = tuple(absolute_socket_path(path) for path in paths)
        self.hostname = hostname
        self.host = encoded_host(hostname)
        self.port = port
        self.service = str(port).encode()
        self.socktype = socktype or 0
        self.connect_timeout = connect_timeout
        self.adopting = adopting
        self.framing = framing
        self.capacity = ring_capacity(capacity)
        self.overflow = choice("overflow", overflow, tuple(_core.OVERFLOW_POLICIES))
        self.block_timeout = seconds("block_timeout", block_timeout)
        self.linger = seconds("linger", linger)
        self.max_size = max_size
        self.split = split

    def with_capacity(self, capacity: int) -> EngineOptions:
        """Return a copy for a ring of another size."""
        options = object.__new__(EngineOptions)
        for name in self.__slots__:
            setattr(options, name, getattr(self, name))
        options.capacity = capacity
        return options
