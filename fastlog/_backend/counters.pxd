"""What happened, in numbers: the atomics behind fastlog.Stats.

The sums that Stats promises hold because of the order of counting: a record is
counted accepted before its commit, and sent or lost after it was read, so
a reader who takes `sent` and what was discarded first never sees more of them
than of `accepted`.
"""
from libc.stdint cimport uint64_t
from posix.time cimport CLOCK_REALTIME, clock_gettime, timespec

from fastlog._backend.atomics cimport (add_relaxed, add_seq_cst, atomic_u64, cas_seq_cst, line_u64,
                               load_acquire, load_relaxed, store_relaxed, store_release)
from fastlog._backend.clock cimport SECOND

cdef enum:
    SEVERITIES = 8                # RFC 5424 section 6.2.1

cdef enum Loss:                   # why a record is lost; names in _stats.py
    FULL                          # dropped, so never accepted: no space
    STALLED                       # no space, and for too long no progress
    INTERRUPTED                   # a signal handler raised while the call waited
    EVICTED                       # discarded, after it was accepted: to make space for a new one
    UNSENDABLE                    # the kernel would not take it in any length
    LOSSES

ctypedef struct Counters:
    # Counted by producers.
    line_u64 accepted             # records in the ring, ever; the hot one
    atomic_u64 truncated          # records truncated, by a producer or the writer
    atomic_u64 wakeups            # wake-up calls that producers made
    # Counted by whoever loses them.
    atomic_u64 lost[LOSSES * 8]   # by Loss, then by severity
    atomic_u64 first_loss         # ns of CLOCK_REALTIME; 0: none since it was told of
    atomic_u64 last_loss
    # Counted by the writer only.
    line_u64 sent                 # records handed to the kernel
    atomic_u64 reconnects         # connections made after the first
    atomic_u64 send_errors        # failed connects and sends, waiting not included
    atomic_u64 last_errno
    atomic_u64 high_watermark     # most bytes of the ring ever taken


cdef inline void count_owned(atomic_u64 *counter, unsigned long count) noexcept nogil:
    """Add to a counter that only this thread stores. Cheaper than a locked add."""
    # Release: pairs with the acquire loads in Engine.stats().
    store_release(counter, load_relaxed(counter) + count)


cdef inline void count_loss(Counters *counters, Loss why, uint64_t severity) noexcept nogil:
    """Any thread."""
    cdef timespec now
    cdef uint64_t time, never = 0
    clock_gettime(CLOCK_REALTIME, &now)
    time = <uint64_t>now.tv_sec * SECOND + <uint64_t>now.tv_nsec
    store_relaxed(&counters.last_loss, time)
    cas_seq_cst(&counters.first_loss, &never, time)
    add_seq_cst(&counters.lost[<int>why * SEVERITIES + severity], 1)


cdef inline uint64_t sum_losses(Counters *counters, Loss first, Loss last) noexcept nogil:
    """Records lost for the reasons from `first` to `last`."""
    cdef uint64_t sum = 0
    cdef int i
    for i in range(<int>first * SEVERITIES, (<int>last + 1) * SEVERITIES):
        sum += load_acquire(&counters.lost[i])
    return sum
