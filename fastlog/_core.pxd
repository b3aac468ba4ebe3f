"""Engine as other extension modules see it; _core.pyx explains."""
from libc.stdint cimport uint32_t, uint64_t

from fastlog._backend.atomics cimport atomic_u64
from fastlog._backend.counters cimport Loss
from fastlog._engine.message cimport Message
from fastlog._engine.registry cimport Registry
from fastlog._backend.ring cimport Record
from fastlog._backend.writer cimport Writer

cdef enum Put:                        # what Engine.put returns, flags
    PUT_ACCEPTED = 1                  # else dropped
    PUT_OUTAGE_CHANGED = 2                      # Engine.poll_outage() has something to tell
    PUT_FLUSH = 4                     # the caller is to flush


cdef enum Overflow:                   # what a record that finds the ring full meets
    BLOCK
    DROP_NEW
    DROP_OLDEST


cdef Registry *live_writers() noexcept


cdef class Engine:
    cdef Writer *writer               # another one after a fork, or if it was lost
    cdef atomic_u64 fork_epoch        # the process that `writer` belongs to
    cdef tuple paths
    cdef bytes host, service
    cdef int socktype
    cdef uint64_t connect_timeout     # ns
    cdef bint adopting
    cdef int framing                  # Framing
    cdef uint64_t capacity            # bytes
    cdef Overflow overflow
    cdef uint64_t block_timeout       # ns
    cdef uint64_t linger              # ns
    cdef size_t max_size              # bytes of a record; 0: no limit of its own
    cdef bint split                   # longer ones into several records
    cdef bint spooled                 # whether it has one, or had
    cdef object spool                 # fastlog._spool.file.Spool, or None; likewise
    cdef uint64_t left_behind         # records in the spool when it was given up
    cdef atomic_u64 synchronous       # 1: the process ends, each call waits for its record
    cdef atomic_u64 reported_epoch              # the number of the last trouble that news() told of
    cdef uint64_t reported_lost           # records lost until the last was over
    cdef list reported_losses             # as collect_losses() last read them

    cdef Writer *new_writer(self, int spool_fd, bint read_only) except NULL
    cdef int ensure_current_process(self) except -1
    cdef object spool_now(self)
    cdef int await_tail(self, Writer *writer, uint64_t target_tail, uint64_t timeout) except -1
    cdef int put(self, uint32_t priority, Message *message, bint append_nul,
                 bint urgent) except -1
    cdef size_t longest_entry(self) except 0
    cdef int put_entry(self, uint32_t priority, Message *message, bint urgent,
                       bint truncated) except -1
    cdef int put_parts(self, uint32_t priority, Message *message, bint append_nul, bint urgent,
                       size_t longest) except -1
    cdef int put_record(self, uint32_t priority, Message *message, bint append_nul, bint urgent,
                        uint64_t flags) except -1
    cdef int write_record(self, uint32_t priority, Message *message, bint append_nul, bint urgent,
                          uint64_t flags) except -1
    cdef Record *find_space(self, Writer **place, size_t size, uint64_t severity,
                           uint64_t *used) except? NULL
    cdef Record *await_space(self, Writer **place, size_t size, uint64_t severity,
                            uint64_t *used) except? NULL
    cdef void lose(self, Writer *writer, Loss why, uint64_t severity) noexcept
    cdef list read_losses(self, Writer *writer)
    cdef int replace_hung_writer(self, Writer *lost) except -1
    cdef int detach_spool(self) except -1
    cdef uint64_t count_pending(self) noexcept
    cdef int outage_changed(self) noexcept
