# cython: language_level=3, freethreading_compatible=True
"""The crash drain: send the records in all rings before a signal ends the process.

The writers are threads that do not need the GIL. So the signal handler only wakes them and waits,
in the thread that received the signal, until the rings are drained or the timeout has passed. Then
it restores the previous action of the signal and raises the signal again, as faulthandler does. It
drains a ring itself only if that ring has no writer thread.

The handler calls only async-signal-safe functions (signal-safety(7)): sigaction, raise, ppoll, the
system call futex, and for a ring without a writer thread also fstat, connect and sendmmsg.

It covers each signal whose default action ends the process. For faults it also runs before a
handler that was there already. For all others it takes the place of the default action only, so
that the program's own handlers keep theirs. Python does not know of it, and replaces it where the
program sets a handler. When the program restores the default action, a hook of signal.signal()
installs it again.
"""
import _signal

from cpython.long cimport PyLong_AsLong, PyLong_Check
from cpython.object cimport PyObject
from libc.errno cimport errno
from libc.stdint cimport uint64_t
from libc.string cimport memset
from posix.mman cimport MAP_ANONYMOUS, MAP_FAILED, MAP_PRIVATE, PROT_READ, PROT_WRITE, mmap
from posix.signal cimport sigaction, sigaction_t, sigaddset, sigemptyset, siginfo_t
from posix.unistd cimport getpid

from fastlog._backend.atomics cimport (cas_seq_cst, exchange_seq_cst, load_acquire, load_seq_cst,
                                       store_seq_cst)
from fastlog._backend.clock cimport MILLISECOND, monotonic_ns
from fastlog._backend.posix cimport errno_set
from fastlog._backend.writer cimport AWAKE, STOPPED, Writer, writer_sent_pos, writer_wake
from fastlog._backend.writer_thread cimport writer_drain_inline
from fastlog._core cimport live_writers
from fastlog._engine.builtin_hook cimport (METH_FASTCALL, BuiltinHook, Positional, hook_install,
                                           hook_remove)
from fastlog._engine.registry cimport WRITERS_MAX, Registry, registry_await_drain, registry_pause
from fastlog._engine.signals cimport (SIGKILL, SIGNALS_END, SIGTERM, action_is_default,
                                      signal_ends_process, signal_is_fault)

cdef extern from "<signal.h>" nogil:
    enum:
        SA_ONSTACK
        SA_SIGINFO
        SS_DISABLE
    ctypedef struct stack_t:
        void *ss_sp
        int ss_flags
        size_t ss_size
    int sigaltstack(const stack_t *stack, stack_t *previous) noexcept
    int raise_ "raise"(int number) noexcept

cdef enum:
    STACK_SIZE = 64 * 1024        # bytes, for this handler and for the previous one after it
    KICK_INTERVAL = 20            # polls between two wakeups of writers that wait to reconnect
    CHILD_UNREACHED_TIMEOUT = 200 * MILLISECOND     # ns, for unreached_timeout in a child

# By number of the signal:
cdef bint[SIGNALS_END] covered                  # the drain was asked for
cdef bint[SIGNALS_END] installed
cdef sigaction_t[SIGNALS_END] previous_action   # the action to restore after the drain
cdef sigaction_t[SIGNALS_END] original_action   # the action before the handler was installed
cdef Registry *registry = live_writers()
cdef uint64_t drain_timeout       # ns
cdef uint64_t unreached_timeout   # ns for a writer that has never been connected
cdef bint enabled                 # by enable(), and not only in a child
cdef BuiltinHook signal_hook

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
    cdef uint64_t begin = monotonic_ns()
    cdef uint64_t deadline = begin + drain_timeout
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
            writer = <Writer *>targets[i].writer
            if writer == NULL or (not writer.was_connected
                                  and monotonic_ns() > begin + unreached_timeout):
                continue
            if not drain_one(writer, targets[i].position, deadline, polls % KICK_INTERVAL == 0):
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
    sigaction(number, &previous_action[number], NULL)
    # The previous handler may have been installed over this one, and call it again.
    previous_action[number] = original_action[number]
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


cdef bint is_installable(int number, sigaction_t *current) except -1:
    """Return whether the drain may replace the current action of a signal."""
    if current.sa_sigaction == on_signal:
        return False
    # Whatever handles SIGTERM below Python, such as faulthandler, runs after the drain.
    return (action_is_default(current) or signal_is_fault(number)
            or number == SIGTERM and _signal.getsignal(number) == _signal.SIG_DFL)


cdef int install(int number) except -1:
    """Install the handler for a signal, unless that is not allowed. Remember the action before."""
    cdef sigaction_t action
    cdef int other
    if sigaction(number, NULL, &action) != 0 or not is_installable(number, &action):
        return 0                  # sigaction fails for the signals that the C library reserves
    memset(&action, 0, sizeof(action))
    action.sa_sigaction = on_signal
    action.sa_flags = SA_SIGINFO | SA_ONSTACK
    sigemptyset(&action.sa_mask)
    for other in range(1, SIGNALS_END):
        if signal_ends_process(other):
            sigaddset(&action.sa_mask, other)
    sigaction(number, &action, &previous_action[number])
    if not installed[number]:
        original_action[number] = previous_action[number]
    installed[number] = True
    return 0


cdef PyObject *on_set_signal(PyObject *module, PyObject **args, Py_ssize_t count) noexcept:
    """Install the handler again where the default action has replaced it. The hook of signal()."""
    cdef PyObject *result = (<Positional>signal_hook.original)(module, args, count)
    if result != NULL and count == 2 and PyLong_Check(<object>args[0]):
        restore_cover(PyLong_AsLong(<object>args[0]))
    return result


cdef void restore_cover(long number) noexcept:
    cdef sigaction_t current
    if (0 < number < SIGNALS_END and covered[number]
            and sigaction(<int>number, NULL, &current) == 0 and action_is_default(&current)):
        install(<int>number)


cdef int cover(int number) except -1:
    """Drain at this signal, now or as soon as its action is the default one."""
    registry.drain_handler = <void *>on_signal
    hook_install(&signal_hook, <void *>on_set_signal, _signal.signal, METH_FASTCALL)
    covered[number] = True
    return install(number)


def enable(double timeout):
    """Implement enable_crash_drain() for a `timeout` in seconds that the caller has checked."""
    global drain_timeout, unreached_timeout, enabled
    cdef int number
    enabled = True
    drain_timeout = unreached_timeout = <uint64_t>(timeout * 1e9)
    ensure_alternate_stack()
    for number in range(1, SIGNALS_END):
        if signal_ends_process(number) and number != SIGKILL:
            cover(number)


def enable_in_child(double timeout):
    """Drain at SIGTERM, with which multiprocessing ends its children. Do nothing after enable().

    timeout: seconds. A second call may raise it.
    """
    global drain_timeout, unreached_timeout
    if not enabled:
        drain_timeout = max(drain_timeout, <uint64_t>(timeout * 1e9))
        unreached_timeout = CHILD_UNREACHED_TIMEOUT
        cover(SIGTERM)


def disable():
    """Implement disable_crash_drain()."""
    cdef sigaction_t current
    cdef int number
    global drain_timeout, enabled
    enabled = False
    drain_timeout = 0
    hook_remove(&signal_hook)
    for number in range(1, SIGNALS_END):
        covered[number] = False
        if installed[number]:
            sigaction(number, NULL, &current)
            if current.sa_sigaction == on_signal:
                sigaction(number, &previous_action[number], NULL)
                # A handler that was installed over this one may still call it.
                previous_action[number] = original_action[number]
                installed[number] = False
