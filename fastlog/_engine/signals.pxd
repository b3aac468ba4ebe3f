"""Signals, by what they do to a process: signal(7)."""
from libc.stdint cimport uintptr_t
from posix.signal cimport sigaction_t

cdef extern from "<signal.h>" nogil:
    enum:
        SIGABRT
        SIGBUS
        SIGCHLD
        SIGCONT
        SIGFPE
        SIGILL
        SIGKILL
        SIGSEGV
        SIGSTOP
        SIGTERM
        SIGTSTP
        SIGTTIN
        SIGTTOU
        SIGURG
        SIGWINCH
    void *SIG_DFL
    void *SIG_IGN

cdef enum:
    SIGNALS_END = 65              # above each signal of Linux, the real-time ones included


cdef inline bint signal_ends_process(long number) noexcept nogil:
    """Return whether the default action of a signal ends the process. Async-signal-safe."""
    return 0 < number < SIGNALS_END and number not in (
        SIGCHLD, SIGCONT, SIGSTOP, SIGTSTP, SIGTTIN, SIGTTOU, SIGURG, SIGWINCH)


cdef inline bint action_is_default(sigaction_t *action) noexcept nogil:
    return <uintptr_t>action.sa_handler == <uintptr_t>SIG_DFL


cdef inline bint action_is_ignore(sigaction_t *action) noexcept nogil:
    return <uintptr_t>action.sa_handler == <uintptr_t>SIG_IGN


cdef inline bint signal_is_fault(int number) noexcept nogil:
    """Return whether a signal reports a fault of the program, after which Python code cannot run.

    Python's own handlers run after the signal handler has returned, so a fault recurs before.
    """
    return number in (SIGABRT, SIGBUS, SIGFPE, SIGILL, SIGSEGV)
