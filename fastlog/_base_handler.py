"""What the handlers have in common: an engine, its options, its life, and what goes wrong."""
from __future__ import annotations

import contextlib
import errno
import functools
import logging
import logging.handlers
import os
import sys
import time

from fastlog import _exit_hooks, _validation
from fastlog._core import Engine
from fastlog._frontend import emit as _emit

TYPE_CHECKING = False  # importing typing takes as long as all of fastlog
if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from fastlog._frontend.emit import Encoder
    from fastlog._spool.orphans import OrphanedSpools
    from fastlog._stats import Stats


class EngineHandler(logging.handlers.SysLogHandler):
    """A handler in front of an Engine. Its subclasses say where to and in which form.

    Of the standard library's class it has the facilities, the priorities and how they are
    encoded. The hot path, _frontend/emit.pyx, reads _engine, _encoder, ident and append_nul.

    paths: unix sockets, tried in order. Else host and port. address: what messages call it.
    engine: further arguments of Engine.
    """

    _engine: Engine
    _encoder: Encoder | None = None

    def __init__(
        self,
        paths: Sequence[str],
        *,
        address: str | tuple[str, int],
        host: str = "",
        port: int = 0,
        socktype: int | None,
        capacity: int,
        overflow: str,
        block_timeout: float,
        linger: float,
        urgent_level: int | str,
        close_timeout: float,
        spool: str | os.PathLike[str] | None,
        framing: int,
        **engine: object,
    ) -> None:
        self.address = address
        self.urgent_level = _validation.level("urgent_level", urgent_level)
        self.close_timeout = _validation.seconds("close_timeout", close_timeout)
        capacity = _validation.capacity(capacity)
        absolute = [_validation.connectable(path) for path in paths]
        make_engine = functools.partial(
            Engine,
            absolute,
            host=_validation.encoded_host(host),
            service=str(port).encode(),
            socktype=socktype or 0,
            framing=framing,
            overflow=_validation.OVERFLOWS.index(
                _validation.choice("overflow", overflow, _validation.OVERFLOWS)),
            block_timeout=_validation.seconds("block_timeout", block_timeout),
            linger=_validation.seconds("linger", linger),
            **engine,  # type: ignore[arg-type]
        )
        self._orphans: OrphanedSpools | None = None
        if spool is None:
            self._engine = make_engine(capacity=capacity)
        else:
            # The paths as the writer has them: who recovers may be in another directory.
            self._open_spool(spool, capacity, make_engine,
                             ([os.fsdecode(each) for each in absolute], host, port, socktype or 0,
                              framing))
        self._quiet_until = 0.0
        self._gave_up_at: int | None = None
        # Not the parent's __init__: it would connect, here and now.
        logging.Handler.__init__(self)
        _exit_hooks.watch(self)

    def _open_spool(self, path: str | os.PathLike[str], capacity: int,
                    make_engine: Callable[..., Engine],
                    destination: tuple[list[str], str, int, int, int]) -> None:
        """Have the ring in a file, and send what others left there and beside it."""
        from fastlog._spool import file as _spool, orphans as _orphans

        if not isinstance(path, (str, os.PathLike)):
            raise TypeError(f"spool must be a str, os.PathLike or None, not {type(path).__name__}")
        if not os.fsdecode(path) or "\0" in os.fsdecode(path):
            raise ValueError(f"spool must be the path of a file, not {path!r}")
        spool = _spool.Spool(path, capacity, _spool.destination(*destination))
        self._engine = make_engine(capacity=capacity, spool=spool)
        found = _orphans.describe(self._engine)
        if found:
            self._warn_stderr(f"{found} in {spool.path}")
            self._engine.start()
        self._orphans = _orphans.OrphanedSpools(
            spool, lambda each: make_engine(capacity=each.capacity, spool=each), self._warn_stderr)

    def _end_child(self) -> None:
        """At the end of a child that runs no exit functions: deliver, and say what is left."""
        self.flush()
        if self._log_loss_report(during_outage=True):
            self.flush()
        self._close_engine(0.0)

    handle = _emit.handle
    emit = _emit.emit
    __setattr__ = _emit.set_attribute
    __delattr__ = _emit.delete_attribute

    def flush(self, timeout: float | None = None) -> bool:  # type: ignore[override]
        """Wait until every record accepted before the call was handed to the kernel.

        timeout: seconds; None: close_timeout.

        Returns whether that was reached before the timeout. Ctrl-C interrupts
        it. Thread-safe.
        """
        seconds = self._seconds(timeout)
        deadline = time.monotonic() + seconds
        self._log_loss_report()
        done = self._engine.flush(seconds)
        if self._orphans is not None:
            done = self._orphans.finish(max(0.0, deadline - time.monotonic())) and done
        self._gave_up_at = None if done else self._progress()
        return done

    def close(self, timeout: float | None = None) -> None:
        """Flush, then stop the writer thread and close the socket. Thread-safe, idempotent.

        timeout: seconds; None: close_timeout.

        Records that could not be delivered by then stay in the ring, and are
        reported on stderr if logging.raiseExceptions is set. A record logged
        later starts the writer again, as the standard library's handler opens a
        new socket.
        """
        self._stop(self._seconds(timeout))
        logging.Handler.close(self)

    def __del__(self) -> None:
        # A handler that was dropped and not closed must deliver all the same. Not one that outlives
        # the modules at the end of the process: logging.shutdown() has closed it.
        if time is not None and hasattr(self, "_gave_up_at"):
            self._stop(self.close_timeout)

    def __reduce__(self) -> str:
        raise TypeError(f"a fastlog.{type(self).__name__} cannot be pickled or copied: "
                        "it has a thread and a socket; make one in each process")

    def _stop(self, timeout: float) -> None:
        # logging.shutdown() calls flush() first: do not wait twice for a daemon that hangs.
        hopeless = self._gave_up_at is not None and self._gave_up_at == self._progress()
        deadline = time.monotonic() + (0.0 if hopeless else timeout)
        self._log_loss_report(during_outage=True)
        self._close_engine(0.0 if hopeless else timeout)
        if self._orphans is not None:
            self._orphans.close(max(0.0, deadline - time.monotonic()))

    def _close_engine(self, timeout: float) -> None:
        path = self._engine.spool_path()      # a forked child's own; "" once it was given up
        pending = self._engine.close(timeout)
        if pending:
            self._warn_stderr(f"{pending} records were not delivered to {self.address}"
                       + (f"; they are kept in {path}" if path else ""))

    # --- what goes wrong -----------------------------------------------------------------------

    def _follow_up(self, record: logging.LogRecord, outcome: int) -> None:
        """After Engine.put returned more than "accepted": see Put in _core.pxd."""
        accepted, outage_changed, flush = outcome & 1, outcome & 2, outcome & 4
        if flush and accepted and self._gave_up_at != self._progress():
            self.flush()
        own = getattr(self.handleError, "__func__", None) is not logging.Handler.handleError
        if not accepted and own:      # somebody has a place for records that cannot be sent
            try:
                raise BlockingIOError(errno.EAGAIN, "the ring is full and nothing is sent",
                                      str(self.address))
            except BlockingIOError:
                self.handleError(record)
        if outage_changed and time.monotonic() >= self._quiet_until:
            self._report_outage()

    def _report_outage(self) -> None:
        outage = self._engine.poll_outage()
        if outage is None:
            return
        over, lost, error = outage
        if over:
            # A ring that is full, half empty and full again is told of once a second.
            self._quiet_until = time.monotonic() + 1.0
            self._warn_stderr(f"{self.address} takes records again"
                       + (f"; {lost} were lost" if lost else ""))
            self._log_loss_report()
        elif lost:
            self._warn_stderr(f"{self.address} takes no records and the ring is full: some are lost")
        else:
            self._warn_stderr(f"{self.address} cannot be reached ({os.strerror(error)}): records wait")

    def _log_loss_report(self, during_outage: bool = False) -> bool:
        """Say in the stream what was lost since this was last said; whether anything was."""
        losses = self._engine.collect_losses(during_outage)
        if losses is None:
            return False
        counts, first, last = losses
        stats = self._engine.stats()
        total = stats.dropped + stats.discarded
        count = sum(sum(each.values()) for each in counts.values())
        why = "; ".join(f"{reason}: " + ", ".join(f"{n} {severity}" for severity, n in each.items())
                        for reason, each in counts.items())
        record = logging.LogRecord(
            "fastlog", logging.WARNING, __file__, 0,
            "fastlog: %d messages lost (%s), from %s to %s%s",
            (count, why, _local_time(first), _local_time(last),
             # A notice can be lost, too: then the next one makes up for it.
             f"; {total} in all" if total != count else ""), None, "_log_loss_report")
        _emit.emit(self, record)
        return True

    def _warn_stderr(self, text: str) -> None:
        """A line on stderr, unless logging.raiseExceptions says that nobody wants to know."""
        if logging.raiseExceptions and sys.stderr is not None:
            with contextlib.suppress(OSError, ValueError):  # stderr may be closed
                sys.stderr.write(f"fastlog: {text}\n")

    def stats(self) -> Stats:
        """The handler's counters. Thread-safe; no lock is taken."""
        return self._engine.stats()

    def _seconds(self, timeout: float | None) -> float:
        return self.close_timeout if timeout is None else _validation.seconds("timeout", timeout)

    def _progress(self) -> int:
        stats = self._engine.stats()
        return stats.sent + stats.discarded


def _local_time(seconds: float) -> str:
    """As in RFC 3339, to the millisecond."""
    whole = int(seconds)
    zone = time.strftime("%z", time.localtime(whole))
    return (time.strftime("%Y-%m-%dT%H:%M:%S", time.localtime(whole))
            + f".{int((seconds - whole) * 1000):03d}{zone[:3]}:{zone[3:]}")
