"""Journal entries, see _frontend/journal_entry.pyx."""
cimport cython

from fastlog._engine.message cimport Message
from fastlog._frontend.log_record cimport Encoder, LogCall
from fastlog._frontend.rfc_header cimport Header


@cython.final
cdef class Journal(Encoder):
    cdef dict constants               # {name: serialized field}, added to every entry
    cdef bytes constant               # all of them, joined
    cdef Header clock
    cdef object ident                 # the one that `identifier` was made of
    cdef bytes identifier             # a serialized field

    cdef bint add_record(self, Message *message, dict attributes, Py_ssize_t longest) except -1
    cdef bint add_call(self, Message *message, LogCall *call, Py_ssize_t longest) except -1
    cdef bint add_text(self, Message *message, int prefix, size_t longest) except -1
    cdef int add_origin(self, Message *message, object ident, unsigned int priority,
                        object created) except -1
    cdef bytes extra_fields(self, list extra, size_t space, bint *truncated)
