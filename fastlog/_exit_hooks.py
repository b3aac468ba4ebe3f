"""Deliver pending records when a process ends, although another thread sends them.

- A normal exit runs logging.shutdown(), which flushes and closes each handler. Nothing would wait
  for a record that comes after it, from a daemon thread or a __del__. So from then on each call
  waits until its record is sent.
- A child of multiprocessing ends by os._exit(). It runs no exit functions but those of
  multiprocessing (CPython, Lib/multiprocessing/process.py, _bootstrap), one of which flushes each
  handler.
- A fork needs nothing here, because an Engine notices it.
- enable_crash_drain() is for fatal signals. A spool is for every other end.
"""
from __future__ import annotations

import atexit
import contextlib
import os
import sys
import weakref

TYPE_CHECKING = False  # importing typing takes as long as all of fastlog
if TYPE_CHECKING:
    from typing import Any, Protocol

    class Handler(Protocol):
        """The methods of BaseHandler that are called here."""

        def _set_synchronous(self) -> None: ...
        def _finish_child(self) -> None: ...


_handlers: weakref.WeakSet[Handler] = weakref.WeakSet()
_exiting = False
_multiprocessing_hooked = False


def register(handler: Handler) -> None:
    """Deliver this handler's records when this process or one of its children ends."""
    _handlers.add(handler)
    _hook_multiprocessing()
    if _exiting:
        handler._set_synchronous()
    process = sys.modules.get("multiprocessing.process")
    if process is not None and process.parent_process() is not None:
        _register_finalizer(None)


def _at_exit() -> None:
    # Registered after logging's own exit function, so this runs before it.
    global _exiting
    _exiting = True
    for handler in list(_handlers):
        handler._set_synchronous()


def _hook_multiprocessing() -> None:
    """Make each child that starts from now on flush at its end."""
    global _multiprocessing_hooked
    util = sys.modules.get("multiprocessing.util")
    if util is not None and not _multiprocessing_hooked:
        _multiprocessing_hooked = True
        util.register_after_fork(_finish_all, _register_finalizer)


def _register_finalizer(_: Any) -> None:
    util = sys.modules["multiprocessing.util"]
    util.Finalize(None, _finish_all, exitpriority=-100)


def _finish_all() -> None:
    for handler in list(_handlers):
        handler._finish_child()
    # Since Python 3.13, multiprocessing flushes stderr before this runs and then ends by
    # os._exit().
    with contextlib.suppress(AttributeError, OSError, ValueError):     # there is none, or closed
        sys.stderr.flush()


def enable_crash_drain(timeout: float = 2.0) -> None:
    """Send what the handlers hold before a fatal signal ends the process.

    On SIGSEGV, SIGABRT, SIGBUS, SIGILL and SIGFPE, and on SIGTERM if the program has no handler for
    it, the thread that received the signal waits until the writers have sent all accepted records.
    Then the previous action of the signal runs. This works together with `faulthandler.enable()`,
    in either order.

    timeout: seconds that this may take in total, even while the daemon is down.

    It does not help against SIGKILL and os._exit(). That is what `spool` is for. The signal handler
    gets an alternate stack in the thread that calls this function, so call it from the main thread.
    Another thread that overflows its stack ends the process without a drain. A second call changes
    the timeout, and takes back signals that something else has taken over since. Forked children
    inherit the signal handler, and drain their own records. At most 64 handlers are drained.

    Raises TypeError or ValueError for an invalid timeout.
    """
    from fastlog import _validation
    from fastlog._engine import crash_drain

    crash_drain.enable(_validation.seconds("timeout", timeout))


def disable_crash_drain() -> None:
    """Undo enable_crash_drain(). A signal handler that another library has chained stays."""
    from fastlog._engine import crash_drain

    crash_drain.disable()


atexit.register(_at_exit)
os.register_at_fork(before=_hook_multiprocessing)
