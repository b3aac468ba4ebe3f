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

_TIMEOUT_MIN = 0.05               # seconds for each handler, even after a slow one
_UNREACHED_TIMEOUT = 0.2          # seconds, for a daemon that has never been reached


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

        self._previous = self._take_over() if "_stuck_at" in self.__dict__ else None
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
        self._is_exiting = False                  # each record is flushed
        self._is_last_chance = False              # nothing closes the handler after a record
        # Not the parent's __init__, which would connect here and now.
        logging.Handler.__init__(self)
        _exit_hooks.register(self)

    def _take_over(self) -> BaseHandler | None:
        """Return a handler for the records that an earlier __init__() has left, or None.

        The new engine may have another destination. The old one delivers its records.
        """
        if (self.flush(min(self.close_timeout, _UNREACHED_TIMEOUT))
                or self._engine.spool_path()):    # the file keeps them, but must be unlocked
            self._stop(0.0)
            return None
        previous = BaseHandler.__new__(BaseHandler)
        vars(previous).update(vars(self))
        _exit_hooks.register(previous)
        return previous

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

    def _follow_up(self, record: logging.LogRecord, outcome: int) -> None:
        accepted, outage_changed, flush = outcome & 1, outcome & 2, outcome & 4
        handle_error = getattr(self.handleError, "__func__", None)
        if not accepted and handle_error is not logging.Handler.handleError:
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
        if must_flush and not self._flush_or_give_up() and self._is_last_chance:
            self._warn_undelivered(self._engine.take_undelivered())
        if outage_changed and time.monotonic() >= self._outages_muted_until:
            self._report_outage()

    def _flush_or_give_up(self) -> bool:
        """Flush, unless the last flush timed out. Return False on a timeout.

        A flush that ends early is not one. Another thread closes the handler, and reports.
        """
        deadline = time.monotonic() + self.close_timeout
        return not self._is_stuck() and (self.flush() or time.monotonic() < deadline)

    # --- the life cycle ------------------------------------------------------------------------

    def flush(self, timeout: float | None = None) -> bool:  # type: ignore[override]
        """Wait until every record accepted before the call was handed to the kernel.

        timeout: seconds. None means close_timeout.

        Returns whether that happened before the timeout. Ctrl-C interrupts the wait. Thread-safe.
        """
        # At the exit, fastlog and logging.shutdown() flush. Do not wait twice.
        seconds = 0.0 if self._is_exiting and self._is_stuck() else self._timeout(timeout)
        deadline = time.monotonic() + seconds
        self._log_loss_report()
        complete = self._engine.flush(seconds)
        if self._orphans is not None:
            complete = self._orphans.finish(max(0.0, deadline - time.monotonic())) and complete
        # The end of a writer, as in close(), ends the wait early.
        timed_out = not complete and time.monotonic() >= deadline
        self._stuck_at = self._progress() if timed_out else None
        if self._previous is not None:
            complete = self._previous.flush(max(0.0, deadline - time.monotonic())) and complete
        return complete

    def close(self, timeout: float | None = None) -> None:
        """Flush, then stop the writer thread and close the socket. Thread-safe, idempotent.

        timeout: seconds. None means close_timeout.

        Records that could not be delivered by then stay in the ring, and are reported on stderr if
        logging.raiseExceptions is set. A record logged later starts the writer again, as the
        standard library's handler opens a new socket.
        """
        self._stop(self._timeout(timeout))
        self._is_last_chance = True
        logging.Handler.close(self)

    def __del__(self) -> None:
        # A handler that was dropped without close() must deliver all the same. One that outlives
        # the modules at the exit of the process was closed by logging.shutdown().
        if time is not None and hasattr(self, "_stuck_at"):
            self._stop(self.close_timeout)

    def __reduce__(self) -> str:
        raise TypeError(f"a fastlog.{type(self).__name__} cannot be pickled or copied: "
                        "it has a thread and a socket; make one in each process")

    def _is_stuck(self) -> bool:
        """Return whether the last flush timed out, and nothing was sent since."""
        return self._stuck_at is not None and self._stuck_at == self._progress()

    def _stop(self, timeout: float) -> None:
        # logging.shutdown() calls flush() first. Do not wait twice for a daemon that hangs.
        if self._is_stuck():
            timeout = 0.0
        deadline = time.monotonic() + timeout
        self._log_loss_report(during_outage=True)
        self._close_engine(timeout)
        if self._orphans is not None:
            self._orphans.close(max(0.0, deadline - time.monotonic()))
        if self._previous is not None:
            self._previous._stop(max(0.0, deadline - time.monotonic()))

    def _close_engine(self, timeout: float) -> None:
        path = self._engine.spool_path()      # in a forked child, the child's own spool
        self._warn_undelivered(self._engine.close(timeout), path)

    def _warn_undelivered(self, count: int, path: str = "") -> None:
        if count:
            self._reporting.warn_stderr(f"{count} records were not delivered to {self.address}"
                                   + (f"; they are kept in {path}" if path else ""))

    def _set_synchronous(self, is_last_chance: bool = False) -> None:
        """Wait for each record from now on, because the process is exiting.

        is_last_chance: nothing will close the handler.
        """
        self._engine.set_synchronous()
        self._is_exiting = True
        self._is_last_chance = self._is_last_chance or is_last_chance

    def _deliver_before_end(self, elapsed: float, *, at_exit: bool = False,
                            ends: bool = False) -> None:
        """Deliver before the process ends. Do nothing in a child that has logged nothing.

        elapsed: seconds that other handlers have taken already.
        at_exit: a normal exit, which waits for close_timeout in any case.
        ends: no Python code runs after this.
        """
        if not self._engine.is_in_use():
            return
        complete = False
        try:
            if not self._is_stuck():
                complete = self._flush_before_end(elapsed, at_exit)
            if self._log_loss_report(during_outage=True):
                complete = self._flush_before_end(elapsed, at_exit)
        except BaseException:         # Ctrl-C ends the wait, and not the report
            if not ends:
                raise
        if ends:
            self._close_engine(0.0)
        elif not complete:        # else what is pending came later, from another thread
            self._warn_undelivered(self._engine.take_undelivered(), self._engine.spool_path())

    def _flush_before_end(self, elapsed: float, at_exit: bool) -> bool:
        timeout = max(self.close_timeout - elapsed, min(self.close_timeout, _TIMEOUT_MIN))
        unreached_timeout = None if at_exit else max(_UNREACHED_TIMEOUT - elapsed, 0.0)
        complete = self._engine.flush(timeout, unreached_timeout)
        if not complete:
            self._stuck_at = self._progress()
        return complete

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
