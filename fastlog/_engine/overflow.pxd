"""The overflow policies, which decide about a record that finds the ring full.

A header that is compiled into _core.pyx, whose Engine.put() ends up here.
"""
from libc.stdint cimport uint64_t

from fastlog._backend.atomics cimport load_acquire, load_relaxed, store_relaxed
from fastlog._backend.clock cimport monotonic_ns
from fastlog._backend.counters cimport FULL, INTERRUPTED, STALLED, Loss, count_loss
from fastlog._backend.ring cimport Record, record_span, ring_try_reserve
from fastlog._backend.writer cimport Writer, writer_enter_outage, writer_evict
from fastlog._backend.writer_thread cimport writer_notify, writer_send_here, writer_start
from fastlog._core cimport BLOCK, DROP_OLDEST, Engine
from fastlog._engine.greenlets cimport HUB, find_caller
from fastlog._engine.life_cycle cimport PROGRESS_CHECK, is_stopped

cdef extern from "_engine/freethreading.h" nogil:
    Writer *pointer_load(Writer **place)

cdef enum:
    WAKE_SHARE = 32                   # a waiting producer is woken when 1/32 of the ring is free


cdef inline Record *engine_find_space(Engine engine, Writer **writer, size_t size,
                                      uint64_t severity, uint64_t *used) except? NULL:
    """Apply the overflow policy. Returns a reserved record, or NULL if it was dropped.

    `writer` is updated if another one has replaced it: waiting may fork or close.
    """
    cdef Record *record
    # close() may have left a full ring that nothing else would drain.
    if is_stopped(writer[0]) and writer_start(writer[0]) != 0:
        with nogil:
            writer_send_here(writer[0], False)
    if engine.overflow == BLOCK:
        return engine_await_space(engine, writer, size, severity, used)
    if engine.overflow == DROP_OLDEST:
        # This ends: each turn frees space, and only new records can take it.
        while writer_evict(writer[0], size, severity):
            record = ring_try_reserve(&writer[0].ring, size, severity, used)
            if record != NULL:
                return record
    engine_drop(engine, writer[0], FULL, severity)
    return NULL


cdef inline Record *engine_await_space(Engine engine, Writer **writer, size_t size,
                                       uint64_t severity, uint64_t *used) except? NULL:
    """Wait for space as long as the writer makes progress."""
    cdef uint64_t step = max(record_span(size), engine.capacity // WAKE_SHARE)
    cdef Record *record = NULL
    cdef uint64_t tail = load_acquire(&writer[0].ring.positions.tail.value)
    cdef uint64_t now = monotonic_ns()
    cdef uint64_t deadline = now + engine.block_timeout
    while not load_relaxed(&writer[0].stalled.value):
        if now >= deadline:
            store_relaxed(&writer[0].stalled.value, 1)
            break
        if writer_notify(writer[0], True) != 0:
            with nogil:
                writer_send_here(writer[0], False)
        try:
            if find_caller() == HUB:      # nothing else would run
                engine_drop(engine, writer[0], FULL, severity)
                return NULL
            engine.await_tail(writer[0], tail + step,
                              min(deadline - now, <uint64_t>PROGRESS_CHECK))
        except BaseException:
            engine_drop(engine, pointer_load(&engine.writer), INTERRUPTED, severity)
            raise
        writer[0] = pointer_load(&engine.writer)
        record = ring_try_reserve(&writer[0].ring, size, severity, used)
        if record != NULL:
            return record
        now = monotonic_ns()
        if load_acquire(&writer[0].ring.positions.tail.value) != tail:
            tail = load_acquire(&writer[0].ring.positions.tail.value)
            deadline = now + engine.block_timeout
    engine_drop(engine, writer[0], STALLED, severity)
    return NULL


cdef inline void engine_drop(Engine engine, Writer *writer, Loss reason,
                             uint64_t severity) noexcept:
    """Count a record that is not in the ring as lost."""
    count_loss(&writer.counters, reason, severity)
    writer_enter_outage(writer)
