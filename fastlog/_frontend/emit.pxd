"""A handler's snapshot, and delivery of a fast Logger's calls, see _frontend/emit.pyx."""
cimport cython

from fastlog._backend.atomics cimport atomic_u64, load_acquire
from fastlog._core cimport Engine
from fastlog._frontend.dict_guard cimport DictGuard, type_version
from fastlog._frontend.formatter cimport CompiledFormatter
from fastlog._frontend.log_record cimport Encoder, LogCall

cdef enum:                            # Snapshot.state, see take_snapshot()
    MADE
    CURRENT
    OUT_OF_DATE


@cython.final
cdef class Snapshot:
    cdef atomic_u64 state
    cdef unsigned int type_version    # of the handler's class
    cdef bint locks_emit              # handle() is the standard library's, or a patch of it
    cdef bint is_unmodified           # no step is overridden, else the fields below are unset
    # Calls without a LogRecord are possible: handle() is not overridden, and the levels are ints.
    cdef bint for_calls
    cdef long level, urgent           # with for_calls: the handler's level and urgent_level
    cdef Engine engine
    cdef object facility              # number or name
    cdef DictGuard priorities         # of the three dicts
    cdef dict priority_map, priority_names, facility_names
    cdef object last_levelname        # the most recent levelname and its priority
    cdef unsigned int last_priority
    cdef object ident, append_nul, urgent_level
    cdef Encoder encoder              # encodes ident, too. None: ident is the prefix
    cdef object formatter             # None: logging's default formatter
    cdef list filters
    cdef CompiledFormatter compiled   # of a plain formatter


cdef bint handler_emit_call(object handler, LogCall *call) except -1


cdef inline bint snapshot_is_current(Snapshot snapshot, object self) noexcept:
    """Return whether the snapshot still shows the handler's attributes."""
    return (load_acquire(&snapshot.state) == CURRENT and snapshot.type_version != 0
            and snapshot.type_version == type_version(type(self)))


cdef inline bint is_urgent(object levelno, object urgent_level) except -1:
    """Return whether a record wakes the writer at once.

    makeLogRecord() accepts any levelno, or none, and the standard library's handlers do, too.
    """
    return isinstance(levelno, (int, float)) and levelno >= urgent_level
