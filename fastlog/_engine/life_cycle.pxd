"""The life cycle of an Engine: waiting, stopping the writer, replacing it, detaching the spool.

A header that is compiled into _core.pyx, whose Engine.close() runs these steps.
"""
cimport cython
from cpython.ref cimport Py_INCREF
from libc.stdint cimport uint64_t

from fastlog._backend.atomics cimport load_acquire, load_relaxed, load_seq_cst
from fastlog._backend.clock cimport MILLISECOND, monotonic_ns
from fastlog._backend.counters cimport EVICTED, UNSENDABLE, sum_losses
from fastlog._backend.ring cimport ring_detach, ring_used
from fastlog._backend.transport cimport transport_is_network
from fastlog._backend.writer cimport STOPPED, Writer
from fastlog._backend.writer_thread cimport (writer_notify, writer_request_stop, writer_send_here,
                                             writer_stop, writer_stop_timeout, writer_stop_within,
                                             writer_take_over)
from fastlog._core cimport Engine, engine_writer, live_writers
from fastlog._engine.greenlets cimport HUB, HUB_BLOCK, find_caller, pause_in_hub
from fastlog._engine.registry cimport registry_remove

cdef extern from "_engine/freethreading.h" nogil:
    Writer *pointer_load(Writer **place)
    void pointer_store(Writer **place, Writer *writer)


cdef enum:
    SIGNAL_CHECK = 50 * MILLISECOND       # a waiting thread checks for Ctrl-C at least this often
    PROGRESS_CHECK = 10 * MILLISECOND     # and this often for progress, where that counts
    STOP_TIME_MIN = 100 * MILLISECOND     # the least that a thread has to end


cdef inline bint is_stopped(Writer *writer) noexcept nogil:
    return load_seq_cst(&writer.state.value) == STOPPED


cdef inline bint engine_wait_until_sent(Engine engine, uint64_t deadline,
                                        uint64_t unreached_deadline) except -1:
    """Wait until each record accepted before the call is sent or discarded.

    Returns False if `deadline` has passed, or `unreached_deadline` while no connect has succeeded.
    """
    engine.ensure_current_process()
    cdef uint64_t fork_epoch = load_relaxed(&engine.fork_epoch)
    cdef Writer *writer = pointer_load(&engine.writer)
    cdef uint64_t target = load_relaxed(&writer.ring.positions.head.value)
    cdef uint64_t now = monotonic_ns()
    cdef bint threadless
    if find_caller() == HUB:
        deadline = min(deadline, now + HUB_BLOCK)
    while load_relaxed(&engine.fork_epoch) == fork_epoch:
        if load_acquire(&writer.ring.positions.tail.value) >= target:
            break
        if not engine.was_reached(writer):
            deadline = min(deadline, unreached_deadline)
        with cython.critical_section(engine):       # as in start()
            threadless = load_relaxed(&writer.threadless)
            if now >= deadline or is_stopped(writer) and not threadless:
                return False
            threadless = writer_notify(writer, True) != 0
        if threadless:
            with nogil:
                writer_send_here(writer, True)
        engine.await_tail(writer, target, min(
            deadline - now, <uint64_t>(PROGRESS_CHECK if threadless else SIGNAL_CHECK)))
        now = monotonic_ns()
    return True


cdef inline bint engine_stop_writer(Engine engine, Writer **writer) except -1:
    """Stop the thread and join it. Return False if it does not end in time.

    Other greenlets run until it has ended. `writer` is updated as in find_space().
    """
    cdef uint64_t now = monotonic_ns(), deadline = now + writer_stop_timeout(writer[0])
    cdef bint joined, paused = True
    while paused and not is_stopped(writer[0]) and now < deadline:
        writer_request_stop(writer[0])
        try:
            paused = pause_in_hub(&engine.pausing, deadline - now)
        except BaseException:
            engine_finish_stop(engine)
            raise
        writer[0] = engine_writer(engine)
        now = monotonic_ns()
    # A record may have started the thread once more at the end of that time.
    now = min(now, deadline - STOP_TIME_MIN)
    with nogil:
        joined = writer_stop_within(writer[0], deadline - now)
    return joined


cdef inline int engine_finish_stop(Engine engine) except -1:
    """Join a thread that was asked to stop, and send what arrived meanwhile."""
    cdef Writer *writer = engine_writer(engine)
    cdef bint joined
    with nogil:
        joined = writer_stop(writer)
    if not joined:
        return engine_replace_hung_writer(engine, writer)
    if ring_used(&writer.ring):
        engine.start()
    return 0


cdef inline int engine_replace_hung_writer(Engine engine, Writer *hung) except -1:
    """Replace a writer that did not stop in time. The next one sends what is in its ring.

    With a spool, those records stay in its file.
    """
    cdef Writer *writer
    cdef object spool = engine.current_spool()
    cdef int fd = -1
    if spool is not None:
        Py_INCREF(spool)      # the thread uses the file until the process ends
        spool = spool.for_child()
        fd = spool.open()
    with cython.critical_section(engine):
        if engine.writer == hung:   # else another thread was first
            engine.was_reached(hung)
            writer = engine.new_writer(fd, False)
            writer_take_over(writer, hung)
            if engine.spooled:
                engine.left_in_spool = (engine_count_pending(engine, writer)
                                        - writer.recovered.records)
            registry_remove(live_writers(), hung)
            pointer_store(&engine.writer, writer)
            engine.spool = spool
            fd = -1
    if fd >= 0:
        spool.discard(fd)
    return 0


cdef inline int engine_detach_spool(Engine engine) except -1:
    """Release the spool's file, and go on in memory."""
    cdef Writer *writer
    cdef bint empty
    with cython.critical_section(engine):
        writer = engine.writer
        spool, fd = engine.spool, writer.spool_file.fd
        if fd < 0:
            return 0
        # The GIL, or the lock, excludes put(), which may have started the writer after close()
        # stopped it. Then stop it once more, unless that could wait for a name server.
        if not is_stopped(writer) and (transport_is_network(&writer.transport)
                                       or not writer_stop(writer)):
            return 0
        empty = ring_used(&writer.ring) == 0
        if not ring_detach(&writer.ring):
            return 0
        engine.left_in_spool = engine_count_pending(engine, writer)
        writer.spool_file.fd = -1
        engine.spool_detached = True
    try:
        if empty:
            spool.remove()                # from here on other threads may run
    finally:
        spool.close(fd)
    return 0


cdef inline uint64_t engine_count_pending(Engine engine, Writer *writer) noexcept:
    # In this order: see counters.pxd.
    cdef uint64_t sent = load_acquire(&writer.counters.sent.value)
    cdef uint64_t discarded = sum_losses(&writer.counters, EVICTED, UNSENDABLE)
    return load_relaxed(&writer.counters.accepted.value) - sent - discarded
