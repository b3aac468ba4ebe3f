# cython: language_level=3, freethreading_compatible=True
"""What a spool held when its engine was made: the records of a process that has ended.

Imported only where a spool is used. Except for recovery_stats() and attach_spool(), the functions
require an engine whose writer was never started.
"""
cimport cython
from libc.stdint cimport uint64_t

from fastlog._backend.atomics cimport (add_relaxed, load_relaxed, load_seq_cst,
                                       store_release)
from fastlog._backend.counters cimport count_owned
from fastlog._backend.descriptor cimport Descriptor, descriptor_set
from fastlog._backend.ring cimport (DISCARDED, LENGTH_MASK, RecoveryStats, Ring, record_bytes,
                                    record_span, ring_at, ring_attach, ring_peek, ring_release,
                                    ring_used)
from fastlog._backend.writer cimport STOPPED, Writer
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


def attach_spool(Engine engine):
    """Store the ring in its file again, which close() has detached, because a record follows.

    If the file cannot be used, say so, and leave the ring in memory until the next close().
    """
    cdef Writer *writer
    cdef Descriptor file
    cdef int fd = -1
    engine.spool_detached = False         # records that the following causes stay in memory
    spool = engine.current_spool()
    try:
        fd = spool.reopen()
    except Exception:                     # the interpreter is ending
        return
    with cython.critical_section(engine):
        writer = engine.writer
        if (fd >= 0 and can_attach(writer) and descriptor_set(&file, fd)
                and ring_attach(&writer.ring, fd, &writer.recovered)):
            writer.spool_file = file
            store_release(&writer.crash_sent_pos.value, 0)    # of the memory
            count_attached(engine, writer)
            fd = -1
    if fd >= 0:
        spool.discard(fd)


cdef bint can_attach(Writer *writer) noexcept:
    """Return whether nothing uses the ring. Another thread may have put a record meanwhile."""
    return (load_seq_cst(&writer.state.value) == STOPPED and writer.spool_file.fd < 0
            and ring_used(&writer.ring) == 0)


cdef void count_attached(Engine engine, Writer *writer) noexcept:
    """Count the records in the file, of which this engine has accepted `left_in_spool` before."""
    cdef uint64_t records = writer.recovered.records
    if records >= engine.left_in_spool:
        add_relaxed(&writer.counters.accepted.value, records - engine.left_in_spool)
    else:                                 # another process has sent them
        count_owned(&writer.counters.sent.value, engine.left_in_spool - records)
    engine.left_in_spool = 0
    engine.accepted_before = load_relaxed(&writer.counters.accepted.value)
