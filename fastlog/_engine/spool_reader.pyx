# cython: language_level=3, freethreading_compatible=True
"""What a spool held when its engine was made: the records of a process that has ended.

Imported only where a spool is used. Except for recovery_stats(), the functions require an engine
whose writer was never started.
"""
from libc.stdint cimport uint64_t

from fastlog._backend.atomics cimport load_relaxed
from fastlog._backend.counters cimport count_owned
from fastlog._backend.ring cimport (DISCARDED, LENGTH_MASK, RecoveryStats, Ring, record_bytes,
                                    record_span, ring_at, ring_peek, ring_release)
from fastlog._backend.writer cimport Writer
from fastlog._core cimport Engine, engine_writer


def recovery_stats(Engine engine):
    """Return (records, unfinished records, bytes of damage) found in the spool."""
    cdef RecoveryStats *recovered = &engine_writer(engine).recovered
    return recovered.records, recovered.unfinished, recovered.damaged


def read_records(Engine engine):
    """Return the records in the ring as bytes, oldest first."""
    cdef Ring *ring = &engine_writer(engine).ring
    cdef uint64_t position = load_relaxed(&ring.positions.tail.value)
    cdef uint64_t header
    records = []
    while position < load_relaxed(&ring.positions.head.value):
        header = ring_peek(ring, position)
        if not header & DISCARDED:
            records.append(record_bytes(ring_at(ring, position))[:header & LENGTH_MASK])
        position += record_span(header & LENGTH_MASK)
    return records


def release_first(Engine engine):
    """Remove the oldest record from the ring and count it as sent: another engine sent it."""
    cdef Writer *writer = engine_writer(engine)
    cdef Ring *ring = &writer.ring
    cdef uint64_t position = load_relaxed(&ring.positions.tail.value)
    cdef uint64_t header
    cdef bint is_past_record = False
    while position < load_relaxed(&ring.positions.head.value):
        header = ring_peek(ring, position)
        if not header & DISCARDED:
            if is_past_record:
                break
            is_past_record = True
        position += record_span(header & LENGTH_MASK)
    ring_release(ring, position)
    count_owned(&writer.counters.sent.value, is_past_record)
