"""The logging handler: the standard library's interface in front of an Engine."""
from __future__ import annotations

import logging
import logging.handlers
import os
import sys
from typing import TYPE_CHECKING

from fastlog import _emit, _options
from fastlog._core import Engine, Stats

if TYPE_CHECKING:
    from typing import Literal


class SysLogHandler(logging.handlers.SysLogHandler):
    """Sends records to syslog without making the logging thread wait for it.

    The bytes are those of `logging.handlers.SysLogHandler` (CPython,
    Lib/logging/handlers.py), whose attributes and methods are all here.
    Thread-safe; the call takes no lock unless a subclass overrides `emit`, or
    the formatter is not a plain `logging.Formatter`.

    address: path of a unix socket (str or PathLike; a leading NUL means the
        abstract namespace). None: /dev/log, else /run/systemd/journal/dev-log.
        It need not exist yet: records wait in the ring until it does.
    facility: name or number (0-23).
    socktype: socket.SOCK_DGRAM, socket.SOCK_STREAM, or None: datagram, and
        stream if that is what listens.
    timeout: taken for the sake of the standard library's signature (3.14); no
        call of a unix socket waits here.
    protocol: "stdlib": `<PRI>` + ident + message, + NUL if append_nul.
    ident: put before each message, "" by default. An attribute, read at each
        record, like append_nul.
    append_nul: end each message with a NUL byte, True by default.
    capacity: bytes of the ring, a power of two; default 4 MiB. Records below
        WARNING may fill seven eighths of it.
    overflow: what a record meets that finds the ring full. "block": it waits
        while the daemon takes records; after block_timeout without progress it
        and all that follow are dropped, until there is progress. "drop_new":
        it is dropped.
    block_timeout: seconds; default 0.2.
    linger: seconds after which the writer looks again for records while they
        keep coming, default 0.002. While none come this grows up to 16 times,
        which is the longest that a record below urgent_level is held back. 0:
        never hold a record back; each costs a wake-up when the writer sleeps.
    urgent_level: records of this level and above (number or name) leave at
        once; default logging.ERROR.
    close_timeout: seconds that close() and flush() try to deliver what is
        pending; default 5.

    Raises TypeError or ValueError, which names the argument, and OSError if
    the ring cannot be allocated.
    """

    def __init__(
        self,
        address: str | os.PathLike[str] | None = None,
        facility: int | str = "user",
        socktype: int | None = None,
        timeout: float | None = None,
        *,
        protocol: Literal["stdlib"] = "stdlib",
        ident: str | None = None,
        append_nul: bool | None = None,
        capacity: int = 4 * 1024 * 1024,
        overflow: Literal["block", "drop_new"] = "block",
        block_timeout: float = 0.2,
        linger: float = 0.002,
        urgent_level: int | str = logging.ERROR,
        close_timeout: float = 5.0,
    ) -> None:
        if address is None:
            paths: tuple[str, ...] = _options.DEFAULT_PATHS
        else:
            paths = (_options.socket_path(address),)
        # Wider than typeshed's types: the standard library takes names and None as well.
        self.facility = _options.facility(facility, self.facility_names)  # type: ignore[assignment]
        self.socktype = _options.socktype(socktype)  # type: ignore[assignment]
        self.timeout = None if timeout is None else _options.seconds("timeout", timeout)
        self.protocol = _options.choice("protocol", protocol, ("stdlib",))
        _options.optional("ident", ident, str)
        _options.optional("append_nul", append_nul, bool)
        self.urgent_level = _options.level("urgent_level", urgent_level)
        self.close_timeout = _options.seconds("close_timeout", close_timeout)
        self._engine = Engine(
            paths=[os.fsencode(path) for path in paths],
            socktype=self.socktype or 0,
            capacity=_options.capacity(capacity),
            block=_options.choice("overflow", overflow, ("block", "drop_new")) == "block",
            block_timeout=_options.seconds("block_timeout", block_timeout),
            linger=_options.seconds("linger", linger),
        )
        self._gave_up_at: int | None = None
        # Not the parent's __init__: it would connect, here and now.
        logging.Handler.__init__(self)
        self.address = paths[0]
        self.unixsocket = True
        self.socket = None
        if ident is not None:
            self.ident = ident
        if append_nul is not None:
            self.append_nul = append_nul

    handle = _emit.handle
    emit = _emit.emit
    __setattr__ = _emit.set_attribute
    __delattr__ = _emit.delete_attribute

    def flush(self, timeout: float | None = None) -> bool:  # type: ignore[override]
        """Wait until every record accepted before the call was handed to the kernel.

        timeout: seconds, None: close_timeout. Returns False if it passed first.
        Ctrl-C interrupts it. Thread-safe.
        """
        done = self._engine.flush(self._seconds(timeout))
        self._gave_up_at = None if done else self._progress()
        return done

    def close(self, timeout: float | None = None) -> None:
        """Flush, then stop the writer thread and close the socket. Thread-safe, idempotent.

        timeout: seconds, None: close_timeout. Records that could not be
        delivered by then are reported on stderr if logging.raiseExceptions is
        set; they stay in the ring. A record logged later starts the writer
        again, as the standard library's handler opens a new socket.
        """
        self._stop(self._seconds(timeout))
        logging.Handler.close(self)

    def __del__(self) -> None:
        # A handler that was dropped and not closed must deliver all the same.
        if hasattr(self, "_gave_up_at"):
            self._stop(self.close_timeout)

    def _stop(self, timeout: float) -> None:
        # logging.shutdown() calls flush() first: do not wait twice for a daemon that hangs.
        hopeless = self._gave_up_at is not None and self._gave_up_at == self._progress()
        pending = self._engine.close(0.0 if hopeless else timeout)
        if pending and logging.raiseExceptions and sys.stderr is not None:
            sys.stderr.write(f"fastlog: {pending} records were not delivered to {self.address}\n")

    def stats(self) -> Stats:
        """The handler's counters. Thread-safe; no lock is taken."""
        return self._engine.stats()

    def _seconds(self, timeout: float | None) -> float:
        return self.close_timeout if timeout is None else _options.seconds("timeout", timeout)

    def _progress(self) -> int:
        stats = self._engine.stats()
        return stats.sent + stats.discarded
