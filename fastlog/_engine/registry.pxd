"""The writers of this process, where a signal handler finds them."""
from libc.stdint cimport uint64_t
from posix.time cimport timespec
from posix.unistd cimport getpid

from fastlog._backend.atomics cimport atomic_u64, cas_seq_cst, load_seq_cst
from fastlog._backend.clock cimport MILLISECOND, to_timespec
from fastlog._backend.posix cimport ppoll
from fastlog._backend.writer cimport Writer

cdef enum:
    WRITERS_MAX = 64              # more are not drained in a crash
    POLL_INTERVAL = 1 * MILLISECOND        # how often somebody who waits for a drain looks

ctypedef struct Registry:
    atomic_u64 writers[WRITERS_MAX]   # addresses; 0: free
    atomic_u64 draining               # getpid(), while a signal handler is at it


cdef inline void registry_pause() noexcept nogil:
    cdef timespec limit = to_timespec(POLL_INTERVAL)
    ppoll(NULL, 0, &limit, NULL)


cdef inline void registry_await_drain(Registry *registry) noexcept nogil:
    """Wait for one that has begun: in this process, not in the one that it was forked from."""
    while load_seq_cst(&registry.draining) == <uint64_t>getpid():
        registry_pause()


cdef inline void registry_add(Registry *registry, Writer *writer) noexcept nogil:
    """Any thread."""
    cdef uint64_t free
    cdef int i
    for i in range(WRITERS_MAX):
        free = 0
        if cas_seq_cst(&registry.writers[i], &free, <uint64_t>writer):
            return


cdef inline void registry_remove(Registry *registry, Writer *writer) noexcept nogil:
    """Before the writer is destroyed. Waits for a drain that has begun."""
    cdef uint64_t itself
    cdef int i
    for i in range(WRITERS_MAX):
        itself = <uint64_t>writer
        cas_seq_cst(&registry.writers[i], &itself, 0)
    registry_await_drain(registry)
