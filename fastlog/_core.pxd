"""Engine as other extension modules see it. _core.pyx has the explanations."""
from libc.stdint cimport uint32_t, uint64_t

from fastlog._backend.atomics cimport atomic_u64
from fastlog._backend.counters cimport Loss
from fastlog._backend.framing cimport Framing
from fastlog._backend.ring cimport Record
from fastlog._backend.writer cimport Writer
from fastlog._engine.message cimport Message
from fastlog._engine.registry cimport Registry

cdef enum PutResult:              # flags that Engine.put() returns
    PUT_ACCEPTED = 1              # the record is in the ring; if not set, it was dropped
    PUT_OUTAGE_CHANGED = 2        # reports.poll_outage() has something to return
    PUT_FLUSH = 4                 # the process is exiting: the caller must flush
    PUT_HAS_NUL = 8               # only of put_record(): it took nothing, because of a NUL


cdef enum Overflow:               # what happens to a record that finds the ring full
    BLOCK                         # it waits while the daemon accepts records
    DROP_NEW                      # it is dropped
    DROP_OLDEST                   # the oldest records are evicted for it


cdef Registry *live_writers() noexcept nogil


cdef class Engine:
    # The fork invariant. Each entry point calls ensure_current_process() before it uses `writer`,
    # and loads `writer` again after anything that may have waited or run Python code.
    cdef Writer *writer               # replaced after a fork, and when its thread hangs
    cdef atomic_u64 fork_epoch        # of the process that `writer` belongs to
    # Copied from the EngineOptions. set_destination() replaces the first two lines, the rest is
    # constant:
    cdef tuple paths                  # of bytes
    cdef bytes host, service
    cdef int socktype
    cdef uint64_t connect_timeout     # ns
    cdef bint adopting                # sockets are connected elsewhere and handed over
    cdef Framing framing
    cdef uint64_t capacity            # bytes
    cdef Overflow overflow
    cdef uint64_t block_timeout       # ns
    cdef uint64_t linger              # ns
    cdef size_t max_size              # bytes of a record; 0: no limit but the ring's
    cdef bint split                   # a longer message becomes several records
    cdef bint spooled                 # created with a spool
    cdef object spool                 # fastlog._spool.file.Spool, or None
    cdef bint spool_detached          # by close(): the next record attaches it again
    cdef uint64_t orphan_timeout      # ns for which the thread outlives the engine, 0: not at all
    cdef uint64_t left_in_spool       # records in the spool when it was detached
    # Records accepted when take_undelivered() was called last, or the spool was attached again:
    cdef uint64_t accepted_before
    cdef bint connected_once          # a connect has succeeded, perhaps in a parent
    cdef atomic_u64 pausing           # greenlets that sleep in await_tail() or stop_writer()
    cdef atomic_u64 synchronous       # 1: the process is exiting, each put() asks for a flush
    # What fastlog._engine.reports has reported so far:
    cdef atomic_u64 reported_epoch    # the writer's outage_epoch
    cdef uint64_t reported_lost       # records lost when the last outage ended
    cdef list reported_losses         # None, or the counts of all losses

    cdef Writer *new_writer(self, int spool_fd, bint read_only) except NULL
    cdef int ensure_current_process(self) except -1
    cdef int start_over_after_fork(self) except -1
    cdef int put(self, uint32_t priority, Message *message, bint append_nul,
                 bint urgent) except -1
    cdef int put_entry(self, uint32_t priority, Message *message, bint urgent,
                       bint truncated) except -1
    cdef size_t max_entry_size(self) except 0
    cdef int put_in_parts(self, uint32_t priority, Message *message, bint append_nul,
                          bint urgent, size_t max_size) except -1
    cdef int put_record(self, uint32_t priority, Message *message, bint append_nul, bint urgent,
                        uint64_t flags) except -1
    cdef int write_record(self, uint32_t priority, Message *message, bint append_nul, bint urgent,
                          uint64_t flags) except -1
    cdef int outage_changed(self) noexcept
    cdef int await_tail(self, Writer *writer, uint64_t target_tail, uint64_t timeout) except -1
    cdef bint was_reached(self, Writer *writer) noexcept
    cdef object current_spool(self)


cdef Writer *engine_writer(Engine engine) except NULL
