# cython: language_level=3, boundscheck=False, wraparound=False
"""Engine: a ring and its writer, seen from Python. The only border between the two worlds."""
cimport cython
from cpython.bytes cimport PyBytes_AS_STRING, PyBytes_GET_SIZE
from cpython.exc cimport PyErr_CheckSignals, PyErr_SetFromErrno
from libc.stdint cimport uint32_t, uint64_t
from libc.string cimport memcpy
from posix.mman cimport MAP_ANONYMOUS, MAP_FAILED, MAP_PRIVATE, PROT_READ, PROT_WRITE, madvise, mmap

from fastlog._stats import Stats

from fastlog._atomics cimport (add_relaxed, atomic_u64, cas_relaxed, load_acquire, load_relaxed,
                               load_seq_cst, store_relaxed)
from fastlog._clock cimport MILLISECOND, monotonic_ns
from fastlog._frame cimport (FRAME_START_MAX, FRAMING_ROOM, NEWLINE, OCTET_COUNTING,
                             frame_priority_size, frame_start)
from fastlog._message cimport (Message, message_add, message_begin, message_copy, message_end,
                               message_make_one_line, message_shorten)
from fastlog._ring cimport (SHORTENED, Record, record_bytes, record_span, ring_commit,
                            ring_try_reserve)
from fastlog._transport cimport SEND_PATIENCE, TRANSPORT_BATCH, transport_add_path
from fastlog._writer cimport (STOPPED, Writer, writer_await_tail, writer_begin_trouble,
                              writer_create, writer_destroy, writer_leave, writer_notify,
                              writer_offer_socket, writer_start, writer_stop)

cdef extern from "<sys/mman.h>" nogil:
    int MADV_WIPEONFORK

cdef enum:
    WARNING_SEVERITY = 4              # RFC 5424 section 6.2.1; smaller is worse
    # The longest a waiting thread takes to notice Ctrl-C.
    SIGNAL_CHECK = 50 * MILLISECOND
    # How often a thread that waits for room looks whether the writer makes progress.
    PROGRESS_CHECK = 10 * MILLISECOND
    # It is woken when this part of the ring is free: not for each record's room.
    ROOM_SHARE = 32


# --- which process is this? --------------------------------------------------------------------

# A word on a page that the kernel hands to a forked child as zeros: madvise(2),
# MADV_WIPEONFORK, Linux 4.14. So a fork is noticed by one load, also when it was
# made in C and no hook of Python's ran. All other memory is copied: the child
# counts on from its parent's number, and no number is met twice in one line.
cdef atomic_u64 *process_page
cdef atomic_u64 process_count


cdef int map_process_page() except -1:
    global process_page
    cdef void *page = mmap(NULL, sizeof(atomic_u64), PROT_READ | PROT_WRITE,
                           MAP_PRIVATE | MAP_ANONYMOUS, -1, 0)
    if page == MAP_FAILED or madvise(page, sizeof(atomic_u64), MADV_WIPEONFORK) != 0:
        PyErr_SetFromErrno(OSError)
    process_page = <atomic_u64 *>page
    return 0


cdef uint64_t name_process() noexcept nogil:
    cdef uint64_t nobody = 0
    cdef uint64_t number = add_relaxed(&process_count, 1) + 1
    while not cas_relaxed(process_page, &nobody, number):
        if nobody != 0:           # another thread was first
            return nobody
    return number


cdef inline uint64_t generation_now() noexcept nogil:
    """A number that a process does not share with its parent. Any thread."""
    cdef uint64_t number = load_relaxed(process_page)
    return number if number != 0 else name_process()


map_process_page()


cdef class Engine:
    """One ring and one writer thread that sends to a socket.

    Thread-safe, all of it. The arguments are checked by the handler.

    paths: socket paths as bytes, tried in order at each connect. With a host: ().
    host, service: name or address, and port, as bytes; resolved by the writer.
    socktype: SOCK_DGRAM, SOCK_STREAM, or 0 for datagram with fallback to stream.
    connect_timeout: seconds that a TCP connect may take; 0: what the kernel allows.
    adopting: connect nothing; sockets come by adopt().
    framing: 0: none, 1: octet counting, 2: newline (RFC 6587).
    capacity: bytes of the ring, a power of two and at least a page.
    block: whether a record that finds no room waits.
    block_timeout: seconds without progress after which it is dropped and the engine is stalled.
    linger: seconds of the writer's first look-again interval; 0: none.
    """

    def __cinit__(self, paths, *, host=b"", service=b"", int socktype=0,
                  double connect_timeout=0.0, bint adopting=False, int framing=0,
                  uint64_t capacity, bint block, double block_timeout, double linger):
        self.paths = tuple(paths)
        self.host = host
        self.service = service
        self.socktype = socktype
        self.connect_timeout = <uint64_t>(connect_timeout * 1e9)
        self.adopting = adopting
        self.framing = framing
        self.capacity = capacity
        self.block = block
        self.block_timeout = <uint64_t>(block_timeout * 1e9)
        self.linger = <uint64_t>(linger * 1e9)
        self.generation = generation_now()
        self.writer = self.new_writer()

    def __dealloc__(self):
        cdef bint joined = True
        if self.writer == NULL:
            return
        if self.generation != generation_now():
            writer_leave(self.writer)
            return
        with nogil:
            joined = writer_stop(self.writer)
        if joined:
            writer_destroy(self.writer)

    cdef Writer *new_writer(self) except NULL:
        cdef Writer *writer = writer_create(self.capacity, self.linger, self.socktype)
        cdef bytes path
        if writer == NULL:
            PyErr_SetFromErrno(OSError)
        for path in self.paths:
            transport_add_path(&writer.transport, PyBytes_AS_STRING(path), PyBytes_GET_SIZE(path))
        # Both fit with their NUL: the handler has seen to it.
        memcpy(writer.transport.host, PyBytes_AS_STRING(self.host), len(self.host) + 1)
        memcpy(writer.transport.service, PyBytes_AS_STRING(self.service), len(self.service) + 1)
        writer.transport.connect_timeout = self.connect_timeout
        writer.transport.adopting = self.adopting
        # Unless a batch that goes slowly would look like no progress.
        writer.transport.patient = (not self.block or self.block_timeout
                                    >= 2 * TRANSPORT_BATCH * <uint64_t>SEND_PATIENCE)
        self.told = self.told_dropped = 0
        return writer

    cdef int ensure_ours(self) except -1:
        """After a fork: leave the parent's ring to the parent and start with an empty one."""
        cdef Writer *writer
        if self.generation == generation_now():
            return 0
        with cython.critical_section(self):
            if self.generation != generation_now():
                writer = self.new_writer()
                writer_leave(self.writer)
                self.writer = writer
                self.generation = generation_now()
        return 0

    cdef int await_tail(self, uint64_t wanted, uint64_t timeout) except -1:
        """Wait, without the GIL, until the ring's tail is at `wanted`; at most `timeout` ns.

        Signal handlers run, so this may raise, and even return in a forked child.
        """
        with nogil:
            writer_await_tail(self.writer, wanted, timeout)
        PyErr_CheckSignals()
        return self.ensure_ours()

    def submit(self, uint32_t priority, message, prefix=None, bint append_nul=False,
               bint urgent=False):
        """Put `message` into the ring. Returns whether it was accepted.

        priority: facility << 3 | severity. prefix: str before the message.
        urgent: wake the writer at once.

        Raises TypeError or ValueError for arguments no record can be made of,
        OSError if the writer thread cannot be started (the record is kept).
        """
        cdef Message pieces
        message_begin(&pieces)
        try:
            if prefix:
                message_add(&pieces, prefix)
            message_add(&pieces, message)
            return bool(self.put(priority, &pieces, append_nul, urgent) & PUT_ACCEPTED)
        finally:
            message_end(&pieces)

    cdef int put(self, uint32_t priority, Message *message, bint append_nul,
                 bint urgent) except -1:
        """submit(), for native callers; may shorten `message`. Returns flags: Put."""
        cdef char start[FRAME_START_MAX]      # what comes before the message
        cdef size_t start_size, longest, size
        cdef bint privileged = priority % 8 <= WARNING_SEVERITY
        cdef bint append_newline = self.framing == NEWLINE
        cdef uint64_t used = 0, flags = 0
        cdef Record *record
        cdef char *out
        cdef int error
        if append_newline:
            message_make_one_line(message)
        self.ensure_ours()

        longest = (self.writer.ring.max_length - frame_priority_size(priority) - append_nul
                   - (FRAMING_ROOM if self.framing else 0))
        if message.size > longest:
            message_shorten(message, longest)
            add_relaxed(&self.writer.counters.truncated, 1)
            flags = SHORTENED
        start_size = frame_start(start, priority, message.size + append_nul,
                                 self.framing == OCTET_COUNTING)
        size = start_size + message.size + append_nul + append_newline

        record = ring_try_reserve(&self.writer.ring, size, privileged, &used)
        if record == NULL:
            record = self.await_room(size, privileged, &used)
            if record == NULL:
                return self.look_for_news()
        out = record_bytes(record)
        memcpy(out, start, start_size)
        message_copy(message, out + start_size)
        if append_nul:
            out[start_size + message.size] = 0
        if append_newline:
            out[size - 1] = c'\n'
        add_relaxed(&self.writer.counters.accepted.value, 1)
        ring_commit(record, size, flags)
        error = writer_notify(self.writer, urgent or used > self.capacity // 2)
        if error:
            raise OSError(error, "cannot start the writer thread")
        return PUT_ACCEPTED | self.look_for_news() | (PUT_FLUSH if self.synchronous else 0)

    def be_synchronous(self):
        """From now on each put asks its caller to flush."""
        self.synchronous = True

    cdef int look_for_news(self) noexcept:
        return PUT_NEWS if load_relaxed(&self.writer.trouble.value) != self.told else 0

    def news(self):
        """What began or ended since the last call: None, or (over, dropped, errno).

        over: records go out again. dropped: how many were refused since this
        last was so. errno: of the last failed connect or send.
        """
        self.ensure_ours()
        cdef uint64_t number = load_relaxed(&self.writer.trouble.value)
        if number == self.told:
            return None
        cdef uint64_t dropped = load_relaxed(&self.writer.counters.dropped.value)
        fresh = dropped - self.told_dropped
        unheard = self.told % 2 == 0 and number % 2 == 0
        self.told = number
        if number % 2 == 0:
            self.told_dropped = dropped
        if unheard and fresh == 0:    # over before anybody asked, and nothing lost
            return None
        return number % 2 == 0, fresh, load_relaxed(&self.writer.counters.last_errno)

    def wants_socket(self):
        """Whether the writer of an adopting engine has no socket and asks for one."""
        self.ensure_ours()
        return (self.adopting and load_relaxed(&self.writer.has_socket) == 0
                and load_relaxed(&self.writer.offered_fd.value) == 0)

    def adopt(self, int fd):
        """Hand over a connected socket; the engine owns the descriptor from now on."""
        self.ensure_ours()
        writer_offer_socket(self.writer, fd)

    cdef Record *await_room(self, size_t size, bint privileged, uint64_t *used) except? NULL:
        """The ring is full: wait while the writer makes progress, as far as the policy says.

        Returns NULL, and has counted the record as dropped, when it is not to be had.
        """
        cdef Record *record = NULL
        cdef uint64_t tail = load_acquire(&self.writer.ring.tail.value)
        cdef uint64_t now = monotonic_ns()
        cdef uint64_t deadline = now + self.block_timeout
        while self.block and not load_relaxed(&self.writer.stalled.value):
            if now >= deadline:
                store_relaxed(&self.writer.stalled.value, 1)
                break
            if writer_notify(self.writer, True) != 0:
                break
            try:
                self.await_tail(tail + max(record_span(size), self.capacity // ROOM_SHARE),
                                min(deadline - now, <uint64_t>PROGRESS_CHECK))
            except BaseException:
                add_relaxed(&self.writer.counters.dropped.value, 1)
                raise
            record = ring_try_reserve(&self.writer.ring, size, privileged, used)
            if record != NULL:
                return record
            now = monotonic_ns()
            if load_acquire(&self.writer.ring.tail.value) != tail:
                tail = load_acquire(&self.writer.ring.tail.value)
                deadline = now + self.block_timeout
        add_relaxed(&self.writer.counters.dropped.value, 1)
        writer_begin_trouble(self.writer)
        return NULL

    def flush(self, double timeout):
        """Wait until all accepted before the call is sent or discarded; False after `timeout` s.

        After close() this starts no writer: then it is False at once if records are left.
        """
        self.ensure_ours()
        cdef uint64_t generation = self.generation
        cdef uint64_t target = load_relaxed(&self.writer.ring.head.value)
        cdef uint64_t now = monotonic_ns()
        cdef uint64_t deadline = now + <uint64_t>(timeout * 1e9)
        cdef uint64_t tail
        while self.generation == generation:
            tail = load_acquire(&self.writer.ring.tail.value)
            if tail >= target:
                break
            if now >= deadline or load_seq_cst(&self.writer.state.value) == STOPPED:
                return False
            writer_notify(self.writer, True)
            self.await_tail(target, min(deadline - now, <uint64_t>SIGNAL_CHECK))
            now = monotonic_ns()
        return True

    def close(self, double timeout):
        """Flush, stop the writer and join it. Returns the number of records left in the ring.

        A later submit() starts a new writer, which sends those first. Without
        a writer there is nothing to do, and 0 is returned.
        """
        cdef uint64_t deadline = monotonic_ns() + <uint64_t>(timeout * 1e9)
        cdef uint64_t now
        cdef bint flushed, joined
        self.ensure_ours()
        writer_offer_socket(self.writer, -1)
        while load_seq_cst(&self.writer.state.value) != STOPPED:
            now = monotonic_ns()
            flushed = self.flush((deadline - now) / 1e9 if now < deadline else 0.0)
            with nogil:
                joined = writer_stop(self.writer)
            # A record may have slipped in between the two: then once more.
            pending = self.stats().pending
            if not joined:
                self.writer = self.new_writer()   # the old one is lost, with what it holds
                return pending
            if pending and not flushed:
                return pending
            if pending:
                writer_start(self.writer)
        return 0

    def stats(self):
        """The counters now, as Stats."""
        self.ensure_ours()
        cdef Writer *writer = self.writer
        # In this order: see _counters.pxd.
        cdef uint64_t sent = load_acquire(&writer.counters.sent.value)
        cdef uint64_t discarded = load_acquire(&writer.counters.discarded)
        cdef uint64_t accepted = load_relaxed(&writer.counters.accepted.value)
        cdef uint64_t dropped = load_relaxed(&writer.counters.dropped.value)
        cdef uint64_t tail = load_acquire(&writer.ring.tail.value)
        cdef uint64_t used = load_relaxed(&writer.ring.head.value) - tail
        cdef uint64_t high = load_relaxed(&writer.counters.high_watermark)
        return Stats(
            submitted=accepted + dropped,
            accepted=accepted,
            sent=sent,
            dropped=dropped,
            discarded=discarded,
            pending=accepted - sent - discarded,
            pending_bytes=used,
            high_watermark=max(high, used),
            capacity=self.capacity,
            truncated=load_relaxed(&writer.counters.truncated),
            reconnects=load_relaxed(&writer.counters.reconnects),
            send_errors=load_relaxed(&writer.counters.send_errors),
            last_errno=load_relaxed(&writer.counters.last_errno),
            wakeups=load_relaxed(&writer.counters.wakeups),
            stalled=bool(load_relaxed(&writer.stalled.value)))
