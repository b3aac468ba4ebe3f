"""JournalHandler: records as entries of systemd's journal, with their fields."""
from __future__ import annotations

import logging
import logging.handlers
import os
import socket

from fastlog import _encoders, _validation
from fastlog._base_handler import BaseHandler

TYPE_CHECKING = False  # importing typing takes as long as all of fastlog
if TYPE_CHECKING:
    from collections.abc import Mapping
    from typing import Literal


class JournalHandler(BaseHandler):
    """Send records to systemd-journald with their fields, without making any thread wait for it.

    This is journald's native protocol (systemd, docs/JOURNAL_NATIVE_PROTOCOL.md), without any
    library of systemd. The fields of an entry are MESSAGE, which the formatter provides, including
    a traceback; PRIORITY, SYSLOG_FACILITY and SYSLOG_IDENTIFIER; SYSLOG_TIMESTAMP, the time at
    which the record was created, to the microsecond (journald adds the time at which it received
    the entry); LOGGER, CODE_FILE, CODE_LINE, CODE_FUNC and THREAD_NAME; and EXCEPTION_TEXT if there
    is an exception. Values may have several lines. An entry fills at most half of `capacity`, and
    `extra` at most half of that. A mark replaces whatever is cut off.

    The `extra` of a call becomes fields. The name of a field is capitalized, "_" replaces
    characters other than A-Z, 0-9 and "_", and "X_" is put in front of a name that does not begin
    with a letter or that is one of the names above. Names are cut at 64 characters. Bytes are sent
    as they are, a UUID as MESSAGE_ID as 32 hexadecimal digits, and anything else as its str(). An
    entry has at most 1,000 of these fields and those of `fields`, because journald ignores an entry
    of more than 1,024. The rest is left out.

    Thread-safe, and with the same flush(), close() and stats() as SysLogHandler.

    address: path of journald's socket (PathLike, or a str as in SysLogHandler). It need not exist
        yet: records wait.
    facility: name or number (0-23).
    ident: SYSLOG_IDENTIFIER, by which `journalctl -t` finds the entries: 1 to 48 printable ASCII
        characters without spaces. By default the name of the program. It is an attribute that is
        read for each record.
    fields: {name: value} for all entries. Names consist of letters, digits and "_". Values are str,
        bytes, numbers, or a UUID as MESSAGE_ID. An `extra` of the same name replaces a field.
    fallback: whether to send to syslog, "ident: message" on /dev/log, if `address` does not exist
        at construction. Syslog cannot carry the fields.
    capacity, overflow, block_timeout, linger, urgent_level, close_timeout, spool: as in
        SysLogHandler.

    Raises TypeError or ValueError, which names the argument, and OSError if the ring cannot be
    allocated or the spool cannot be used.
    """

    def __init__(
        self,
        address: str | os.PathLike[str] = "/run/systemd/journal/socket",
        facility: int | str = logging.handlers.SysLogHandler.LOG_USER,
        *,
        ident: str | None = None,
        fields: Mapping[str, str | bytes | float] | None = None,
        fallback: bool = False,
        capacity: int = 4 * 1024 * 1024,
        overflow: Literal["block", "drop_new", "drop_oldest"] = "block",
        block_timeout: float = 0.2,
        linger: float = 0.002,
        urgent_level: int | str = logging.ERROR,
        close_timeout: float = 5.0,
        spool: str | os.PathLike[str] | None = None,
    ) -> None:
        paths: tuple[str, ...] = (_validation.local_address(address),)
        # Wider than typeshed's type: the standard library takes names as well.
        self.facility = _validation.facility(facility, self.facility_names)  # type: ignore[assignment]
        self.ident = _encoders.journal_ident(ident)
        self._encoder = _encoders.journal_encoder(fields)
        if not isinstance(fallback, bool):
            raise TypeError(f"fallback must be a bool, not {type(fallback).__name__}")
        to_syslog = (fallback and not paths[0].startswith("\0")
                     and not os.path.exists(paths[0]))
        if to_syslog:
            paths = _validation.DEFAULT_PATHS
            self._encoder = _encoders.ident_encoder()
        self.append_nul = to_syslog
        options = _validation.EngineOptions(
            paths, socktype=None if to_syslog else socket.SOCK_DGRAM,
            framing=None if to_syslog else "journal-entry",
            capacity=capacity, overflow=overflow, block_timeout=block_timeout, linger=linger)
        super().__init__(options, address=paths[0], urgent_level=urgent_level,
                         close_timeout=close_timeout, spool=spool)

    def _parse_address(self, value: object) -> tuple[tuple[str, ...], str, int]:
        return (_validation.local_address(value),), "", 0
