# cython: language_level=3, freethreading_compatible=True
"""Deliver records before Python code ends or replaces the process, where no exit function runs.

The functions by which Python code does that are hooked (_engine/builtin_hook.pxd):

- os._exit() and os.abort();
- os.execv() and os.execve(), which the others of the family call;
- os.kill(), os.killpg(), signal.raise_signal() and signal.pthread_kill(), if the signal reaches
  this process and its default action ends it.

Each hook first calls a Python function that waits for the writers. It knows the time limit.

Where C code calls exit(3) without finalizing Python, an exit function of C waits.
"""
import _signal
import posix

from cpython.long cimport PyLong_AsLongAndOverflow, PyLong_Check
from cpython.object cimport PyObject
from libc.stdint cimport uint64_t
from libc.stdlib cimport atexit
from libc.string cimport memset
from posix.signal cimport sigaction, sigaction_t
from posix.unistd cimport getpgrp, getpid

from fastlog._backend.atomics cimport cas_seq_cst, load_acquire, load_seq_cst, store_seq_cst
from fastlog._backend.clock cimport MILLISECOND, monotonic_ns
from fastlog._backend.posix cimport SIG_SETMASK, pthread_sigmask, sigfillset, sigset_t
from fastlog._backend.writer cimport (STOPPED, Writer, writer_await_tail, writer_sent_pos,
                                      writer_wake)
from fastlog._core cimport live_writers
from fastlog._engine.builtin_hook cimport (METH_FASTCALL, METH_KEYWORDS, METH_NOARGS, METH_O,
                                           BuiltinHook, Keywords, OneArgument, Positional,
                                           hook_install, hook_remove)
from fastlog._engine.registry cimport WRITERS_MAX, Registry
from fastlog._engine.signals cimport (action_is_default, action_is_ignore,
                                      signal_ends_process)

cdef extern from "Python.h":
    ctypedef struct PyInterpreterState:
        pass
    PyInterpreterState *PyInterpreterState_Get()
    PyInterpreterState *PyInterpreterState_Main()
    bint Py_IsInitialized() nogil

cdef enum:
    C_EXIT_TIMEOUT = 2000 * MILLISECOND         # ns that exit(3) waits
    UNREACHED_TIMEOUT = 200 * MILLISECOND       # ns for a writer that has never been connected

cdef BuiltinHook exit_hook, abort_hook, execv_hook, execve_hook
cdef BuiltinHook kill_hook, killpg_hook, raise_signal_hook, pthread_kill_hook
cdef object deliver               # None, or the function that hook() was given
cdef object getsignal = _signal.getsignal


# --- what a hook does first ----------------------------------------------------------------------

cdef int deliver_records(bint ends) except -1:
    """Call the Python function. Raise what a signal handler raises meanwhile, unless `ends`."""
    if deliver is None or PyInterpreterState_Get() != PyInterpreterState_Main():
        return 0
    try:
        deliver(ends)
    except BaseException as error:
        # An exit may come when the modules are gone already. An exception that is not an
        # Exception is from a signal handler, as by Ctrl-C, and may keep the process alive.
        if not ends and not isinstance(error, Exception):
            raise
    return 0


cdef bint read_int(PyObject *argument, long *value) noexcept:
    """Store an int argument in `value`. Return False for anything else."""
    cdef int overflow = 0
    if not PyLong_Check(<object>argument):
        return False
    value[0] = PyLong_AsLongAndOverflow(<object>argument, &overflow)
    return overflow == 0


cdef bint is_fatal(PyObject *number_object) noexcept:
    """Return whether a signal that reaches this process now ends it without the crash drain."""
    cdef sigaction_t action
    cdef long number = 0
    if not read_int(number_object, &number) or not signal_ends_process(number):
        return False
    memset(&action, 0, sizeof(action))
    if sigaction(<int>number, NULL, &action) != 0 or action_is_ignore(&action):
        return False
    if action_is_default(&action):
        return True
    if <void *>action.sa_sigaction == live_writers().drain_handler:
        return False
    # A handler that Python does not know, such as faulthandler's, is expected to end the process.
    return not has_python_handler(number)


cdef bint has_python_handler(long number) noexcept:
    try:
        return callable(getsignal(number))
    except ValueError:            # not a signal
        return True


cdef bint reaches_group(PyObject *group_object) noexcept:
    """Return whether a signal to this process group, or to group 0, reaches this process."""
    cdef long group = -1
    return read_int(group_object, &group) and (group == 0 or group == getpgrp())


cdef bint reaches_process(PyObject *pid_object) noexcept:
    """Return whether a signal to this pid, as kill(2) has it, reaches this process."""
    cdef long pid = -1
    # -1 is each process but this one.
    return (read_int(pid_object, &pid) and pid != -1
            and (pid == 0 or pid == getpid() or pid == -getpgrp()))


# --- the hooks -----------------------------------------------------------------------------------

cdef PyObject *on_exit(PyObject *module, PyObject **args, Py_ssize_t count,
                       PyObject *names) except? NULL:
    deliver_records(True)
    return (<Keywords>exit_hook.original)(module, args, count, names)


cdef PyObject *on_abort(PyObject *module, PyObject *nothing) except? NULL:
    deliver_records(True)
    return (<OneArgument>abort_hook.original)(module, nothing)


cdef PyObject *on_execv(PyObject *module, PyObject **args, Py_ssize_t count) except? NULL:
    deliver_records(False)
    return (<Positional>execv_hook.original)(module, args, count)


cdef PyObject *on_execve(PyObject *module, PyObject **args, Py_ssize_t count,
                         PyObject *names) except? NULL:
    deliver_records(False)
    return (<Keywords>execve_hook.original)(module, args, count, names)


cdef PyObject *on_kill(PyObject *module, PyObject **args, Py_ssize_t count) except? NULL:
    if count == 2 and reaches_process(args[0]) and is_fatal(args[1]):
        deliver_records(False)
    return (<Positional>kill_hook.original)(module, args, count)


cdef PyObject *on_killpg(PyObject *module, PyObject **args, Py_ssize_t count) except? NULL:
    if count == 2 and reaches_group(args[0]) and is_fatal(args[1]):
        deliver_records(False)
    return (<Positional>killpg_hook.original)(module, args, count)


cdef PyObject *on_raise_signal(PyObject *module, PyObject *number) except? NULL:
    if is_fatal(number):
        deliver_records(False)
    return (<OneArgument>raise_signal_hook.original)(module, number)


cdef PyObject *on_pthread_kill(PyObject *module, PyObject **args, Py_ssize_t count) except? NULL:
    # All threads are of this process, and a fatal signal to one of them ends it.
    if count == 2 and is_fatal(args[1]):
        deliver_records(False)
    return (<Positional>pthread_kill_hook.original)(module, args, count)


cdef void await_writer(Writer *writer, uint64_t begin) noexcept nogil:
    """Wait until the writer has sent what is in its ring, with the time limits of exit(3)."""
    cdef uint64_t head = load_acquire(&writer.ring.positions.head.value)
    cdef uint64_t limit = begin + (C_EXIT_TIMEOUT if writer.was_connected else UNREACHED_TIMEOUT)
    cdef uint64_t now = monotonic_ns()
    if (load_seq_cst(&writer.state.value) != STOPPED and writer_sent_pos(writer) < head
            and now < limit):
        writer_wake(writer)
        writer_await_tail(writer, head, limit - now)


cdef void on_c_exit() noexcept nogil:
    """Wait for the writers in exit(3), unless Python is finalized and has closed the handlers."""
    cdef Registry *registry = live_writers()
    cdef uint64_t begin = monotonic_ns()
    cdef uint64_t pid = <uint64_t>getpid(), drainer = 0
    cdef sigset_t all_signals, previous_mask
    cdef Writer *writer
    cdef int i
    # As in the crash drain: other threads do not free a Writer meanwhile, and no signal handler of
    # this thread may wait for this function.
    sigfillset(&all_signals)
    pthread_sigmask(SIG_SETMASK, &all_signals, &previous_mask)
    if Py_IsInitialized() and cas_seq_cst(&registry.draining, &drainer, pid):
        for i in range(WRITERS_MAX):
            writer = <Writer *>load_seq_cst(&registry.writers[i])
            if writer != NULL and <uint64_t>writer.pid == pid:
                await_writer(writer, begin)
        store_seq_cst(&registry.draining, 0)
    pthread_sigmask(SIG_SETMASK, &previous_mask, NULL)


# --- from Python -------------------------------------------------------------------------------

def hook(function):
    """Call function(ends) before the process ends. Idempotent.

    ends: whether the process ends for certain. An exec may fail, and a signal may be blocked.
    """
    global deliver
    deliver = function
    hook_install(&exit_hook, <void *>on_exit, posix._exit, METH_FASTCALL | METH_KEYWORDS)
    hook_install(&abort_hook, <void *>on_abort, posix.abort, METH_NOARGS)
    hook_install(&execv_hook, <void *>on_execv, posix.execv, METH_FASTCALL)
    hook_install(&execve_hook, <void *>on_execve, posix.execve, METH_FASTCALL | METH_KEYWORDS)
    hook_install(&kill_hook, <void *>on_kill, posix.kill, METH_FASTCALL)
    hook_install(&killpg_hook, <void *>on_killpg, posix.killpg, METH_FASTCALL)
    hook_install(&raise_signal_hook, <void *>on_raise_signal, _signal.raise_signal, METH_O)
    hook_install(&pthread_kill_hook, <void *>on_pthread_kill, _signal.pthread_kill, METH_FASTCALL)


def unhook():
    """Undo hook(). Idempotent."""
    hook_remove(&exit_hook)
    hook_remove(&abort_hook)
    hook_remove(&execv_hook)
    hook_remove(&execve_hook)
    hook_remove(&kill_hook)
    hook_remove(&killpg_hook)
    hook_remove(&raise_signal_hook)
    hook_remove(&pthread_kill_hook)


atexit(on_c_exit)
