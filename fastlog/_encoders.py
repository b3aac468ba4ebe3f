"""The encoders of handlers, made of validated arguments. Imported only where one is needed."""
from __future__ import annotations

import os
import re
import socket
import sys
from collections.abc import Mapping

TYPE_CHECKING = False  # importing typing takes as long as all of fastlog
if TYPE_CHECKING:
    from fastlog._frontend.log_record import Encoder

#: The longest value of each field, in characters: RFC 5424 section 6. The 32 of RFC 3164 (section
#: 4.1.3) are for the tag. That RFC does not limit its other fields.
_LENGTHS = {"rfc3164": {"hostname": 255, "app_name": 32, "procid": 128, "msgid": 32},
            "rfc5424": {"hostname": 255, "app_name": 48, "procid": 128, "msgid": 32}}

#: The protocols that have a field, where not all have it.
_PROTOCOLS_OF = dict.fromkeys(("msgid", "structured_data"), "protocol=\"rfc5424\"")
_RFC_PROTOCOLS = "protocol=\"rfc3164\" and \"rfc5424\""

#: Characters that end the tag, or its process id, for readers of RFC 3164: rsyslog,
#: tools/pmrfc3164.c.
_TAG_ENDS = ":[]"

_IDENT_MAX = 48       # characters of a SYSLOG_IDENTIFIER, as of an APP-NAME in RFC 5424
_FIELDS_MAX = 1000    # journald ignores an entry of more than 1,024: systemd, journald-native.c

# Compiled only where they are used, to keep the import short.
_SD_NAME = r"[!#-<>-\\^-~]{1,32}"
_FIELD_NAME = "[A-Z][A-Z0-9_]{0,63}"


def syslog_encoder(protocol: str, **fields: object) -> Encoder | None:
    """Return the encoder of a protocol, or None for "stdlib", which has no header.

    fields: hostname, app_name, procid, msgid and structured_data, each None for its default.
    Raises TypeError or ValueError, which names the field.
    """
    _refuse_fields_of_others(protocol, fields)
    if protocol == "stdlib":
        return None
    from fastlog._frontend.rfc_header import Header, structured_data as rendered

    forbidden = _TAG_ENDS if protocol == "rfc3164" else ""
    hostname, app_name, msgid = _named_fields(protocol, fields, forbidden)
    procid = fields["procid"]
    if procid is not None:
        procid = header_field("procid", procid, _LENGTHS[protocol]["procid"], forbidden)
    data = fields["structured_data"]
    return Header(protocol, hostname, app_name, procid, msgid,
                  "-" if data is None else rendered(structured_data(data)))


def _refuse_fields_of_others(protocol: str, fields: Mapping[str, object]) -> None:
    """Refuse the fields that `protocol` does not have."""
    for name, value in fields.items():
        if value is None:
            continue
        if protocol == "stdlib":
            raise ValueError(f"{name} is for {_PROTOCOLS_OF.get(name, _RFC_PROTOCOLS)}")
        if protocol == "rfc3164" and name in _PROTOCOLS_OF:
            raise ValueError(f"{name} is for {_PROTOCOLS_OF[name]}")


def _named_fields(protocol: str, fields: Mapping[str, object], forbidden: str) -> list[str]:
    """Return hostname, app_name and msgid, with their defaults."""
    from fastlog._frontend.rfc_header import sanitize

    host, program = socket.gethostname(), program_name()
    if protocol == "rfc3164":
        host = host.partition(".")[0]     # section 4.1.2: without the domain
        program = re.sub(f"[{re.escape(forbidden)}]", "_", program)
    result = []
    for name, default in {"hostname": host, "app_name": program, "msgid": "-"}.items():
        value, length = fields[name], _LENGTHS[protocol][name]
        if value is None:
            result.append(sanitize(default, length))
        elif value == "" and name == "hostname" and protocol == "rfc3164":
            result.append("")             # the local form, as syslog(3) sends it
        else:
            result.append(header_field(name, value, length,
                                       forbidden if name == "app_name" else ""))
    return result


def journal_encoder(fields: object) -> Encoder:
    """Return the encoder of journal entries that have the given constant fields."""
    from fastlog._frontend.journal_entry import Journal

    return Journal(journal_fields(fields))


def ident_encoder() -> Encoder:
    """Return the encoder that puts "ident: " before the message, for syslog."""
    from fastlog._frontend.journal_entry import Syslog

    return Syslog()


def journal_ident(ident: object) -> str:
    """Return a SYSLOG_IDENTIFIER, by default the name of the program."""
    if ident is None:
        from fastlog._frontend.rfc_header import sanitize

        ident = sanitize(program_name(), _IDENT_MAX)
    return header_field("ident", ident, _IDENT_MAX)


def program_name() -> str:
    """Return the name of the running program: its file, or its package after `python -m`."""
    path = sys.argv[0] if sys.argv else ""
    name = os.path.basename(path)
    if name == "__main__.py":             # python -m PACKAGE
        name = os.path.basename(os.path.dirname(path))
    return "python" if name in ("", "-c", "-m") else name


def header_field(name: str, value: object, max_length: int, forbidden: str = "") -> str:
    """Return a header field: printable ASCII without spaces and the `forbidden` characters."""
    if not isinstance(value, str):
        raise TypeError(f"{name} must be a str or None, not {type(value).__name__}")
    if not 0 < len(value) <= max_length or any(
            not "!" <= character <= "~" or character in forbidden for character in value):
        raise ValueError(f"{name} must be 1 to {max_length} printable ASCII characters without "
                         f"{', '.join(['spaces', *forbidden])}, not {value!r}")
    return value


def structured_data(value: object) -> Mapping[str, Mapping[str, object]]:
    """Return {id: {name: value}}, with ids and names that RFC 5424 section 6.3 allows."""
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
    """Return {name: value}, with capitalized names that systemd.journal-fields(7) allows."""
    from fastlog._frontend.journal_entry import OWN_FIELDS, id_digits

    if value is None:
        return {}
    if not isinstance(value, Mapping):
        raise TypeError(f"fields must be a mapping or None, not {type(value).__name__}")
    fields: dict[str, object] = {}
    for name, content in value.items():
        if not (isinstance(name, str) and name.isascii()
                and re.fullmatch(_FIELD_NAME, name.upper())):
            raise ValueError("fields must have names of 1 to 64 ASCII letters, digits and _, "
                             f"beginning with a letter, not {name!r}")
        if name.upper() in OWN_FIELDS:
            raise ValueError(f"fields must not have {name}, which the handler sets itself")
        if name.upper() in fields:
            raise ValueError(f"fields must not have {name.upper()} twice")
        content = id_digits(name.upper().encode(), content)
        if not isinstance(content, (str, bytes, int, float)):
            raise TypeError(f"fields[{name!r}] must be a str, bytes or a number, not "
                            f"{type(content).__name__}")
        fields[name.upper()] = content
    if len(fields) > _FIELDS_MAX:
        raise ValueError(f"fields must be at most {_FIELDS_MAX}, not {len(fields)}")
    return fields
