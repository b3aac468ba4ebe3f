"""A handler's snapshot as other extension modules see it; _frontend/emit.pyx explains."""
from fastlog._backend.atomics cimport atomic_u64
from fastlog._core cimport Engine
from fastlog._frontend.formatter cimport CompiledFormatter
from fastlog._engine.message cimport Message
from fastlog._frontend.log_record cimport LogCall
from fastlog._frontend.dict_guard cimport DictGuard

cdef class Encoder:
    """What a protocol puts around the text of a record. Modules that are imported when wanted."""
    # Completes the message, which has the text and before it `space`, and puts it: Engine.put().
    # `ident` and `append_nul` as the handler has them. Of a record; or, if that is None, of a call.
    cdef int put(self, Engine engine, Message *message, int prefix, object ident, object append_nul,
                 unsigned int priority, bint urgent, object record, LogCall *call) except -1


cdef class Snapshot:
    """A handler's attributes as of now. A new one is made when they change.

    Without a GIL each thread has its own, with what hangs on it.
    """
    cdef atomic_u64 state             # whether an attribute was assigned to since
    cdef unsigned int type_version             # the class's when this was made
    cdef bint is_unmodified                   # nothing is overridden; else no other field is set
    cdef bint for_calls               # nor is handle(), and the levels are plain numbers:
    cdef long level_number, urgent_number
    cdef Engine engine
    cdef object facility              # number or name
    cdef DictGuard priorities             # of the three dicts
    cdef dict priority_map, priority_names, facility_names
    cdef object last_levelname        # and what was found there for it
    cdef unsigned int last_priority
    cdef object ident, append_nul, urgent_level
    cdef Encoder encoder            # in the place of ident, or None
    cdef object formatter             # None: logging's default
    cdef list filters
    cdef CompiledFormatter format                # `formatter`, if that is a plain one, compiled


cdef Snapshot find_snapshot(object handler)
cdef bint takes_calls(Snapshot now) except -1
cdef int emit_call(object self, Snapshot now, LogCall *call) except -1
