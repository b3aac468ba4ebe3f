"""The writer's thread: when it polls the ring, how it waits, how it starts and stops."""
from libc.errno cimport EBADMSG, errno
from libc.stdint cimport uint64_t
from posix.mman cimport MAP_ANONYMOUS, MAP_FAILED, MAP_PRIVATE, PROT_READ, PROT_WRITE, mmap, munmap
from posix.time cimport CLOCK_REALTIME, clock_gettime, timespec
from posix.unistd cimport close, read

from fastlog._backend.atomics cimport (add_relaxed, cas_seq_cst, load_acquire, load_relaxed,
                                       load_seq_cst, store_relaxed, store_release, store_seq_cst)
from fastlog._backend.clock cimport MILLISECOND, monotonic_ns, to_timespec
from fastlog._backend.half_sent cimport half_sent_reset
from fastlog._backend.posix cimport (EFD_CLOEXEC, EFD_NONBLOCK, MSG_DONTWAIT, POLLIN, POLLOUT,
                                     SIG_SETMASK, eventfd, page_size, pollfd, ppoll, pthread_create,
                                     pthread_detach, pthread_join, pthread_mutex_init,
                                     pthread_mutex_lock, pthread_mutex_unlock, pthread_setname_np,
                                     pthread_sigmask, pthread_timedjoin_np, sigfillset, sigset_t)
from fastlog._backend.ring cimport (Ring, ring_create, ring_destroy, ring_find_next, ring_is_ready,
                                    ring_map, ring_peek, ring_record_span, ring_recover)
from fastlog._backend.send_loop cimport (BACKOFF_MIN, DRAIN_CONNECTING, DRAIN_NO_MEMORY,
                                         DRAIN_NO_PEER, DRAIN_PEER_FULL, DRAIN_RING_EMPTY,
                                         DRAIN_STOPPED, DrainResult, writer_disconnect,
                                         writer_drain, writer_next_position)
from fastlog._backend.transport cimport (errno_set, transport_close, transport_init,
                                         transport_is_network)
from fastlog._backend.writer cimport (AWAKE, LINGERING, NO_WAITER, SLEEPING, STOPPED, Writer,
                                      WriterState, writer_enter_outage, writer_lock_tail,
                                      writer_offer_socket, writer_sent_pos, writer_unlock_tail,
                                      writer_wake)


cdef enum:
    LINGER_GROWTH = 16            # the longest linger interval divided by the shortest
    LINGER_STEP = 4               # the factor by which the interval grows
    FEW_RECORDS = 2               # a poll that finds at most this many records came too early
    MANY_RECORDS = 8              # a poll that finds at least this many records came too late
    BACKOFF_MAX = 1000 * MILLISECOND         # ns of the longest pause between two connects
    MEMORY_PAUSE = 10 * MILLISECOND          # ns after the kernel had no memory
    UNFINISHED_TIMEOUT = 20 * MILLISECOND    # ns to wait in a crash for a record to be committed
    RESOLVER_TIMEOUT = 1          # s to wait for a thread that may be looking a name up


# --- the thread, or in a crash without one the signal handler -------------------------------------

cdef inline void writer_pause(Writer *writer, uint64_t timeout, bint await_writable) noexcept nogil:
    """Wait for a wakeup, at most `timeout` ns. A `timeout` of 0 is unlimited.

    With `await_writable`, wait no longer than until the socket is writable.
    """
    cdef pollfd descriptors[2]
    cdef timespec limit = to_timespec(timeout)
    cdef uint64_t wakeups = 0
    descriptors[0].fd = writer.wake_fd
    descriptors[0].events = POLLIN
    descriptors[0].revents = 0
    descriptors[1].fd = writer.transport.fd
    descriptors[1].events = POLLOUT
    ppoll(descriptors, 2 if await_writable else 1, &limit if timeout else NULL, NULL)
    if descriptors[0].revents:
        read(writer.wake_fd, &wakeups, sizeof(wakeups))


cdef inline void writer_idle(Writer *writer, WriterState state, uint64_t timeout) noexcept nogil:
    """Wait for records in `state`, LINGERING or SLEEPING. `timeout` is as for writer_pause()."""
    store_seq_cst(&writer.state.value, state)                   # S2 pairs with S1
    if not ring_is_ready(&writer.ring) and not load_seq_cst(&writer.stop.value):
        writer_pause(writer, timeout, False)
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
        writer_pause(writer, MILLISECOND, False)    # other threads commit within a moment
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


cdef inline void writer_loop(Writer *writer) noexcept nogil:
    """Drain the ring and wait, by turns, until `stop` is set. Only the thread."""
    cdef uint64_t linger_max = writer.linger_min * LINGER_GROWTH
    cdef uint64_t linger = writer.linger_min
    cdef uint64_t tail = load_relaxed(&writer.ring.positions.tail.value)
    cdef uint64_t sent = load_relaxed(&writer.counters.sent.value)
    cdef DrainResult result
    while True:
        result = writer_drain(writer)
        if result == DRAIN_STOPPED:
            return
        elif result == DRAIN_PEER_FULL:
            writer_pause(writer, 0, True)
        elif result == DRAIN_NO_MEMORY:
            writer_pause(writer, MEMORY_PAUSE, False)
        elif result == DRAIN_CONNECTING:
            writer_pause(writer, writer.transport.connect_timeout, True)
        elif result == DRAIN_NO_PEER:
            writer_enter_outage(writer)
            writer.backoff = min(max(2 * writer.backoff, <uint64_t>BACKOFF_MIN),
                                 <uint64_t>BACKOFF_MAX)
            writer_pause(writer, writer.backoff, False)
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
        if writer.transport.fd < 0 and transport_is_network(&writer.transport):
            return
        result = writer_drain(writer)
        if result == DRAIN_RING_EMPTY:
            writer_pass_unfinished(writer)
        else:
            writer_pause(writer, BACKOFF_MIN,
                         result == DRAIN_PEER_FULL or result == DRAIN_CONNECTING)


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
    store_seq_cst(&writer.state.value, STOPPED)
    return NULL


# --- other threads -----------------------------------------------------------------------------

cdef inline int writer_notify(Writer *writer, bint at_once) noexcept nogil:
    """Make sure that a committed record is seen. Any thread, after ring_commit().

    Return 0, or the errno with which the thread failed to start. Then the caller sends the record
    by writer_send_here(). With `at_once`, do not leave the
    record to the next poll of a lingering writer. Callers ask for that when the record is urgent,
    when the ring is more than half full, or when they wait for the writer.
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
    # If the state is AWAKE without a thread, a signal handler drains the ring: do not start one.
    if not writer.joinable and cas_seq_cst(&writer.state.value, &stopped, AWAKE):
        store_seq_cst(&writer.stop.value, 0)
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
    """Close the connection that writer_send_here() made. The caller holds `lifecycle_lock`."""
    cdef uint64_t stopped = STOPPED
    cdef bint locked
    if writer.transport.fd >= 0 and cas_seq_cst(&writer.state.value, &stopped, AWAKE):
        locked = writer_lock_tail(writer)
        writer_disconnect(writer)
        writer_unlock_tail(writer, locked)
        store_seq_cst(&writer.state.value, STOPPED)


cdef inline bint writer_stop(Writer *writer) noexcept nogil:
    """Stop and join the thread. Records that are not sent stay in the ring. Any other thread.

    Return False if the thread does not end within RESOLVER_TIMEOUT, because a name server keeps
    it waiting. Then the thread is detached, and the Writer must never be freed.
    """
    cdef timespec deadline
    cdef bint joined = True
    pthread_mutex_lock(&writer.lifecycle_lock)
    if writer.joinable:
        store_seq_cst(&writer.stop.value, 1)
        writer_wake(writer)
        if transport_is_network(&writer.transport):
            clock_gettime(CLOCK_REALTIME, &deadline)
            deadline.tv_sec += RESOLVER_TIMEOUT
            joined = pthread_timedjoin_np(writer.thread, NULL, &deadline) == 0
            if not joined:
                pthread_detach(writer.thread)
        else:
            pthread_join(writer.thread, NULL)
        writer.joinable = False
    else:
        writer_close_here(writer)
    pthread_mutex_unlock(&writer.lifecycle_lock)
    return joined


cdef inline void writer_destroy(Writer *writer) noexcept nogil:
    """Free a writer whose thread is stopped. No thread may use it any more."""
    writer_offer_socket(writer, -1)
    half_sent_reset(&writer.half_sent)
    transport_close(&writer.transport)
    ring_destroy(&writer.ring)
    if writer.wake_fd >= 0:
        close(writer.wake_fd)
    if writer.spool_fd >= 0:
        close(writer.spool_fd)
    munmap(writer, sizeof(Writer))


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
    writer.spool_fd = spool_fd
    store_relaxed(&writer.min_awaited_tail.value, NO_WAITER)
    pthread_mutex_init(&writer.lifecycle_lock, NULL)
    pthread_mutex_init(&writer.tail_lock, NULL)
    writer.wake_fd = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK)
    if writer.wake_fd < 0 or not writer_init_ring(writer, capacity, spool_fd, read_only):
        error = errno
        writer_destroy(writer)
        errno_set(error)
        return NULL
    return writer
