"""Validation of constructor arguments, and the options object that carries them to an Engine.

A bad argument raises a TypeError or ValueError that names it.
"""
from __future__ import annotations

import io
import logging
import math
import os
import re
import socket
import stat

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

#: The names of socket types in configuration files, without regard to case.
_SOCKTYPES = {name: kind for kind, names in {
    socket.SOCK_DGRAM: ("dgram", "datagram", "udp", "sock_dgram"),
    socket.SOCK_STREAM: ("stream", "tcp", "sock_stream")}.items() for name in names}

_SOCKTYPE_FORMS = "socket.SOCK_DGRAM, socket.SOCK_STREAM, \"udp\", \"tcp\" or None"

#: The default ports of URLs. syslog over UDP: RFC 5426 section 3.3. IANA registers 601 for syslog
#: over TCP (RFC 3195), because 514/tcp belongs to another service.
_PORTS = {"udp": 514, "tcp": 601}

_ADDRESS_FORMS = ("an absolute path, a relative path that contains a slash (\"./log\"), "
                  "\"unix:///PATH\", \"udp://HOST:PORT\", \"tcp://HOST:PORT\", "
                  "a tuple (HOST, PORT), or None")

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
    """Return a facility: a number from 0 to 23 or a key of `names`.

    A name may be in any case, and may be that of syslog.h ("LOG_LOCAL0").
    """
    if isinstance(value, str):
        for name in value, value.lower(), value.lower().removeprefix("log_"):
            if name in names:
                return name
        raise ValueError(f"facility must be a number or one of {', '.join(names)}, not {value!r}")
    if isinstance(value, bool) or not isinstance(value, int):
        raise TypeError(f"facility must be an int or a str, not {type(value).__name__}")
    if not 0 <= value <= 23:  # RFC 5424 section 6.2.1
        raise ValueError(f"facility must be a name or a number from 0 to 23, not {value}")
    return value


def socktype(value: object, local: bool = False) -> int | None:
    """Return a socket type, or None.

    local: whether it is for a unix socket. There the kernel takes SOCK_RAW for SOCK_DGRAM (Linux,
    net/unix/af_unix.c, unix_create).

    A number that is another type of socket raises io.UnsupportedOperation, which is both a
    ValueError and the OSError by which callers that try one type after the other go on.
    """
    if isinstance(value, str) and value.lower() in _SOCKTYPES:
        return _SOCKTYPES[value.lower()]
    if value is None:
        return None
    if isinstance(value, int) and not isinstance(value, bool):
        if value in (socket.SOCK_DGRAM, socket.SOCK_STREAM):
            return value
        if local and value == socket.SOCK_RAW:
            return socket.SOCK_DGRAM
        raise io.UnsupportedOperation(f"socktype must be {_SOCKTYPE_FORMS}, not {value!r}")
    raise ValueError(f"socktype must be {_SOCKTYPE_FORMS}, not {value!r}")


def stream_framing(value: object, socktype: int | None) -> str | None:
    """Return a framing, which requires a stream socket, or None."""
    if value is None:
        return None
    framing = choice("framing", value, STREAM_FRAMINGS)
    if socktype != socket.SOCK_STREAM:
        raise ValueError("framing is for streams: it needs socktype=socket.SOCK_STREAM")
    return framing


def level(name: str, value: object) -> int:
    """Return the number of a level, given as a number or as a known name in any case."""
    if isinstance(value, str):
        for known in value, value.upper():
            number = logging.getLevelName(known)
            if isinstance(number, int):
                return number
        raise ValueError(f"{name} must be a known level, not {value!r}")
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

def syslog_destination(
    address: object, kind: object,
) -> tuple[tuple[str, ...], str, int, int | None]:
    """Return (paths, host, port, socktype). Either `paths` is empty, or `host` is."""
    paths, host, port, scheme = syslog_address(address)
    number = socktype(kind, local=bool(paths))
    expected = _SOCKTYPES.get(scheme, number)
    if number not in (None, expected):
        raise ValueError(f"socktype {kind!r} contradicts the address {address!r}")
    if host and expected is None:
        expected = socket.SOCK_DGRAM
    return paths, host, port, expected


def syslog_address(value: object) -> tuple[tuple[str, ...], str, int, str]:
    """Return (paths, host, port, scheme). The scheme is that of a URL, or ""."""
    if value is None:
        return DEFAULT_PATHS, "", 0, ""
    if isinstance(value, str) and "://" in value and value[0] not in "/\0":
        scheme, _, rest = value.partition("://")
        return url_address(value, scheme.lower(), rest)
    if isinstance(value, (str, os.PathLike)):
        return (existing_socket_path(value),), "", 0, ""
    return (), *host_and_port(value), ""


def url_address(url: str, scheme: str, rest: str) -> tuple[tuple[str, ...], str, int, str]:
    """Return (paths, host, port, scheme) of a URL. It has no escapes, query or user."""
    if scheme == "unix" and rest.startswith("/"):
        return (existing_socket_path(rest),), "", 0, scheme
    if scheme == "tls":
        raise ValueError(f"address must not be {url!r}: TLS is not supported. Send to a local "
                         "daemon that forwards by TLS")
    parts = re.fullmatch(r"(\[[^\[\]]+\]|[^\[\]:/?#@\s]+)(?::([0-9]+))?", rest)
    if scheme not in _PORTS or parts is None:
        raise ValueError(f"address must be {_ADDRESS_FORMS}, not {url!r}")
    return (), *host_and_port((parts[1], parts[2] or _PORTS[scheme])), scheme


def local_address(value: object) -> str:
    """Return the path of a unix socket, given as a path or as a unix URL."""
    if not isinstance(value, (str, os.PathLike)):
        raise TypeError(f"address must be a str or os.PathLike, not {type(value).__name__}")
    paths, host, _, _ = syslog_address(value)
    if host:
        raise ValueError(f"address must be the path of a unix socket, not {value!r}")
    return paths[0]


def existing_socket_path(value: str | os.PathLike[str]) -> str:
    """Return the path of a unix socket, which need not exist.

    A str that is not recognizably a path is refused: a host name, an unset variable of a template.
    An os.PathLike is a path whatever it contains.
    """
    path = socket_path(value)
    if isinstance(value, str) and not is_path(value):
        raise ValueError(f"address must be {_ADDRESS_FORMS}, not {value!r}")
    if not path.startswith("\0"):
        try:
            mode = os.stat(path).st_mode
        except OSError:               # it may appear later
            return path
        if not stat.S_ISSOCK(mode):
            raise ValueError("address must be the path of a socket, which "
                             f"{path!r} ({stat.filemode(mode)}) is not")
    return path


def is_path(text: str) -> bool:
    """Return whether a str is recognizably the path of a socket.

    The first component of a relative path must be a plain name, without the characters of host
    names with ports, of variables and of "~", which nobody expands.
    """
    if text.startswith("\0"):
        return True
    first, slash, _ = text.partition("/")
    return bool(slash) and text == text.strip() and re.fullmatch(r"[\w.+-]*", first) is not None


def socket_path(value: str | os.PathLike[str]) -> str:
    """Return the path of a unix socket. A leading NUL means the abstract namespace."""
    path = os.fsdecode(value)
    encoded = os.fsencode(path)
    if not encoded:
        raise ValueError(f"address must not be empty; it must be {_ADDRESS_FORMS}")
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
    """Return a network address. The host's name is not looked up.

    The port may be text: digits, or the name of a service. An IPv6 address may be in brackets.
    """
    if not isinstance(value, (tuple, list)) or len(value) != 2:
        raise TypeError("address must be a str or os.PathLike, the path of a unix socket or a "
                        f"URL, a tuple (host, port), or None, not {value!r}")
    host, port = value
    if not isinstance(host, str):
        raise TypeError(f"address must have a str as host, not {type(host).__name__}")
    if host.startswith("[") and host.endswith("]") and ":" in host:
        host = host[1:-1]
    return checked_host(host), port_number(port)


def port_number(value: object) -> int:
    """Return a port, given as an int, as digits, or as a name in services(5)."""
    if isinstance(value, str):
        if value.isascii() and value.isdigit():
            value = int(value)
        else:
            try:
                value = socket.getservbyname(value)
            except (OSError, ValueError):
                raise ValueError(f"address must have a port from 1 to 65535 or the name of a "
                                 f"service as port, not {value!r}") from None
    if isinstance(value, bool) or not isinstance(value, int):
        raise TypeError(f"address must have an int as port, not {type(value).__name__}")
    if not 0 < value < 65536:
        raise ValueError(f"address must have a port from 1 to 65535, not {value}")
    return value


def checked_host(host: str) -> str:
    """Return a host name or an IP address. A name that no resolver could find is refused."""
    encoded = encoded_host(host)
    if not host or len(encoded) > _HOST_MAX:
        raise ValueError(f"address must have a host name of 1 to {_HOST_MAX} bytes, not {host!r}")
    valid = re.fullmatch(rb"[A-Za-z0-9_.-]+", encoded) is not None
    if b":" in encoded:
        address, _, _scope = host.partition("%")       # fe80::1%eth0: RFC 4007 section 11
        try:
            socket.inet_pton(socket.AF_INET6, address)
            valid = True
        except OSError:
            valid = False
    if not valid:
        raise ValueError(f"address must have a valid host name, not {host!r}")
    return host


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


def native_destination(paths: Sequence[str], host: str,
                       port: int) -> tuple[tuple[bytes, ...], bytes, bytes]:
    """Return (paths, host, service) as Engine takes them, from what syslog_address() returns."""
    return (tuple(absolute_socket_path(path) for path in paths), encoded_host(host),
            str(port).encode())


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
        self.paths, self.host, self.service = native_destination(paths, hostname, port)
        self.hostname = hostname
        self.port = port
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
