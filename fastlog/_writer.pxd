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
from libc.errno cimport EBADMSG, EINPROGRESS, EMSGSIZE, ETIMEDOUT, errno
from libc.stdint cimport uint64_t
from libc.string cimport memset
from posix.mman cimport (MAP_ANONYMOUS, MAP_FAILED, MAP_PRIVATE, PROT_READ, PROT_WRITE, mmap,
                         munmap)
from posix.time cimport CLOCK_MONOTONIC, CLOCK_REALTIME, clock_gettime, timespec
from posix.unistd cimport close, read, write

from fastlog._atomics cimport (add_relaxed, atomic_u64, cas_seq_cst, exchange_seq_cst, line_u64,
                               load_acquire, load_relaxed, load_seq_cst, store_relaxed,
                               store_seq_cst)
from fastlog._clock cimport MILLISECOND, SECOND, monotonic_ns, to_timespec
from fastlog._counters cimport EVICTED, UNSENDABLE, Counters, count_loss, count_owned
from fastlog._frame cimport frame_blank, frame_cut
from fastlog._posix cimport (EFD_CLOEXEC, EFD_NONBLOCK, POLLIN, POLLOUT, SIG_SETMASK, eventfd,
                             iovec, pollfd, ppoll, pthread_cond_broadcast, pthread_cond_init,
                             pthread_cond_t, pthread_cond_timedwait, pthread_condattr_destroy,
                             pthread_condattr_init, pthread_condattr_setclock, pthread_condattr_t,
                             pthread_create, pthread_detach, pthread_join, pthread_mutex_init,
                             pthread_mutex_lock, pthread_mutex_t, pthread_mutex_timedlock,
                             pthread_mutex_trylock, pthread_mutex_unlock, pthread_setname_np,
                             pthread_sigmask, pthread_t, pthread_timedjoin_np, sigfillset,
                             sigset_t)
from fastlog._ring cimport (LENGTH_MASK, SHORTENED, SKIPPED, Mended, Ring, record_bytes,
                            record_span, ring_at, ring_create, ring_destroy, ring_find,
                            ring_is_ready, ring_limit, ring_map, ring_mend, ring_next, ring_peek,
                            ring_release, ring_shorten, ring_used, word_severity)
from fastlog._transport cimport (RECONNECT, TOO_LONG, TRANSPORT_BATCH, WAIT_MEMORY, WAIT_WRITABLE,
                                 Outcome, Transport, errno_set, transport_adopt, transport_close,
                                 transport_connect, transport_init, transport_is_network,
                                 transport_make_room, transport_outcome, transport_send,
                                 transport_set_aside, transport_shorter)


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
    LARGE = 65536                 # bytes; for a record of so many there may never be memory:
    MEMORY_TRIES = 10             # after so many it is shortened
    LOCK_PATIENCE = 20 * MILLISECOND
    RESOLVER_PATIENCE = 1         # s

cdef enum WriterState:
    STOPPED                       # no thread: the next record starts it
    AWAKE                         # will look at the ring again before it waits
    LINGERING                     # looks again by itself soon
    SLEEPING                      # until a wake-up call

cdef enum Drained:                # why writer_drain came back
    NOTHING_WRONG                 # it does not
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
    line_u64 crashing             # 1: the process is about to end, see _crash.pyx
    # Constant from writer_create to writer_destroy:
    int wake_fd                   # eventfd(2): the wake-up call
    int spool_fd                  # the ring's file, open because that holds its lock; -1: none
    int process                   # getpid() where it was made
    Mended mended                 # what the ring held at the beginning
    bint evicting                 # producers discard old records: tail is under `tail_lock`
    pthread_mutex_t tail_lock
    uint64_t linger_min           # ns; 0: no lingering
    pthread_mutex_t progress_lock
    pthread_cond_t progress       # tail reached `wanted`
    # Under `lifecycle`:
    pthread_mutex_t lifecycle
    pthread_t thread
    bint started                  # `thread` is to be joined
    # The writer thread's own:
    Transport transport
    uint64_t first                # position of the first record of the batch
    uint64_t ends[TRANSPORT_BATCH]      # position behind each record of the batch
    uint64_t backoff              # ns to the next connect; 0 after a send that worked
    int memory_tries              # in a row
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
        if load_seq_cst(&writer.ring.at.tail.value) >= wanted:
            break
        if pthread_cond_timedwait(&writer.progress, &writer.progress_lock,
                                  &deadline) == ETIMEDOUT:
            break
    pthread_mutex_unlock(&writer.progress_lock)


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


cdef inline bint writer_lock_tail(Writer *writer) noexcept nogil:
    """If `evicting`, take the lock under which tail moves; held for no longer than a send takes.

    Returns what writer_unlock_tail() wants to know. In a crash the holder may be the thread that
    crashed, which will never give it back.
    """
    cdef timespec deadline
    if not writer.evicting:
        return False
    while pthread_mutex_trylock(&writer.tail_lock) != 0:
        if load_relaxed(&writer.crashing.value):
            return False
        clock_gettime(CLOCK_REALTIME, &deadline)
        deadline = to_timespec(<uint64_t>deadline.tv_sec * SECOND + <uint64_t>deadline.tv_nsec
                               + LOCK_PATIENCE)
        if pthread_mutex_timedlock(&writer.tail_lock, &deadline) == 0:
            return True
    return True


cdef inline void writer_unlock_tail(Writer *writer, bint locked) noexcept nogil:
    if locked:
        pthread_mutex_unlock(&writer.tail_lock)


cdef inline bint writer_evict(Writer *writer, uint64_t length, uint64_t severity) noexcept nogil:
    """Discard the oldest records until there is room for one like this. Any thread, if `evicting`.

    False: there is none, because the oldest record is still being written.
    """
    cdef Ring *ring = &writer.ring
    cdef uint64_t limit = ring_limit(ring, severity) - record_span(length)
    cdef bint locked = writer_lock_tail(writer)
    cdef uint64_t tail = load_relaxed(&ring.at.tail.value)
    cdef uint64_t position = tail
    cdef uint64_t word
    cdef bint found
    while load_relaxed(&ring.at.head.value) - position > limit:
        word = ring_peek(ring, position)
        if word == 0:
            break
        if word & SKIPPED:
            pass
        elif writer.transport.partial:
            # Half of the first one is on its way: the other half has to follow.
            if not transport_set_aside(&writer.transport, record_bytes(ring_at(ring, position)),
                                       word & LENGTH_MASK):
                break
            count_owned(&writer.counters.sent.value, 1)
        else:
            count_loss(&writer.counters, EVICTED, word_severity(word))
            writer_begin_trouble(writer)
        position += record_span(word & LENGTH_MASK)
    # Also where nothing was discarded: the writer may have been faster.
    found = load_relaxed(&ring.at.head.value) - position <= limit
    if position != tail:
        writer_release(writer, position)
    writer_unlock_tail(writer, locked)
    return found


# --- the thread --------------------------------------------------------------------------------

cdef inline int writer_gather(Writer *writer) noexcept nogil:
    """Point the transport's parts at the committed records from tail on; returns how many."""
    cdef Ring *ring = &writer.ring
    cdef uint64_t tail = load_relaxed(&ring.at.tail.value)
    cdef uint64_t position = tail
    cdef uint64_t word
    cdef iovec *part
    cdef int count = 0
    # A full ring ends where it starts: do not walk it twice.
    while count < TRANSPORT_BATCH and position - tail < ring.capacity:
        word = ring_peek(ring, position)
        if word == 0:
            break
        if not word & SKIPPED:
            if count == 0:
                writer.first = position
            part = &writer.transport.parts[count]
            part.iov_base = record_bytes(ring_at(ring, position))
            part.iov_len = word & LENGTH_MASK
            if writer.transport.blanks:
                frame_blank(<char *>part.iov_base, part.iov_len)
            count += 1
        position += record_span(word & LENGTH_MASK)
        if count:
            writer.ends[count - 1] = position
    if count == 0 and position != tail:
        writer_release(writer, position)
    return count


cdef inline void writer_count_error(Writer *writer, int error) noexcept nogil:
    count_owned(&writer.counters.send_errors, 1)
    store_relaxed(&writer.counters.last_errno, <uint64_t>error)


cdef inline void writer_disconnect(Writer *writer) noexcept nogil:
    transport_close(&writer.transport)
    store_relaxed(&writer.has_socket, 0)


cdef inline Drained writer_connect(Writer *writer) noexcept nogil:
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
    return NOTHING_WRONG


cdef inline void writer_shorten_first(Writer *writer) noexcept nogil:
    """After EMSGSIZE: a larger buffer, else a shorter record, else none."""
    cdef uint64_t word = ring_peek(&writer.ring, writer.first)
    cdef size_t length = writer.transport.parts[0].iov_len
    cdef size_t limit
    if transport_make_room(&writer.transport, length):
        return
    writer_count_error(writer, EMSGSIZE)
    writer.memory_tries = 0
    limit = transport_shorter(&writer.transport, length)
    if limit == 0:
        count_loss(&writer.counters, UNSENDABLE, word_severity(word))
        writer_begin_trouble(writer)
        writer_release(writer, writer.ends[0])
        return
    if not word & SHORTENED:
        add_relaxed(&writer.counters.truncated, 1)
    ring_shorten(&writer.ring, writer.first,
                 frame_cut(<char *>writer.transport.parts[0].iov_base, length, limit))


cdef inline Drained writer_send_batch(Writer *writer) noexcept nogil:
    cdef int count = writer_gather(writer)
    cdef int sent
    cdef Outcome outcome
    if count == 0:
        return RING_EMPTY
    sent = transport_send(&writer.transport, count)
    if sent >= 0:
        writer.backoff = 0
        writer.memory_tries = 0
        if sent > 0:
            count_owned(&writer.counters.sent.value, sent)
            writer_release(writer, writer.ends[sent - 1])
        return PEER_FULL if 0 < sent < count else NOTHING_WRONG
    outcome = transport_outcome(errno)
    if outcome == WAIT_WRITABLE:
        return PEER_FULL
    if outcome == TOO_LONG:
        writer_shorten_first(writer)
        return NOTHING_WRONG
    writer_count_error(writer, errno)
    if outcome == WAIT_MEMORY:
        # Linux has a bound for one datagram that no buffer size shows: some 4 MiB.
        writer.memory_tries += 1
        if writer.memory_tries >= MEMORY_TRIES and writer.transport.parts[0].iov_len > LARGE:
            writer_shorten_first(writer)
        return NO_MEMORY
    writer_disconnect(writer)
    # At once the first time: a restarted daemon is usually there again.
    if writer.backoff:
        return NO_PEER
    writer.backoff = BACKOFF_MIN
    return NOTHING_WRONG


cdef inline bint writer_has_records(Writer *writer) noexcept nogil:
    cdef bint locked = writer_lock_tail(writer)
    cdef bint ready = ring_is_ready(&writer.ring)
    writer_unlock_tail(writer, locked)
    return ready


cdef inline Drained writer_drain(Writer *writer) noexcept nogil:
    """Send records until there are none, or the peer or the kernel says no."""
    cdef Drained drained
    cdef bint locked
    while not load_acquire(&writer.stop.value):
        if writer.transport.fd < 0 or writer.transport.connecting:
            if not writer_has_records(writer):
                return RING_EMPTY
            drained = writer_connect(writer)
        else:
            locked = writer_lock_tail(writer)
            drained = writer_send_batch(writer)
            writer_unlock_tail(writer, locked)
        if drained != NOTHING_WRONG:
            return drained
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


cdef inline void writer_skip_unfinished(Writer *writer) noexcept nogil:
    """In a crash: the first record's thread may be the one that crashed, and never commit it."""
    cdef uint64_t tail = load_relaxed(&writer.ring.at.tail.value)
    cdef uint64_t head = load_relaxed(&writer.ring.at.head.value)
    cdef uint64_t span
    writer_pause(writer, MILLISECOND, False)        # other threads only need a moment
    if tail != head and not ring_is_ready(&writer.ring):
        span = ring_find(&writer.ring, tail, head)
        writer_release(writer, tail + span if span else ring_next(&writer.ring, tail, head))


cdef inline void writer_loop(Writer *writer) noexcept nogil:
    cdef uint64_t linger_max = writer.linger_min * LINGER_GROWTH
    cdef uint64_t linger = writer.linger_min
    cdef uint64_t tail = load_relaxed(&writer.ring.at.tail.value)
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
        elif load_acquire(&writer.crashing.value) and ring_used(&writer.ring):
            writer_skip_unfinished(writer)
        elif load_relaxed(&writer.ring.at.tail.value) != tail:
            tail = load_relaxed(&writer.ring.at.tail.value)
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


cdef inline void writer_run_down(Writer *writer, uint64_t deadline) noexcept nogil:
    """Drain until monotonic_ns() is `deadline`, in a signal handler, where there is no thread.

    The caller has made the state AWAKE. No name is looked up: that is not async-signal-safe.
    """
    cdef Drained drained
    store_seq_cst(&writer.stop.value, 0)
    while ring_used(&writer.ring) and monotonic_ns() < deadline:
        if writer.transport.fd < 0 and transport_is_network(&writer.transport):
            return
        drained = writer_drain(writer)
        if drained == RING_EMPTY:
            writer_skip_unfinished(writer)
        else:
            writer_pause(writer, BACKOFF_MIN, drained == PEER_FULL or drained == CONNECTING)


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
    cdef uint64_t stopped = STOPPED
    cdef int error = 0
    pthread_mutex_lock(&writer.lifecycle)
    # Not if it is awake without a thread: then a crash is being handled.
    if not writer.started and cas_seq_cst(&writer.state.value, &stopped, AWAKE):
        store_seq_cst(&writer.stop.value, 0)
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
    if writer.spool_fd >= 0:
        close(writer.spool_fd)
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


cdef inline bint writer_take_ring(Writer *writer, uint64_t capacity, int fd, bint only_look
                                  ) noexcept nogil:
    """Memory of its own, or a spool with what a dead process left in it. False: see errno."""
    if fd < 0:
        return ring_create(&writer.ring, capacity) == 0
    if ring_map(&writer.ring, capacity, fd, not only_look) != 0:
        return False
    if not ring_mend(&writer.ring, &writer.mended):
        errno_set(EBADMSG)
        return False
    store_relaxed(&writer.counters.accepted.value, writer.mended.records)
    return True


cdef inline Writer *writer_create(uint64_t capacity, uint64_t linger, int socktype, int spool_fd,
                                  bint only_look) noexcept nogil:
    """A stopped writer, or NULL with errno set. Free with writer_destroy.

    spool_fd: the file of the ring, which is the writer's from now on; -1: memory of its own.
    only_look: what is changed in the ring does not reach the file.
    errno is EBADMSG if the positions in the file make no sense.
    """
    cdef pthread_condattr_t attributes
    cdef int error
    # mmap and not malloc: aligned for line_u64, zeroed, and given back at once.
    cdef void *memory = mmap(NULL, sizeof(Writer), PROT_READ | PROT_WRITE,
                             MAP_PRIVATE | MAP_ANONYMOUS, -1, 0)
    cdef Writer *writer = <Writer *>memory
    if memory == MAP_FAILED:
        return NULL
    transport_init(&writer.transport, socktype)
    writer.linger_min = linger
    writer.spool_fd = spool_fd
    store_relaxed(&writer.wanted.value, NOBODY)
    pthread_mutex_init(&writer.lifecycle, NULL)
    pthread_mutex_init(&writer.tail_lock, NULL)
    pthread_mutex_init(&writer.progress_lock, NULL)
    pthread_condattr_init(&attributes)
    pthread_condattr_setclock(&attributes, CLOCK_MONOTONIC)
    pthread_cond_init(&writer.progress, &attributes)
    pthread_condattr_destroy(&attributes)
    writer.wake_fd = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK)
    if writer.wake_fd < 0 or not writer_take_ring(writer, capacity, spool_fd, only_look):
        error = errno
        writer_destroy(writer)
        errno_set(error)
        return NULL
    return writer
