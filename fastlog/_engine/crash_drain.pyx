# cython: language_level=3, freethreading_compatible=True
"""The crash drain: send the records in all rings before a fatal signal ends the process.

The writers are threads that do not need the GIL. So the signal handler only wakes them and waits,
in the thread that crashed, until the rings are drained or the timeout has passed. Then it restores
the previous action of the signal and raises the signal again, as faulthandler does. It drains a
ring itself only if that ring has no writer thread.

The handler calls only async-signal-safe functions (signal-safety(7)): sigaction, raise, ppoll, the
system call futex, and for a ring without a writer thread also fstat, connect and sendmmsg.
"""
import signal

from libc.errno cimport errno
from libc.stdint cimport uint64_t
from libc.string cimport memset
from posix.mman cimport MAP_ANONYMOUS, MAP_FAILED, MAP_PRIVATE, PROT_READ, PROT_WRITE, mmap
from posix.signal cimport sigaction, sigaction_t, sigaddset, sigemptyset, siginfo_t
from posix.unistd cimport getpid

from fastlog._backend.atomics cimport (cas_seq_cst, exchange_seq_cst, load_acquire, load_seq_cst,
                                       store_seq_cst)
from fastlog._backend.clock cimport monotonic_ns
from fastlog._backend.posix cimport errno_set
from fastlog._backend.writer cimport AWAKE, STOPPED, Writer, writer_sent_pos, writer_wake
from fastlog._backend.writer_thread cimport writer_drain_inline
from fastlog._core cimport live_writers
from fastlog._engine.registry cimport WRITERS_MAX, Registry, registry_await_drain, registry_pause

cdef extern from "<signal.h>" nogil:
    enum:
        SA_ONSTACK
        SA_SIGINFO
        SIGABRT
        SIGBUS
        SIGFPE
        SIGILL
        SIGSEGV
        SIGTERM
        SS_DISABLE
    ctypedef struct stack_t:
        void *ss_sp
        int ss_flags
        size_t ss_size
    int sigaltstack(const stack_t *stack, stack_t *previous) noexcept
    int raise_ "raise"(int number) noexcept

cdef enum:
    STACK_SIZE = 64 * 1024        # bytes, for this handler and for the previous one after it
    SIGNALS = 6
    KICK_INTERVAL = 20            # polls between two wakeups of writers that wait to reconnect

cdef int[SIGNALS] signals = [SIGSEGV, SIGABRT, SIGBUS, SIGILL, SIGFPE, SIGTERM]
cdef sigaction_t[SIGNALS] previous_action       # the action to restore after the drain
cdef sigaction_t[SIGNALS] original_action       # the action before enable() installed the handler
cdef bint[SIGNALS] installed
cdef Registry *registry = live_writers()
cdef uint64_t drain_timeout       # ns

cdef struct DrainTarget:          # one ring to drain
    uint64_t writer               # address of its Writer, or 0 for none
    uint64_t position             # drain the ring up to here


# --- in the signal handler ---------------------------------------------------------------------

cdef bint drain_one(Writer *writer, uint64_t position, uint64_t deadline,
                    bint kick) noexcept nogil:
    """Make the writer drain up to `position`. Return True if it has, or cannot.

    Wake the writer at the first call, and at later calls with `kick`. Without a writer thread,
    drain here.
    """
    cdef uint64_t stopped = STOPPED
    if writer_sent_pos(writer) >= position:
        return True
    if exchange_seq_cst(&writer.crashing.value, 1) == 0 or kick:
        writer_wake(writer)
    if cas_seq_cst(&writer.state.value, &stopped, AWAKE):
        writer_drain_inline(writer, position, deadline)
        store_seq_cst(&writer.state.value, STOPPED)
        return True
    return False


cdef void drain_all() noexcept nogil:
    """Drain the rings of all writers of this process, at most for drain_timeout."""
    cdef uint64_t deadline = monotonic_ns() + drain_timeout
    cdef DrainTarget[WRITERS_MAX] targets
    cdef Writer *writer
    cdef uint64_t polls = 0
    cdef bint drained = False
    cdef int i
    for i in range(WRITERS_MAX):
        targets[i].writer = load_seq_cst(&registry.writers[i])
        writer = <Writer *>targets[i].writer
        if writer != NULL and writer.pid != getpid():   # inherited from the parent
            targets[i].writer = 0
        elif writer != NULL:
            # Not up to the head of later polls, because other threads may continue to log.
            targets[i].position = load_acquire(&writer.ring.positions.head.value)
    while not drained and monotonic_ns() < deadline:
        drained = True
        for i in range(WRITERS_MAX):
            # The Writer stays valid: registry_remove() waits for this drain.
            if targets[i].writer and not drain_one(<Writer *>targets[i].writer,
                                                   targets[i].position, deadline,
                                                   polls % KICK_INTERVAL == 0):
                drained = False
        polls += 1
        if not drained:
            registry_pause()
    for i in range(WRITERS_MAX):
        if targets[i].writer:
            store_seq_cst(&(<Writer *>targets[i].writer).crashing.value, 0)


cdef void on_signal(int number, siginfo_t *info, void *context) noexcept nogil:
    """Drain, restore the previous action of the signal, and raise it again. The signal handler."""
    cdef int error = errno
    cdef uint64_t drainer = 0
    cdef uint64_t pid = <uint64_t>getpid()
    cdef int i
    # A process that was forked during a drain of its parent replaces the parent's pid.
    while drainer != pid and not cas_seq_cst(&registry.draining, &drainer, pid):
        pass
    if drainer == pid:
        # Another thread drains, and to continue here would end the process. It cannot be this
        # thread, because the signals are blocked in it.
        registry_await_drain(registry)
    else:
        drain_all()
        store_seq_cst(&registry.draining, 0)
    for i in range(SIGNALS):
        if signals[i] == number:
            sigaction(number, &previous_action[i], NULL)
            # The previous handler may have been installed over this one, and call it again.
            previous_action[i] = original_action[i]
    errno_set(error)
    # The signal is blocked until this function returns. Then the previous action runs.
    raise_(number)


# --- from Python -------------------------------------------------------------------------------

cdef int ensure_alternate_stack() except -1:
    """Give this thread an alternate signal stack unless it has one. Raise MemoryError on failure.

    A stack overflow may be what crashed it. The stack is never freed.
    """
    cdef stack_t stack
    cdef void *memory
    if sigaltstack(NULL, &stack) != 0 or not stack.ss_flags & SS_DISABLE:
        return 0
    memory = mmap(NULL, STACK_SIZE, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0)
    if memory == MAP_FAILED:
        raise MemoryError()
    stack.ss_sp = memory
    stack.ss_size = STACK_SIZE
    stack.ss_flags = 0
    sigaltstack(&stack, NULL)
    return 0


def enable(double timeout):
    """Implement enable_crash_drain() for a `timeout` in seconds that the caller has checked."""
    global drain_timeout
    cdef sigaction_t action
    cdef sigaction_t current
    cdef int i
    drain_timeout = <uint64_t>(timeout * 1e9)
    ensure_alternate_stack()
    memset(&action, 0, sizeof(action))
    action.sa_sigaction = on_signal
    action.sa_flags = SA_SIGINFO | SA_ONSTACK
    sigemptyset(&action.sa_mask)
    for i in range(SIGNALS):
        sigaddset(&action.sa_mask, signals[i])
    for i in range(SIGNALS):
        sigaction(signals[i], NULL, &current)
        if current.sa_sigaction == on_signal:
            continue
        if signals[i] == SIGTERM and signal.getsignal(SIGTERM) is not signal.SIG_DFL:
            continue
        sigaction(signals[i], &action, &previous_action[i])
        if not installed[i]:
            original_action[i] = previous_action[i]
        installed[i] = True


def disable():
    """Implement disable_crash_drain()."""
    cdef sigaction_t current
    cdef int i
    for i in range(SIGNALS):
        if installed[i]:
            sigaction(signals[i], NULL, &current)
            if current.sa_sigaction == on_signal:
                sigaction(signals[i], &previous_action[i], NULL)
                # A handler that was installed over this one may still call it.
                previous_action[i] = original_action[i]
                installed[i] = False
