"""The ends of a process: what makes them deliver, though the sending is another thread's.

- A normal exit runs logging.shutdown(), which flushes and closes each handler.
  Records that come after it, from daemon threads or from __del__, find no one
  to wait for them: from then on each call waits until its record is sent.
- A child of multiprocessing ends by os._exit() and runs no exit functions but
  multiprocessing's own (CPython, Lib/multiprocessing/process.py, _bootstrap):
  there each handler is flushed.
- fork needs nothing here: an Engine notices by itself.
- A fatal signal: enable_crash_drain(). Whatever else ends a process: _spool/file.py.
"""
from __future__ import annotations

import atexit
import contextlib
import os
import sys
import weakref

TYPE_CHECKING = False  # importing typing takes as long as all of fastlog
if TYPE_CHECKING:
    from typing import Any

    from fastlog._base_handler import EngineHandler

_handlers: weakref.WeakSet[EngineHandler] = weakref.WeakSet()
_exiting = False
_known_to_multiprocessing = False


def watch(handler: EngineHandler) -> None:
    """Deliver this handler's records at the end of this process and of its children."""
    _handlers.add(handler)
    _hook_multiprocessing()
    if _exiting:
        handler._engine.set_synchronous()
    process = sys.modules.get("multiprocessing.process")
    if process is not None and process.parent_process() is not None:
        _register_finalizer(None)


def _at_exit() -> None:
    # Registered after logging's own exit function, so it runs before that.
    global _exiting
    _exiting = True
    for handler in list(_handlers):
        handler._engine.set_synchronous()


def _hook_multiprocessing() -> None:
    """Have each child that begins from now on flush at its end."""
    global _known_to_multiprocessing
    util = sys.modules.get("multiprocessing.util")
    if util is not None and not _known_to_multiprocessing:
        _known_to_multiprocessing = True
        util.register_after_fork(_flush_all, _register_finalizer)


def _register_finalizer(_: Any) -> None:
    util = sys.modules["multiprocessing.util"]
    util.Finalize(None, _flush_all, exitpriority=-100)


def _flush_all() -> None:
    for handler in list(_handlers):
        handler._end_child()
    # Since Python 3.13 multiprocessing does this before it comes here, and then ends by os._exit().
    with contextlib.suppress(AttributeError, OSError, ValueError):     # none, or closed
        sys.stderr.flush()


def enable_crash_drain(timeout: float = 2.0) -> None:
    """Send what the handlers hold before a fatal signal ends the process.

    On SIGSEGV, SIGABRT, SIGBUS, SIGILL and SIGFPE, and on SIGTERM if the program
    has no handler for it, the thread that got the signal waits until the writers
    have sent all that was accepted; then the earlier disposition of the signal
    runs. Works together with `faulthandler.enable()`, in either order.

    timeout: seconds that this may take in all, also where the daemon is down.

    It does not help against SIGKILL and os._exit(): that is what `spool` is for.
    The signal handler has an alternate stack in the thread that calls this, so
    call it from the main thread; another thread that overflows its stack ends the
    process without a drain. A second call changes the timeout, and takes back
    signals that something else has taken over since. Forked children inherit it,
    and drain their own records. At most 64 handlers.

    Raises TypeError or ValueError for a bad timeout.
    """
    from fastlog import _validation
    from fastlog._engine import crash_drain

    crash_drain.enable(_validation.seconds("timeout", timeout))


def disable_crash_drain() -> None:
    """Undo enable_crash_drain(). Where another library has put its handler over ours, it stays."""
    from fastlog._engine import crash_drain

    crash_drain.disable()


atexit.register(_at_exit)
os.register_at_fork(before=_hook_multiprocessing)
