"""Deliver pending records when a process ends, although another thread sends them.

- A normal exit delivers here, and then runs logging.shutdown(), which flushes and closes each
  handler that it knows. One that it does not know is closed here: dictConfig() closes all handlers,
  and some stay on their loggers. Nothing would wait for a record that comes after that, from a
  daemon thread or a __del__. So from then on each call waits until its record is sent.
- Where Python code ends or replaces the process and no exit function runs, as in os._exit(), exec
  and a fatal signal that a process sends itself, _engine/process_ends.pyx calls this module first.
  Children of multiprocessing and its relatives end by os._exit(), too.
- multiprocessing ends children by SIGTERM, when a Pool is left. They get a crash drain for it.
- The preexec_fn of a subprocess runs in a child that execs in C. There each call waits until its
  record is sent.
- A fork needs nothing here, because an Engine notices it.
- enable_crash_drain() is for fatal signals from elsewhere. A spool is for every other end.
"""
from __future__ import annotations

import atexit
import contextlib
import logging
import os
import sys
import time
import weakref

TYPE_CHECKING = False  # importing typing takes as long as all of fastlog
if TYPE_CHECKING:
    from typing import Any, Protocol

    class _Handler(Protocol):
        """The part of BaseHandler that this module uses."""

        close_timeout: float

        def _set_synchronous(self, is_last_chance: bool = False) -> None: ...
        def _deliver_before_end(self, elapsed: float, *, ends: bool = False) -> None: ...
        def close(self) -> None: ...


#: multiprocessing; Celery's copy of it; that of pathos and Hugging Face datasets.
_MULTIPROCESSING = ("multiprocessing", "billiard", "multiprocess")

_references: set[weakref.ref[_Handler]] = set()
_exiting = False
_execs_in_c = False
_hooked: set[str] = set()


def register(handler: _Handler) -> None:
    """Deliver this handler's records when this process or one of its children ends."""
    from fastlog._engine import process_ends

    def forget(reference: weakref.ref[_Handler], references: set[Any] = _references,
               unhook: Any = process_ends.unhook, hook: Any = process_ends.hook,
               deliver: Any = _deliver_all) -> None:
        # As default arguments, because at the exit the names of a module may be gone.
        references.discard(reference)
        if not references:
            unhook()
        if references:            # another thread has just created a handler
            hook(deliver)

    _references.add(weakref.ref(handler, forget))
    process_ends.hook(_deliver_all)
    if _exiting or _execs_in_c:
        handler._set_synchronous(is_last_chance=_execs_in_c)
    _hook_multiprocessing()
    for name in _MULTIPROCESSING:
        process = sys.modules.get(f"{name}.process")
        if process is not None and _is_child(process):
            _enter_child()


def _handlers() -> list[_Handler]:
    return [handler for reference in list(_references) if (handler := reference()) is not None]


# --- a normal exit -------------------------------------------------------------------------------

def _at_exit() -> None:
    # Registered after logging's own exit function, so this runs before it.
    global _exiting
    _exiting = True
    begin = time.monotonic()
    known = {id(reference()) for reference in list(logging._handlerList)}  # type: ignore[attr-defined]
    for handler in _handlers():
        handler._set_synchronous()
        with contextlib.suppress(Exception):        # as logging.shutdown() does
            handler._deliver_before_end(time.monotonic() - begin)
            if id(handler) not in known:
                handler.close()


# --- ends without exit functions -----------------------------------------------------------------

def _deliver_all(ends: bool) -> None:
    """Deliver before the process ends or is replaced. process_ends calls this.

    ends: False if the process may go on, because an exec fails or a signal is blocked.
    """
    begin = time.monotonic()
    for handler in _handlers():
        with contextlib.suppress(Exception):
            handler._deliver_before_end(time.monotonic() - begin, ends=ends)


# --- children ------------------------------------------------------------------------------------

def _is_child(process: Any) -> bool:
    """Return whether a module like multiprocessing.process has started this process."""
    return getattr(process.current_process(), "_parent_pid", None) is not None


def _hook_multiprocessing() -> None:
    """Drain at SIGTERM in each child that starts from now on."""
    if not _references:
        return
    for name in _MULTIPROCESSING:
        util = sys.modules.get(f"{name}.util")
        if util is not None and name not in _hooked:
            _hooked.add(name)
            util.register_after_fork(_enter_child, _enter_child)


def _enter_child(_: Any = None) -> None:
    if _references:
        from fastlog._engine import crash_drain

        crash_drain.enable_in_child(
            max((handler.close_timeout for handler in _handlers()), default=0.0))


def _after_fork() -> None:
    """In a child that a subprocess with a preexec_fn has forked, wait for each record."""
    global _execs_in_c
    caller = sys._getframe().f_back       # None where a C program has forked
    module = str(caller.f_globals.get("__name__")) if caller is not None else ""
    if module.rpartition(".")[2] == "subprocess":         # eventlet and gevent have one, too
        _execs_in_c = True
        for handler in _handlers():
            handler._set_synchronous(is_last_chance=True)


def enable_crash_drain(timeout: float = 2.0) -> None:
    """Send what the handlers hold before a signal ends the process.

    Whenever the action of a signal is the default one, and that ends the process, the thread that
    received the signal waits until the writers have sent all accepted records. Then the previous
    action of the signal runs. On SIGSEGV, SIGABRT, SIGBUS, SIGILL and SIGFPE it does so even if
    there is a handler, which runs next. This works together with `faulthandler.enable()`, in either
    order. Any other handler of the program takes precedence, whether it was set before or after the
    call. When signal.signal() restores the default action, the signal is covered again.

    timeout: seconds that this may take in total, even while the daemon is down.

    It does not help against SIGKILL. That is what `spool` is for. The signal handler gets an
    alternate stack in the thread that calls this function, so call it from the main thread. Another
    thread that overflows its stack ends the process without a drain. A second call changes the
    timeout, and takes back SIGTERM and the five signals above if something else has taken them over
    since. Forked children inherit the signal handler, and drain their own records. At most 64
    handlers are drained.

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
os.register_at_fork(before=_hook_multiprocessing, after_in_child=_after_fork)
