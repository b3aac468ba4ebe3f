# cython: language_level=3, freethreading_compatible=True
"""The crash drain: what the rings hold is sent before a fatal signal ends the process.

The writers are threads of their own and need no GIL, so the handler of the
signal only has to wake them and to wait, in the thread that crashed, until the
rings are empty or the time is over. Then the previous_action disposition of the signal
runs, as with faulthandler. Where there is no writer thread, the handler sends.

All that the handler calls is async-signal-safe (signal-safety(7)): sigaction,
raise, ppoll, write, and for a ring without a writer socket, connect and sendmmsg.
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
from fastlog._core cimport live_writers
from fastlog._engine.registry cimport WRITERS_MAX, Registry, registry_await_drain, registry_pause
from fastlog._backend.writer_thread cimport writer_drain_inline
from fastlog._backend.transport cimport errno_set
from fastlog._backend.writer cimport AWAKE, STOPPED, Writer, writer_sent_pos, writer_wake

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
    int sigaltstack(const stack_t *stack, stack_t *before) noexcept
    int raise_ "raise"(int number) noexcept

cdef enum:
    STACK_SIZE = 64 * 1024            # for our handler, and for one that runs after it
    SIGNALS = 6
    KICK_INTERVAL = 20                        # polls, after which it wakes writers that wait to reconnect

cdef int[SIGNALS] signals = [SIGSEGV, SIGABRT, SIGBUS, SIGILL, SIGFPE, SIGTERM]
cdef sigaction_t[SIGNALS] previous_action     # what was in our place, when we last came there
cdef sigaction_t[SIGNALS] original_action       # and the first time
cdef bint[SIGNALS] installed
cdef Registry *registry = live_writers()
cdef uint64_t drain_timeout                # ns

cdef struct DrainTarget:                     # of one drain
    uint64_t writer
    uint64_t position                 # up to which its ring is to be sent


# --- in the signal handler ---------------------------------------------------------------------

cdef bint drain_one(Writer *writer, uint64_t position, uint64_t deadline,
                    bint kick) noexcept nogil:
    """Whether this one is done, or will never be."""
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
    cdef uint64_t deadline = monotonic_ns() + drain_timeout
    cdef DrainTarget[WRITERS_MAX] targets
    cdef Writer *writer
    cdef uint64_t polls = 0
    cdef bint done = False
    cdef int i
    for i in range(WRITERS_MAX):
        targets[i].writer = load_seq_cst(&registry.writers[i])
        writer = <Writer *>targets[i].writer
        if writer != NULL and writer.pid != getpid():     # the parent's
            targets[i].writer = 0
        elif writer != NULL:
            # Other threads may go on logging, and would keep us here.
            targets[i].position = load_acquire(&writer.ring.positions.head.value)
    while not done and monotonic_ns() < deadline:
        done = True
        for i in range(WRITERS_MAX):
            # A writer that is removed meanwhile waits for us.
            if targets[i].writer and not drain_one(<Writer *>targets[i].writer, targets[i].position,
                                                  deadline, polls % KICK_INTERVAL == 0):
                done = False
        polls += 1
        if not done:
            registry_pause()
    for i in range(WRITERS_MAX):
        if targets[i].writer:
            store_seq_cst(&(<Writer *>targets[i].writer).crashing.value, 0)


cdef void on_signal(int number, siginfo_t *info, void *context) noexcept nogil:
    cdef int error = errno
    cdef uint64_t idle = 0
    cdef uint64_t itself = <uint64_t>getpid()
    cdef int i
    # A process that was forked during a drain of its parent takes over from that.
    while idle != itself and not cas_seq_cst(&registry.draining, &idle, itself):
        pass
    if idle == itself:
        # Another thread is at it; to go on now would end the process. Not this one, in which
        # the signals are blocked.
        registry_await_drain(registry)
    else:
        drain_all()
        store_seq_cst(&registry.draining, 0)
    for i in range(SIGNALS):
        if signals[i] == number:
            sigaction(number, &previous_action[i], NULL)
            # What was put over us, and we over that: it calls us once more.
            previous_action[i] = original_action[i]
    errno_set(error)
    # Blocked until this returns; then the previous_action disposition gets it.
    raise_(number)


# --- from Python -------------------------------------------------------------------------------

cdef int use_own_stack() except -1:
    """A stack for handlers in this thread, where it has none: one overflowed may be the crash."""
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
    """enable_crash_drain(), with a timeout that was checked."""
    global drain_timeout
    cdef sigaction_t action
    cdef sigaction_t now
    cdef int i
    drain_timeout = <uint64_t>(timeout * 1e9)
    use_own_stack()
    memset(&action, 0, sizeof(action))
    action.sa_sigaction = on_signal
    action.sa_flags = SA_SIGINFO | SA_ONSTACK
    sigemptyset(&action.sa_mask)
    for i in range(SIGNALS):
        sigaddset(&action.sa_mask, signals[i])
    for i in range(SIGNALS):
        sigaction(signals[i], NULL, &now)
        if now.sa_sigaction == on_signal:
            continue
        if signals[i] == SIGTERM and signal.getsignal(SIGTERM) is not signal.SIG_DFL:
            continue
        sigaction(signals[i], &action, &previous_action[i])
        if not installed[i]:
            original_action[i] = previous_action[i]
        installed[i] = True


def disable():
    """disable_crash_drain()"""
    cdef sigaction_t now
    cdef int i
    for i in range(SIGNALS):
        if installed[i]:
            sigaction(signals[i], NULL, &now)
            if now.sa_sigaction == on_signal:
                sigaction(signals[i], &previous_action[i], NULL)
                previous_action[i] = original_action[i]     # for one that was put over us and calls us
                installed[i] = False
