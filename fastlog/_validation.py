"""Checks of constructor arguments: a bad one is a TypeError or ValueError that names it."""
from __future__ import annotations

import logging
import math
import os
import re
import socket
import sys
from collections.abc import Mapping

TYPE_CHECKING = False  # importing typing takes as long as all of fastlog
if TYPE_CHECKING:
    from fastlog._frontend.rfc_header import Header

#: Where syslog listens on Linux: the traditional path, then journald's own.
DEFAULT_PATHS = ("/dev/log", "/run/systemd/journal/dev-log")

#: RFC 6587 sections 3.4.1 and 3.4.2, numbered from 1 as the engine does.
FRAMINGS = ("octet-counting", "newline")

#: What a record that finds the ring full meets, numbered as the engine does.
OVERFLOWS = ("block", "drop_new", "drop_oldest")

PROTOCOLS = ("stdlib", "rfc3164", "rfc5424")

#: The most characters of each: RFC 5424 section 6, and section 4.1.3 of RFC 3164, whose 32 are for
#: the tag; its other fields have no limit there.
_FIELDS = {"rfc3164": {"hostname": 255, "app_name": 32, "procid": 128, "msgid": 32},
           "rfc5424": {"hostname": 255, "app_name": 48, "procid": 128, "msgid": 32}}

#: What ends the tag, or the process id in it, for who reads RFC 3164: rsyslog, tools/pmrfc3164.c.
_TAG_ENDS = ":[]"

#: What becomes of a record longer than max_size.
OVERSIZES = ("shorten", "split")

#: Bytes of a record: rsyslog's default maxMessageSize, 8k, where records are split; and the
#: least that every receiver has to take (RFC 5424 section 6.1).
SPLIT_SIZE = 8192
_SIZE_MIN = 480

# Compiled where they are used, by who uses them.
_SD_NAME = r"[!#-<>-\\^-~]{1,32}"

_FIELD_NAME = "[A-Z][A-Z0-9_]{0,63}"
_FIELDS_MAX = 1000  # journald ignores an entry of more than 1,024: systemd, journald-native.c

_HOST_MAX = 253  # RFC 1035 section 2.3.4, without the final dot
_PATH_MAX = 107  # sun_path holds 108 bytes, one of them the final NUL: unix(7)
_CAPACITY_MIN = os.sysconf("SC_PAGE_SIZE")
_CAPACITY_MAX = 1 << 30


def choice(name: str, value: object, allowed: tuple[str, ...]) -> str:
    if not isinstance(value, str):
        raise TypeError(f"{name} must be a str, not {type(value).__name__}")
    if value not in allowed:
        raise ValueError(f"{name} must be one of {', '.join(map(repr, allowed))}, not {value!r}")
    return value


def seconds(name: str, value: object) -> float:
    """A time in seconds, 0 included; infinity would never end."""
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        raise TypeError(f"{name} must be a number of seconds, not {type(value).__name__}")
    if not (math.isfinite(value) and 0 <= value <= 1e9):
        raise ValueError(f"{name} must be between 0 and 1e9 seconds, not {value!r}")
    return float(value)


def capacity(value: object) -> int:
    if isinstance(value, bool) or not isinstance(value, int):
        raise TypeError(f"capacity must be an int, not {type(value).__name__}")
    if not _CAPACITY_MIN <= value <= _CAPACITY_MAX or value & (value - 1):
        raise ValueError(
            f"capacity must be a power of two from {_CAPACITY_MIN} to {_CAPACITY_MAX} bytes, "
            f"not {value!r}")
    return value


def max_size(value: object, split: bool) -> int:
    """Bytes; 0 for no limit."""
    if value is None:
        return SPLIT_SIZE if split else 0
    if isinstance(value, bool) or not isinstance(value, int):
        raise TypeError(f"max_size must be an int or None, not {type(value).__name__}")
    if not _SIZE_MIN <= value <= _CAPACITY_MAX:
        raise ValueError(f"max_size must be from {_SIZE_MIN} to {_CAPACITY_MAX} bytes, "
                         f"not {value!r}")
    return value


def header(protocol: str, **given: object) -> Header | None:
    """What makes the headers of a protocol; None for the standard library's, which has none."""
    if protocol == "stdlib":
        for name, value in given.items():
            if value is not None:
                raise ValueError(f"{name} is for protocol=\"rfc3164\" and \"rfc5424\"")
        return None
    if protocol == "rfc3164":
        for name in "msgid", "structured_data":
            if given[name] is not None:
                raise ValueError(f"{name} is for protocol=\"rfc5424\"")
    from fastlog._frontend.rfc_header import Header, sanitize, structured_data as written

    host, program, ends = socket.gethostname(), program_name(), ""
    if protocol == "rfc3164":
        host = host.partition(".")[0]     # section 4.1.2: not the domain
        ends = _TAG_ENDS
        program = re.sub(f"[{re.escape(ends)}]", "_", program)
    defaults = {"hostname": host, "app_name": program, "msgid": "-"}
    fields: dict[str, str] = {}
    for name, default in defaults.items():
        longest = _FIELDS[protocol][name]
        fields[name] = (sanitize(default, longest) if given[name] is None
                        else header_field(name, given[name], longest,
                                          ends if name == "app_name" else ""))
    procid = given["procid"]
    if procid is not None:
        procid = header_field("procid", procid, _FIELDS[protocol]["procid"], ends)
    data = given["structured_data"]
    return Header(protocol, fields["hostname"], fields["app_name"], procid, fields["msgid"],
                  "-" if data is None else written(structured_data(data)))


def program_name() -> str:
    path = sys.argv[0] if sys.argv else ""
    name = os.path.basename(path)
    if name == "__main__.py":             # python -m PACKAGE
        name = os.path.basename(os.path.dirname(path))
    return "python" if name in ("", "-c", "-m") else name


def header_field(name: str, value: object, longest: int, ends: str = "") -> str:
    """A field of RFC 3164's or RFC 5424's header: printable ASCII without spaces and `ends`."""
    if not isinstance(value, str):
        raise TypeError(f"{name} must be a str or None, not {type(value).__name__}")
    if not 0 < len(value) <= longest or any(
            not "!" <= each <= "~" or each in ends for each in value):
        raise ValueError(f"{name} must be 1 to {longest} printable ASCII characters without "
                         f"{', '.join(['spaces', *ends])}, not {value!r}")
    return value


def structured_data(value: object) -> Mapping[str, Mapping[str, object]]:
    """{id: {name: value}}, with ids and names that RFC 5424 section 6.3 allows."""
    if not isinstance(value, Mapping):
        raise TypeError(f"structured_data must be a mapping or None, not {type(value).__name__}")
    for element, parameters in value.items():
        if not isinstance(parameters, Mapping):
            raise TypeError(f"structured_data[{element!r}] must be a mapping, not "
                            f"{type(parameters).__name__}")
        for name in element, *parameters:
            if not isinstance(name, str) or not re.fullmatch(_SD_NAME, name):
                raise ValueError("structured_data must have names of 1 to 32 printable ASCII "
                                 f"characters without space, =, ] and \", not {name!r}")
    return value


def journal_fields(value: object) -> dict[str, object]:
    """{name: value}, with names that journald takes (systemd.journal-fields(7)), in capitals."""
    from fastlog._frontend.journal_entry import OWN_FIELDS

    if value is None:
        return {}
    if not isinstance(value, Mapping):
        raise TypeError(f"fields must be a mapping or None, not {type(value).__name__}")
    fields: dict[str, object] = {}
    for name, each in value.items():
        if not (isinstance(name, str) and name.isascii()
                and re.fullmatch(_FIELD_NAME, name.upper())):
            raise ValueError("fields must have names of 1 to 64 ASCII letters, digits and _, "
                             f"beginning with a letter, not {name!r}")
        if name.upper() in OWN_FIELDS:
            raise ValueError(f"fields must not have {name}, which the handler sets itself")
        if name.upper() in fields:
            raise ValueError(f"fields must not have {name.upper()} twice")
        if not isinstance(each, (str, bytes, int, float)):
            raise TypeError(f"fields[{name!r}] must be a str, bytes or a number, not "
                            f"{type(each).__name__}")
        fields[name.upper()] = each
    if len(fields) > _FIELDS_MAX:
        raise ValueError(f"fields must be at most {_FIELDS_MAX}, not {len(fields)}")
    return fields


def facility(value: object, names: Mapping[str, int]) -> int | str:
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
    if value is None or value in (socket.SOCK_DGRAM, socket.SOCK_STREAM):
        return value  # type: ignore[return-value]
    raise ValueError(f"socktype must be socket.SOCK_DGRAM, socket.SOCK_STREAM or None, "
                     f"not {value!r}")


def level(name: str, value: object) -> int:
    """A level as Logger.setLevel takes it: a number or a registered name."""
    if isinstance(value, str):
        number = logging.getLevelName(value)
        if not isinstance(number, int):
            raise ValueError(f"{name} must be a known level, not {value!r}")
        return number
    if isinstance(value, bool) or not isinstance(value, int):
        raise TypeError(f"{name} must be an int or a str, not {type(value).__name__}")
    return value


def optional(name: str, value: object, kind: type) -> None:
    if value is not None and not isinstance(value, kind):
        raise TypeError(f"{name} must be a {kind.__name__} or None, not {type(value).__name__}")


def socket_path(value: str | os.PathLike[str]) -> str:
    """The path of a unix socket; one that starts with a NUL is in the abstract namespace."""
    path = os.fsdecode(value)
    raw = os.fsencode(path)
    if not raw:
        raise ValueError("address must not be empty")
    limit = _PATH_MAX + (raw[0] == 0)
    if len(raw) > limit:
        raise ValueError(f"address must be at most {limit} bytes, as a unix socket's address "
                         f"holds no more; {path!r} has {len(raw)}")
    if b"\0" in raw[1:] and raw[0]:
        raise ValueError(f"address must not contain a NUL: {path!r}")
    return path


def connectable(path: str) -> bytes:
    """The path to connect to, even after the program has changed its directory."""
    raw = os.fsencode(path)
    absolute = raw if raw[0] == 0 else os.path.abspath(raw)
    return absolute if len(absolute) <= _PATH_MAX + (raw[0] == 0) else raw


def host_and_port(value: object) -> tuple[str, int]:
    """A network address; the name is not looked up."""
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
    """As a resolver takes it; names beyond ASCII by IDNA, as in the socket module."""
    try:
        raw = host.encode("ascii")
    except UnicodeEncodeError:
        try:
            raw = host.encode("idna")
        except UnicodeError as error:
            raise ValueError(f"address must have a valid host name, not {host!r}") from error
    if b"\0" in raw:
        raise ValueError(f"address must not contain a NUL: {host!r}")
    return raw


def framing(value: object, socktype: int | None) -> int:
    """The number by which the engine knows it."""
    if value is None:
        return 0
    number = FRAMINGS.index(choice("framing", value, FRAMINGS)) + 1
    if socktype != socket.SOCK_STREAM:
        raise ValueError("framing is for streams: it needs socktype=socket.SOCK_STREAM")
    return number
