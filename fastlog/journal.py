"""JournalHandler: records as entries of systemd's journal, with their fields."""
from __future__ import annotations

import logging
import logging.handlers
import os
import socket

from fastlog import _validation
from fastlog._base_handler import EngineHandler
from fastlog._frontend.journal_entry import Journal, Syslog
from fastlog._frontend.rfc_header import sanitize

TYPE_CHECKING = False  # importing typing takes as long as all of fastlog
if TYPE_CHECKING:
    from collections.abc import Mapping
    from typing import Literal

_IDENT_MAX = 48  # characters; as RFC 5424 has it of APP-NAME
_ENTRY = 3  # Framing, in _backend/framing.pxd


class JournalHandler(EngineHandler):
    """Sends records to systemd-journald with their fields, and makes no thread wait for it.

    Speaks journald's native protocol (systemd, docs/JOURNAL_NATIVE_PROTOCOL.md) and needs no
    library of systemd's. An entry has MESSAGE, as the formatter makes it, a traceback included;
    PRIORITY, SYSLOG_FACILITY, SYSLOG_IDENTIFIER, SYSLOG_TIMESTAMP (when the record was made, to
    the microsecond: journald's own is when it took it), LOGGER, CODE_FILE, CODE_LINE, CODE_FUNC,
    THREAD_NAME, and EXCEPTION_TEXT if there is one. Values may have many lines. An entry fills half
    of `capacity` at the most, `extra` half of that; a mark stands for what is cut off.

    What a call gives by `extra` becomes a field: its name in capitals, "_" for what is not A-Z,
    0-9 or "_", "X_" in front where that begins with no letter or is one of the names above, cut at
    64 characters. Bytes are taken as they are, all else as its str(). With those of `fields` they
    are 1,000 at most, as journald ignores an entry of more than 1,024; the rest is left out.

    Thread-safe, as SysLogHandler is, and with the same life: flush(), close(), stats().

    address: path of journald's socket (str or PathLike). It need not be there yet: records wait.
    facility: name or number (0-23).
    ident: SYSLOG_IDENTIFIER, by which `journalctl -t` finds the entries: 1 to 48 printable ASCII
        characters without spaces. By default the program's name. An attribute, read at each record.
    fields: {name: value} for all entries; names of letters, digits and "_", values str, bytes or
        numbers. A record's `extra` of the same name comes in a field's place.
    fallback: whether to send to syslog, "ident: message" on /dev/log, when `address` does not exist
        at construction. There is no room for fields there.
    capacity, overflow, block_timeout, linger, urgent_level, close_timeout, spool: as
        SysLogHandler's.

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
        if not isinstance(address, (str, os.PathLike)):
            raise TypeError(f"address must be a str or os.PathLike, not {type(address).__name__}")
        paths: tuple[str, ...] = (_validation.socket_path(address),)
        # Wider than typeshed's type: the standard library takes names as well.
        self.facility = _validation.facility(facility, self.facility_names)  # type: ignore[assignment]
        if ident is None:
            ident = sanitize(_validation.program_name(), _IDENT_MAX)
        self.ident = _validation.header_field("ident", ident, _IDENT_MAX)
        self._encoder = Journal(_validation.journal_fields(fields))
        if not isinstance(fallback, bool):
            raise TypeError(f"fallback must be a bool, not {type(fallback).__name__}")
        to_syslog = (fallback and not paths[0].startswith("\0")
                     and not os.path.exists(paths[0]))
        if to_syslog:
            paths = _validation.DEFAULT_PATHS
            self._encoder = Syslog()
        self.append_nul = to_syslog
        super().__init__(
            paths, address=paths[0], socktype=None if to_syslog else socket.SOCK_DGRAM,
            capacity=capacity, overflow=overflow, block_timeout=block_timeout, linger=linger,
            urgent_level=urgent_level, close_timeout=close_timeout, spool=spool,
            framing=0 if to_syslog else _ENTRY,
        )
