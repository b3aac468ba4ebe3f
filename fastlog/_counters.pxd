"""What happened, in numbers: the atomics behind fastlog.Stats.

The sums that Stats promises hold because of the order of counting: a record is
counted accepted before its commit, and sent or discarded after it was read, so
a reader who takes `sent` and `discarded` first never sees more of them than
of `accepted`.
"""
from fastlog._atomics cimport atomic_u64, line_u64, load_relaxed, store_release

ctypedef struct Counters:
    # Counted by producers.
    line_u64 accepted             # records in the ring, ever; the hot one
    line_u64 dropped              # records refused because there was no room
    atomic_u64 truncated          # records shortened, by a producer or the writer
    atomic_u64 wakeups            # wake-up calls that producers made
    # Counted by the writer only.
    line_u64 sent                 # records handed to the kernel
    atomic_u64 discarded          # records the kernel would not take in any length
    atomic_u64 reconnects         # connections made after the first
    atomic_u64 send_errors        # failed connects and sends, waiting not included
    atomic_u64 last_errno
    atomic_u64 high_watermark     # most bytes of the ring ever taken


cdef inline void count_owned(atomic_u64 *counter, unsigned long count) noexcept nogil:
    """Add to a counter that only this thread stores. Cheaper than a locked add."""
    # Release: pairs with the acquire loads in Engine.stats().
    store_release(counter, load_relaxed(counter) + count)
