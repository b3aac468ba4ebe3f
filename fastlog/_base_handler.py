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
    from types import ModuleType
    from typing import NoReturn

    from fastlog._frontend.log_record import Encoder
    from fastlog._spool.file import Spool
    from fastlog._spool.orphans import OrphanedSpools
    from fastlog._stats import Stats
    from fastlog._validation import EngineOptions

_COLLECTED_TIMEOUT = 0.25  # seconds that the collection of handlers may wait for their records
_MUTED = 1.0  # seconds after an unsuccessful wait in which other collected handlers do not wait
_waited_until = 0.0  # monotonic seconds of the end of the last such time
_TIMEOUT_MIN = 0.05  # seconds for each handler at an end of the process, even after a slow one
_UNREACHED_TIMEOUT = 0.2  # seconds that an end waits for a daemon that has never been reached


class _NotInitialized:
    """An attribute of a handler whose __init__ did not run."""

    def __get__(self, handler: object, cls: type) -> NoReturn:
        raise AttributeError(f"{cls.__qualname__}.__init__() did not call super().__init__()")


class BaseHandler(logging.handlers.SysLogHandler):
    """A handler in front of an Engine. Subclasses choose the destination and the format.

    Facilities, priorities and their encoding are inherited from the standard library's class. The
    native methods of `_frontend/emit.pyx` read `_engine`, `_encoder`, `ident` and `append_nul`.

    options: the validated options of the engine.
    address: the name of the destination in reports.
    urgent_level, close_timeout, spool: the arguments of the public constructors.
    """

    _engine: Engine = _NotInitialized()  # type: ignore[assignment]
    _reporting: ModuleType = _NotInitialized()  # type: ignore[assignment]
    close_timeout: float = _NotInitialized()  # type: ignore[assignment]
    _encoder: Encoder | None = None
    _is_exiting = False

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
        vars(self)["address"] = address
        self._block_timeout = options.block_timeout
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
    __setattr__ = _emit.handler_set_attribute
    __delattr__ = _emit.handler_delete_attribute

    # --- the address -------------------------------------------------------------------------

    @property
    def address(self) -> str | tuple[str, int]:
        """The destination. An assigned one takes effect at once, also for records that wait.

        Records logged before are first given block_timeout to arrive at the old one.

        Raises TypeError or ValueError as the constructor does, and AttributeError with a spool,
        whose file names the destination.
        """
        try:
            return vars(self)["address"]  # type: ignore[no-any-return]
        except KeyError:
            raise AttributeError("address") from None

    @address.setter
    def address(self, value: object) -> None:
        if "_engine" not in vars(self):           # a subclass, before the constructor has run
            vars(self)["address"] = value
            return
        if self._orphans is not None:
            raise AttributeError("address cannot be assigned to a handler with a spool, whose file "
                                 "names the destination; make a new handler")
        paths, host, port = self._parse_address(value)
        address = paths[0] if paths else (host, port)
        if address == vars(self)["address"]:
            return
        destination = _validation.native_destination(paths, host, port)
        self._engine.flush(self._block_timeout)
        self._engine.set_destination(*destination)
        vars(self)["address"] = address

    def _parse_address(self, value: object) -> tuple[tuple[str, ...], str, int]:
        """Return (paths, host, port) of an assigned address. Raise TypeError or ValueError."""
        raise NotImplementedError

    def _renew_socket(self) -> None:
        """Connect again, where Engine.wants_socket(). Only a subclass that connects needs it."""
        raise NotImplementedError

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

        timeout: seconds. None means close_timeout. At the exit of the process, and in
            logging.shutdown(), it means 0.2 s as long as all connects have failed.

        Returns whether that happened before the timeout. Ctrl-C interrupts the wait. Thread-safe.
        """
        if timeout is None and self._is_ending():
            # At the exit, fastlog and logging.shutdown() flush. Do not wait twice.
            if self._is_stuck() and (self._is_exiting or self._was_never_reached()):
                return self._flush(0.0)
            return self._flush(self.close_timeout, _UNREACHED_TIMEOUT)
        return self._flush(self._timeout(timeout))

    def _flush(self, seconds: float, unreached_timeout: float | None = None) -> bool:
        self._log_loss_report()
        return self._wait(seconds, unreached_timeout)

    def _wait(self, seconds: float, unreached_timeout: float | None = None) -> bool:
        """Wait for the records of this engine, of orphaned spools and of an earlier engine.

        unreached_timeout: the limit that holds instead while all connects have failed. A program
            must not end late for a daemon that the machine does not have.
        """
        begin = time.monotonic()
        deadline = begin + seconds
        complete = self._engine.flush(seconds, unreached_timeout)
        if unreached_timeout is not None:
            if self._orphans is not None:
                grace = min(begin + unreached_timeout, deadline) - time.monotonic()
                self._orphans.finish(max(0.0, grace))
            if self._was_never_reached():
                deadline = min(begin + unreached_timeout, deadline)
        if self._orphans is not None:
            complete = self._orphans.finish(max(0.0, deadline - time.monotonic())) and complete
        # The end of a writer, as in close(), ends the wait early.
        timed_out = not complete and time.monotonic() >= deadline
        self._stuck_at = self._progress() if timed_out else None
        if self._previous is not None:
            complete = self._previous.flush(max(0.0, deadline - time.monotonic())) and complete
        return complete

    def _is_ending(self) -> bool:
        """Return whether a flush belongs to the end of the process or of the handler.

        logging.shutdown(), which logging.config calls as well, holds the handler's lock meanwhile.
        """
        is_owned = getattr(self.lock, "_is_owned", None)
        return self._is_exiting or (is_owned is not None and bool(is_owned()))

    def _was_never_reached(self) -> bool:
        """Return whether all connects have failed, and at least one has."""
        engines = [self._engine, *(self._orphans.engines() if self._orphans else [])]
        succeeded, failed = zip(*map(self._reporting.connect_outcomes, engines), strict=True)
        return any(failed) and not any(succeeded)

    def _is_stuck(self) -> bool:
        """Return whether nothing has left the ring since the last flush timed out."""
        return self._stuck_at is not None and self._stuck_at == self._progress()

    def close(self, timeout: float | None = None) -> None:
        """Flush, then stop the writer thread and close the socket. Thread-safe, idempotent.

        timeout: seconds. None means close_timeout, but 0.2 s as long as all connects have failed.

        Records that could not be delivered by then stay in the ring, and are reported on stderr if
        logging.raiseExceptions is set. A record logged later starts the writer again, as the
        standard library's handler opens a new socket.
        """
        if timeout is None:
            timeout = self.close_timeout
            if not self._is_stuck():
                self._wait(timeout, _UNREACHED_TIMEOUT)
                if self._is_stuck():
                    timeout = 0.0
                    self._stuck_at = None     # a later close() may wait
        self._stop(self._timeout(timeout))
        self._is_last_chance = True
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

    def _deliver_before_end(self, elapsed: float, *, ends: bool = False) -> None:
        """Deliver before the process ends. Do nothing in a child that has logged nothing.

        elapsed: seconds that other handlers have taken already.
        ends: no Python code runs after this.
        """
        if not self._engine.is_in_use():
            return
        complete = False
        try:
            if not self._is_stuck():
                complete = self._flush_before_end(elapsed)
            if self._log_loss_report(during_outage=True):
                complete = self._flush_before_end(elapsed)
        except BaseException:         # Ctrl-C ends the wait, and not the report
            if not ends:
                raise
        if ends:
            self._close_engine(0.0)
        elif not complete:        # else what is pending came later, from another thread
            self._warn_undelivered(self._engine.take_undelivered(), self._engine.spool_path())

    def _flush_before_end(self, elapsed: float) -> bool:
        timeout = max(self.close_timeout - elapsed, min(self.close_timeout, _TIMEOUT_MIN))
        complete = self._engine.flush(timeout, max(_UNREACHED_TIMEOUT - elapsed, _TIMEOUT_MIN))
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
        stats: Stats = self._reporting.read_stats(self._engine)
        return stats

    def _timeout(self, timeout: float | None) -> float:
        return self.close_timeout if timeout is None else _validation.seconds("timeout", timeout)

    def _progress(self) -> int:
        """Return how many records have left the ring so far."""
        stats = self.stats()
        return stats.sent + stats.discarded
