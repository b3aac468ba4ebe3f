"""CLOCK_MONOTONIC as one number of nanoseconds. Any thread may call these functions."""
from libc.stdint cimport uint64_t
from posix.time cimport CLOCK_MONOTONIC, clock_gettime, timespec

cdef enum:
    MILLISECOND = 1_000_000       # ns

cdef extern from *:
    """
    #define FASTLOG_SECOND ((uint64_t)1000000000)
    """
    const uint64_t SECOND "FASTLOG_SECOND"     # ns


cdef inline uint64_t monotonic_ns() noexcept nogil:
    """Return the time of CLOCK_MONOTONIC in ns. Async-signal-safe."""
    cdef timespec now
    clock_gettime(CLOCK_MONOTONIC, &now)
    return <uint64_t>now.tv_sec * SECOND + <uint64_t>now.tv_nsec


cdef inline timespec to_timespec(uint64_t ns) noexcept nogil:
    """Return `ns` nanoseconds as a timespec."""
    cdef timespec time
    time.tv_sec = ns // SECOND
    time.tv_nsec = ns % SECOND
    return time
