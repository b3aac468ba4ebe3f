"""The writer as producers see it. The writer is one native thread that sends the records of a ring.

_backend/send_loop.pxd sends the records, _backend/writer_thread.pxd runs the thread. The thread
never takes the GIL, prints or raises. Its state is one of four.

    STOPPED    No thread exists. The next record starts one.
    AWAKE      The thread will check the ring again before it waits.
    LINGERING  The thread waits, but polls the ring again when its linger interval is over.
    SLEEPING   The thread waits until another thread wakes it.

                writer_start()                   ring empty, longest interval over
      STOPPED ------------------> AWAKE ------------------------------------> SLEEPING
         ^                       |  |  ^ <---------------- wakeup ----------------+
         |      stop is set      |  |  |
         +-----------------------+  |  +------ interval over, or urgent wakeup ---+
                                    |                                             |
                                    +------------------ ring empty ---------> LINGERING

Without lingering (linger_min is 0), an empty ring leads to SLEEPING at once.

In a crash, a signal handler that finds STOPPED makes it AWAKE and drains the ring itself. So does
a logging call where no thread can be started.

Besides the ring, producers and the writer share `state`, `wake_seq`, `min_awaited_tail` and `stop`.

`state` tells a producer whether it must wake the writer. No wakeup is missed, because both sides
store first and load second, all seq_cst:

    producer: C1 store the record's header, then S1 load state
    writer:   S2 store state, then load the header (ring_is_ready)

The writer sleeps on the futex `wake_seq`, with the value that it has seen last. A wakeup increments
it first. So a wakeup that arrives before the writer sleeps is not lost either. It is a futex and
not a descriptor, because a program may close all descriptors and reuse their numbers.

`min_awaited_tail` is the lowest tail that any thread waits for, for space or in a flush. The writer
wakes the waiters only when tail reaches it. Again both sides store first and load second:

    waiter: W2 store min_awaited_tail, then load tail
    writer: R1 store tail, then W1 load min_awaited_tail

A waiter sleeps on the futex `tail_seq`, with the value that it loaded before W2. The writer first
resets `min_awaited_tail` and then increments `tail_seq`. So a waiter whose store was reset finds a
different value and does not sleep.

`stop` asks the thread to exit. It is stored before a wakeup.

DESIGN.md describes the adaptive linger interval.
"""
from libc.stdint cimport uint32_t, uint64_t
from libc.stdlib cimport free
from posix.time cimport timespec

from fastlog._backend.atomics cimport (add_seq_cst, atomic_u64, cas_seq_cst, exchange_seq_cst,
                                       futex_wait, futex_wake_all, line_u64, load_acquire,
                                       load_relaxed, load_seq_cst, store_relaxed, store_seq_cst)
from fastlog._backend.clock cimport MILLISECOND, monotonic_ns, to_timespec
from fastlog._backend.counters cimport EVICTED, Counters, count_loss
from fastlog._backend.descriptor cimport (Descriptor, descriptor_close, descriptor_move_up,
                                          descriptor_set)
from fastlog._backend.destination cimport Destination
from fastlog._backend.futex_lock cimport futex_lock_acquire, futex_lock_release, futex_lock_try
from fastlog._backend.half_sent cimport HalfSent, half_sent_save
from fastlog._backend.posix cimport pthread_mutex_t, pthread_t
from fastlog._backend.ring cimport (DISCARDED, LENGTH_MASK, RecoveryStats, Ring, header_severity,
                                    record_bytes, record_span, ring_at, ring_limit, ring_peek,
                                    ring_release, ring_used)
from fastlog._backend.transport cimport TRANSPORT_BATCH, Transport


cdef extern from *:
    const uint64_t NO_WAITER "UINT64_MAX"

cdef enum:
    LOCK_TIMEOUT = 20 * MILLISECOND     # ns to wait for tail_lock in a crash

cdef enum WriterState:            # see the top of this file
    STOPPED
    AWAKE
    LINGERING
    SLEEPING

cdef enum ThreadEnd:
    RUNNING                       # the thread runs, or none does
    ENDED                         # the thread is about to exit
    ORPHANED                      # nobody else uses the Writer: the thread frees it when it exits

cdef enum Probe:                  # UDP: after an error, one record tests whether the peer is back
    PROBE_NONE
    PROBE_DUE                     # the next send is the probe
    PROBE_SENT                    # the probe is sent; its record stays until probe_end

ctypedef struct Writer:
    Ring ring
    Counters counters
    line_u64 state                # WriterState
    line_u64 wake_seq             # counts wakeups; the futex on which the writer sleeps
    line_u64 ended                # ThreadEnd; a futex
    line_u64 orphan_deadline      # monotonic ns at which an orphaned thread gives up, or 0
    line_u64 stop                 # 1: exit soon, even with records in the ring
    line_u64 min_awaited_tail     # the lowest tail that a thread waits for, or NO_WAITER
    line_u64 stalled              # 1: no progress for a whole block_timeout
    # Odd while records cannot be sent or are dropped. Grows by one when an outage begins and by
    # one when it ends.
    line_u64 outage_epoch
    line_u64 offered_socket       # a connected socket to adopt, from make_offer(), or 0
    line_u64 offered_destination  # where to connect from now on, a Destination *, or 0
    atomic_u64 has_socket         # 1: connected (read by threads that could offer a socket)
    line_u64 crashing             # 1: the process is about to end, see _engine/crash_drain.pyx
    # In a crash the writer may pass records that are not finished. If this position is greater
    # than tail, all records before it are sent except those. They stay in the ring, because the
    # program may survive and finish them.
    line_u64 crash_sent_pos
    # Constant from writer_create() to writer_destroy(), except that Engine sets pid and evicting
    # before any other thread has the Writer, and gives up spool_file while the thread is stopped:
    Descriptor spool_file         # the ring's file, open because that holds its lock
    int pid                       # getpid() of the process that created the writer
    RecoveryStats recovered       # what ring_recover() found in the spool
    bint evicting                 # drop_oldest: producers move tail too, under `tail_lock`
    uint64_t linger_min           # ns of the shortest linger interval, 0 for no lingering
    # Guarded by `tail_lock` if `evicting`, else the writer thread's own:
    line_u64 tail_lock            # see futex_lock.pxd
    bint tail_lock_lost           # in a crash: its holder did not unlock it in time
    bint past_unfinished          # in a crash: the batch begins at crash_sent_pos, not at tail
    HalfSent half_sent
    # Counts how often tail reached min_awaited_tail. A futex and not a condition variable, because
    # a broadcast may wait for waiters that a signal interrupted, and in a crash those do not
    # return.
    line_u64 tail_seq
    # Guarded by `lifecycle_lock`:
    pthread_mutex_t lifecycle_lock
    pthread_t thread
    bint joinable                 # `thread` was started and is not joined
    atomic_u64 threadless         # 1: no thread could be started when one was needed last
    # The writer thread's own:
    Transport transport
    uint64_t batch_start          # position of the first record of the batch
    uint64_t batch_ends[TRANSPORT_BATCH]    # position behind each record of the batch
    uint64_t backoff              # ns until the next connect, 0 after a successful send
    int memory_failures           # sends in a row that failed for want of memory
    Probe probe
    uint64_t probe_position       # of the record that is the probe
    uint64_t probe_end            # monotonic ns at which no error means that the probe arrived
    int refusals                  # times in a row that the socket accepted nothing
    uint64_t wake_seen            # wake_seq when the thread last noticed a wakeup
    bint was_connected
    uint64_t prefault_start       # position of the page where tail was when the thread started
    uint64_t prefault_end         # position up to which pages are pre-faulted or used since


cdef inline void writer_wake(Writer *writer) noexcept nogil:
    """Wake the writer. Any thread. Async-signal-safe.

    A writer that waits for its socket notices the wakeup within 64 ms.
    """
    add_seq_cst(&writer.wake_seq.value, 1)
    futex_wake_all(&writer.wake_seq.value)


cdef inline void writer_enter_outage(Writer *writer) noexcept nogil:
    """Begin an outage unless there is one. Any thread. reports.poll_outage() returns it."""
    cdef uint64_t epoch = load_relaxed(&writer.outage_epoch.value)
    while not epoch & 1:
        if cas_seq_cst(&writer.outage_epoch.value, &epoch, epoch + 1):
            return


cdef inline uint64_t make_offer(const Descriptor *socket) noexcept nogil:
    """Return a socket as one word: the low half of its inode number, and the descriptor + 1.

    The inode numbers of sockets have 32 bits: Linux, get_next_ino in fs/inode.c.
    """
    return socket.inode << 32 | <uint32_t>(socket.fd + 1)


cdef inline int offer_fd(uint64_t offer) noexcept nogil:
    """Return the descriptor of an offer."""
    return <int><uint32_t>offer - 1


cdef inline uint32_t offer_inode(uint64_t offer) noexcept nogil:
    """Return the low half of the inode number of an offer."""
    return <uint32_t>(offer >> 32)


cdef inline void writer_offer_socket(Writer *writer, int fd) noexcept nogil:
    """Offer a connected socket, which the writer adopts and owns. Any thread.

    A socket that was offered before and not adopted is closed. -1 withdraws the offer.
    """
    cdef Descriptor socket
    cdef uint64_t offer = 0
    if descriptor_set(&socket, descriptor_move_up(fd)) and socket.fd >= 0:
        offer = make_offer(&socket)
    offer = exchange_seq_cst(&writer.offered_socket.value, offer)
    if (offer and descriptor_set(&socket, offer_fd(offer))
            and <uint32_t>socket.inode == offer_inode(offer)):
        descriptor_close(&socket)
    writer_wake(writer)


cdef inline Destination *writer_take_destination(Writer *writer) noexcept nogil:
    """Return the destination that was offered, which the caller frees, or NULL. Any thread."""
    if load_relaxed(&writer.offered_destination.value) == 0:
        return NULL
    return <Destination *>exchange_seq_cst(&writer.offered_destination.value, 0)


cdef inline void writer_offer_destination(Writer *writer, Destination *destination) noexcept nogil:
    """Offer another destination, allocated with malloc(). The writer owns it. Any thread."""
    free(<void *>exchange_seq_cst(&writer.offered_destination.value, <uint64_t>destination))
    writer_wake(writer)


cdef inline void writer_await_tail(Writer *writer, uint64_t target_tail,
                                   uint64_t timeout) noexcept nogil:
    """Wait until tail has reached `target_tail`, at most `timeout` ns. Any thread but the writer's.
    """
    cdef uint64_t end = monotonic_ns() + timeout
    cdef timespec deadline = to_timespec(end)
    cdef uint64_t seq, min_awaited
    while True:
        # Load tail_seq first, so that futex_wait() notices whatever happens after it.
        seq = load_seq_cst(&writer.tail_seq.value)
        min_awaited = load_relaxed(&writer.min_awaited_tail.value)
        while target_tail < min_awaited and not cas_seq_cst(
                &writer.min_awaited_tail.value, &min_awaited, target_tail):  # W2 pairs with W1
            pass
        if load_seq_cst(&writer.ring.positions.tail.value) >= target_tail or monotonic_ns() >= end:
            return
        futex_wait(&writer.tail_seq.value, seq, &deadline)


cdef inline uint64_t writer_sent_pos(Writer *writer) noexcept nogil:
    """Return the position before which all is sent, or passed in a crash. Any thread."""
    return max(load_acquire(&writer.ring.positions.tail.value),
               load_acquire(&writer.crash_sent_pos.value))


# --- the tail: moved by the writer, and by producers that evict ----------------------------------

cdef inline bint writer_lock_tail(Writer *writer) noexcept nogil:
    """Become the holder of the tail. Any thread, but only the writer's unless `evicting`.

    If `evicting`, acquire the lock, which is held no longer than a send takes. Return whether the
    lock is held, for writer_unlock_tail(). In a crash the wait is limited to LOCK_TIMEOUT, because
    the holder may be the thread that crashed.
    """
    if not writer.evicting:
        return False
    if load_relaxed(&writer.crashing.value) and writer.tail_lock_lost:    # wait for it only once
        return futex_lock_try(&writer.tail_lock)
    while not futex_lock_acquire(&writer.tail_lock, LOCK_TIMEOUT):
        if load_relaxed(&writer.crashing.value):
            writer.tail_lock_lost = True
            return False
    writer.tail_lock_lost = False
    return True


cdef inline void writer_unlock_tail(Writer *writer, bint locked) noexcept nogil:
    """Undo writer_lock_tail(), which returned `locked`. The same thread."""
    if locked:
        futex_lock_release(&writer.tail_lock)


cdef inline void writer_exit_outage(Writer *writer) noexcept nogil:
    """End the outage once half the ring is free. Only the holder of the tail, after a release."""
    cdef uint64_t epoch = load_relaxed(&writer.outage_epoch.value)
    if ring_used(&writer.ring) <= writer.ring.capacity // 2:
        cas_seq_cst(&writer.outage_epoch.value, &epoch, epoch + 1)


cdef inline void writer_release(Writer *writer, uint64_t position) noexcept nogil:
    """Release the records before `position` and wake waiters. Only the holder of the tail."""
    cdef uint64_t used = ring_used(&writer.ring)
    # Only this function moves tail, so `used` is at its highest just before it does.
    if used > load_relaxed(&writer.counters.high_watermark):
        store_relaxed(&writer.counters.high_watermark, used)
    ring_release(&writer.ring, position)                        # R1
    if load_relaxed(&writer.stalled.value):
        store_relaxed(&writer.stalled.value, 0)
    if load_relaxed(&writer.outage_epoch.value) & 1:
        writer_exit_outage(writer)
    if position >= load_seq_cst(&writer.min_awaited_tail.value):          # W1 pairs with W2
        # Waiters for a later tail, and those that arrive now, re-register themselves.
        store_seq_cst(&writer.min_awaited_tail.value, NO_WAITER)
        add_seq_cst(&writer.tail_seq.value, 1)
        futex_wake_all(&writer.tail_seq.value)


cdef inline bint writer_evict(Writer *writer, uint64_t length, uint64_t severity) noexcept nogil:
    """Evict the oldest records until a record like this fits. Any thread, if `evicting`.

    Return whether there is space. There is none if the oldest record cannot be evicted, because
    its producer has not committed it yet or because memory for its unsent rest is exhausted.
    """
    cdef Ring *ring = &writer.ring
    cdef uint64_t limit = ring_limit(ring, severity) - record_span(length)
    cdef bint locked = writer_lock_tail(writer)
    cdef uint64_t tail = load_relaxed(&ring.positions.tail.value)
    cdef uint64_t position = tail
    cdef uint64_t header
    cdef bint has_space
    while load_relaxed(&ring.positions.head.value) - position > limit:
        header = ring_peek(ring, position)
        if header == 0 or writer.half_sent.partial and writer.past_unfinished:
            break
        if header & DISCARDED:
            pass
        elif writer.half_sent.partial:
            # The stream has the beginning of the first record, so the rest must follow.
            if not half_sent_save(&writer.half_sent, record_bytes(ring_at(ring, position)),
                                  header & LENGTH_MASK, header_severity(header)):
                break
        else:
            count_loss(&writer.counters, EVICTED, header_severity(header))
            writer_enter_outage(writer)
        position += record_span(header & LENGTH_MASK)
    # There may be space although nothing was evicted: the writer may have been faster.
    has_space = load_relaxed(&ring.positions.head.value) - position <= limit
    if position != tail:
        writer_release(writer, position)
    writer_unlock_tail(writer, locked)
    return has_space
