"""Monotonic time in nanoseconds."""
from libc.stdint cimport uint64_t
from posix.time cimport CLOCK_MONOTONIC, clock_gettime, timespec

cdef enum:
    MILLISECOND = 1_000_000

cdef extern from *:
    """
    #define FASTLOG_SECOND ((uint64_t)1000000000)
    """
    const uint64_t SECOND "FASTLOG_SECOND"


cdef inline uint64_t monotonic_ns() noexcept nogil:
    cdef timespec now
    clock_gettime(CLOCK_MONOTONIC, &now)
    return <uint64_t>now.tv_sec * SECOND + <uint64_t>now.tv_nsec


cdef inline timespec to_timespec(uint64_t ns) noexcept nogil:
    cdef timespec time
    time.tv_sec = ns // SECOND
    time.tv_nsec = ns % SECOND
    return time
