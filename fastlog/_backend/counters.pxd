"""The counters behind fastlog.Stats, as atomics.

The order of counting keeps the sums that Stats promises. A record is counted as accepted before
its commit, and as sent or discarded after the writer has read it. So a reader that loads `sent`
and `lost` before `accepted` never sees more records leave the ring than enter it.
"""
from libc.stdint cimport uint64_t
from posix.time cimport CLOCK_REALTIME, clock_gettime, timespec

from fastlog._backend.atomics cimport (add_seq_cst, atomic_u64, cas_seq_cst, line_u64, load_acquire,
                                       load_relaxed, store_relaxed, store_release)
from fastlog._backend.clock cimport SECOND

cdef enum:
    SEVERITIES = 8                # RFC 5424 section 6.2.1

cdef enum Loss:                   # why a record is lost, named in _core.pyx: LOSS_REASONS
    # Dropped: the record was never accepted.
    FULL                          # the ring had no space
    STALLED                       # no space, and no progress for a whole block_timeout
    INTERRUPTED                   # a Python signal handler raised while the call waited for space
    # Discarded: the record had been accepted.
    EVICTED                       # removed to make space for a newer record
    UNSENDABLE                    # the kernel accepts it at no length
    LOSSES                        # the number of reasons

ctypedef struct Counters:
    # Producers count these.
    line_u64 accepted             # records ever put into the ring (the hottest counter)
    atomic_u64 truncated          # records truncated, by a producer or by the writer
    atomic_u64 wakeups            # wakeups of the writer that producers caused
    # Any thread that loses a record counts these.
    atomic_u64 lost[LOSSES * SEVERITIES]    # records, by Loss, then by severity
    atomic_u64 first_loss         # ns of CLOCK_REALTIME, 0 for none since the last loss report
    atomic_u64 last_loss          # ns of CLOCK_REALTIME, 0 for none yet
    # Only the writer counts these, or the thread that releases records in its place.
    line_u64 sent                 # records that the kernel accepted
    atomic_u64 reconnects         # connections after the first
    atomic_u64 send_errors        # failed connects and sends, but not waiting for the peer
    atomic_u64 last_errno         # the errno of the latest error, 0 for none yet
    atomic_u64 high_watermark     # the most bytes that were ever taken of the ring


cdef inline void count_owned(atomic_u64 *counter, unsigned long count) noexcept nogil:
    """Add to a counter that no other thread stores. This is cheaper than a locked add."""
    # Release: pairs with the acquire loads in reports.counters().
    store_release(counter, load_relaxed(counter) + count)


cdef inline void count_loss(Counters *counters, Loss reason, uint64_t severity) noexcept nogil:
    """Count a lost record of `severity` and note the time. Any thread."""
    cdef timespec now
    cdef uint64_t time, unset = 0
    clock_gettime(CLOCK_REALTIME, &now)
    time = <uint64_t>now.tv_sec * SECOND + <uint64_t>now.tv_nsec
    store_relaxed(&counters.last_loss, time)
    cas_seq_cst(&counters.first_loss, &unset, time)
    add_seq_cst(&counters.lost[<int>reason * SEVERITIES + severity], 1)


cdef inline uint64_t sum_losses(Counters *counters, Loss first, Loss last) noexcept nogil:
    """Return the number of records lost for the reasons `first` to `last`. Any thread."""
    cdef uint64_t sum = 0
    cdef int i
    for i in range(<int>first * SEVERITIES, (<int>last + 1) * SEVERITIES):
        sum += load_acquire(&counters.lost[i])
    return sum
