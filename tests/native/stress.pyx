# cython: language_level=3, boundscheck=False, wraparound=False, freethreading_compatible=True
"""Native threads over the ring and the writer: the same inline code that `_core` compiles.

test_sanitizers.py builds this module with a sanitizer and calls its run functions. The producer
and the sequence number of a record determine its length and its bytes. So the receiver detects
every record that is lost, duplicated, out of order or damaged.
"""
import socket
import struct

from libc.stdint cimport uint64_t
from libc.stdlib cimport free, malloc
from libc.string cimport memset

from fastlog._backend.atomics cimport (add_relaxed, atomic_u64, load_acquire, load_relaxed,
                                       store_seq_cst)
from fastlog._backend.clock cimport MILLISECOND, monotonic_ns
from fastlog._backend.counters cimport EVICTED, UNSENDABLE, sum_losses
from fastlog._backend.destination cimport destination_add_path
from fastlog._backend.posix cimport SOCK_DGRAM, pthread_create, pthread_join, pthread_t, recv
from fastlog._backend.ring cimport (LENGTH_MASK, Record, Ring, record_bytes, record_span, ring_at,
                                    ring_commit, ring_create, ring_destroy, ring_peek,
                                    ring_release, ring_try_reserve)
from fastlog._backend.writer cimport (Writer, writer_await_tail, writer_lock_tail,
                                      writer_unlock_tail)
from fastlog._backend.writer_thread cimport (writer_create, writer_destroy, writer_notify,
                                             writer_orphan, writer_stop)

cdef extern from "<sched.h>" nogil:
    int sched_yield() noexcept

cdef enum:
    MAX_PRODUCERS = 16
    SHORT_LENGTH = 64             # bytes; most records are no longer, as most messages are
    STUCK_SECONDS = 10            # no step takes this long, even with a sanitizer on a busy machine

cdef enum Failure:
    NONE
    NO_THREAD
    STUCK
    MISSED_WAKEUP
    FOREIGN_RECORD
    WRONG_LENGTH
    WRONG_BYTES
    BAD_SUMS

FAILURES = {
    NO_THREAD: "a thread could not be started",
    STUCK: f"no record arrived for {STUCK_SECONDS} s",
    MISSED_WAKEUP: f"a producer waited {STUCK_SECONDS} s for its record: a wakeup was missed",
    FOREIGN_RECORD: "a record arrived that no producer made",
    WRONG_LENGTH: "a record has the wrong length: lost, duplicated, out of order or truncated",
    WRONG_BYTES: "a record of the right length has the wrong bytes",
    BAD_SUMS: "more records were counted as sent or discarded than as accepted",
}

ctypedef struct Producer:
    Run *run
    uint64_t number

ctypedef struct Run:
    # Constant while threads run:
    Ring *ring
    Writer *writer                # NULL: the ring alone
    uint64_t producer_count
    uint64_t records              # of each producer
    bint paced                    # a producer waits until its record is sent, then makes the next
    int receiver_fd
    Producer producers[MAX_PRODUCERS]
    # Only the receiver uses these until it is joined:
    uint64_t received
    uint64_t next_sequence[MAX_PRODUCERS]
    # Only the driver uses these:
    pthread_t threads[MAX_PRODUCERS + 3]
    int thread_count
    # Shared:
    atomic_u64 failure            # a Failure, which ends the run unless it is NONE
    atomic_u64 finished           # 1: the receiver has returned, after success or failure
    atomic_u64 restarts           # number of times that the writer was stopped
    atomic_u64 flushes


cdef void run_fail(Run *run, Failure failure) noexcept nogil:
    """Store the first failure, which ends the run. Any thread."""
    if load_relaxed(&run.failure) == NONE:
        store_seq_cst(&run.failure, failure)


# --- the expected records ----------------------------------------------------------------------

cdef uint64_t seed_of(uint64_t producer, uint64_t sequence) noexcept nogil:
    """Return a pseudo-random number for a record, by multiplications and shifts."""
    cdef uint64_t seed = (sequence * MAX_PRODUCERS + producer + 1) * <uint64_t>0x9E3779B97F4A7C15
    seed = (seed ^ (seed >> 29)) * <uint64_t>0xBF58476D1CE4E5B9
    return seed ^ (seed >> 32)


cdef size_t length_of(uint64_t seed, uint64_t longest) noexcept nogil:
    """Return the length of a record, 1 to `longest` bytes. Seven of eight are short."""
    return <size_t>(1 + (seed >> 8) % (longest if seed % 8 == 0 else SHORT_LENGTH))


cdef char byte_of(uint64_t seed, size_t index) noexcept nogil:
    """Return the byte at `index` of a record, for an index of at least 1."""
    return <char>((seed >> (8 * (index % 8))) + index // 8)


cdef void run_check(Run *run, const char *data, size_t length) noexcept nogil:
    """Check that this is the next record of the producer that its first byte names.

    Only the receiver.
    """
    cdef uint64_t producer = <unsigned char>data[0]
    cdef uint64_t seed
    if length == 0 or producer >= run.producer_count:
        run_fail(run, FOREIGN_RECORD)
        return
    seed = seed_of(producer, run.next_sequence[producer])
    if length != length_of(seed, run.ring.max_length):
        run_fail(run, WRONG_LENGTH)
        return
    for index in range(1, length):
        if data[index] != byte_of(seed, index):
            run_fail(run, WRONG_BYTES)
            return
    run.next_sequence[producer] += 1
    run.received += 1


# --- the threads -------------------------------------------------------------------------------

cdef Record *producer_reserve(Run *run, size_t length, uint64_t severity,
                              uint64_t *used) noexcept nogil:
    """Reserve a record, and wait for space as Engine.await_space() does.

    Return NULL when the run is over. Producers only.
    """
    cdef Record *record
    cdef uint64_t tail
    while not load_relaxed(&run.failure):
        if run.writer == NULL:
            record = ring_try_reserve(run.ring, length, severity, used)
            if record != NULL:
                return record
            sched_yield()
            continue
        tail = load_acquire(&run.ring.positions.tail.value)
        record = ring_try_reserve(run.ring, length, severity, used)
        if record != NULL:
            return record
        if writer_notify(run.writer, True) != 0:
            run_fail(run, NO_THREAD)
            return NULL
        writer_await_tail(run.writer, tail + record_span(length), 10 * MILLISECOND)
    return NULL


cdef void producer_notify(Run *run, bint at_once) noexcept nogil:
    """Notify the writer of a committed record. If `paced`, wait until it is sent."""
    cdef uint64_t target
    if writer_notify(run.writer, at_once or run.paced) != 0:
        run_fail(run, NO_THREAD)
    elif run.paced:
        # Do not notify again: one call must be sufficient.
        target = load_relaxed(&run.ring.positions.head.value)
        writer_await_tail(run.writer, target, STUCK_SECONDS * <uint64_t>1_000_000_000)
        if load_acquire(&run.ring.positions.tail.value) < target:
            run_fail(run, MISSED_WAKEUP)


cdef void *producer_main(void *argument) noexcept nogil:
    """Run the thread of a Producer: reserve, fill and commit its records."""
    cdef Producer *producer = <Producer *>argument
    cdef Run *run = producer.run
    cdef uint64_t sequence, seed, used = 0
    cdef size_t length, index
    cdef Record *record
    for sequence in range(run.records):
        seed = seed_of(producer.number, sequence)
        length = length_of(seed, run.ring.max_length)
        record = producer_reserve(run, length, sequence % 8, &used)
        if record == NULL:
            break
        record_bytes(record)[0] = <char>producer.number
        for index in range(1, length):
            record_bytes(record)[index] = byte_of(seed, index)
        if run.writer == NULL:
            ring_commit(record, 0)
        else:
            add_relaxed(&run.writer.counters.accepted.value, 1)
            ring_commit(record, 0)
            producer_notify(run, sequence % 16 == 0 or used > run.ring.capacity // 2)
    return NULL


cdef void *consumer_main(void *argument) noexcept nogil:
    """Run the thread that replaces the writer in run_ring(): check records, then release them."""
    cdef Run *run = <Run *>argument
    cdef uint64_t total = run.producer_count * run.records
    cdef uint64_t tail, position = 0, header, last_progress = monotonic_ns()
    while run.received < total and not load_relaxed(&run.failure):
        tail = position
        while position - tail < run.ring.capacity:
            header = ring_peek(run.ring, position)
            if header == 0:
                break
            run_check(run, record_bytes(ring_at(run.ring, position)), header & LENGTH_MASK)
            position += record_span(header & LENGTH_MASK)
        if position != tail:
            ring_release(run.ring, position)
            last_progress = monotonic_ns()
        elif monotonic_ns() - last_progress > STUCK_SECONDS * <uint64_t>1_000_000_000:
            run_fail(run, STUCK)
        else:
            sched_yield()
    return NULL


cdef void *receiver_main(void *argument) noexcept nogil:
    """Run the thread that replaces the daemon: read datagrams until all have arrived.

    It fails when none arrives for STUCK_SECONDS.
    """
    cdef Run *run = <Run *>argument
    cdef uint64_t total = run.producer_count * run.records
    cdef size_t size = run.ring.max_length + 1        # so that a longer record fails the check
    cdef char *data = <char *>malloc(size)
    cdef ssize_t length
    while run.received < total and not load_relaxed(&run.failure):
        length = recv(run.receiver_fd, data, size, 0) if data != NULL else -1
        if length < 0:
            run_fail(run, STUCK)              # the socket has SO_RCVTIMEO
        else:
            run_check(run, data, <size_t>length)
    free(data)
    store_seq_cst(&run.finished, 1)
    return NULL


cdef void *restarter_main(void *argument) noexcept nogil:
    """Run the thread that stops the writer repeatedly. Records and flushes start it again."""
    cdef Run *run = <Run *>argument
    while not load_acquire(&run.finished):
        writer_await_tail(run.writer, load_acquire(&run.ring.positions.tail.value) + 1, MILLISECOND)
        writer_stop(run.writer)
        add_relaxed(&run.restarts, 1)
    return NULL


cdef void *flusher_main(void *argument) noexcept nogil:
    """Run the thread that flushes repeatedly, as Engine.flush() does.

    It also reads the counters in the order of Engine.stats().
    """
    cdef Run *run = <Run *>argument
    cdef Writer *writer = run.writer
    cdef uint64_t target, finished
    while not load_acquire(&run.finished):
        target = load_relaxed(&run.ring.positions.head.value)
        while (load_acquire(&run.ring.positions.tail.value) < target
               and not load_acquire(&run.finished)):
            if writer_notify(writer, True) != 0:
                run_fail(run, NO_THREAD)
            writer_await_tail(writer, target, 10 * MILLISECOND)
        add_relaxed(&run.flushes, 1)
        # As a producer that evicts does, if `evicting`.
        writer_unlock_tail(writer, writer_lock_tail(writer))
        finished = (load_acquire(&writer.counters.sent.value)
                    + sum_losses(&writer.counters, EVICTED, UNSENDABLE))
        if finished > load_relaxed(&writer.counters.accepted.value):
            run_fail(run, BAD_SUMS)
        sched_yield()
    return NULL


# --- the driver --------------------------------------------------------------------------------

cdef void run_start(Run *run, void *(*entry)(void *) noexcept nogil, void *argument) noexcept nogil:
    """Start a thread that run_threads() joins."""
    if pthread_create(&run.threads[run.thread_count], NULL, entry, argument) == 0:
        run.thread_count += 1
    else:
        run_fail(run, NO_THREAD)


cdef void run_init(Run *run, Ring *ring, uint64_t producers, uint64_t records) noexcept nogil:
    """Initialize a run over the ring alone. `records` is the number for each producer."""
    memset(run, 0, sizeof(Run))
    run.ring = ring
    run.producer_count = producers
    run.records = records


cdef void run_threads(Run *run, bint disturbed) noexcept nogil:
    """Start all threads, the receiver first, and join them."""
    cdef uint64_t number
    run_start(run, consumer_main if run.writer == NULL else receiver_main, run)
    if disturbed:
        run_start(run, flusher_main, run)
        run_start(run, restarter_main, run)
    for number in range(run.producer_count):
        run.producers[number].run = run
        run.producers[number].number = number
        run_start(run, producer_main, &run.producers[number])
    for number in range(<uint64_t>run.thread_count):
        pthread_join(run.threads[number], NULL)


cdef bint ring_is_clean(Ring *ring) noexcept nogil:
    """Return whether the ring is empty and all its memory is zero."""
    for index in range(ring.capacity):
        if ring.memory[index] != 0:
            return False
    return load_relaxed(&ring.positions.head.value) == load_relaxed(&ring.positions.tail.value)


cdef int raise_failure(Run *run) except -1:
    """Raise RuntimeError if the run failed or left the ring unclean."""
    cdef uint64_t failure = load_acquire(&run.failure)
    if failure != NONE:
        sequences = [run.next_sequence[i] for i in range(run.producer_count)]
        raise RuntimeError(f"{FAILURES[failure]}; next sequence numbers expected: {sequences}")
    if not ring_is_clean(run.ring):
        raise RuntimeError("all records arrived, but the ring is not empty and zero")
    return 0


def check_arguments(producers):
    """Raise ValueError unless the number of producers is supported."""
    if not 1 <= producers <= MAX_PRODUCERS:
        raise ValueError(f"from 1 to {MAX_PRODUCERS} producers")


def run_ring(uint64_t producers, uint64_t records, uint64_t capacity):
    """Run producers and a consumer over the ring alone, with `records` for each producer.

    No lock, socket or sleep establishes an order that the ring must establish itself. Raise
    RuntimeError with the first failure.
    """
    cdef Ring ring
    cdef Run run
    check_arguments(producers)
    if ring_create(&ring, capacity) != 0:
        raise OSError("ring_create failed")
    try:
        run_init(&run, &ring, producers, records)
        with nogil:
            run_threads(&run, False)
        raise_failure(&run)
    finally:
        ring_destroy(&ring)


cdef dict writer_counters(Run *run):
    """Return the counters as a dict, after checking that they agree with the run."""
    cdef Writer *writer = run.writer
    cdef uint64_t total = run.producer_count * run.records
    counters = {
        "accepted": load_relaxed(&writer.counters.accepted.value),
        "sent": load_relaxed(&writer.counters.sent.value),
        "discarded": sum_losses(&writer.counters, EVICTED, UNSENDABLE),
        "send_errors": load_relaxed(&writer.counters.send_errors),
        "high_watermark": load_relaxed(&writer.counters.high_watermark),
        "wakeups": load_relaxed(&writer.counters.wakeups),
        "restarts": load_relaxed(&run.restarts),
        "flushes": load_relaxed(&run.flushes),
    }
    if (counters["accepted"] != total or counters["sent"] != total or counters["discarded"]
            or counters["send_errors"] or not 0 < counters["high_watermark"] <= run.ring.capacity):
        raise RuntimeError(f"{total} records arrived, but the counters are {counters}")
    return counters


def run_writer(bytes path, uint64_t producers, uint64_t records, uint64_t capacity,
               uint64_t linger_ns, bint paced=False, bint disturbed=False, bint evicting=False):
    """Run producers, the real writer, and a receiver on a datagram socket bound to `path`.

    records: the number for each producer.
    linger_ns: the shortest linger interval.
    paced: a producer waits until its record is sent before it makes the next, and does not notify
        twice. With one producer, a missed wakeup fails the run.
    disturbed: one more thread stops the writer repeatedly, and another one flushes.
    evicting: the writer locks the tail, and so does the thread that flushes.

    Return the counters. Raise RuntimeError with the first failure.
    """
    cdef Run run
    cdef Writer *writer
    check_arguments(producers)
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as receiver:
        receiver.bind(path)
        receiver.setsockopt(socket.SOL_SOCKET, socket.SO_RCVTIMEO,
                            struct.pack("ll", STUCK_SECONDS, 0))
        writer = writer_create(capacity, linger_ns, SOCK_DGRAM, -1, False)
        if writer == NULL:
            raise OSError("writer_create failed")
        try:
            destination_add_path(&writer.transport.destination, path, len(path))
            run_init(&run, &writer.ring, producers, records)
            run.writer = writer
            writer.evicting = evicting
            run.paced = paced
            run.receiver_fd = receiver.fileno()
            with nogil:
                run_threads(&run, disturbed)
                # Join the writer: it counts a record after the receiver may have it.
                writer_stop(writer)
            raise_failure(&run)
            return writer_counters(&run)
        finally:
            writer_destroy(writer)


cdef int put_one(Writer *writer, char byte) except -1:
    """Put a record of one byte into the ring of a writer, and wake it."""
    cdef uint64_t used = 0
    cdef Record *record = ring_try_reserve(&writer.ring, 1, 0, &used)
    if record == NULL:
        raise RuntimeError("the ring is full")
    record_bytes(record)[0] = byte
    ring_commit(record, 0)
    if writer_notify(writer, True) != 0:
        raise OSError("no thread")
    return 0


def run_orphans(bytes path, int writers, int records):
    """Orphan writers one after the other, every second one when it has sent its records already.

    Each must send its records and free itself. Raise RuntimeError if a record is missing.
    """
    cdef Writer *writer
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as receiver:
        receiver.bind(path)
        receiver.settimeout(STUCK_SECONDS)
        for number in range(writers):
            writer = writer_create(4096, 0, SOCK_DGRAM, -1, False)
            if writer == NULL:
                raise OSError("writer_create failed")
            destination_add_path(&writer.transport.destination, path, len(path))
            received = []
            for i in range(records):
                put_one(writer, <char>i)
            if number % 2:
                received = [receiver.recv(2) for _ in range(records)]
            with nogil:
                writer_orphan(writer, STUCK_SECONDS * <uint64_t>1_000_000_000)
            received += [receiver.recv(2) for _ in range(records - len(received))]
            if received != [bytes([i]) for i in range(records)]:
                raise RuntimeError(f"an orphaned writer sent {received}")
