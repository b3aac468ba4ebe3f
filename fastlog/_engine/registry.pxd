"""The registry of this process's writers, where a signal handler finds them."""
from libc.stdint cimport uint64_t
from posix.time cimport timespec
from posix.unistd cimport getpid

from fastlog._backend.atomics cimport atomic_u64, cas_seq_cst, load_seq_cst
from fastlog._backend.clock cimport MILLISECOND, to_timespec
from fastlog._backend.posix cimport ppoll
from fastlog._backend.writer cimport Writer

cdef enum:
    WRITERS_MAX = 64              # the crash drain ignores further writers
    POLL_INTERVAL = 1 * MILLISECOND     # ns between two polls of a thread that waits for a drain

ctypedef struct Registry:
    atomic_u64 writers[WRITERS_MAX]     # addresses of Writers, 0 where free
    atomic_u64 draining           # getpid() of the process whose signal handler drains, or 0
    void *drain_handler           # the crash drain's signal handler, or NULL before its first use


cdef inline void registry_pause() noexcept nogil:
    """Sleep for POLL_INTERVAL. Any thread. Async-signal-safe."""
    cdef timespec limit = to_timespec(POLL_INTERVAL)
    ppoll(NULL, 0, &limit, NULL)


cdef inline void registry_await_drain(Registry *registry) noexcept nogil:
    """Wait until a drain in this process is over. Any other thread. Async-signal-safe.

    A drain in the parent, from which this process was forked, does not count.
    """
    while load_seq_cst(&registry.draining) == <uint64_t>getpid():
        registry_pause()


cdef inline void registry_add(Registry *registry, Writer *writer) noexcept nogil:
    """Register a writer, if there is space. Any thread. The registry does not own the Writer."""
    cdef uint64_t expected
    cdef int i
    for i in range(WRITERS_MAX):
        expected = 0
        if cas_seq_cst(&registry.writers[i], &expected, <uint64_t>writer):
            return


cdef inline void registry_remove(Registry *registry, Writer *writer) noexcept nogil:
    """Unregister a writer, and wait for a drain that may use it. Any thread, before freeing it."""
    cdef uint64_t expected
    cdef int i
    for i in range(WRITERS_MAX):
        expected = <uint64_t>writer
        cas_seq_cst(&registry.writers[i], &expected, 0)
    registry_await_drain(registry)
