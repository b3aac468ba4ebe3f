"""The writer's thread: when it polls the ring, how it waits, how it starts and stops."""
from libc.errno cimport EBADMSG, errno
from libc.stdint cimport uint64_t
from libc.stdlib cimport free
from libc.string cimport memcpy
from posix.mman cimport MAP_ANONYMOUS, MAP_FAILED, MAP_PRIVATE, PROT_READ, PROT_WRITE, mmap, munmap
from posix.time cimport timespec

from fastlog._backend.atomics cimport (add_relaxed, atomic_u64, cas_seq_cst, exchange_seq_cst,
                                       futex_wait, futex_wake_all, load_acquire, load_relaxed,
                                       load_seq_cst, store_relaxed, store_release, store_seq_cst)
from fastlog._backend.clock cimport MILLISECOND, SECOND, monotonic_ns, to_timespec
from fastlog._backend.counters cimport Counters
from fastlog._backend.descriptor cimport descriptor_close, descriptor_set
from fastlog._backend.half_sent cimport half_sent_reset
from fastlog._backend.posix cimport (MSG_DONTWAIT, POLLOUT, SIG_SETMASK, errno_set, page_size,
                                     poll_descriptors, pollfd, pthread_create, pthread_detach,
                                     pthread_join, pthread_mutex_init, pthread_mutex_lock,
                                     pthread_mutex_unlock, pthread_setname_np, pthread_sigmask,
                                     pthread_t, sigfillset, sigset_t)
from fastlog._backend.ring cimport (DISCARDED, LENGTH_MASK, TRUNCATED, Record, Ring,
                                    header_severity, record_bytes, record_span, ring_at,
                                    ring_commit, ring_create, ring_destroy, ring_find_next,
                                    ring_is_ready, ring_map, ring_peek, ring_record_span,
                                    ring_recover, ring_try_reserve)
from fastlog._backend.send_loop cimport (BACKOFF_MIN, DRAIN_CONNECTING, DRAIN_NO_MEMORY,
                                         DRAIN_NO_PEER, DRAIN_PEER_FULL, DRAIN_PROBING,
                                         DRAIN_RING_EMPTY, DRAIN_STOPPED, DrainResult,
                                         writer_disconnect, writer_drain, writer_next_position)
from fastlog._backend.transport cimport transport_close, transport_init, transport_is_network
from fastlog._backend.writer cimport (AWAKE, ENDED, LINGERING, NO_WAITER, ORPHANED, RUNNING,
                                      SLEEPING, STOPPED, Writer, WriterState, writer_enter_outage,
                                      writer_lock_tail, writer_offer_socket, writer_sent_pos,
                                      writer_take_destination, writer_unlock_tail, writer_wake)


cdef enum:
    LINGER_GROWTH = 16            # the longest linger interval divided by the shortest
    LINGER_STEP = 4               # the factor by which the interval grows
    FEW_RECORDS = 2               # a poll that finds at most this many records came too early
    MANY_RECORDS = 8              # a poll that finds at least this many records came too late
    BACKOFF_MAX = 1000 * MILLISECOND         # ns of the longest pause between two connects
    MEMORY_PAUSE = 10 * MILLISECOND          # ns after the kernel had no memory
    UNFINISHED_TIMEOUT = 20 * MILLISECOND    # ns to wait in a crash for a record to be committed
    SOCKET_WAIT_MIN = 8 * MILLISECOND        # ns of the first wait for space in the peer's queue
    SOCKET_WAIT_SHIFT = 3         # the wait doubles this many times, to 64 ms
    REFUSALS_MAX = 64             # in a row, before the writer no longer relies on poll()
    REFUSED_PAUSE = 1 * MILLISECOND          # ns to wait then
    STOP_TIMEOUT = 5              # s to wait for a thread to end
    RESOLVER_TIMEOUT = 1          # s to wait for a thread that may be looking a name up


# --- the thread, or in a crash without one the signal handler -------------------------------------

cdef inline void writer_pause(Writer *writer, uint64_t timeout) noexcept nogil:
    """Wait for a wakeup, at most `timeout` ns. A `timeout` of 0 is unlimited. May return early."""
    cdef timespec deadline = to_timespec(monotonic_ns() + timeout)
    futex_wait(&writer.wake_seq.value, writer.wake_seen, &deadline if timeout else NULL)
    writer.wake_seen = load_seq_cst(&writer.wake_seq.value)


cdef inline void writer_await_socket(Writer *writer) noexcept nogil:
    """Wait until the socket is writable, at most a time that doubles up to 64 ms.

    A wakeup does not end the wait, because no descriptor but the socket's is polled. If the program
    has closed the socket, the next send notices that.
    """
    cdef pollfd socket
    cdef timespec limit = to_timespec(
        <uint64_t>SOCKET_WAIT_MIN << min(writer.refusals, <int>SOCKET_WAIT_SHIFT))
    cdef int ready
    socket.fd = writer.transport.socket.fd
    socket.events = POLLOUT
    socket.revents = 0
    ready = poll_descriptors(&socket, 1, &limit)
    writer.refusals += 1
    # Do not spin on a socket that is reported writable but accepts nothing.
    if ready < 0 or ready and writer.refusals > REFUSALS_MAX:
        writer_pause(writer, REFUSED_PAUSE)


cdef inline void writer_idle(Writer *writer, WriterState state, uint64_t timeout) noexcept nogil:
    """Wait for records in `state`, LINGERING or SLEEPING. `timeout` is as for writer_pause()."""
    store_seq_cst(&writer.state.value, state)                   # S2 pairs with S1
    if not ring_is_ready(&writer.ring) and not load_seq_cst(&writer.stop.value):
        writer_pause(writer, timeout)
    store_relaxed(&writer.state.value, AWAKE)


cdef inline void writer_pass_unfinished(Writer *writer) noexcept nogil:
    """In a crash, pass the first record if it is not committed in time.

    Its producer may be the thread that crashed, and then it is never committed.
    """
    cdef Ring *ring = &writer.ring
    # These calls are made without the tail. A wrong answer does no harm, because the position is
    # checked again once the tail is locked.
    cdef uint64_t begin = writer_next_position(writer)
    cdef uint64_t deadline = monotonic_ns() + UNFINISHED_TIMEOUT
    cdef uint64_t head, span
    cdef bint locked
    while (writer_next_position(writer) == begin and not ring_peek(ring, begin)
           and monotonic_ns() < deadline):
        writer_pause(writer, MILLISECOND)       # other threads commit within a moment
    locked = writer_lock_tail(writer)
    head = load_relaxed(&ring.positions.head.value)
    if begin != head and writer_next_position(writer) == begin and not ring_peek(ring, begin):
        span = ring_record_span(ring, begin, head)
        store_release(&writer.crash_sent_pos.value,
                      begin + span if span else ring_find_next(ring, begin, head))
    writer_unlock_tail(writer, locked)


cdef inline uint64_t writer_next_linger(Writer *writer, uint64_t linger,
                                        uint64_t record_count) noexcept nogil:
    """Return the linger interval in ns after a poll that found `record_count` records."""
    if record_count <= FEW_RECORDS:
        return min(linger * LINGER_STEP, writer.linger_min * LINGER_GROWTH)
    if record_count >= MANY_RECORDS:
        return max(linger // 2, writer.linger_min)
    return linger


cdef inline bint writer_may_give_up(Writer *writer, DrainResult result) noexcept nogil:
    """Return whether the thread is orphaned, and has sent everything or is out of time."""
    cdef uint64_t deadline = load_acquire(&writer.orphan_deadline.value)
    return deadline != 0 and (result == DRAIN_RING_EMPTY or monotonic_ns() >= deadline)


cdef inline void writer_loop(Writer *writer) noexcept nogil:
    """Drain the ring and wait, by turns, until `stop` is set. Only the thread."""
    cdef uint64_t linger_max = writer.linger_min * LINGER_GROWTH
    cdef uint64_t linger = writer.linger_min
    cdef uint64_t tail = load_relaxed(&writer.ring.positions.tail.value)
    cdef uint64_t sent = load_relaxed(&writer.counters.sent.value)
    cdef DrainResult result
    while True:
        result = writer_drain(writer)
        if result == DRAIN_STOPPED or writer_may_give_up(writer, result):
            return
        elif result == DRAIN_PEER_FULL or result == DRAIN_CONNECTING:
            writer_await_socket(writer)
        elif result == DRAIN_PROBING:
            writer_pause(writer, BACKOFF_MIN)
        elif result == DRAIN_NO_MEMORY:
            writer_pause(writer, MEMORY_PAUSE)
        elif result == DRAIN_NO_PEER:
            writer_enter_outage(writer)
            writer.backoff = min(max(2 * writer.backoff, <uint64_t>BACKOFF_MIN),
                                 <uint64_t>BACKOFF_MAX)
            writer_pause(writer, writer.backoff)
        elif (load_acquire(&writer.crashing.value)
              and writer_sent_pos(writer) < load_relaxed(&writer.ring.positions.head.value)):
            writer_pass_unfinished(writer)
        elif load_relaxed(&writer.ring.positions.tail.value) != tail:
            tail = load_relaxed(&writer.ring.positions.tail.value)
            linger = writer_next_linger(
                writer, linger, load_relaxed(&writer.counters.sent.value) - sent)
            sent = load_relaxed(&writer.counters.sent.value)
            writer_idle(writer, LINGERING if linger else SLEEPING, linger)
        elif linger < linger_max:
            linger = min(linger * LINGER_STEP, linger_max)
            writer_idle(writer, LINGERING, linger)
        else:
            writer_idle(writer, SLEEPING, 0)
            linger = writer.linger_min


cdef inline void writer_drain_inline(Writer *writer, uint64_t position,
                                     uint64_t deadline) noexcept nogil:
    """Drain up to `position` in a signal handler, at most until monotonic_ns() is `deadline`.

    The caller has changed the state from STOPPED to AWAKE. No name is resolved, because that is not
    async-signal-safe.
    """
    cdef DrainResult result
    while writer_sent_pos(writer) < position and monotonic_ns() < deadline:
        store_seq_cst(&writer.stop.value, 0)        # writer_stop() may have set it meanwhile
        if writer.transport.socket.fd < 0 and transport_is_network(&writer.transport):
            return
        result = writer_drain(writer)
        if result == DRAIN_RING_EMPTY:
            writer_pass_unfinished(writer)
        elif result == DRAIN_PEER_FULL or result == DRAIN_CONNECTING:
            writer_await_socket(writer)
        else:
            writer_pause(writer, BACKOFF_MIN)


cdef inline void writer_destroy(Writer *writer) noexcept nogil:
    """Free a writer whose thread is stopped. No thread may use it any more."""
    writer_offer_socket(writer, -1)
    free(writer_take_destination(writer))
    half_sent_reset(&writer.half_sent)
    transport_close(&writer.transport)
    ring_destroy(&writer.ring)
    descriptor_close(&writer.spool_file)
    munmap(writer, sizeof(Writer))


cdef inline void *writer_main(void *argument) noexcept nogil:
    """Run the thread of the Writer `argument`. Return NULL once it is asked to stop."""
    cdef Writer *writer = <Writer *>argument
    cdef bint locked
    # ring_detach() may have replaced the memory since the previous thread.
    writer.prefault_start = load_relaxed(&writer.ring.positions.tail.value) & ~(page_size() - 1)
    writer.prefault_end = writer.prefault_start
    writer_loop(writer)
    locked = writer_lock_tail(writer)
    writer_disconnect(writer)
    writer_unlock_tail(writer, locked)
    if exchange_seq_cst(&writer.ended.value, ENDED) == ORPHANED:
        writer_destroy(writer)
        return NULL
    futex_wake_all(&writer.ended.value)
    store_seq_cst(&writer.state.value, STOPPED)     # last, because another thread can start then
    return NULL


# --- other threads -----------------------------------------------------------------------------

cdef inline int writer_notify(Writer *writer, bint at_once) noexcept nogil:
    """Make sure that a committed record is seen. Any thread, after ring_commit().

    Return 0, or the errno with which the thread failed to start. Then the caller sends the record
    by writer_send_here(). With `at_once`, do not leave the record to the next poll of a lingering
    writer. Callers ask for that when the record is urgent, when the ring is more than half full, or
    when they wait for the writer.
    """
    cdef uint64_t state = load_seq_cst(&writer.state.value)     # S1 pairs with S2
    while state == SLEEPING or (state == LINGERING and at_once):
        # One producer wakes the writer, and the others see AWAKE. Not a plain
        # exchange, because a writer that has STOPPED meanwhile must stay so.
        if cas_seq_cst(&writer.state.value, &state, AWAKE):
            add_relaxed(&writer.counters.wakeups, 1)
            writer_wake(writer)
            return 0
    return writer_start(writer) if state == STOPPED else 0


cdef inline int writer_start(Writer *writer) noexcept nogil:
    """Start the thread if there is none. Any thread. Return 0 or an errno."""
    cdef sigset_t all_signals, previous_mask
    cdef uint64_t stopped = STOPPED
    cdef int error = 0
    # The thread inherits a mask that blocks all signals: the program's own threads handle them.
    # Nor may a signal arrive between AWAKE and pthread_create(), because the handler of a crash
    # would wait for a thread that does not exist.
    sigfillset(&all_signals)
    pthread_sigmask(SIG_SETMASK, &all_signals, &previous_mask)
    pthread_mutex_lock(&writer.lifecycle_lock)
    if writer.joinable and load_seq_cst(&writer.ended.value) == ENDED:
        pthread_join(writer.thread, NULL)     # it ended after writer_stop() had given up
        writer.joinable = False
    # If the state is AWAKE without a thread, a signal handler drains the ring: do not start one.
    if not writer.joinable and cas_seq_cst(&writer.state.value, &stopped, AWAKE):
        store_seq_cst(&writer.stop.value, 0)
        store_seq_cst(&writer.ended.value, RUNNING)
        error = pthread_create(&writer.thread, NULL, writer_main, writer)
        store_relaxed(&writer.threadless, error != 0)
        if error:
            store_seq_cst(&writer.state.value, STOPPED)
        else:
            pthread_setname_np(writer.thread, "fastlog-writer")
            writer.joinable = True
    pthread_mutex_unlock(&writer.lifecycle_lock)
    pthread_sigmask(SIG_SETMASK, &previous_mask, NULL)
    return error


cdef inline void writer_send_here(Writer *writer, bint may_wait) noexcept nogil:
    """Send what the peer accepts in the calling thread, where no other can be started. Any thread.

    Without `may_wait`, neither a send nor the look-up of a name blocks. Records that the peer does
    not accept stay in the ring.
    """
    cdef sigset_t all_signals, previous_mask
    cdef uint64_t stopped = STOPPED
    cdef DrainResult result = DRAIN_RING_EMPTY
    # As in writer_start(): AWAKE means to a signal handler that another thread sends.
    sigfillset(&all_signals)
    pthread_sigmask(SIG_SETMASK, &all_signals, &previous_mask)
    pthread_mutex_lock(&writer.lifecycle_lock)
    while (not writer.joinable and result == DRAIN_RING_EMPTY and ring_is_ready(&writer.ring)
           and cas_seq_cst(&writer.state.value, &stopped, AWAKE)):
        store_seq_cst(&writer.stop.value, 0)
        result = writer_drain_by_caller(writer, may_wait)
        store_seq_cst(&writer.state.value, STOPPED)         # S2, before ring_is_ready()
    pthread_mutex_unlock(&writer.lifecycle_lock)
    pthread_sigmask(SIG_SETMASK, &previous_mask, NULL)


cdef inline DrainResult writer_drain_by_caller(Writer *writer, bint may_wait) noexcept nogil:
    """Drain the ring for writer_send_here(), which has changed the state to AWAKE."""
    cdef DrainResult result
    # Pre-faulting takes longer than a logging call should.
    writer.prefault_start = load_relaxed(&writer.ring.positions.tail.value)
    writer.prefault_end = writer.prefault_start + writer.ring.capacity
    writer.transport.by_caller = not may_wait
    if not may_wait:
        writer.transport.send_flags |= MSG_DONTWAIT
    result = writer_drain(writer)
    writer.transport.by_caller = False
    if result == DRAIN_NO_PEER:
        writer_enter_outage(writer)
    return result


cdef inline void writer_close_here(Writer *writer) noexcept nogil:
    """Close the socket of a writer without a thread. The caller holds `lifecycle_lock`."""
    cdef uint64_t stopped = STOPPED
    cdef bint locked
    if writer.transport.socket.fd >= 0 and cas_seq_cst(&writer.state.value, &stopped, AWAKE):
        locked = writer_lock_tail(writer)
        writer_disconnect(writer)
        writer_unlock_tail(writer, locked)
        store_seq_cst(&writer.state.value, STOPPED)


cdef inline bint writer_await_end(Writer *writer, uint64_t timeout) noexcept nogil:
    """Wait until the thread is about to exit, at most `timeout` ns. Return whether it is.

    Any other thread. pthread_timedjoin_np() would use the clock that an administrator sets.
    """
    cdef uint64_t end = monotonic_ns() + timeout
    cdef timespec deadline = to_timespec(end)
    while load_seq_cst(&writer.ended.value) == RUNNING:
        if monotonic_ns() >= end:
            return False
        futex_wait(&writer.ended.value, RUNNING, &deadline)
    return True


cdef inline uint64_t writer_stop_timeout(Writer *writer) noexcept nogil:
    """Return for how many ns a thread that was asked to stop is worth waiting for."""
    return (RESOLVER_TIMEOUT if transport_is_network(&writer.transport) else STOP_TIMEOUT) * SECOND


cdef inline void writer_request_stop(Writer *writer) noexcept nogil:
    """Ask the thread to exit. It changes the state to STOPPED. Any other thread.

    writer_stop() must follow, which joins it.
    """
    store_seq_cst(&writer.stop.value, 1)
    writer_wake(writer)


cdef inline bint writer_stop_within(Writer *writer, uint64_t timeout) noexcept nogil:
    """Stop and join the thread. Records that are not sent stay in the ring. Any other thread.

    Return False if the thread does not end within `timeout` ns. Then the Writer must not be freed,
    but a later call may succeed.
    """
    cdef bint joined = True
    pthread_mutex_lock(&writer.lifecycle_lock)
    if writer.joinable:
        writer_request_stop(writer)
        joined = writer_await_end(writer, timeout)
        if joined:
            pthread_join(writer.thread, NULL)
            writer.joinable = False
    else:
        writer_close_here(writer)
    pthread_mutex_unlock(&writer.lifecycle_lock)
    return joined


cdef inline bint writer_stop(Writer *writer) noexcept nogil:
    """Stop and join the thread, as writer_stop_within().

    Return False if the thread does not end within RESOLVER_TIMEOUT, because a name server keeps
    it waiting, or within STOP_TIMEOUT, because the kernel does.
    """
    return writer_stop_within(writer, writer_stop_timeout(writer))


cdef inline void writer_hang_up(Writer *writer) noexcept nogil:
    """Close the socket of a writer that has no thread, and may never have had one. Any thread."""
    pthread_mutex_lock(&writer.lifecycle_lock)
    if not writer.joinable:
        writer_close_here(writer)
    pthread_mutex_unlock(&writer.lifecycle_lock)


cdef inline void writer_orphan(Writer *writer, uint64_t timeout) noexcept nogil:
    """Give up a Writer that no other thread uses. Its thread sends the records, and frees it.

    The thread tries for at most `timeout` ns. Without a thread, the Writer is freed here. Never
    waits for the daemon.
    """
    cdef pthread_t thread = writer.thread
    if not writer.joinable:
        writer_destroy(writer)
        return
    store_release(&writer.orphan_deadline.value, monotonic_ns() + timeout)
    writer_wake(writer)
    # The second to exchange, the thread or this function, frees the Writer.
    if exchange_seq_cst(&writer.ended.value, ORPHANED) == ENDED:
        pthread_join(thread, NULL)
        writer_destroy(writer)
    else:
        pthread_detach(thread)


cdef inline void writer_take_over(Writer *writer, Writer *hung) noexcept nogil:
    """Continue for a writer whose thread hangs: copy its counters, its outage and its records.

    `writer` is new, and no other thread has it. No producer may use `hung`, which must never be
    freed. If the hung thread is sending a batch, those records arrive twice.
    """
    cdef atomic_u64 *counters = <atomic_u64 *>&writer.counters
    cdef atomic_u64 *hung_counters = <atomic_u64 *>&hung.counters
    cdef uint64_t position = writer_sent_pos(hung)
    cdef uint64_t head = load_acquire(&hung.ring.positions.head.value)
    cdef uint64_t header, used = 0
    cdef Record *record
    cdef size_t i
    for i in range(sizeof(Counters) // sizeof(atomic_u64)):
        store_relaxed(&counters[i], load_acquire(&hung_counters[i]))
    add_relaxed(&writer.counters.accepted.value, writer.recovered.records)
    store_relaxed(&writer.outage_epoch.value, load_relaxed(&hung.outage_epoch.value))
    pthread_mutex_lock(&hung.lifecycle_lock)
    if hung.joinable:
        pthread_detach(hung.thread)
        hung.joinable = False
    pthread_mutex_unlock(&hung.lifecycle_lock)
    if hung.spool_file.fd >= 0:
        return                    # the records stay in that file
    while position < head:
        header = ring_peek(&hung.ring, position)
        if header == 0:
            break                 # its producer does not exist any more
        if not header & DISCARDED:
            # There is space, because the records before this one are at most those of `hung`.
            record = ring_try_reserve(&writer.ring, header & LENGTH_MASK,
                                      header_severity(header), &used)
            if record != NULL:
                memcpy(record_bytes(record), record_bytes(ring_at(&hung.ring, position)),
                       header & LENGTH_MASK)
                ring_commit(record, header & TRUNCATED)
        position += record_span(header & LENGTH_MASK)


cdef inline void writer_discard_inherited(Writer *writer) noexcept nogil:
    """Free the parent's writer in a forked child. The parent's writer and records are unaffected.

    The descriptors stay open until exec or exit, because their numbers mean nothing in the child.
    fork copies the descriptors before the memory (Linux, copy_process in kernel/fork.c) while the
    parent's writer runs on. User code may also have closed them all and opened its own since.
    """
    ring_destroy(&writer.ring)
    munmap(writer, sizeof(Writer))


cdef inline bint writer_init_ring(Writer *writer, uint64_t capacity, int fd, bint read_only
                                  ) noexcept nogil:
    """Create a ring in memory, or map and recover the spool `fd`. For writer_create().

    Return False, with errno set, on failure.
    """
    if fd < 0:
        return ring_create(&writer.ring, capacity) == 0
    if ring_map(&writer.ring, capacity, fd, not read_only) != 0:
        return False
    if not ring_recover(&writer.ring, &writer.recovered):
        errno_set(EBADMSG)
        return False
    store_relaxed(&writer.counters.accepted.value, writer.recovered.records)
    return True


cdef inline Writer *writer_create(uint64_t capacity, uint64_t linger, int socktype, int spool_fd,
                                  bint read_only) noexcept nogil:
    """Create a stopped writer. Any thread. Return NULL with errno set on failure.

    linger: ns of the shortest linger interval, 0 for none.
    socktype: SOCK_DGRAM, SOCK_STREAM, or 0 for a datagram socket with fallback to a stream.
    spool_fd: the ring's file, which the writer owns from now on, or -1 for a ring in memory.
    read_only: changes to the ring do not reach the file.

    errno is EBADMSG if the positions in the file contradict each other. Free the writer with
    writer_destroy().
    """
    cdef int error
    # mmap and not malloc: the memory is aligned for line_u64, zero, and returned to the kernel
    # at once.
    cdef void *memory = mmap(NULL, sizeof(Writer), PROT_READ | PROT_WRITE,
                             MAP_PRIVATE | MAP_ANONYMOUS, -1, 0)
    cdef Writer *writer = <Writer *>memory
    if memory == MAP_FAILED:
        return NULL
    transport_init(&writer.transport, socktype)
    writer.linger_min = linger
    store_relaxed(&writer.min_awaited_tail.value, NO_WAITER)
    pthread_mutex_init(&writer.lifecycle_lock, NULL)
    if (not descriptor_set(&writer.spool_file, spool_fd)
            or not writer_init_ring(writer, capacity, spool_fd, read_only)):
        error = errno
        writer_destroy(writer)
        errno_set(error)
        return NULL
    return writer
