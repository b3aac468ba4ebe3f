"""BaseHandler: what SysLogHandler and JournalHandler share, an engine and its life cycle."""
from __future__ import annotations

import errno
import logging
import logging.handlers
import os
import time

from fastlog import _exit_hooks, _validation
from fastlog._core import Engine
from fastlog._frontend import emit as _emit

TYPE_CHECKING = False  # importing typing takes as long as all of fastlog
if TYPE_CHECKING:
    from fastlog._frontend.encoder import Encoder
    from fastlog._spool.file import Spool
    from fastlog._spool.orphans import OrphanedSpools
    from fastlog._stats import Stats
    from fastlog._validation import EngineOptions

_COLLECTED_TIMEOUT = 0.25  # seconds that the collection of handlers may wait for their records
_MUTED = 1.0  # seconds after an unsuccessful wait in which other collected handlers do not wait
_waited_until = 0.0  # monotonic seconds of the end of the last such time


class BaseHandler(logging.handlers.SysLogHandler):
    """A handler in front of an Engine. Subclasses choose the destination and the format.

    Facilities, priorities and their encoding are inherited from the standard library's class. The
    native methods of `_frontend/emit.pyx` read `_engine`, `_encoder`, `ident` and `append_nul`.

    options: the validated options of the engine.
    address: the name of the destination in reports.
    urgent_level, close_timeout, spool: the arguments of the public constructors.
    """

    _engine: Engine
    _encoder: Encoder | None = None

    def __init__(
        self,
        options: EngineOptions,
        *,
        address: str | tuple[str, int],
        urgent_level: int | str,
        close_timeout: float,
        spool: str | os.PathLike[str] | None,
    ) -> None:
        # With the first handler. __del__ may run when nothing can be imported any more.
        from fastlog import _reporting

        self._reporting = _reporting
        self.address = address
        self.urgent_level = _validation.level("urgent_level", urgent_level)
        self.close_timeout = _validation.seconds("close_timeout", close_timeout)
        self._orphans: OrphanedSpools | None = None
        if spool is None:
            self._engine = Engine(options)
        else:
            self._open_spool(_validation.spool_path(spool), options)
        self._outages_muted_until = 0.0           # monotonic seconds
        self._stuck_at: int | None = None         # _progress() when a flush last timed out
        # Not the parent's __init__, which would connect here and now.
        logging.Handler.__init__(self)
        _exit_hooks.register(self)

    def _open_spool(self, path: str | os.PathLike[str], options: EngineOptions) -> None:
        """Store the ring in a file. Send the records that earlier processes left in spools."""
        from fastlog._core import FRAMINGS
        from fastlog._spool import file, orphans

        # Absolute paths, because `fastlog recover` may run in another directory.
        spool = file.Spool(path, options.capacity, file.destination(
            [os.fsdecode(path) for path in options.paths], options.hostname, options.port,
            options.socktype, FRAMINGS[options.framing]))
        self._engine = Engine(options, spool)
        contents = orphans.describe(self._engine)
        if contents:
            self._reporting.warn_stderr(f"{contents} in {spool.path}")
            self._engine.start()

        def make_engine(orphan: Spool) -> Engine:
            return Engine(options.with_capacity(orphan.capacity), orphan)

        self._orphans = orphans.OrphanedSpools(spool, make_engine, self._reporting.warn_stderr)

    # --- the native methods, and the hooks that they call ------------------------------------

    handle = _emit.handle
    emit = _emit.emit
    __setattr__ = _emit.set_attribute
    __delattr__ = _emit.delete_attribute

    def _renew_socket(self) -> None:
        """Connect again, where Engine.wants_socket(). Only a subclass that connects needs it."""
        raise NotImplementedError

    def _follow_up(self, record, outcome):
        accepted, outage_changed, flush = outcome & 1, outcome & 2, outcome & 4
        if not accepted and getattr(self.handleError, "__func__", None) is not logging.Handler.handleError:
            self._report_drop(record)
        self._after_put(bool(outage_changed), bool(flush and accepted))

    def _report_drop(self, record: logging.LogRecord) -> None:
        """Call an overridden handleError(), which may have another place for a dropped record."""
        try:
            raise BlockingIOError(errno.EAGAIN, "the ring is full and nothing is sent",
                                  str(self.address))
        except BlockingIOError:
            self.handleError(record)

    def _after_put(self, outage_changed: bool, must_flush: bool) -> None:
        """Act on the flags of Engine.put(): report an outage, or flush at the exit."""
        if must_flush and self._stuck_at != self._progress():
            self.flush()
        if outage_changed and time.monotonic() >= self._outages_muted_until:
            self._report_outage()

    # --- the life cycle ------------------------------------------------------------------------

    def flush(self, timeout: float | None = None) -> bool:  # type: ignore[override]
        """Wait until every record accepted before the call was handed to the kernel.

        timeout: seconds. None means close_timeout.

        Returns whether that happened before the timeout. Ctrl-C interrupts the wait. Thread-safe.
        """
        seconds = self._timeout(timeout)
        deadline = time.monotonic() + seconds
        self._log_loss_report()
        complete = self._engine.flush(seconds)
        if self._orphans is not None:
            complete = self._orphans.finish(max(0.0, deadline - time.monotonic())) and complete
        self._stuck_at = None if complete else self._progress()
        return complete

    def close(self, timeout: float | None = None) -> None:
        """Flush, then stop the writer thread and close the socket. Thread-safe, idempotent.

        timeout: seconds. None means close_timeout.

        Records that could not be delivered by then stay in the ring, and are reported on stderr if
        logging.raiseExceptions is set. A record logged later starts the writer again, as the
        standard library's handler opens a new socket.
        """
        self._stop(self._timeout(timeout))
        logging.Handler.close(self)

    def __del__(self) -> None:
        # A handler that was dropped without close() must deliver all the same. One that outlives
        # the modules at the exit of the process was closed by logging.shutdown(). Any call of the
        # program may collect a handler, so this must not wait for a daemon that hangs.
        if time is None or not hasattr(self, "_stuck_at"):
            return
        global _waited_until
        timeout = min(self.close_timeout, _COLLECTED_TIMEOUT)
        if time.monotonic() < _waited_until:
            timeout = 0.0         # one collection may free many handlers of the same daemon
        sent = self._engine.flush(timeout)
        if not sent:
            _waited_until = time.monotonic() + _MUTED
        if not sent and not self._engine.spool_path():
            left = self._engine.orphan(self.close_timeout)
            if left:
                self._reporting.warn_stderr(
                    f"a handler was collected without close(): {left} records for {self.address} "
                    f"are lost unless they can be sent within {self.close_timeout:g} s")
        self._stop(timeout)

    def __reduce__(self) -> str:
        raise TypeError(f"a fastlog.{type(self).__name__} cannot be pickled or copied: "
                        "it has a thread and a socket; make one in each process")

    def _stop(self, timeout: float) -> None:
        # logging.shutdown() calls flush() first. Do not wait twice for a daemon that hangs.
        if self._stuck_at is not None and self._stuck_at == self._progress():
            timeout = 0.0
        deadline = time.monotonic() + timeout
        self._log_loss_report(during_outage=True)
        self._close_engine(timeout)
        if self._orphans is not None:
            self._orphans.close(max(0.0, deadline - time.monotonic()))

    def _close_engine(self, timeout: float) -> None:
        path = self._engine.spool_path()      # in a forked child, the child's own spool
        pending = self._engine.close(timeout)
        if pending:
            self._reporting.warn_stderr(f"{pending} records were not delivered to {self.address}"
                                   + (f"; they are kept in {path}" if path else ""))

    def _set_synchronous(self) -> None:
        """Wait for each record from now on: the process is exiting."""
        self._engine.set_synchronous()

    def _finish_child(self) -> None:
        """Deliver, at the end of a child process that runs no exit functions."""
        self.flush()
        if self._log_loss_report(during_outage=True):
            self.flush()
        self._close_engine(0.0)

    # --- reports -------------------------------------------------------------------------------

    def _report_outage(self) -> None:
        outage = self._reporting.poll_outage(self._engine)
        if outage is None:
            return
        ended, lost, error = outage
        if ended:
            # Report at most once a second on a ring that keeps filling up and draining.
            self._outages_muted_until = time.monotonic() + 1.0
        self._reporting.warn_stderr(
            self._reporting.describe_outage(self.address, ended, lost, error))
        if ended:
            self._log_loss_report()

    def _log_loss_report(self, during_outage: bool = False) -> bool:
        """Log what was lost since the last loss report. Return whether anything was."""
        record = self._reporting.loss_report(self._engine, during_outage)
        if record is not None:
            _emit.emit(self, record)
        return record is not None

    def stats(self) -> Stats:
        """Return the handler's counters. Thread-safe, and takes no lock."""
        return self._reporting.read_stats(self._engine)

    def _timeout(self, timeout: float | None) -> float:
        return self.close_timeout if timeout is None else _validation.seconds("timeout", timeout)

    def _progress(self) -> int:
        """Return how many records have left the ring so far."""
        stats = self.stats()
        return stats.sent + stats.discarded
