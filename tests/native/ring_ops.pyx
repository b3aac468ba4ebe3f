# cython: language_level=3, boundscheck=False, wraparound=False, freethreading_compatible=True
"""The operations of a ring, for Python. test_ring_model.py compares them with a deque.

recover() releases the GIL, because a damaged ring could make its loops endless. Then the time limit
of a test still ends it.
"""
from libc.stdint cimport uint64_t
from libc.string cimport memcpy

from fastlog._backend.atomics cimport load_relaxed, store_relaxed
from fastlog._backend.ring cimport (DISCARDED, LENGTH_MASK, TRUNCATED, Record, RecoveryStats, Ring,
                                    record_bytes, record_span, ring_at, ring_commit, ring_create,
                                    ring_destroy, ring_peek, ring_recover, ring_release,
                                    ring_truncate, ring_try_reserve, ring_used, ring_zero)


cdef class PyRing:
    """A ring whose only thread is producer and writer. A position identifies a record."""

    cdef Ring ring

    def __cinit__(self, uint64_t capacity):
        if ring_create(&self.ring, capacity) != 0:
            raise OSError("ring_create failed")

    def __dealloc__(self):
        ring_destroy(&self.ring)

    @property
    def head(self):
        return load_relaxed(&self.ring.positions.head.value)

    @property
    def tail(self):
        return load_relaxed(&self.ring.positions.tail.value)

    @property
    def used(self):
        return ring_used(&self.ring)

    @property
    def max_length(self):
        return self.ring.max_length

    def reserve(self, bytes data, uint64_t severity):
        """Reserve and fill a record. Return its position, or None if the ring is full."""
        cdef uint64_t used = 0
        cdef Record *record = ring_try_reserve(&self.ring, len(data), severity, &used)
        if record == NULL:
            return None
        memcpy(record_bytes(record), <char *>data, len(data))
        return self.head - record_span(len(data))

    def commit(self, uint64_t position):
        """Commit the record at `position`."""
        ring_commit(ring_at(&self.ring, position), 0)

    def peek(self, uint64_t position):
        """Return (data, next position, whether truncated) of a record, or None if there is none.

        data is None if the writer skips the record.
        """
        cdef uint64_t header = ring_peek(&self.ring, position)
        if header == 0:
            return None
        cdef uint64_t length = header & LENGTH_MASK
        data = None if header & DISCARDED else record_bytes(ring_at(&self.ring, position))[:length]
        return data, position + record_span(length), bool(header & TRUNCATED)

    def release(self, uint64_t position):
        """Release the records before `position`."""
        ring_release(&self.ring, position)

    def release_half(self, uint64_t position, uint64_t zeroed):
        """Leave what a release leaves that is interrupted when it has zeroed up to `zeroed`."""
        store_relaxed(&self.ring.positions.sent_pos.value, position)
        ring_zero(&self.ring, self.tail, zeroed)

    def truncate(self, uint64_t position, uint64_t length):
        """Truncate the record at `position` to `length` bytes."""
        ring_truncate(&self.ring, position, length)

    def damage(self, uint64_t position, uint64_t header):
        """Overwrite the 8 bytes at `position`, a multiple of 8."""
        (<uint64_t *>ring_at(&self.ring, position))[0] = header

    def damage_positions(self, uint64_t head, uint64_t tail, uint64_t sent_pos):
        """Overwrite the three positions."""
        store_relaxed(&self.ring.positions.head.value, head)
        store_relaxed(&self.ring.positions.tail.value, tail)
        store_relaxed(&self.ring.positions.sent_pos.value, sent_pos)

    def recover(self):
        """Return (committed, unfinished, damaged bytes), or None if the positions are damaged."""
        cdef RecoveryStats stats
        cdef bint recovered
        with nogil:
            recovered = ring_recover(&self.ring, &stats)
        return (stats.records, stats.unfinished, stats.damaged) if recovered else None

    def is_zero(self, uint64_t begin, uint64_t end):
        """Return whether the memory of [begin, end) is zero."""
        cdef uint64_t i
        for i in range(begin, end):
            if self.ring.memory[i & self.ring.mask] != 0:
                return False
        return True
