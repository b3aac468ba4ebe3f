"""The writer: one native thread that drains the ring into the transport, in order.

It never takes the GIL, prints or raises. Producers and the writer meet in
three places besides the ring:

`state` says whether a producer has to make a wake-up call. Its values and the
adaptive linger are described in DESIGN.md, "The writer". A missed wake-up is
impossible because both sides store first and look second, all seq_cst:

    producer: C1 store the record's word, then S1 load state
    writer:   S2 store state, then load the word (ring_is_ready)

`wanted` is the lowest tail that anybody waits for, for room or for a flush, so
that the writer wakes nobody before there is something to wake up for:

    waiter: W2 store wanted, then load tail
    writer: R1 store tail, then W1 load wanted

`stop` asks the writer to leave; it is stored before a wake-up call.
"""
from libc.errno cimport EINPROGRESS, ETIMEDOUT, errno
from libc.stdint cimport uint64_t
from libc.string cimport memset
from posix.mman cimport (MAP_ANONYMOUS, MAP_FAILED, MAP_PRIVATE, PROT_READ, PROT_WRITE, mmap,
                         munmap)
from posix.time cimport CLOCK_MONOTONIC, CLOCK_REALTIME, clock_gettime, timespec
from posix.unistd cimport close, read, write

from fastlog._atomics cimport (add_relaxed, atomic_u64, cas_seq_cst, exchange_seq_cst, line_u64,
                               load_acquire, load_relaxed, load_seq_cst, store_relaxed,
                               store_seq_cst)
from fastlog._clock cimport MILLISECOND, monotonic_ns, to_timespec
from fastlog._counters cimport Counters, count_owned
from fastlog._posix cimport (EFD_CLOEXEC, EFD_NONBLOCK, POLLIN, POLLOUT, SIG_SETMASK, eventfd,
                             pollfd, ppoll, pthread_cond_broadcast, pthread_cond_init,
                             pthread_cond_t, pthread_cond_timedwait, pthread_condattr_destroy,
                             pthread_condattr_init, pthread_condattr_setclock, pthread_condattr_t,
                             pthread_create, pthread_detach, pthread_join, pthread_mutex_init,
                             pthread_mutex_lock, pthread_mutex_t, pthread_mutex_unlock,
                             pthread_setname_np, pthread_sigmask, pthread_t, pthread_timedjoin_np,
                             sigfillset, sigset_t)
from fastlog._ring cimport (LENGTH_MASK, SHORTENED, Ring, record_bytes, record_span, ring_at,
                            ring_create, ring_destroy, ring_is_ready, ring_peek, ring_release,
                            ring_used)
from fastlog._transport cimport (RECONNECT, TOO_LONG, TRANSPORT_BATCH, WAIT_MEMORY, WAIT_WRITABLE,
                                 Outcome, Transport, transport_adopt, transport_close,
                                 transport_connect, transport_init, transport_is_network,
                                 transport_outcome, transport_send, transport_shorter)


cdef extern from *:
    const uint64_t NOBODY "UINT64_MAX"

cdef enum:
    LINGER_GROWTH = 16            # the longest linger, in shortest ones
    LINGER_STEP = 4               # by which it grows
    FEW_RECORDS = 2               # found by a look: it could have come later
    MANY_RECORDS = 8              # the next one is to come sooner
    BACKOFF_MIN = 10 * MILLISECOND
    BACKOFF_MAX = 1000 * MILLISECOND
    MEMORY_PAUSE = 10 * MILLISECOND
    RESOLVER_PATIENCE = 1         # s

cdef enum WriterState:
    STOPPED                       # no thread: the next record starts it
    AWAKE                         # will look at the ring again before it waits
    LINGERING                     # looks again by itself soon
    SLEEPING                      # until a wake-up call

cdef enum Drained:                # why writer_drain came back
    RING_EMPTY                    # or its first record is not committed yet
    PEER_FULL
    NO_MEMORY
    NO_PEER
    CONNECTING
    STOP_ASKED

ctypedef struct Writer:
    Ring ring
    Counters counters
    line_u64 state                # WriterState
    line_u64 stop                 # 1: leave soon, whatever the ring holds
    line_u64 wanted               # lowest tail that a thread waits for; NOBODY: none does
    line_u64 stalled              # 1: no progress for a whole block_timeout
    # Odd while records cannot be sent, or are dropped. Grows by one when that
    # begins and by one when it is over.
    line_u64 trouble
    line_u64 offered_fd           # a connected socket handed over, + 1; 0: none
    atomic_u64 has_socket         # 1: connected; for those who hand sockets over
    # Constant from writer_create to writer_destroy:
    int wake_fd                   # eventfd(2): the wake-up call
    uint64_t linger_min           # ns; 0: no lingering
    pthread_mutex_t progress_lock
    pthread_cond_t progress       # tail reached `wanted`
    # Under `lifecycle`:
    pthread_mutex_t lifecycle
    pthread_t thread
    bint started                  # `thread` is to be joined
    # The writer thread's own:
    Transport transport
    uint64_t ends[TRANSPORT_BATCH]      # position behind each record of the batch
    uint64_t shortened_at         # position of the record that gets a second try ...
    size_t shortened_length       # ... in this length; 0: there is none
    uint64_t backoff              # ns to the next connect; 0 after a send that worked
    bint was_connected


# --- what producers call -----------------------------------------------------------------------

cdef inline void writer_wake(Writer *writer) noexcept nogil:
    """Make the wake-up call. Any thread."""
    cdef uint64_t one = 1
    # Fails only when 2**64 - 2 calls are pending: eventfd(2).
    write(writer.wake_fd, &one, sizeof(one))


cdef inline int writer_notify(Writer *writer, bint at_once) noexcept nogil:
    """Tell the writer of a committed record. Any thread.

    Returns 0, or the errno that kept the thread from starting.

    `at_once`: do not leave it to the writer's next look (an urgent record, a
    ring more than half full, somebody who waits).
    """
    cdef uint64_t state = load_seq_cst(&writer.state.value)     # S1 pairs with S2
    while state == SLEEPING or (state == LINGERING and at_once):
        # One producer makes the call; the others see AWAKE and go on. Not a
        # plain exchange: a writer that has STOPPED meanwhile must stay so.
        if cas_seq_cst(&writer.state.value, &state, AWAKE):
            add_relaxed(&writer.counters.wakeups, 1)
            writer_wake(writer)
            return 0
    return writer_start(writer) if state == STOPPED else 0


cdef inline void writer_begin_trouble(Writer *writer) noexcept nogil:
    """Something to be told: see Engine.news(). Any thread."""
    cdef uint64_t number = load_relaxed(&writer.trouble.value)
    while not number & 1:
        if cas_seq_cst(&writer.trouble.value, &number, number + 1):
            return


cdef inline void writer_offer_socket(Writer *writer, int fd) noexcept nogil:
    """Hand a connected socket over; the writer closes it in the end. Any thread.

    One that was offered before and not taken is closed. -1: offer none any more.
    """
    cdef uint64_t before = exchange_seq_cst(&writer.offered_fd.value, <uint64_t>(fd + 1))
    if before:
        close(<int>(before - 1))
    writer_wake(writer)


cdef inline void writer_await_tail(Writer *writer, uint64_t wanted,
                                   uint64_t timeout) noexcept nogil:
    """Wait until the ring's tail has reached `wanted`, at most `timeout` ns. Any thread."""
    cdef timespec deadline = to_timespec(monotonic_ns() + timeout)
    pthread_mutex_lock(&writer.progress_lock)
    while True:
        # Only threads that hold the lock store it, so this is no race.
        if wanted < load_relaxed(&writer.wanted.value):
            store_seq_cst(&writer.wanted.value, wanted)         # W2 pairs with W1
        if load_seq_cst(&writer.ring.tail.value) >= wanted:
            break
        if pthread_cond_timedwait(&writer.progress, &writer.progress_lock,
                                  &deadline) == ETIMEDOUT:
            break
    pthread_mutex_unlock(&writer.progress_lock)


# --- the thread --------------------------------------------------------------------------------

cdef inline void writer_end_trouble(Writer *writer) noexcept nogil:
    """Once records go out again and there is room for a good many more."""
    cdef uint64_t number = load_relaxed(&writer.trouble.value)
    if ring_used(&writer.ring) <= writer.ring.capacity // 2:
        cas_seq_cst(&writer.trouble.value, &number, number + 1)


cdef inline void writer_release(Writer *writer, uint64_t position) noexcept nogil:
    cdef uint64_t used = ring_used(&writer.ring)
    # tail moves nowhere else, so `used` is at its highest just before this.
    if used > load_relaxed(&writer.counters.high_watermark):
        store_relaxed(&writer.counters.high_watermark, used)
    ring_release(&writer.ring, position)                        # R1
    if load_relaxed(&writer.stalled.value):
        store_relaxed(&writer.stalled.value, 0)
    if load_relaxed(&writer.trouble.value) & 1:
        writer_end_trouble(writer)
    if position >= load_seq_cst(&writer.wanted.value):          # W1 pairs with W2
        pthread_mutex_lock(&writer.progress_lock)
        # Who waits for more than this says so again.
        store_relaxed(&writer.wanted.value, NOBODY)
        pthread_cond_broadcast(&writer.progress)
        pthread_mutex_unlock(&writer.progress_lock)


cdef inline int writer_gather(Writer *writer) noexcept nogil:
    """Point the transport's parts at the committed records from tail on; returns how many."""
    cdef Ring *ring = &writer.ring
    cdef uint64_t tail = load_relaxed(&ring.tail.value)
    cdef uint64_t position = tail
    cdef uint64_t word
    cdef int count = 0
    # A full ring ends where it starts: do not walk it twice.
    while count < TRANSPORT_BATCH and position - tail < ring.capacity:
        word = ring_peek(ring, position)
        if word == 0:
            break
        writer.transport.parts[count].iov_base = record_bytes(ring_at(ring, position))
        writer.transport.parts[count].iov_len = word & LENGTH_MASK
        if writer.shortened_length and position == writer.shortened_at:
            writer.transport.parts[count].iov_len = writer.shortened_length
        position += record_span(word & LENGTH_MASK)
        writer.ends[count] = position
        count += 1
    return count


cdef inline void writer_count_error(Writer *writer, int error) noexcept nogil:
    count_owned(&writer.counters.send_errors, 1)
    store_relaxed(&writer.counters.last_errno, <uint64_t>error)


cdef inline void writer_disconnect(Writer *writer) noexcept nogil:
    transport_close(&writer.transport)
    store_relaxed(&writer.has_socket, 0)


cdef inline Drained writer_connect(Writer *writer) noexcept nogil:
    """RING_EMPTY stands for: connected, go on."""
    cdef uint64_t offered = exchange_seq_cst(&writer.offered_fd.value, 0)
    cdef int error = 0
    if offered:
        transport_adopt(&writer.transport, <int>(offered - 1))
    else:
        error = transport_connect(&writer.transport)
    if error == EINPROGRESS:
        return CONNECTING
    if error:
        writer_count_error(writer, error)
        return NO_PEER
    store_relaxed(&writer.has_socket, 1)
    if writer.was_connected:
        count_owned(&writer.counters.reconnects, 1)
    writer.was_connected = True
    return RING_EMPTY


cdef inline void writer_shorten_first(Writer *writer) noexcept nogil:
    """After EMSGSIZE: give the first record one more try, shorter; after a second one, none."""
    cdef uint64_t tail = load_relaxed(&writer.ring.tail.value)
    cdef bint tried = writer.shortened_length and writer.shortened_at == tail
    writer_count_error(writer, errno)
    writer.shortened_at = tail
    writer.shortened_length = 0
    if not tried:
        writer.shortened_length = transport_shorter(
            &writer.transport, <char *>writer.transport.parts[0].iov_base,
            writer.transport.parts[0].iov_len)
    if writer.shortened_length:
        if not ring_peek(&writer.ring, tail) & SHORTENED:       # else a producer counted it
            add_relaxed(&writer.counters.truncated, 1)
    else:
        count_owned(&writer.counters.discarded, 1)
        writer_release(writer, writer.ends[0])


cdef inline Drained writer_drain(Writer *writer) noexcept nogil:
    """Send records until there are none, or the peer or the kernel says no."""
    cdef Outcome outcome
    cdef Drained drained
    cdef int count, sent
    while not load_acquire(&writer.stop.value):
        count = writer_gather(writer)
        if count == 0:
            return RING_EMPTY
        if writer.transport.fd < 0 or writer.transport.connecting:
            drained = writer_connect(writer)
            if drained != RING_EMPTY:
                return drained
        sent = transport_send(&writer.transport, count)
        if sent >= 0:
            writer.backoff = 0
            if sent > 0:
                count_owned(&writer.counters.sent.value, sent)
                writer_release(writer, writer.ends[sent - 1])
                if sent < count:
                    return PEER_FULL
            continue
        outcome = transport_outcome(errno)
        if outcome == WAIT_WRITABLE:
            return PEER_FULL
        elif outcome == WAIT_MEMORY:
            writer_count_error(writer, errno)
            return NO_MEMORY
        elif outcome == TOO_LONG:
            writer_shorten_first(writer)
        else:
            writer_count_error(writer, errno)
            writer_disconnect(writer)
            # At once the first time: a restarted daemon is usually there again.
            if writer.backoff:
                return NO_PEER
            writer.backoff = BACKOFF_MIN
    return STOP_ASKED


cdef inline void writer_pause(Writer *writer, uint64_t timeout, bint for_room) noexcept nogil:
    """Wait for a wake-up call, for `timeout` ns (0: no limit), or for room in the peer's queue."""
    cdef pollfd descriptors[2]
    cdef timespec limit = to_timespec(timeout)
    cdef uint64_t calls = 0
    descriptors[0].fd = writer.wake_fd
    descriptors[0].events = POLLIN
    descriptors[0].revents = 0
    descriptors[1].fd = writer.transport.fd
    descriptors[1].events = POLLOUT
    ppoll(descriptors, 2 if for_room else 1, &limit if timeout else NULL, NULL)
    if descriptors[0].revents:
        read(writer.wake_fd, &calls, sizeof(calls))


cdef inline void writer_idle(Writer *writer, WriterState state, uint64_t timeout) noexcept nogil:
    """Wait for records, in a state that producers can see."""
    store_seq_cst(&writer.state.value, state)                   # S2 pairs with S1
    if not ring_is_ready(&writer.ring) and not load_seq_cst(&writer.stop.value):
        writer_pause(writer, timeout, False)
    store_relaxed(&writer.state.value, AWAKE)


cdef inline void writer_loop(Writer *writer) noexcept nogil:
    cdef uint64_t linger_max = writer.linger_min * LINGER_GROWTH
    cdef uint64_t linger = writer.linger_min
    cdef uint64_t tail = load_relaxed(&writer.ring.tail.value)
    cdef uint64_t sent = load_relaxed(&writer.counters.sent.value)
    cdef Drained drained
    while True:
        drained = writer_drain(writer)
        if drained == STOP_ASKED:
            return
        elif drained == PEER_FULL:
            writer_pause(writer, 0, True)
        elif drained == NO_MEMORY:
            writer_pause(writer, MEMORY_PAUSE, False)
        elif drained == CONNECTING:
            writer_pause(writer, writer.transport.connect_timeout, True)
        elif drained == NO_PEER:
            writer_begin_trouble(writer)
            writer.backoff = min(max(2 * writer.backoff, <uint64_t>BACKOFF_MIN),
                                 <uint64_t>BACKOFF_MAX)
            writer_pause(writer, writer.backoff, False)
        elif load_relaxed(&writer.ring.tail.value) != tail:
            tail = load_relaxed(&writer.ring.tail.value)
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


cdef inline uint64_t writer_next_linger(Writer *writer, uint64_t linger,
                                        uint64_t found) noexcept nogil:
    """The interval after a look that found so many records."""
    if found <= FEW_RECORDS:
        return min(linger * LINGER_STEP, writer.linger_min * LINGER_GROWTH)
    if found >= MANY_RECORDS:
        return max(linger // 2, writer.linger_min)
    return linger


cdef inline void *writer_main(void *argument) noexcept nogil:
    cdef Writer *writer = <Writer *>argument
    writer_loop(writer)
    writer_disconnect(writer)
    store_seq_cst(&writer.state.value, STOPPED)
    return NULL


# --- life cycle --------------------------------------------------------------------------------

cdef inline int writer_start(Writer *writer) noexcept nogil:
    """Start the thread if there is none. Any thread. Returns 0 or an errno."""
    cdef sigset_t all_signals, before
    cdef int error = 0
    pthread_mutex_lock(&writer.lifecycle)
    if not writer.started:
        store_seq_cst(&writer.stop.value, 0)
        store_seq_cst(&writer.state.value, AWAKE)
        # The thread inherits the mask: signals are the program's own threads' business.
        sigfillset(&all_signals)
        pthread_sigmask(SIG_SETMASK, &all_signals, &before)
        error = pthread_create(&writer.thread, NULL, writer_main, writer)
        pthread_sigmask(SIG_SETMASK, &before, NULL)
        if error:
            store_seq_cst(&writer.state.value, STOPPED)
        else:
            pthread_setname_np(writer.thread, "fastlog-writer")
            writer.started = True
    pthread_mutex_unlock(&writer.lifecycle)
    return error


cdef inline bint writer_stop(Writer *writer) noexcept nogil:
    """Stop and join the thread; what it has not sent stays in the ring. Any thread but its own.

    Returns False if it does not come back, because a name server keeps it
    waiting: then it is left to itself, and so is the Writer, for good.
    """
    cdef timespec deadline
    cdef bint joined = True
    pthread_mutex_lock(&writer.lifecycle)
    if writer.started:
        store_seq_cst(&writer.stop.value, 1)
        writer_wake(writer)
        if transport_is_network(&writer.transport):
            clock_gettime(CLOCK_REALTIME, &deadline)
            deadline.tv_sec += RESOLVER_PATIENCE
            joined = pthread_timedjoin_np(writer.thread, NULL, &deadline) == 0
            if not joined:
                pthread_detach(writer.thread)
        else:
            pthread_join(writer.thread, NULL)
        writer.started = False
    pthread_mutex_unlock(&writer.lifecycle)
    return joined


cdef inline void writer_destroy(Writer *writer) noexcept nogil:
    """Free everything. No thread may use the writer, and its own must have been stopped."""
    writer_offer_socket(writer, -1)
    transport_close(&writer.transport)
    ring_destroy(&writer.ring)
    if writer.wake_fd >= 0:
        close(writer.wake_fd)
    munmap(writer, sizeof(Writer))


cdef inline void writer_leave(Writer *writer) noexcept nogil:
    """Free a parent's writer in a forked child; the parent's own and its records are untouched.

    The descriptors are not closed, though they stay open until exec or exit:
    their numbers mean nothing here. fork copies the descriptors before the
    memory (Linux, copy_process in kernel/fork.c) while the parent's writer runs
    on, and a program may have closed all of them and opened its own since.
    """
    ring_destroy(&writer.ring)
    munmap(writer, sizeof(Writer))


cdef inline Writer *writer_create(uint64_t capacity, uint64_t linger, int socktype) noexcept nogil:
    """A stopped writer with an empty ring, or NULL with errno set. Free with writer_destroy."""
    cdef pthread_condattr_t attributes
    # mmap and not malloc: aligned for line_u64, zeroed, and given back at once.
    cdef void *memory = mmap(NULL, sizeof(Writer), PROT_READ | PROT_WRITE,
                             MAP_PRIVATE | MAP_ANONYMOUS, -1, 0)
    cdef Writer *writer = <Writer *>memory
    if memory == MAP_FAILED:
        return NULL
    transport_init(&writer.transport, socktype)
    writer.linger_min = linger
    store_relaxed(&writer.wanted.value, NOBODY)
    pthread_mutex_init(&writer.lifecycle, NULL)
    pthread_mutex_init(&writer.progress_lock, NULL)
    pthread_condattr_init(&attributes)
    pthread_condattr_setclock(&attributes, CLOCK_MONOTONIC)
    pthread_cond_init(&writer.progress, &attributes)
    pthread_condattr_destroy(&attributes)
    writer.wake_fd = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK)
    if writer.wake_fd < 0 or ring_create(&writer.ring, capacity) != 0:
        writer_destroy(writer)
        return NULL
    return writer
