"""The ends of a process: what makes them deliver, though the sending is another thread's.

- A normal exit runs logging.shutdown(), which flushes and closes each handler.
  Records that come after it, from daemon threads or from __del__, find no one
  to wait for them: from then on each call waits until its record is sent.
- A child of multiprocessing ends by os._exit() and runs no exit functions but
  multiprocessing's own (CPython, Lib/multiprocessing/process.py, _bootstrap):
  there each handler is flushed.
- fork needs nothing here: an Engine notices by itself.
"""
from __future__ import annotations

import atexit
import os
import sys
import weakref

TYPE_CHECKING = False  # importing typing takes as long as all of fastlog
if TYPE_CHECKING:
    from typing import Any

    from fastlog.handlers import SysLogHandler

_handlers: weakref.WeakSet[SysLogHandler] = weakref.WeakSet()
_exiting = False
_known_to_multiprocessing = False


def watch(handler: SysLogHandler) -> None:
    """Deliver this handler's records at the end of this process and of its children."""
    _handlers.add(handler)
    _tell_multiprocessing()
    if _exiting:
        handler._engine.be_synchronous()
    process = sys.modules.get("multiprocessing.process")
    if process is not None and process.parent_process() is not None:
        _register_finalizer(None)


def _at_exit() -> None:
    # Registered after logging's own exit function, so it runs before that.
    global _exiting
    _exiting = True
    for handler in list(_handlers):
        handler._engine.be_synchronous()


def _tell_multiprocessing() -> None:
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
        handler.flush()


atexit.register(_at_exit)
os.register_at_fork(before=_tell_multiprocessing)
