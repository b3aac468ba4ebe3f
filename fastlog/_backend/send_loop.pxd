"""The send loop: records leave the ring in order, in batches, until the peer or the kernel refuses.

Only the writer thread runs it. In a crash without a writer thread, the signal handler does. The
functions from writer_next_position() to writer_send_batch() need the caller to be the holder of the
tail, see writer_lock_tail().
"""
from libc.errno cimport EINPROGRESS, EMSGSIZE, errno
from libc.stdint cimport uint64_t
from libc.stdlib cimport free

from fastlog._backend.atomics cimport (add_relaxed, exchange_seq_cst, load_acquire, load_relaxed,
                                       store_relaxed, store_release)
from fastlog._backend.clock cimport MILLISECOND, monotonic_ns
from fastlog._backend.counters cimport EVICTED, UNSENDABLE, count_loss, count_owned
from fastlog._backend.destination cimport Destination
from fastlog._backend.framing cimport frame_sanitize, frame_truncate
from fastlog._backend.half_sent cimport half_sent_reset
from fastlog._backend.posix cimport SOCK_STREAM, iovec, page_size
from fastlog._backend.ring cimport (DISCARDED, LENGTH_MASK, TRUNCATED, Ring, header_severity,
                                    record_bytes, record_span, ring_at, ring_discard, ring_peek,
                                    ring_prefault, ring_truncate)
from fastlog._backend.transport cimport (TOO_LONG, TRANSPORT_BATCH, WAIT_MEMORY, WAIT_WRITABLE,
                                         ErrnoClass, Transport, transport_adopt, transport_classify,
                                         transport_close, transport_connect,
                                         transport_connects_early, transport_grow_buffer,
                                         transport_has_moved, transport_inherit, transport_is_udp,
                                         transport_send, transport_take_error,
                                         transport_truncated_size)
from fastlog._backend.writer cimport (PROBE_DUE, PROBE_NONE, PROBE_SENT, Writer, offer_fd,
                                      offer_inode, writer_enter_outage, writer_lock_tail,
                                      writer_release, writer_take_destination, writer_unlock_tail)


cdef enum:
    BACKOFF_MIN = 10 * MILLISECOND      # ns of the first pause between two connects
    PROBE_TIMEOUT = 200 * MILLISECOND   # ns of the longest wait for an answer to a probe
    LARGE_RECORD = 65536          # bytes, above which the kernel may never have the memory
    MEMORY_FAILURES_MAX = 10      # in a row, before a large record is truncated
    PREFAULT_AHEAD = 1 << 19      # bytes, which take producers at least 2 ms to fill
    PREFAULT_STEP = 1 << 16       # bytes pre-faulted at a time, so that no urgent record waits long

cdef enum DrainResult:            # why writer_drain() returned
    DRAIN_MORE                    # internal to the loop: continue
    DRAIN_RING_EMPTY              # the ring has no record, or the first one is not committed
    DRAIN_PEER_FULL               # the peer's queue has no space
    DRAIN_NO_MEMORY               # the kernel has no memory or no descriptors
    DRAIN_NO_PEER                 # connecting failed
    DRAIN_CONNECTING              # a connect is in progress
    DRAIN_PROBING                 # a probe is sent, and its answer may still come
    DRAIN_STOPPED                 # `stop` is set


cdef inline uint64_t writer_next_position(Writer *writer) noexcept nogil:
    """Return the position of the next record to send, and store whether it is past_unfinished.

    This is tail, except in a crash: there it is crash_sent_pos while the record at tail is not
    finished, or while a record behind that one is half sent.
    """
    cdef uint64_t tail = load_relaxed(&writer.ring.positions.tail.value)
    cdef uint64_t crash_sent_pos = load_relaxed(&writer.crash_sent_pos.value)
    writer.past_unfinished = crash_sent_pos > tail and (
        writer.half_sent.partial != 0           # of the record at crash_sent_pos
        or load_relaxed(&writer.crashing.value) and not ring_peek(&writer.ring, tail))
    return crash_sent_pos if writer.past_unfinished else tail


cdef inline void writer_finish_batch(Writer *writer, uint64_t position) noexcept nogil:
    """Release the records of the batch before `position`. They are sent or discarded.

    Behind an unfinished record they cannot be released. They become records that are skipped.
    """
    cdef Ring *ring = &writer.ring
    cdef uint64_t crash_sent_pos = load_relaxed(&writer.crash_sent_pos.value)
    cdef uint64_t span
    if not writer.past_unfinished:
        writer_release(writer, position)
        return
    while crash_sent_pos < position:
        span = record_span(load_relaxed(&ring_at(ring, crash_sent_pos).header) & LENGTH_MASK)
        ring_discard(ring, crash_sent_pos, span)        # when tail gets here, do not send it again
        crash_sent_pos += span
    store_release(&writer.crash_sent_pos.value, crash_sent_pos)


cdef inline int writer_gather(Writer *writer) noexcept nogil:
    """Point the transport's parts at the next committed records. Return the number of records."""
    cdef Ring *ring = &writer.ring
    cdef uint64_t tail = load_relaxed(&ring.positions.tail.value)
    cdef uint64_t begin = writer_next_position(writer)
    cdef uint64_t position = begin
    cdef uint64_t header
    cdef iovec *part
    cdef int count = 0
    # In a full ring, the position behind the last record maps to the first one again: stop there.
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
    """Count a failed connect or send with the errno `error`."""
    count_owned(&writer.counters.send_errors, 1)
    store_relaxed(&writer.counters.last_errno, <uint64_t>error)


cdef inline void writer_disconnect(Writer *writer) noexcept nogil:
    """Close the connection. A residual is lost with it, because its beginning was sent there."""
    if writer.half_sent.residual != NULL:
        count_loss(&writer.counters, EVICTED, writer.half_sent.residual_severity)
        writer_enter_outage(writer)
    half_sent_reset(&writer.half_sent)
    if writer.probe == PROBE_SENT:
        writer.probe = PROBE_DUE
    transport_close(&writer.transport)
    store_relaxed(&writer.has_socket, 0)


cdef inline void writer_handle_too_long(Writer *writer) noexcept nogil:
    """Handle EMSGSIZE for the first record: raise SO_SNDBUF, else truncate it, else discard it.

    A journal entry is not truncated, because journald ignores an entry whose end is missing.
    """
    cdef uint64_t header = ring_peek(&writer.ring, writer.batch_start)
    cdef size_t length = writer.transport.parts[0].iov_len
    cdef size_t limit
    if transport_grow_buffer(&writer.transport, length):
        return
    writer_count_error(writer, EMSGSIZE)
    writer.memory_failures = 0
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


cdef inline void writer_finish_sent(Writer *writer, int sent) noexcept nogil:
    """Count and release the first `sent` records of the batch, possibly none."""
    writer.backoff = 0
    writer.memory_failures = 0
    writer.refusals = 0
    if sent > 0:
        count_owned(&writer.counters.sent.value, sent)
        writer_finish_batch(writer, writer.batch_ends[sent - 1])


cdef inline DrainResult writer_reconnect(Writer *writer, int error) noexcept nogil:
    """Handle an `error` that ends the connection. The records stay in the ring."""
    writer_count_error(writer, error)
    if transport_is_udp(&writer.transport):
        writer.probe = PROBE_DUE
    writer_disconnect(writer)
    # Reconnect at once the first time: a restarted daemon is usually back already.
    if writer.backoff:
        return DRAIN_NO_PEER
    writer.backoff = BACKOFF_MIN
    return DRAIN_MORE


cdef inline DrainResult writer_handle_errno(Writer *writer) noexcept nogil:
    """Handle the errno of a send that failed for the first record. Return why it stopped."""
    cdef ErrnoClass errno_class = transport_classify(errno)
    if errno_class == WAIT_WRITABLE:
        return DRAIN_PEER_FULL
    if errno_class == TOO_LONG:
        writer_handle_too_long(writer)
        return DRAIN_MORE
    if errno_class == WAIT_MEMORY:
        writer_count_error(writer, errno)
        # Linux limits one datagram to about 4 MiB, whatever SO_SNDBUF says. Streams have no such
        # limit, and the peer may already have the beginning of the record, or its length.
        writer.memory_failures += 1
        if (writer.memory_failures >= MEMORY_FAILURES_MAX
                and writer.transport.parts[0].iov_len > LARGE_RECORD
                and writer.transport.connected_socktype != SOCK_STREAM):
            writer_handle_too_long(writer)
        return DRAIN_NO_MEMORY
    return writer_reconnect(writer, errno)


cdef inline DrainResult writer_send_probe(Writer *writer) noexcept nogil:
    """After an error on a UDP socket, send one record and keep it until the answer may have come.

    The kernel learns from ICMP, after the send, that nobody listens: udp(7). Without the probe,
    every other record would be lost.
    """
    cdef int error = 0
    if writer.probe == PROBE_DUE:
        if transport_send(&writer.transport, &writer.half_sent, 1) < 0:
            return writer_handle_errno(writer)
        writer.probe = PROBE_SENT
        writer.probe_position = writer.batch_start
        writer.probe_end = monotonic_ns() + min(max(writer.backoff, <uint64_t>BACKOFF_MIN),
                                                <uint64_t>PROBE_TIMEOUT)
    error = transport_take_error(&writer.transport)
    if error:
        return writer_reconnect(writer, error)
    if monotonic_ns() < writer.probe_end:
        return DRAIN_PROBING
    writer.probe = PROBE_NONE
    # A producer may have evicted the record meanwhile.
    writer_finish_sent(writer, 1 if writer.batch_start == writer.probe_position else 0)
    return DRAIN_MORE


cdef inline DrainResult writer_send_batch(Writer *writer) noexcept nogil:
    """Send one batch and release what was sent. Return DRAIN_MORE to continue, or why not."""
    cdef int count = writer_gather(writer)
    cdef int sent, error = 0
    cdef bint had_residual = writer.half_sent.residual != NULL
    if count == 0:
        return DRAIN_RING_EMPTY
    if writer.probe != PROBE_NONE:
        return writer_send_probe(writer)
    sent = transport_send(&writer.transport, &writer.half_sent, count)
    if had_residual and writer.half_sent.residual == NULL:
        count_owned(&writer.counters.sent.value, 1)
    if sent < 0:
        return writer_handle_errno(writer)
    if transport_is_udp(&writer.transport):
        error = transport_take_error(&writer.transport)
    # On this machine, nobody received the record before the error. Elsewhere the answer takes
    # longer, and which record it is for is unknown.
    writer_finish_sent(writer, sent - 1 if error else sent)
    if error:
        return writer_reconnect(writer, error)
    return DRAIN_PEER_FULL if 0 < sent < count else DRAIN_MORE


cdef inline DrainResult writer_connect(Writer *writer) noexcept nogil:
    """Connect, or adopt a socket that was offered. Return DRAIN_MORE, or why it failed."""
    cdef uint64_t offered = exchange_seq_cst(&writer.offered_socket.value, 0)
    cdef int error = 0
    if offered:
        error = transport_adopt(&writer.transport, offer_fd(offered), offer_inode(offered))
    else:
        error = transport_connect(&writer.transport)
    if error == EINPROGRESS:
        return DRAIN_CONNECTING
    if error:
        writer_count_error(writer, error)
        return DRAIN_NO_PEER
    writer.refusals = 0
    store_relaxed(&writer.has_socket, 1)
    if writer.was_connected:
        count_owned(&writer.counters.reconnects, 1)
    writer.was_connected = True
    return DRAIN_MORE


cdef inline void writer_connect_early(Writer *writer, Writer *parent) noexcept nogil:
    """Connect before the first record, if that takes no look-up. A failure does no harm.

    The path may be out of reach later, after chroot(2) or setuid(2), and descriptors may be used
    up. In a forked child, `parent` is the writer that was copied, and otherwise NULL. Only the
    thread that creates the writer, before any other thread has it.
    """
    cdef Transport *transport = &writer.transport
    if transport_connects_early(transport) and transport_connect(transport) == 0 or (
            parent != NULL and transport_inherit(transport, &parent.transport)):
        store_relaxed(&writer.has_socket, 1)
        writer.was_connected = True


cdef inline void writer_follow_destination(Writer *writer) noexcept nogil:
    """Disconnect if another destination was offered, or if the host has moved. Not in a crash.

    A look-up is not async-signal-safe, and is made without the tail, because it may take long.
    """
    cdef Destination *offered
    cdef bint locked
    if load_relaxed(&writer.crashing.value):
        return
    offered = writer_take_destination(writer)
    if offered == NULL and not transport_has_moved(&writer.transport):
        return
    locked = writer_lock_tail(writer)
    writer_disconnect(writer)
    writer_unlock_tail(writer, locked)
    if offered != NULL:
        writer.transport.destination = offered[0]
        writer.backoff = 0
        free(offered)


cdef inline bint writer_has_records(Writer *writer) noexcept nogil:
    """Return whether there is a record to send. Acquires the tail itself.

    Discarded records are released, because that needs no connection.
    """
    cdef bint locked = writer_lock_tail(writer)
    cdef bint ready = writer_gather(writer) != 0
    writer_unlock_tail(writer, locked)
    return ready


cdef inline bint writer_prefault(Writer *writer) noexcept nogil:
    """Pre-fault pages ahead of the producers, until each page of the ring has been used once.

    A producer that touches a page first takes as long as ten calls, or a hundred. Return whether
    this call pre-faulted a step. False means that producers have enough pages ahead of them.
    """
    cdef Ring *ring = &writer.ring
    cdef uint64_t limit = writer.prefault_start + ring.capacity
    cdef uint64_t head = load_relaxed(&ring.positions.head.value)
    cdef uint64_t end
    # Skip the pages that producers have used already.
    writer.prefault_end = min(max(writer.prefault_end, head & ~(page_size() - 1)), limit)
    if writer.prefault_end == limit or head + PREFAULT_AHEAD < writer.prefault_end:
        return False
    end = min(writer.prefault_end + PREFAULT_STEP, limit)
    writer.prefault_end = end if ring_prefault(ring, writer.prefault_end, end) else limit
    return True


cdef inline DrainResult writer_drain(Writer *writer) noexcept nogil:
    """Send records until there are none, or until the peer or the kernel refuses.

    Return the reason, which is not DRAIN_MORE. The caller decides how long to wait.
    """
    cdef DrainResult result
    cdef bint locked
    while not load_acquire(&writer.stop.value):
        writer_follow_destination(writer)
        if writer.transport.socket.fd < 0 or writer.transport.connecting:
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
