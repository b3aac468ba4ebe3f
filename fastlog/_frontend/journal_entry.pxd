"""Entries of the journal as other extension modules see them; see _frontend/journal_entry.pyx."""
from fastlog._frontend.encoder cimport Encoder
from fastlog._frontend.rfc_header cimport Header
from fastlog._engine.message cimport Message

cdef class Journal(Encoder):
    cdef dict constants               # {name: field} of every entry
    cdef bytes constant               # all of them
    cdef Header clock
    cdef object ident                 # that the next was made of
    cdef bytes identifier

    cdef bint add_text(self, Message *message, int prefix, size_t longest) except -1
    cdef int add_origin(self, Message *message, object ident, unsigned int priority,
                        object created) except -1
    cdef bytes extra_fields(self, list found, size_t space, bint *cut)
