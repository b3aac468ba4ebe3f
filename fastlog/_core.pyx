# cython: language_level=3, boundscheck=False, wraparound=False, freethreading_compatible=True
"""Engine: a ring and its writer, seen from Python. The only border between the two worlds."""
cimport cython
from cpython.bytes cimport PyBytes_AS_STRING, PyBytes_GET_SIZE
from cpython.exc cimport PyErr_CheckSignals, PyErr_SetFromErrno
from cpython.ref cimport Py_INCREF
from libc.errno cimport EBADMSG, errno
from libc.stdint cimport uint32_t, uint64_t
from libc.string cimport memcpy
from posix.mman cimport MAP_ANONYMOUS, MAP_FAILED, MAP_PRIVATE, PROT_READ, PROT_WRITE, madvise, mmap
from posix.unistd cimport close, getpid

from fastlog._backend.atomics cimport (add_relaxed, atomic_u64, cas_relaxed, exchange_seq_cst,
                               load_acquire, load_relaxed, load_seq_cst, store_relaxed,
                               store_release)
from fastlog._backend.clock cimport MILLISECOND, monotonic_ns
from fastlog._backend.counters cimport (EVICTED, FULL, INTERRUPTED, LOSSES, SEVERITIES, STALLED,
                                UNSENDABLE, Loss, count_loss, count_lost, count_owned)
from fastlog._backend.framing cimport (ENTRY, FRAME_START_MAX, FRAMING_OVERHEAD_MAX, NEWLINE, OCTET_COUNTING,
                             UNFRAMED, frame_priority_size, frame_start, frame_utf8_floor)
from fastlog._engine.message cimport (Message, message_add, message_add_bytes, message_begin,
                               message_bytes, message_copy, message_end, message_escape,
                               message_truncate)
from fastlog._backend.posix cimport SOCK_STREAM
from fastlog._engine.registry cimport Registry, registry_add, registry_remove
from fastlog._backend.ring cimport (LENGTH_MASK, TRUNCATED, DISCARDED, RecoveryStats, Record, Ring, record_bytes,
                            record_span, ring_at, ring_commit, ring_detach, ring_peek,
                            ring_release, ring_try_reserve, ring_used)
from fastlog._backend.writer_thread cimport (writer_create, writer_destroy, writer_discard_inherited, writer_notify,
                              writer_start, writer_stop)
from fastlog._engine.freethreading cimport FREE_THREADED
from fastlog._backend.transport cimport (SEND_TIMEOUT, TRANSPORT_BATCH, transport_add_path,
                                 transport_is_network)
from fastlog._backend.writer cimport (STOPPED, Writer, writer_await_tail, writer_enter_outage,
                              writer_evict, writer_offer_socket)

cdef extern from "<sys/mman.h>" nogil:
    int MADV_WIPEONFORK

cdef extern from "_engine/freethreading.h" nogil:
    Writer *pointer_load(Writer **place)
    void pointer_store(Writer **place, Writer *writer)

cdef enum:
    # The longest a waiting thread takes to notice Ctrl-C.
    SIGNAL_CHECK = 50 * MILLISECOND
    # How often a thread that waits for room looks whether the writer makes progress.
    PROGRESS_CHECK = 10 * MILLISECOND
    # It is woken when this part of the ring is free: not for each record's room.
    WAKE_SHARE = 32


# --- which process is this? --------------------------------------------------------------------

# A header on a page that the kernel hands to a forked child as zeros: madvise(2),
# MADV_WIPEONFORK, Linux 4.14. So a fork is noticed by one load, also when it was
# made in C and no hook of Python's ran. All other memory is copied: the child
# counts on from its parent's number, and no number is met twice in one line.
cdef atomic_u64 *fork_page
cdef atomic_u64 last_fork_epoch


cdef int map_fork_page() except -1:
    global fork_page
    cdef void *page = mmap(NULL, sizeof(atomic_u64), PROT_READ | PROT_WRITE,
                           MAP_PRIVATE | MAP_ANONYMOUS, -1, 0)
    if page == MAP_FAILED or madvise(page, sizeof(atomic_u64), MADV_WIPEONFORK) != 0:
        PyErr_SetFromErrno(OSError)
    fork_page = <atomic_u64 *>page
    return 0


cdef uint64_t assign_fork_epoch() noexcept nogil:
    cdef uint64_t nobody = 0
    cdef uint64_t number = add_relaxed(&last_fork_epoch, 1) + 1
    while not cas_relaxed(fork_page, &nobody, number):
        if nobody != 0:           # another thread was first
            return nobody
    return number


cdef inline uint64_t current_fork_epoch() noexcept nogil:
    """A number that a process does not share with its parent. Any thread."""
    cdef uint64_t number = load_relaxed(fork_page)
    return number if number != 0 else assign_fork_epoch()


map_fork_page()


# For _engine/crash_drain.pyx, which is imported only when it is target_tail.
cdef Registry registry


cdef Registry *live_writers() noexcept:
    return &registry


# Of fastlog._stats, which takes as long to import as this: with the first Engine.
cdef object Stats = None
cdef object named_losses = None


cdef int import_stats() except -1:
    global Stats, named_losses
    from fastlog._stats import Stats as cls, named_losses as function
    Stats, named_losses = cls, function
    return 0


cdef class Engine:
    """One ring and one writer thread that sends to a socket.

    Thread-safe, all of it. The arguments are checked by the handler.

    paths: socket paths as bytes, tried in order at each connect. With a host: ().
    host, service: name or address, and port, as bytes; resolved by the writer.
    socktype: SOCK_DGRAM, SOCK_STREAM, or 0 for datagram with fallback to stream.
    connect_timeout: seconds that a TCP connect may take; 0: what the kernel allows.
    adopting: connect nothing; sockets come by adopt().
    framing: 0: none, 1: octet counting, 2: newline (RFC 6587), 3: entries of the journal.
    capacity: bytes of the ring, a power of two and at least a page.
    overflow: 0: a record that finds no room waits, 1: it is dropped, 2: the oldest are discarded.
    block_timeout: seconds without progress after which it is dropped and the engine is stalled.
    linger: seconds of the writer's first look-again interval; 0: none.
    max_size: bytes of a record, framing not included; 0: what the ring and the socket take.
    split: whether a longer record becomes several instead of being truncated.
    spool: None, or an object whose open() returns the descriptor of a file for the ring: its
        first page is Spool's and holds the positions (see _backend/ring.pxd).
    """

    def __cinit__(self, paths, *, host=b"", service=b"", int socktype=0,
                  double connect_timeout=0.0, bint adopting=False, int framing=0,
                  uint64_t capacity, int overflow=BLOCK, double block_timeout=0.2,
                  double linger=0.0, size_t max_size=0, bint split=False, spool=None):
        if Stats is None:
            import_stats()
        self.paths = tuple(paths)
        self.host = host
        self.service = service
        self.socktype = socktype
        self.connect_timeout = <uint64_t>(connect_timeout * 1e9)
        self.adopting = adopting
        self.framing = framing
        self.capacity = capacity
        self.overflow = <Overflow>overflow
        self.block_timeout = <uint64_t>(block_timeout * 1e9)
        self.linger = <uint64_t>(linger * 1e9)
        self.max_size = max_size
        self.split = split
        self.spool = spool
        self.spooled = spool is not None
        store_relaxed(&self.fork_epoch, current_fork_epoch())
        if spool is None:
            self.writer = self.new_writer(-1, False)
            return
        try:
            self.writer = self.new_writer(spool.open(), spool.read_only)
        except BaseException:
            spool.release()       # who keeps the exception keeps the spool
            raise

    def __dealloc__(self):
        cdef bint joined = True
        if self.writer == NULL:
            return
        registry_remove(&registry, self.writer)
        if load_relaxed(&self.fork_epoch) != current_fork_epoch():
            writer_discard_inherited(self.writer)
            return
        with nogil:
            joined = writer_stop(self.writer)
        if joined:
            writer_destroy(self.writer)

    cdef Writer *new_writer(self, int spool_fd, bint read_only) except NULL:
        """spool_fd: -1 for memory of its own. Keeps the GIL, or a lock, all the time."""
        cdef Writer *writer = writer_create(self.capacity, self.linger, self.socktype, spool_fd,
                                            read_only)
        cdef bytes path
        if writer == NULL:
            if errno == EBADMSG:
                raise OSError(EBADMSG, "the spool is damaged: its positions make no sense",
                              self.spool.path)
            PyErr_SetFromErrno(OSError)
        writer.process = getpid()
        writer.evicting = self.overflow == DROP_OLDEST
        for path in self.paths:
            transport_add_path(&writer.transport, PyBytes_AS_STRING(path), PyBytes_GET_SIZE(path))
        # Both fit with their NUL: the handler has seen to it.
        memcpy(writer.transport.host, PyBytes_AS_STRING(self.host), len(self.host) + 1)
        memcpy(writer.transport.service, PyBytes_AS_STRING(self.service), len(self.service) + 1)
        writer.transport.connect_timeout = self.connect_timeout
        writer.transport.adopting = self.adopting
        writer.transport.by_memfd = self.framing == ENTRY
        # Unless a batch that goes slowly would look like no progress, or hold producers up.
        writer.transport.blocking_send = (
            self.overflow == DROP_NEW or self.overflow == BLOCK and self.block_timeout
            >= 2 * TRANSPORT_BATCH * <uint64_t>SEND_TIMEOUT)
        store_relaxed(&self.reported_epoch, 0)
        self.reported_lost = self.left_behind = 0
        self.reported_losses = None
        registry_add(&registry, writer)
        return writer

    cdef int ensure_current_process(self) except -1:
        """After a fork: leave the parent's ring to the parent and start with an empty one."""
        cdef Writer *writer
        cdef object before = None     # to the end: its last reference goes by Python code, __del__
        cdef object spool = None
        cdef int fd = -1
        if load_acquire(&self.fork_epoch) == current_fork_epoch():
            return 0
        if self.spooled:
            # Python code: other threads run meanwhile, and handlers of signals. Who of them
            # comes here, too, has a file of its own, and the first one to be ready its writer.
            before = self.spool_now()
            spool = before.for_child()
            fd = spool.open()
        with cython.critical_section(self):
            if load_relaxed(&self.fork_epoch) != current_fork_epoch():
                try:
                    writer = self.new_writer(fd, False)
                except OSError:
                    if fd < 0:
                        raise
                    writer = self.new_writer(-1, False)   # a file that is damaged stops no child
                fd = -1
                registry_remove(&registry, self.writer)
                writer_discard_inherited(self.writer)
                self.spool = spool
                pointer_store(&self.writer, writer)
                store_release(&self.fork_epoch, current_fork_epoch())
        if fd >= 0:
            spool.discard(fd)
        return 0

    cdef object spool_now(self):
        with cython.critical_section(self):
            return self.spool

    cdef int await_tail(self, Writer *writer, uint64_t target_tail, uint64_t timeout) except -1:
        """Wait, without the GIL, until the ring's tail is at `target_tail`; at most `timeout` ns.

        Signal handlers run, so this may raise, and even return in a forked child.
        """
        with nogil:
            writer_await_tail(writer, target_tail, timeout)
        PyErr_CheckSignals()
        return self.ensure_current_process()

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
            message_add(&pieces, prefix or "")
            message_add(&pieces, message)
            return bool(self.put(priority, &pieces, append_nul, urgent) & PUT_ACCEPTED)
        finally:
            message_end(&pieces)

    cdef int put(self, uint32_t priority, Message *message, bint append_nul,
                 bint urgent) except -1:
        """submit(), for native callers; may change `message`. Returns flags: Put.

        The first piece is what each part begins with, if the message has to be split.
        """
        cdef size_t longest
        if self.framing == NEWLINE or self.framing == UNFRAMED and self.socktype == SOCK_STREAM:
            message_escape(message, not append_nul and self.framing == UNFRAMED)
        self.ensure_current_process()
        longest = pointer_load(&self.writer).ring.max_length - (FRAMING_OVERHEAD_MAX if self.framing else 0)
        if self.max_size and self.max_size < longest:
            longest = self.max_size
        longest -= frame_priority_size(priority) + append_nul
        if message.size <= longest:
            return self.put_record(priority, message, append_nul, urgent, 0)
        if self.split and message.pieces[0].size <= longest // 2:
            return self.put_parts(priority, message, append_nul, urgent, longest)
        message_truncate(message, longest)
        add_relaxed(&pointer_load(&self.writer).counters.truncated, 1)
        return self.put_record(priority, message, append_nul, urgent, TRUNCATED)

    cdef size_t longest_entry(self) except 0:
        """Bytes that put_entry() takes."""
        self.ensure_current_process()
        return pointer_load(&self.writer).ring.max_length

    cdef int put_entry(self, uint32_t priority, Message *message, bint urgent,
                       bint truncated) except -1:
        """put(), for an entry of the journal. What is too long loses its end."""
        cdef size_t longest = self.longest_entry()
        if message.size > longest:
            message_truncate(message, longest)
            truncated = True
        if truncated:
            add_relaxed(&pointer_load(&self.writer).counters.truncated, 1)
        return self.put_record(priority, message, False, urgent, TRUNCATED if truncated else 0)

    cdef int put_parts(self, uint32_t priority, Message *message, bint append_nul, bint urgent,
                       size_t longest) except -1:
        """Put a message as several records: of each at most `longest` bytes, whole characters."""
        cdef Message part
        cdef bytes whole = message_bytes(message)
        cdef const char *text = PyBytes_AS_STRING(whole)
        cdef size_t start = message.pieces[0].size
        cdef size_t end = message.size
        cdef size_t size
        cdef size_t done = start
        cdef int outcome = PUT_ACCEPTED, each
        while done < end:
            size = end - done
            if size > longest - start:
                size = frame_utf8_floor(text + done, longest - start)
            message_begin(&part)
            message_add_bytes(&part, text, start)
            message_add_bytes(&part, text + done, size)
            each = self.put_record(priority, &part, append_nul, urgent and done + size == end, 0)
            outcome = (outcome & each & PUT_ACCEPTED) | ((outcome | each) & ~<int>PUT_ACCEPTED)
            done += size
        return outcome

    cdef int put_record(self, uint32_t priority, Message *message, bint append_nul, bint urgent,
                        uint64_t flags) except -1:
        """Put a message that fits."""
        if FREE_THREADED and self.spooled:
            # Not while detach_spool() is at it. Who waits for room gives the lock up meanwhile.
            with cython.critical_section(self):
                return self.write_record(priority, message, append_nul, urgent, flags)
        return self.write_record(priority, message, append_nul, urgent, flags)

    cdef int write_record(self, uint32_t priority, Message *message, bint append_nul, bint urgent,
                          uint64_t flags) except -1:
        """Reserve, fill, commit, notify."""
        cdef Writer *writer = pointer_load(&self.writer)
        cdef char start[FRAME_START_MAX]      # what comes before the message
        cdef bint append_newline = self.framing == NEWLINE
        cdef size_t start_size = 0 if self.framing == ENTRY else frame_start(
            start, priority, message.size + append_nul, self.framing == OCTET_COUNTING)
        cdef size_t size = start_size + message.size + append_nul + append_newline
        cdef uint64_t used = 0
        cdef Record *record = ring_try_reserve(&writer.ring, size, priority % 8, &used)
        cdef char *out
        cdef int error
        if record == NULL:
            record = self.find_space(&writer, size, priority % 8, &used)
            if record == NULL:
                return self.outage_changed()
        out = record_bytes(record)
        memcpy(out, start, start_size)
        message_copy(message, out + start_size)
        if append_nul:
            out[start_size + message.size] = 0
        if append_newline:
            out[size - 1] = c'\n'
        add_relaxed(&writer.counters.accepted.value, 1)
        ring_commit(record, flags)
        error = writer_notify(writer, urgent or used > self.capacity // 2)
        if error:
            raise OSError(error, "cannot start the writer thread")
        return (PUT_ACCEPTED | self.outage_changed()
                | (PUT_FLUSH if load_relaxed(&self.synchronous) else 0))

    def set_synchronous(self):
        """From now on each put asks its caller to flush."""
        store_relaxed(&self.synchronous, 1)

    cdef int outage_changed(self) noexcept:
        cdef uint64_t number = load_relaxed(&pointer_load(&self.writer).outage_epoch.value)
        return PUT_OUTAGE_CHANGED if number != load_relaxed(&self.reported_epoch) else 0

    def poll_outage(self):
        """What began or ended since the last call: None, or (over, lost, errno).

        over: records go out again. lost: how many were dropped or discarded since this
        last was so. errno: of the last failed connect or send.
        """
        self.ensure_current_process()
        cdef Writer *writer = pointer_load(&self.writer)
        cdef uint64_t number, reported, lost, fresh
        with cython.critical_section(self):
            number = load_relaxed(&writer.outage_epoch.value)
            reported = load_relaxed(&self.reported_epoch)
            if number == reported:
                return None
            lost = count_lost(&writer.counters, FULL, UNSENDABLE)
            fresh = lost - self.reported_lost
            store_relaxed(&self.reported_epoch, number)
            if number % 2 == 0:
                self.reported_lost = lost
        if reported % 2 == 0 and number % 2 == 0 and fresh == 0:
            return None               # over before anybody asked, and nothing lost
        return number % 2 == 0, fresh, load_relaxed(&writer.counters.last_errno)

    cdef list read_losses(self, Writer *writer):
        return [load_acquire(&writer.counters.lost[i]) for i in range(LOSSES * SEVERITIES)]

    def collect_losses(self, bint during_outage):
        """What was lost since the last call: None, or (losses, first, last).

        losses: as in Stats. first, last: when, in seconds since the epoch.
        during_outage: also while more is being lost.
        """
        self.ensure_current_process()
        cdef Writer *writer = pointer_load(&self.writer)
        if load_relaxed(&writer.outage_epoch.value) & 1 and not during_outage:
            return None
        cdef list losses, before
        cdef uint64_t first, last
        with cython.critical_section(self):
            first = exchange_seq_cst(&writer.counters.first_loss, 0)
            last = load_relaxed(&writer.counters.last_loss)
            losses = self.read_losses(writer)
            before = self.reported_losses or [0] * len(losses)
            self.reported_losses = losses
        fresh = named_losses([now - then for now, then in zip(losses, before)])
        return (fresh, (first or last) / 1e9, last / 1e9) if fresh else None

    def wants_socket(self):
        """Whether the writer of an adopting engine has no socket and asks for one."""
        self.ensure_current_process()
        cdef Writer *writer = pointer_load(&self.writer)
        return (self.adopting and load_relaxed(&writer.has_socket) == 0
                and load_relaxed(&writer.offered_fd.value) == 0)

    def adopt(self, int fd):
        """Hand over a connected socket; the engine owns the descriptor from now on."""
        self.ensure_current_process()
        writer_offer_socket(pointer_load(&self.writer), fd)

    cdef Record *find_space(self, Writer **place, size_t size, uint64_t severity,
                           uint64_t *used) except? NULL:
        """The ring is full: do what the policy says. NULL: the record is lost, and counted.

        place: whose ring it is; another's, if this is another process or a closed engine then.
        """
        cdef Writer *writer = place[0]
        cdef Record *record
        if load_seq_cst(&writer.state.value) == STOPPED:
            writer_start(writer)      # close() left a full ring, which nobody else would send
        if self.overflow == BLOCK:
            return self.await_space(place, size, severity, used)
        if self.overflow == DROP_OLDEST:
            # Ends: each turn finds room, and other threads can take it only with new records.
            while writer_evict(writer, size, severity):
                record = ring_try_reserve(&writer.ring, size, severity, used)
                if record != NULL:
                    return record
        self.lose(writer, FULL, severity)
        return NULL

    cdef void lose(self, Writer *writer, Loss why, uint64_t severity) noexcept:
        count_loss(&writer.counters, why, severity)
        writer_enter_outage(writer)

    cdef Record *await_space(self, Writer **place, size_t size, uint64_t severity,
                            uint64_t *used) except? NULL:
        """Wait while the writer makes progress."""
        cdef Writer *writer = place[0]
        cdef Record *record = NULL
        cdef uint64_t tail = load_acquire(&writer.ring.at.tail.value)
        cdef uint64_t now = monotonic_ns()
        cdef uint64_t deadline = now + self.block_timeout
        while not load_relaxed(&writer.stalled.value):
            if now >= deadline:
                store_relaxed(&writer.stalled.value, 1)
                break
            if writer_notify(writer, True) != 0:
                break
            try:
                self.await_tail(writer, tail + max(record_span(size), self.capacity // WAKE_SHARE),
                                min(deadline - now, <uint64_t>PROGRESS_CHECK))
            except BaseException:
                self.lose(pointer_load(&self.writer), INTERRUPTED, severity)
                raise
            writer = place[0] = pointer_load(&self.writer)
            record = ring_try_reserve(&writer.ring, size, severity, used)
            if record != NULL:
                return record
            now = monotonic_ns()
            if load_acquire(&writer.ring.at.tail.value) != tail:
                tail = load_acquire(&writer.ring.at.tail.value)
                deadline = now + self.block_timeout
        self.lose(writer, STALLED, severity)
        return NULL

    def recovered(self):
        """What the spool held at the beginning: (records, unfinished ones, bytes of damage)."""
        cdef RecoveryStats *found = &pointer_load(&self.writer).recovered
        return found.records, found.unfinished, found.damaged

    def start(self):
        """Start the writer now, for records that were in the spool."""
        cdef int error
        self.ensure_current_process()
        with cython.critical_section(self):           # detach_spool()
            error = writer_start(self.writer)
        if error:
            raise OSError(error, "cannot start the writer thread")

    def records(self):
        """The records in the ring as bytes, oldest first. Only where no writer was started."""
        cdef Ring *ring = &pointer_load(&self.writer).ring
        cdef uint64_t position = load_relaxed(&ring.at.tail.value)
        cdef uint64_t header
        found = []
        while position < load_relaxed(&ring.at.head.value):
            header = ring_peek(ring, position)
            if not header & DISCARDED:
                found.append(record_bytes(ring_at(ring, position))[:header & LENGTH_MASK])
            position += record_span(header & LENGTH_MASK)
        return found

    def release_first(self):
        """Take the oldest record out: somebody else has sent it. Only where no writer was started.
        """
        cdef Ring *ring = &self.writer.ring
        cdef uint64_t position = load_relaxed(&ring.at.tail.value)
        cdef uint64_t header
        cdef bint found = False
        while position < load_relaxed(&ring.at.head.value):
            header = ring_peek(ring, position)
            if not header & DISCARDED:
                if found:
                    break
                found = True
            position += record_span(header & LENGTH_MASK)
        ring_release(ring, position)
        count_owned(&self.writer.counters.sent.value, found)

    def spool_path(self):
        """Of the file in which the ring lives; "" if it lives in none, or that has no name."""
        self.ensure_current_process()
        if pointer_load(&self.writer).spool_fd < 0:
            return ""
        spool = self.spool_now()
        return spool.path if spool.is_there() else ""

    def flush(self, double timeout):
        """Wait until all accepted before the call is sent or discarded; False after `timeout` s.

        After close() this starts no writer: then it is False at once if records are left.
        """
        self.ensure_current_process()
        cdef uint64_t fork_epoch = load_relaxed(&self.fork_epoch)
        cdef Writer *writer = pointer_load(&self.writer)
        cdef uint64_t target = load_relaxed(&writer.ring.at.head.value)
        cdef uint64_t now = monotonic_ns()
        cdef uint64_t deadline = now + <uint64_t>(timeout * 1e9)
        cdef uint64_t tail
        while load_relaxed(&self.fork_epoch) == fork_epoch:
            tail = load_acquire(&writer.ring.at.tail.value)
            if tail >= target:
                break
            with cython.critical_section(self):       # detach_spool()
                if now >= deadline or load_seq_cst(&writer.state.value) == STOPPED:
                    return False
                writer_notify(writer, True)
            self.await_tail(writer, target, min(deadline - now, <uint64_t>SIGNAL_CHECK))
            now = monotonic_ns()
        return True

    def close(self, double timeout):
        """Flush, stop the writer and join it. Returns the number of records that are left.

        They are left in the ring, where a later submit() starts a new writer, which sends
        them first; with a spool in its file, which is then given up, and removed if it is
        empty. What it was left with before does not count again.
        """
        cdef uint64_t deadline = monotonic_ns() + <uint64_t>(timeout * 1e9)
        cdef uint64_t now
        cdef Writer *writer
        cdef bint flushed, joined
        self.ensure_current_process()
        writer = pointer_load(&self.writer)
        writer_offer_socket(writer, -1)
        cdef uint64_t before = self.left_behind
        pending = before
        while load_seq_cst(&writer.state.value) != STOPPED:
            now = monotonic_ns()
            flushed = self.flush((deadline - now) / 1e9 if now < deadline else 0.0)
            writer = pointer_load(&self.writer)       # another's, if this is another process
            with nogil:
                joined = writer_stop(writer)
            # A record may have slipped in between the two: then once more.
            pending = self.stats().pending
            if not joined:
                self.replace_hung_writer(writer)
                return pending - before
            if pending and not flushed:
                break
            if ring_used(&writer.ring):
                self.start()
        self.detach_spool()
        return pending - before

    cdef int replace_hung_writer(self, Writer *lost) except -1:
        """Have another writer: the one that does not come back is lost, with what it holds."""
        cdef object spool = self.spool_now()
        cdef int fd = -1
        if spool is not None:
            Py_INCREF(spool)      # its file is in use until the process ends
            spool = spool.for_child()
            fd = spool.open()
        with cython.critical_section(self):
            if self.writer == lost:   # else another thread was first
                registry_remove(&registry, lost)
                pointer_store(&self.writer, self.new_writer(fd, False))
                self.spool = spool
                fd = -1
        if fd >= 0:
            spool.discard(fd)
        return 0

    cdef int detach_spool(self) except -1:
        """Give the spool's file up, and go on in memory."""
        cdef Writer *writer
        cdef object spool
        cdef int fd
        cdef bint empty
        with cython.critical_section(self):
            writer = self.writer
            spool = self.spool
            fd = writer.spool_fd
            if fd < 0:
                return 0
            # As we have the GIL, or the lock, no put() is under way and none starts the writer.
            # One may have started it after it was stopped; where that cannot wait for a name
            # server, once more.
            if load_seq_cst(&writer.state.value) != STOPPED and (
                    transport_is_network(&writer.transport) or not writer_stop(writer)):
                return 0
            empty = ring_used(&writer.ring) == 0
            if not ring_detach(&writer.ring):
                return 0
            self.left_behind = self.count_pending()
            writer.spool_fd = -1
        try:
            if empty:
                spool.remove()                # from here on other threads may run
        finally:
            close(fd)                         # and the lock is gone
            spool.release()
        return 0

    cdef uint64_t count_pending(self) noexcept:
        """Of an engine whose writer is stopped."""
        cdef Writer *writer = self.writer
        return (load_relaxed(&writer.counters.accepted.value)
                - load_relaxed(&writer.counters.sent.value)
                - count_lost(&writer.counters, EVICTED, UNSENDABLE))

    def stats(self):
        """The counters now, as Stats."""
        self.ensure_current_process()
        cdef Writer *writer = pointer_load(&self.writer)
        # In this order: see _backend/counters.pxd.
        cdef uint64_t sent = load_acquire(&writer.counters.sent.value)
        cdef list losses = self.read_losses(writer)
        cdef uint64_t accepted = load_relaxed(&writer.counters.accepted.value)
        cdef uint64_t dropped = sum(losses[:EVICTED * SEVERITIES])
        cdef uint64_t discarded = sum(losses[EVICTED * SEVERITIES:])
        cdef uint64_t tail = load_acquire(&writer.ring.at.tail.value)
        cdef uint64_t used = load_relaxed(&writer.ring.at.head.value) - tail
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
            stalled=bool(load_relaxed(&writer.stalled.value)),
            losses=named_losses(losses))
