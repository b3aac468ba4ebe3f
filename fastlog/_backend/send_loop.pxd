"""How records leave the ring: a batch at a time, in order, until the peer or the kernel says no.

The writer thread only; in a crash, where there is none, the handler of the signal.
"""
from libc.errno cimport EINPROGRESS, EMSGSIZE, errno
from libc.stdint cimport uint64_t

from fastlog._backend.atomics cimport (add_relaxed, exchange_seq_cst, load_acquire, load_relaxed,
                               store_relaxed, store_release)
from fastlog._backend.clock cimport MILLISECOND
from fastlog._backend.counters cimport EVICTED, UNSENDABLE, count_loss, count_owned
from fastlog._backend.framing cimport frame_sanitize, frame_truncate
from fastlog._backend.half_sent cimport half_sent_reset
from fastlog._backend.posix cimport SOCK_STREAM, iovec
from fastlog._backend.ring cimport (LENGTH_MASK, TRUNCATED, DISCARDED, Ring, page_size, record_bytes,
                            record_span, ring_at, ring_peek, ring_prefault, ring_truncate,
                            ring_discard, header_severity)
from fastlog._backend.transport cimport (TOO_LONG, TRANSPORT_BATCH, WAIT_MEMORY, WAIT_WRITABLE, ErrnoClass,
                                 transport_adopt, transport_close, transport_connect,
                                 transport_grow_buffer, transport_classify, transport_send,
                                 transport_truncated_size)
from fastlog._backend.writer cimport (Writer, writer_enter_outage, writer_lock_tail, writer_release,
                              writer_unlock_tail)


cdef enum:
    BACKOFF_MIN = 10 * MILLISECOND
    LARGE_RECORD = 65536                 # bytes; for a record of so many there may never be memory:
    MEMORY_TRIES = 10             # after so many it is truncated
    PREFAULT_AHEAD = 1 << 19      # bytes of the ring; it takes 2 ms at least to fill them
    PREFAULT_STEP = 1 << 16       # at a time: no urgent record waits long for it

cdef enum DrainResult:                # why writer_drain came back
    DRAIN_MORE                 # it does not
    DRAIN_RING_EMPTY                    # or its first record is not committed yet
    DRAIN_PEER_FULL
    DRAIN_NO_MEMORY
    DRAIN_NO_PEER
    DRAIN_CONNECTING
    DRAIN_STOPPED


cdef inline uint64_t writer_next_position(Writer *writer) noexcept nogil:
    """The position of the next record to send: tail, but in a crash not what is not finished."""
    cdef uint64_t tail = load_relaxed(&writer.ring.positions.tail.value)
    cdef uint64_t crash_sent_pos = load_relaxed(&writer.crash_sent_pos.value)
    writer.past_unfinished = crash_sent_pos > tail and (
        writer.half_sent.partial != 0           # half of that one is on its way
        or load_relaxed(&writer.crashing.value) and not ring_peek(&writer.ring, tail))
    return crash_sent_pos if writer.past_unfinished else tail


cdef inline void writer_finish_batch(Writer *writer, uint64_t position) noexcept nogil:
    """The batch is done up to `position`."""
    cdef Ring *ring = &writer.ring
    cdef uint64_t crash_sent_pos = load_relaxed(&writer.crash_sent_pos.value)
    cdef uint64_t span
    if not writer.past_unfinished:
        writer_release(writer, position)
        return
    while crash_sent_pos < position:
        span = record_span(load_relaxed(&ring_at(ring, crash_sent_pos).header) & LENGTH_MASK)
        ring_discard(ring, crash_sent_pos, span)           # when it is its turn, it is not sent again
        crash_sent_pos += span
    store_release(&writer.crash_sent_pos.value, crash_sent_pos)


cdef inline int writer_gather(Writer *writer) noexcept nogil:
    """Point the transport's parts at the committed records from tail on; returns how many."""
    cdef Ring *ring = &writer.ring
    cdef uint64_t tail = load_relaxed(&ring.positions.tail.value)
    cdef uint64_t begin = writer_next_position(writer)
    cdef uint64_t position = begin
    cdef uint64_t header
    cdef iovec *part
    cdef int count = 0
    # A full ring ends where it starts: do not walk it twice.
    while count < TRANSPORT_BATCH and position - tail < ring.capacity:
        header = ring_peek(ring, position)
        if header == 0:
            break
        if not header & DISCARDED:
            if count == 0:
                writer.batch_start = position
            part = &writer.transport.parts[count]
            part.iov_base = record_bytes(ring_at(ring, position))
            part.iov_len = header & LENGTH_MASK
            if writer.transport.sanitize_stream:
                frame_sanitize(<char *>part.iov_base, part.iov_len)
            count += 1
        position += record_span(header & LENGTH_MASK)
        if count:
            writer.batch_ends[count - 1] = position
    if count == 0 and position != begin:
        writer_finish_batch(writer, position)
    return count


cdef inline void writer_count_error(Writer *writer, int error) noexcept nogil:
    count_owned(&writer.counters.send_errors, 1)
    store_relaxed(&writer.counters.last_errno, <uint64_t>error)


cdef inline void writer_disconnect(Writer *writer) noexcept nogil:
    if writer.half_sent.residual != NULL:          # so its other half goes nowhere
        count_loss(&writer.counters, EVICTED, writer.half_sent.residual_severity)
        writer_enter_outage(writer)
    half_sent_reset(&writer.half_sent)
    transport_close(&writer.transport)
    store_relaxed(&writer.has_socket, 0)


cdef inline DrainResult writer_connect(Writer *writer) noexcept nogil:
    cdef uint64_t offered = exchange_seq_cst(&writer.offered_fd.value, 0)
    cdef int error = 0
    if offered:
        transport_adopt(&writer.transport, <int>(offered - 1))
    else:
        error = transport_connect(&writer.transport)
    if error == EINPROGRESS:
        return DRAIN_CONNECTING
    if error:
        writer_count_error(writer, error)
        return DRAIN_NO_PEER
    store_relaxed(&writer.has_socket, 1)
    if writer.was_connected:
        count_owned(&writer.counters.reconnects, 1)
    writer.was_connected = True
    return DRAIN_MORE


cdef inline void writer_handle_too_long(Writer *writer) noexcept nogil:
    """After EMSGSIZE: a larger buffer, else a shorter record, else none.

    Not shorter where the record is more than text: journald ignores an entry with an end missing.
    """
    cdef uint64_t header = ring_peek(&writer.ring, writer.batch_start)
    cdef size_t length = writer.transport.parts[0].iov_len
    cdef size_t limit
    if transport_grow_buffer(&writer.transport, length):
        return
    writer_count_error(writer, EMSGSIZE)
    writer.memory_tries = 0
    limit = 0 if writer.transport.by_memfd else transport_truncated_size(&writer.transport, length)
    if limit == 0:
        count_loss(&writer.counters, UNSENDABLE, header_severity(header))
        writer_enter_outage(writer)
        writer_finish_batch(writer, writer.batch_ends[0])
        return
    if not header & TRUNCATED:
        add_relaxed(&writer.counters.truncated, 1)
    ring_truncate(&writer.ring, writer.batch_start,
                 frame_truncate(<char *>writer.transport.parts[0].iov_base, length, limit))


cdef inline DrainResult writer_send_batch(Writer *writer) noexcept nogil:
    cdef int count = writer_gather(writer)
    cdef int sent
    cdef bint had_residual = writer.half_sent.residual != NULL
    cdef ErrnoClass outcome
    if count == 0:
        return DRAIN_RING_EMPTY
    sent = transport_send(&writer.transport, &writer.half_sent, count)
    if had_residual and writer.half_sent.residual == NULL:
        count_owned(&writer.counters.sent.value, 1)
    if sent >= 0:
        writer.backoff = 0
        writer.memory_tries = 0
        if sent > 0:
            count_owned(&writer.counters.sent.value, sent)
            writer_finish_batch(writer, writer.batch_ends[sent - 1])
        return DRAIN_PEER_FULL if 0 < sent < count else DRAIN_MORE
    outcome = transport_classify(errno)
    if outcome == WAIT_WRITABLE:
        return DRAIN_PEER_FULL
    if outcome == TOO_LONG:
        writer_handle_too_long(writer)
        return DRAIN_MORE
    writer_count_error(writer, errno)
    if outcome == WAIT_MEMORY:
        # Linux has a bound for one datagram that no buffer size shows: some 4 MiB. A stream has
        # none, and may have half of the record already, or its length.
        writer.memory_tries += 1
        if (writer.memory_tries >= MEMORY_TRIES and writer.transport.parts[0].iov_len > LARGE_RECORD
                and writer.transport.connected_socktype != SOCK_STREAM):
            writer_handle_too_long(writer)
        return DRAIN_NO_MEMORY
    writer_disconnect(writer)
    # At once the first time: a restarted daemon is usually there again.
    if writer.backoff:
        return DRAIN_NO_PEER
    writer.backoff = BACKOFF_MIN
    return DRAIN_MORE


cdef inline bint writer_has_records(Writer *writer) noexcept nogil:
    cdef bint locked = writer_lock_tail(writer)
    cdef bint ready = ring_peek(&writer.ring, writer_next_position(writer)) != 0
    writer_unlock_tail(writer, locked)
    return ready


cdef inline bint writer_prefault(Writer *writer) noexcept nogil:
    """Keep memory in front of the producers, in a ring's first turn. False: there is enough.

    For the first touch of a page a producer would wait as long as for ten calls, or a hundred.
    """
    cdef Ring *ring = &writer.ring
    cdef uint64_t last = writer.prefault_start + ring.capacity
    cdef uint64_t head = load_relaxed(&ring.positions.head.value)
    cdef uint64_t end
    # Where producers have been already it would be in vain.
    writer.prefault_end = min(max(writer.prefault_end, head & ~(page_size() - 1)), last)
    if writer.prefault_end == last or head + PREFAULT_AHEAD < writer.prefault_end:
        return False
    end = min(writer.prefault_end + PREFAULT_STEP, last)
    writer.prefault_end = end if ring_prefault(ring, writer.prefault_end, end) else last
    return True


cdef inline DrainResult writer_drain(Writer *writer) noexcept nogil:
    """Send records until there are none, or the peer or the kernel says no."""
    cdef DrainResult result
    cdef bint locked
    while not load_acquire(&writer.stop.value):
        if writer.transport.fd < 0 or writer.transport.connecting:
            result = writer_connect(writer) if writer_has_records(writer) else DRAIN_RING_EMPTY
        else:
            locked = writer_lock_tail(writer)
            result = writer_send_batch(writer)
            writer_unlock_tail(writer, locked)
        if result == DRAIN_RING_EMPTY and writer_prefault(writer):
            continue
        if result != DRAIN_MORE:
            return result
        writer_prefault(writer)
    return DRAIN_STOPPED
