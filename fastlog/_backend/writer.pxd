"""The writer, as those see it who put records into its ring: one native thread that sends them.

How records leave is in _backend/send_loop.pxd, the thread and its life in _backend/writer_thread.pxd. It
never takes the GIL, prints or raises. Producers and the writer meet in three
places besides the ring:

`state` says whether a producer has to make a wake-up call. Its values and the
adaptive linger are described in DESIGN.md, "The writer". A missed wake-up is
impossible because both sides store first and look second, all seq_cst:

    producer: C1 store the record's header, then S1 load state
    writer:   S2 store state, then load the header (ring_is_ready)

`target_tail` is the lowest tail that anybody waits for, for space or for a flush, so
that the writer wakes nobody before there is something to wake up for:

    waiter: W2 store target_tail, then load tail
    writer: R1 store tail, then W1 load target_tail

Who waits sleeps on `progress`, as it was before W2; the writer takes `target_tail` back first and
counts `progress` then, so whoever's store it took back sees another number.

`stop` asks the writer to leave; it is stored before a wake-up call.
"""
from libc.stdint cimport uint64_t
from posix.time cimport CLOCK_REALTIME, clock_gettime, timespec
from posix.unistd cimport close, write

from fastlog._backend.atomics cimport (add_seq_cst, atomic_u64, cas_seq_cst, exchange_seq_cst, line_u64,
                               load_acquire, load_relaxed, load_seq_cst, store_relaxed,
                               store_seq_cst, futex_wait, futex_wake_all)
from fastlog._backend.clock cimport MILLISECOND, SECOND, monotonic_ns, to_timespec
from fastlog._backend.counters cimport EVICTED, Counters, count_loss
from fastlog._backend.half_sent cimport HalfSent, half_sent_save
from fastlog._backend.posix cimport (pthread_mutex_t, pthread_mutex_timedlock, pthread_mutex_trylock,
                             pthread_mutex_unlock, pthread_t)
from fastlog._backend.ring cimport (LENGTH_MASK, DISCARDED, RecoveryStats, Ring, record_bytes, record_span, ring_at,
                            ring_limit, ring_peek, ring_release, ring_used, header_severity)
from fastlog._backend.transport cimport TRANSPORT_BATCH, Transport


cdef extern from *:
    const uint64_t NO_WAITER "UINT64_MAX"

cdef enum:
    LOCK_TIMEOUT = 20 * MILLISECOND

cdef enum WriterState:
    STOPPED                       # no thread: the next record starts it
    AWAKE                         # will look at the ring again before it waits
    LINGERING                     # looks again by itself soon
    SLEEPING                      # until a wake-up call

ctypedef struct Writer:
    Ring ring
    Counters counters
    line_u64 state                # WriterState
    line_u64 stop                 # 1: leave soon, whatever the ring holds
    line_u64 min_awaited_tail               # lowest tail that a thread waits for; NO_WAITER: none does
    line_u64 stalled              # 1: no progress for a whole block_timeout
    # Odd while records cannot be sent, or are dropped. Grows by one when that
    # begins and by one when it is over.
    line_u64 outage_epoch
    line_u64 offered_fd           # a connected socket handed over, + 1; 0: none
    atomic_u64 has_socket         # 1: connected; for those who hand sockets over
    line_u64 crashing             # 1: the process is about to end, see _engine/crash_drain.pyx
    # In a crash, what lies before is sent but for records that were not finished, if this is past
    # tail: they stay, because the program may go on and finish them.
    line_u64 crash_sent_pos
    # Constant from writer_create to writer_destroy:
    int wake_fd                   # eventfd(2): the wake-up call
    int spool_fd                  # the ring's file, open because that holds its lock; -1: none
    int pid                   # getpid() where it was made
    RecoveryStats recovered                 # what the ring held at the beginning
    bint evicting                 # producers discard old records: tail is under `tail_lock`
    pthread_mutex_t tail_lock
    HalfSent half_sent            # under `tail_lock`, if `evicting`
    bint tail_lock_lost           # its holder has crashed
    uint64_t linger_min           # ns; 0: no lingering
    # Counts how often tail reached `target_tail`. A futex and no condition variable: of those a signal
    # takes waiters for a broadcast to wait for, and in a crash they do not come back.
    line_u64 tail_seq
    # Under `lifecycle`:
    pthread_mutex_t lifecycle_lock
    pthread_t thread
    bint joinable                  # `thread` is to be joined
    # The writer thread's own:
    Transport transport
    bint past_unfinished                    # the batch begins at `passed`, and not at tail
    uint64_t batch_start                # position of the first record of the batch
    uint64_t batch_ends[TRANSPORT_BATCH]      # position behind each record of the batch
    uint64_t backoff              # ns to the next connect; 0 after a send that worked
    int memory_tries              # in a row
    bint was_connected
    uint64_t prefault_start                # a page's position: where the thread began, and
    uint64_t prefault_end            # up to where producers find memory since


cdef inline void writer_wake(Writer *writer) noexcept nogil:
    """Make the wake-up call. Any thread."""
    cdef uint64_t one = 1
    # Fails only when 2**64 - 2 calls are pending: eventfd(2).
    write(writer.wake_fd, &one, sizeof(one))


cdef inline void writer_enter_outage(Writer *writer) noexcept nogil:
    """Something to be told: see Engine.poll_outage(). Any thread."""
    cdef uint64_t number = load_relaxed(&writer.outage_epoch.value)
    while not number & 1:
        if cas_seq_cst(&writer.outage_epoch.value, &number, number + 1):
            return


cdef inline void writer_offer_socket(Writer *writer, int fd) noexcept nogil:
    """Hand a connected socket over; the writer closes it in the end. Any thread.

    One that was offered before and not taken is closed. -1: offer none any more.
    """
    cdef uint64_t before = exchange_seq_cst(&writer.offered_fd.value, <uint64_t>(fd + 1))
    if before:
        close(<int>(before - 1))
    writer_wake(writer)


cdef inline void writer_await_tail(Writer *writer, uint64_t target_tail,
                                   uint64_t timeout) noexcept nogil:
    """Wait until the ring's tail has reached `target_tail`, at most `timeout` ns. Any thread."""
    cdef uint64_t end = monotonic_ns() + timeout
    cdef timespec deadline = to_timespec(end)
    cdef uint64_t seen, lowest
    while True:
        seen = load_seq_cst(&writer.tail_seq.value)     # first: what then happens is noticed
        lowest = load_relaxed(&writer.min_awaited_tail.value)
        while target_tail < lowest and not cas_seq_cst(&writer.min_awaited_tail.value, &lowest,
                                                  target_tail):      # W2 pairs with W1
            pass
        if load_seq_cst(&writer.ring.positions.tail.value) >= target_tail or monotonic_ns() >= end:
            return
        futex_wait(&writer.tail_seq.value, seen, &deadline)


cdef inline uint64_t writer_sent_pos(Writer *writer) noexcept nogil:
    """What lies before is sent, or is left out in a crash. Any thread."""
    return max(load_acquire(&writer.ring.positions.tail.value), load_acquire(&writer.crash_sent_pos.value))


# --- the tail: moved by the writer, and by producers that discard old records --------------------

cdef inline void writer_exit_outage(Writer *writer) noexcept nogil:
    """Once records go out again and there is space for a good many more."""
    cdef uint64_t number = load_relaxed(&writer.outage_epoch.value)
    if ring_used(&writer.ring) <= writer.ring.capacity // 2:
        cas_seq_cst(&writer.outage_epoch.value, &number, number + 1)


cdef inline bint writer_lock(Writer *writer, pthread_mutex_t *lock) noexcept nogil:
    """Take a lock that is held for short. False in a crash, if its holder does not give it back:
    that may be the thread that crashed.
    """
    cdef timespec deadline
    while pthread_mutex_trylock(lock) != 0:
        clock_gettime(CLOCK_REALTIME, &deadline)
        deadline = to_timespec(<uint64_t>deadline.tv_sec * SECOND + <uint64_t>deadline.tv_nsec
                               + LOCK_TIMEOUT)
        if pthread_mutex_timedlock(lock, &deadline) == 0:
            return True
        if load_relaxed(&writer.crashing.value):
            return False
    return True


cdef inline void writer_release(Writer *writer, uint64_t position) noexcept nogil:
    cdef uint64_t used = ring_used(&writer.ring)
    # tail moves nowhere else, so `used` is at its highest just before this.
    if used > load_relaxed(&writer.counters.high_watermark):
        store_relaxed(&writer.counters.high_watermark, used)
    ring_release(&writer.ring, position)                        # R1
    if load_relaxed(&writer.stalled.value):
        store_relaxed(&writer.stalled.value, 0)
    if load_relaxed(&writer.outage_epoch.value) & 1:
        writer_exit_outage(writer)
    if position >= load_seq_cst(&writer.min_awaited_tail.value):          # W1 pairs with W2
        # Who waits for more than this, or came just now, says so again.
        store_seq_cst(&writer.min_awaited_tail.value, NO_WAITER)
        add_seq_cst(&writer.tail_seq.value, 1)
        futex_wake_all(&writer.tail_seq.value)


cdef inline bint writer_lock_tail(Writer *writer) noexcept nogil:
    """If `evicting`, take the lock under which tail moves; held for no longer than a send takes.

    Returns what writer_unlock_tail() wants to know.
    """
    if not writer.evicting:
        return False
    if writer.tail_lock_lost and load_relaxed(&writer.crashing.value):    # wait for it only once
        return pthread_mutex_trylock(&writer.tail_lock) == 0
    writer.tail_lock_lost = not writer_lock(writer, &writer.tail_lock)
    return not writer.tail_lock_lost


cdef inline void writer_unlock_tail(Writer *writer, bint locked) noexcept nogil:
    if locked:
        pthread_mutex_unlock(&writer.tail_lock)


cdef inline bint writer_evict(Writer *writer, uint64_t length, uint64_t severity) noexcept nogil:
    """Discard the oldest records until there is space for one like this. Any thread, if `evicting`.

    False: there is none, because the oldest record is still being written.
    """
    cdef Ring *ring = &writer.ring
    cdef uint64_t limit = ring_limit(ring, severity) - record_span(length)
    cdef bint locked = writer_lock_tail(writer)
    cdef uint64_t tail = load_relaxed(&ring.positions.tail.value)
    cdef uint64_t position = tail
    cdef uint64_t header
    cdef bint found
    while load_relaxed(&ring.positions.head.value) - position > limit:
        header = ring_peek(ring, position)
        if header == 0 or writer.half_sent.partial and writer.past_unfinished:
            break
        if header & DISCARDED:
            pass
        elif writer.half_sent.partial:
            # Half of the first one is on its way: the other half has to follow.
            if not half_sent_save(&writer.half_sent, record_bytes(ring_at(ring, position)),
                                  header & LENGTH_MASK, header_severity(header)):
                break
        else:
            count_loss(&writer.counters, EVICTED, header_severity(header))
            writer_enter_outage(writer)
        position += record_span(header & LENGTH_MASK)
    # Also where nothing was discarded: the writer may have been faster.
    found = load_relaxed(&ring.positions.head.value) - position <= limit
    if position != tail:
        writer_release(writer, position)
    writer_unlock_tail(writer, locked)
    return found
