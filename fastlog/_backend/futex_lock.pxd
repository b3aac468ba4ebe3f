"""A lock in one atomic word, with a timeout on CLOCK_MONOTONIC.

pthread_mutex_timedlock() uses the clock that an administrator sets, and not every C library has
pthread_mutex_clocklock(). See Ulrich Drepper, "Futexes Are Tricky", section 6.
"""
from libc.stdint cimport uint64_t
from posix.time cimport timespec

from fastlog._backend.atomics cimport (cas_seq_cst, exchange_seq_cst, futex_wait, futex_wake_one,
                                       line_u64)
from fastlog._backend.clock cimport monotonic_ns, to_timespec

cdef enum FutexLockState:
    UNLOCKED
    LOCKED
    LOCKED_WITH_WAITERS           # the holder must wake one of them when it unlocks


cdef inline bint futex_lock_try(line_u64 *lock) noexcept nogil:
    """Acquire the lock if it is free. Return whether it was. Any thread. Async-signal-safe."""
    cdef uint64_t state = UNLOCKED
    return cas_seq_cst(&lock.value, &state, LOCKED)


cdef inline bint futex_lock_acquire(line_u64 *lock, uint64_t timeout) noexcept nogil:
    """Acquire the lock within `timeout` ns. Return whether it is held. Any thread."""
    cdef uint64_t end
    cdef timespec deadline
    if futex_lock_try(lock):
        return True
    end = monotonic_ns() + timeout
    deadline = to_timespec(end)
    while exchange_seq_cst(&lock.value, LOCKED_WITH_WAITERS) != UNLOCKED:
        if monotonic_ns() >= end:
            return False
        futex_wait(&lock.value, LOCKED_WITH_WAITERS, &deadline)
    return True


cdef inline void futex_lock_release(line_u64 *lock) noexcept nogil:
    """Release the lock, which the calling thread holds."""
    if exchange_seq_cst(&lock.value, UNLOCKED) == LOCKED_WITH_WAITERS:
        futex_wake_one(&lock.value)
