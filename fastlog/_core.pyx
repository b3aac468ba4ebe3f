# cython: language_level=3, boundscheck=False, wraparound=False, freethreading_compatible=True
"""Engine: a ring and its writer thread, as Python sees them.

This is the only door for records between Python and the native code of `_backend`. They enter by
put() and leave through the writer thread, which never takes the GIL. DESIGN.md describes both.
"""
cimport cython
from cpython.bytes cimport PyBytes_AS_STRING
from cpython.exc cimport PyErr_CheckSignals, PyErr_SetFromErrno
from libc.errno cimport EBADMSG, errno
from libc.stdint cimport uint32_t, uint64_t
from libc.stdlib cimport malloc
from libc.string cimport memchr, memcpy
from posix.unistd cimport getpid

from fastlog._backend.atomics cimport (add_relaxed, load_acquire, load_relaxed, store_relaxed,
                                       store_release)
from fastlog._backend.clock cimport monotonic_ns
from fastlog._backend.counters cimport EVICTED, FULL, INTERRUPTED, STALLED, UNSENDABLE
from fastlog._backend.destination cimport Destination
from fastlog._backend.framing cimport (ENTRY, FRAME_START_MAX, FRAMING_OVERHEAD_MAX, NEWLINE,
                                       OCTET_COUNTING, UNFRAMED, frame_priority_size, frame_start,
                                       frame_utf8_floor)
from fastlog._backend.posix cimport SOCK_STREAM
from fastlog._backend.ring cimport (DISCARDED, TRUNCATED, Record, record_bytes, ring_commit,
                                    ring_try_reserve, ring_used)
from fastlog._backend.send_loop cimport writer_connect_early
from fastlog._backend.transport cimport SEND_TIMEOUT, TRANSPORT_BATCH
from fastlog._backend.writer cimport (Writer, writer_await_tail, writer_offer_destination,
                                      writer_offer_socket)
from fastlog._backend.writer_thread cimport (writer_create, writer_destroy,
                                             writer_discard_inherited, writer_hang_up,
                                             writer_notify, writer_orphan, writer_send_here,
                                             writer_start, writer_stop)
from fastlog._engine.addresses cimport fill_destination
from fastlog._engine.fork_guard cimport ForkGuard, fork_guard_epoch, fork_guard_init
from fastlog._engine.freethreading cimport FREE_THREADED
from fastlog._engine.greenlets cimport pause_in_hub
from fastlog._engine.life_cycle cimport (engine_count_pending, engine_detach_spool,
                                         engine_replace_hung_writer, engine_stop_writer,
                                         engine_wait_until_sent, is_stopped)
from fastlog._engine.message cimport (Message, message_add, message_add_bytes, message_begin,
                                      message_bytes, message_copy, message_end, message_escape,
                                      message_truncate)
from fastlog._engine.overflow cimport engine_find_space
from fastlog._engine.registry cimport Registry, registry_add, registry_remove

cdef extern from "_engine/freethreading.h" nogil:
    Writer *pointer_load(Writer **place)
    void pointer_store(Writer **place, Writer *writer)

# The native enums, by the names that options use.
FRAMINGS = {None: UNFRAMED, "octet-counting": OCTET_COUNTING, "newline": NEWLINE,
            "journal-entry": ENTRY}
OVERFLOW_POLICIES = {"block": BLOCK, "drop_new": DROP_NEW, "drop_oldest": DROP_OLDEST}
LOSS_REASONS = {"full": FULL, "stalled": STALLED, "interrupted": INTERRUPTED, "evicted": EVICTED,
                "unsendable": UNSENDABLE}

cdef Registry registry                # of the writers that crash_drain.pyx has to find
cdef ForkGuard fork_guard

if fork_guard_init(&fork_guard) != 0:
    PyErr_SetFromErrno(OSError)


cdef Registry *live_writers() noexcept nogil:
    return &registry              # for crash_drain.pyx, which is imported on demand


cdef Writer *engine_writer(Engine engine) except NULL:
    """Return the writer of an engine in the current process."""
    engine.ensure_current_process()
    return pointer_load(&engine.writer)


cdef enum Lifecycle:              # the steps of close(): DESIGN.md, "The life cycle of a handler"
    DRAINING                      # waiting until the writer has sent everything, or the deadline
    STOPPING                      # stopping and joining its thread
    CLOSED                        # there is no thread; a later record starts one


@cython.final
cdef class Engine:
    """A ring, and one writer thread that sends its records to a socket.

    All methods are thread-safe.

    options: fastlog._validation.EngineOptions.
    spool: None, or a fastlog._spool.file.Spool, whose file stores the ring.

    Raises OSError if the ring cannot be allocated or the spool is damaged.
    """

    def __cinit__(self, options, spool=None):
        self.paths = options.paths
        self.host = options.host
        self.service = options.service
        self.socktype = options.socktype
        self.connect_timeout = <uint64_t>(<double>options.connect_timeout * 1e9)
        self.adopting = options.adopting
        self.framing = FRAMINGS[options.framing]
        self.capacity = options.capacity
        self.overflow = OVERFLOW_POLICIES[options.overflow]
        self.block_timeout = <uint64_t>(<double>options.block_timeout * 1e9)
        self.linger = <uint64_t>(<double>options.linger * 1e9)
        self.max_size = options.max_size
        self.split = options.split
        self.spool = spool
        self.spooled = spool is not None
        store_relaxed(&self.fork_epoch, fork_guard_epoch(&fork_guard))
        if spool is None:
            self.writer = self.new_writer(-1, False)
        else:
            try:
                self.writer = self.new_writer(spool.open(), spool.read_only)
            except BaseException:
                spool.release()   # whatever holds the exception also holds the spool
                raise
        # An engine for an orphan may only read it, and another engine sends the records.
        if spool is None or not spool.is_orphan:
            with nogil:
                writer_connect_early(self.writer, NULL)

    def __dealloc__(self):
        if self.writer == NULL:
            return
        registry_remove(&registry, self.writer)
        if load_relaxed(&self.fork_epoch) != fork_guard_epoch(&fork_guard):
            writer_discard_inherited(self.writer)
            return
        with nogil:
            if self.orphan_timeout:
                writer_orphan(self.writer, self.orphan_timeout)
            elif writer_stop(self.writer):
                writer_destroy(self.writer)

    cdef Writer *new_writer(self, int spool_fd, bint read_only) except NULL:
        """Return a writer that is not started, and register it.

        Never releases the GIL, or the lock that the caller holds. The writer owns `spool_fd`, the
        file of the ring. -1 means that the ring is in anonymous memory.
        """
        cdef Writer *writer = writer_create(self.capacity, self.linger, self.socktype, spool_fd,
                                            read_only)
        if writer == NULL:
            if errno == EBADMSG:
                raise OSError(EBADMSG, "the spool is damaged: its positions are inconsistent",
                              self.spool.path)
            PyErr_SetFromErrno(OSError)
        writer.pid = getpid()
        writer.evicting = self.overflow == DROP_OLDEST
        fill_destination(&writer.transport.destination, self.paths, self.host, self.service)
        writer.transport.connect_timeout = self.connect_timeout
        writer.transport.adopting = self.adopting
        writer.transport.by_memfd = self.framing == ENTRY
        # Not where a slow batch would look like a stall, or would hold up producers.
        writer.transport.blocking_send = (
            self.overflow == DROP_NEW or self.overflow == BLOCK and self.block_timeout
            >= 2 * TRANSPORT_BATCH * <uint64_t>SEND_TIMEOUT)
        registry_add(&registry, writer)
        return writer

    # --- forks ---------------------------------------------------------------------------------

    cdef inline int ensure_current_process(self) except -1:
        """Give a forked child a writer of its own. One load and a comparison otherwise."""
        if load_acquire(&self.fork_epoch) == fork_guard_epoch(&fork_guard):
            return 0
        return self.start_over_after_fork()

    cdef int start_over_after_fork(self) except -1:
        """Leave the parent's ring to the parent and start with an empty one."""
        cdef Writer *writer
        cdef object spool = None, inherited = None    # to the end: freeing it may run a __del__
        cdef int fd = -1
        if self.spooled:
            # This runs Python code, so other threads and signal handlers may get here, too. Each
            # has a file of its own, and the first that is ready provides the writer.
            inherited = self.current_spool()
            spool = inherited.for_child()
            fd = spool.open()
        with cython.critical_section(self):
            if load_relaxed(&self.fork_epoch) != fork_guard_epoch(&fork_guard):
                try:
                    writer = self.new_writer(fd, False)
                except OSError:
                    if fd < 0:
                        raise
                    writer = self.new_writer(-1, False)   # a damaged file must not stop a child
                fd = -1
                registry_remove(&registry, self.writer)
                self.was_reached(self.writer)         # before its memory is gone
                writer_connect_early(writer, self.writer)
                writer_discard_inherited(self.writer)
                self.spool = spool
                self.spool_detached = False
                store_relaxed(&self.reported_epoch, 0)
                self.reported_lost = self.left_in_spool = self.accepted_before = 0
                self.reported_losses = None
                pointer_store(&self.writer, writer)
                store_release(&self.fork_epoch, fork_guard_epoch(&fork_guard))
        if fd >= 0:
            spool.discard(fd)
        return 0

    # --- put -----------------------------------------------------------------------------------

    def submit(self, uint32_t priority, message, prefix=None, bint append_nul=False,
               bint urgent=False):
        """Put a record into the ring. Return whether it was accepted.

        priority: facility << 3 | severity.
        message, prefix: str. `prefix` comes first, and is repeated if the message is split.
        urgent: wake the writer at once.

        Raises TypeError or ValueError for arguments that cannot become a record.
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
        """Put a message into the ring as one record, or as several if it is too long.

        May change `message`, whose first piece is the prefix. Returns flags of PutResult.
        """
        cdef size_t max_size
        cdef int result
        if self.framing == NEWLINE or self.framing == UNFRAMED and self.socktype == SOCK_STREAM:
            message_escape(message, not append_nul and self.framing == UNFRAMED, True)
        self.ensure_current_process()
        max_size = (pointer_load(&self.writer).ring.max_length
                    - (FRAMING_OVERHEAD_MAX if self.framing else 0))
        if self.max_size and self.max_size < max_size:
            max_size = self.max_size
        max_size -= frame_priority_size(priority) + append_nul
        if message.size <= max_size:
            result = self.put_record(priority, message, append_nul, urgent, 0)
            if not result & PUT_HAS_NUL:
                return result
        if self.framing == UNFRAMED:
            message_escape(message, not append_nul, False)
            if message.size <= max_size:
                return self.put_record(priority, message, append_nul, urgent, 0)
        if self.split and message.pieces[0].size <= max_size // 2:
            return self.put_in_parts(priority, message, append_nul, urgent, max_size)
        message_truncate(message, max_size)
        add_relaxed(&pointer_load(&self.writer).counters.truncated, 1)
        return self.put_record(priority, message, append_nul, urgent, TRUNCATED)

    cdef size_t max_entry_size(self) except 0:
        """Return the size in bytes of the longest journal entry that the ring can store."""
        self.ensure_current_process()
        return pointer_load(&self.writer).ring.max_length

    cdef int put_entry(self, uint32_t priority, Message *message, bint urgent,
                       bint truncated) except -1:
        """Put a journal entry into the ring. The end of one that is too long is cut off.

        truncated: whether the caller has truncated it already. Returns flags of PutResult.
        """
        cdef size_t max_size = self.max_entry_size()
        if message.size > max_size:
            message_truncate(message, max_size)
            truncated = True
        if truncated:
            add_relaxed(&pointer_load(&self.writer).counters.truncated, 1)
        return self.put_record(priority, message, False, urgent, TRUNCATED if truncated else 0)

    cdef int put_in_parts(self, uint32_t priority, Message *message, bint append_nul, bint urgent,
                          size_t max_size) except -1:
        """Put a message as several records of at most `max_size` bytes, whole characters each."""
        cdef Message part
        cdef bytes whole = message_bytes(message)
        cdef const char *text = PyBytes_AS_STRING(whole)
        cdef size_t prefix = message.pieces[0].size
        cdef size_t begin = prefix, end = message.size, size
        cdef int accepted = PUT_ACCEPTED, flags = 0, result
        while begin < end:
            size = end - begin
            if size > max_size - prefix:
                size = frame_utf8_floor(text + begin, max_size - prefix)
            message_begin(&part)
            message_add_bytes(&part, text, prefix)
            message_add_bytes(&part, text + begin, size)
            result = self.put_record(priority, &part, append_nul,
                                     urgent and begin + size == end, 0)
            accepted &= result
            flags |= result & ~<int>PUT_ACCEPTED
            begin += size
        return accepted | flags

    cdef int put_record(self, uint32_t priority, Message *message, bint append_nul, bint urgent,
                        uint64_t flags) except -1:
        """Put a message that fits into the ring as one record. Returns flags of PutResult."""
        if self.spool_detached:
            from fastlog._engine.spool_reader import attach_spool
            attach_spool(self)
        if FREE_THREADED and self.spooled:
            # detach_spool() must not run meanwhile. Waiting for space releases the lock.
            with cython.critical_section(self):
                return self.write_record(priority, message, append_nul, urgent, flags)
        return self.write_record(priority, message, append_nul, urgent, flags)

    cdef inline int write_record(self, uint32_t priority, Message *message, bint append_nul,
                                 bint urgent, uint64_t flags) except -1:
        """Reserve, fill, commit, notify.

        In a datagram, a NUL would end the record for some daemons. Such a record is discarded, and
        the result is PUT_HAS_NUL.
        """
        cdef Writer *writer = pointer_load(&self.writer)
        cdef char start[FRAME_START_MAX]      # the bytes before the message
        cdef bint append_newline = self.framing == NEWLINE
        cdef size_t start_size = 0 if self.framing == ENTRY else frame_start(
            start, priority, message.size + append_nul, self.framing == OCTET_COUNTING)
        cdef size_t size = start_size + message.size + append_nul + append_newline
        cdef uint64_t used = 0
        cdef Record *record = ring_try_reserve(&writer.ring, size, priority % 8, &used)
        cdef char *out
        if record == NULL:
            record = engine_find_space(self, &writer, size, priority % 8, &used)
            if record == NULL:
                return self.outage_changed()
        out = record_bytes(record)
        memcpy(out, start, start_size)
        message_copy(message, out + start_size)
        if (self.framing == UNFRAMED and message.size
                and memchr(out + start_size, 0, message.size - (not append_nul)) != NULL):
            ring_commit(record, DISCARDED)    # rare, and one scan is cheaper than one of each piece
            return PUT_HAS_NUL
        if append_nul:
            out[start_size + message.size] = 0
        if append_newline:
            out[size - 1] = c'\n'
        add_relaxed(&writer.counters.accepted.value, 1)
        ring_commit(record, flags)
        if writer_notify(writer, urgent or used > self.capacity // 2) != 0:
            with nogil:
                writer_send_here(writer, False)
        return (PUT_ACCEPTED | self.outage_changed()
                | (PUT_FLUSH if load_relaxed(&self.synchronous) else 0))

    cdef inline int outage_changed(self) noexcept:
        cdef uint64_t epoch = load_relaxed(&pointer_load(&self.writer).outage_epoch.value)
        return PUT_OUTAGE_CHANGED if epoch != load_relaxed(&self.reported_epoch) else 0

    def set_synchronous(self):
        """Ask each caller of put() to flush from now on, because the process is exiting."""
        store_relaxed(&self.synchronous, 1)

    cdef int await_tail(self, Writer *writer, uint64_t target_tail, uint64_t timeout) except -1:
        """Wait without the GIL until the ring's tail is at `target_tail`, at most `timeout` ns.

        In a greenlet, sleep for a moment instead, so that others run. Signal handlers run, too, so
        this may raise, and may even return in a forked child.
        """
        if not pause_in_hub(&self.pausing, timeout):
            with nogil:
                writer_await_tail(writer, target_tail, timeout)
        PyErr_CheckSignals()
        return self.ensure_current_process()

    def wants_socket(self):
        """Return whether sockets are handed over by adopt(), and the writer needs one."""
        cdef Writer *writer = engine_writer(self)
        return (self.adopting and load_relaxed(&writer.has_socket) == 0
                and load_relaxed(&writer.offered_socket.value) == 0)

    def adopt(self, int fd):
        """Hand over a connected socket. The engine owns the descriptor from then on."""
        writer_offer_socket(engine_writer(self), fd)

    def set_destination(self, tuple paths not None, bytes host not None, bytes service not None):
        """Connect to these paths, or to this host, from now on: _validation.native_destination().

        Records that are not sent yet go there, too.
        """
        cdef Writer *writer = engine_writer(self)
        cdef Destination *destination = <Destination *>malloc(sizeof(Destination))
        if destination == NULL:
            raise MemoryError
        fill_destination(destination, paths, host, service)
        with cython.critical_section(self):
            self.paths, self.host, self.service = paths, host, service
            store_relaxed(&writer.has_socket, 0)      # where sockets are adopted, ask for one
            writer_offer_destination(writer, destination)

    # --- the life cycle ------------------------------------------------------------------------

    def start(self):
        """Start the writer now, for records that were in the spool."""
        cdef int error
        self.ensure_current_process()
        with cython.critical_section(self):           # detach_spool() must not run meanwhile
            error = writer_start(self.writer)
        if error:
            with nogil:
                writer_send_here(self.writer, False)

    def flush(self, double timeout, unreached_timeout=None):
        """Wait until each record accepted before the call is sent or discarded.

        timeout: seconds. Returns False if it expires first. After close() no writer is started:
        the result is then False at once if records are left.
        unreached_timeout: seconds, None for `timeout`. The limit that holds instead once a connect
        has failed and none has ever succeeded.
        """
        cdef uint64_t begin = monotonic_ns()
        cdef uint64_t deadline = begin + <uint64_t>(timeout * 1e9)
        if unreached_timeout is None:
            return engine_wait_until_sent(self, deadline, deadline)
        return engine_wait_until_sent(self, deadline, begin + <uint64_t>(unreached_timeout * 1e9))

    cdef bint was_reached(self, Writer *writer) noexcept:
        """Return False if a connect has failed and none has ever succeeded, here or before a fork.
        """
        if writer.was_connected:
            self.connected_once = True
        return self.connected_once or load_relaxed(&writer.counters.send_errors) == 0

    def close(self, double timeout):
        """Flush for at most `timeout` seconds, stop the writer, and join its thread.

        Returns take_undelivered(), as it is when the thread has stopped.
        They stay in the ring, and a later submit() starts a new writer that sends them first. With
        a spool they stay in its file, which is then detached, and removed if it is empty.
        """
        cdef uint64_t deadline = monotonic_ns() + <uint64_t>(timeout * 1e9)
        cdef Writer *writer = engine_writer(self)
        cdef uint64_t undelivered = 0
        cdef Lifecycle state = DRAINING
        cdef bint sent = True, joined
        if self.orphan_timeout:
            return 0
        if is_stopped(writer) and not load_relaxed(&writer.threadless):
            state = CLOSED
        writer_offer_socket(writer, -1)               # withdraw one that it has not taken
        while state != CLOSED:
            if state == DRAINING:
                sent = engine_wait_until_sent(self, deadline, deadline)
                state = STOPPING
                continue
            writer = pointer_load(&self.writer)       # a fork may have replaced it
            joined = engine_stop_writer(self, &writer)
            if not joined:
                undelivered = self.take_undelivered()
                engine_replace_hung_writer(self, writer)
                return undelivered
            # A program that logs on restarts the thread, so the deadline ends the loop.
            if engine_count_pending(self, writer) and not sent or monotonic_ns() >= deadline:
                undelivered = self.take_undelivered()
                break
            if ring_used(&writer.ring):
                self.start()                          # a record arrived after the flush
            state = CLOSED if is_stopped(writer) else DRAINING
        writer_hang_up(writer)
        store_relaxed(&writer.threadless, 0)          # until a record needs a thread again
        engine_detach_spool(self)
        return undelivered

    def take_undelivered(self):
        """Return the number of pending records that no earlier call, or close(), has returned.

        They stay in the ring, and may still be sent.
        """
        cdef Writer *writer = engine_writer(self)
        cdef uint64_t pending = engine_count_pending(self, writer) - self.left_in_spool
        cdef uint64_t accepted = load_relaxed(&writer.counters.accepted.value)
        cdef uint64_t undelivered = min(pending, accepted - self.accepted_before)
        self.accepted_before = accepted
        return undelivered

    def is_in_use(self):
        """Return whether this process has used the engine. A fork alone is not a use."""
        return load_acquire(&self.fork_epoch) == fork_guard_epoch(&fork_guard)

    def orphan(self, double timeout):
        """Let the writer send what is left, once this engine is deallocated. close() does nothing.

        timeout: seconds that it may take. Nothing reports the records that it cannot send. Returns
        the number of records that are left, or 0 if close() has stopped the writer already.
        """
        cdef Writer *writer = engine_writer(self)
        if is_stopped(writer):
            return 0
        self.orphan_timeout = <uint64_t>(timeout * 1e9)
        return engine_count_pending(self, writer) - self.left_in_spool

    cdef object current_spool(self):
        with cython.critical_section(self):
            return self.spool

    def spool_path(self):
        """Return the path of the ring's file. It is "" without one, or if the file was moved."""
        if engine_writer(self).spool_file.fd < 0:
            return ""
        spool = self.current_spool()
        return spool.path if spool.is_there() else ""
