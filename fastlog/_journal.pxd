"""Entries of the journal as other extension modules see them; see _journal.pyx."""
from fastlog._core cimport Engine
from fastlog._header cimport Header
from fastlog._message cimport Message
from fastlog._record cimport Call

cdef class Journal:
    cdef dict constants               # {name: field} of every entry
    cdef bytes constant               # all of them
    cdef Header clock
    cdef object ident                 # that the next was made of
    cdef bytes identifier

    cdef int put_record(self, Engine engine, Message *message, int room, object ident,
                        unsigned int priority, bint urgent, object record) except -1
    cdef int put_call(self, Engine engine, Message *message, int room, object ident,
                      unsigned int priority, bint urgent, Call *call) except -1
    cdef bint add_text(self, Message *message, int room, size_t longest) except -1
    cdef int add_common(self, Message *message, object ident, unsigned int priority,
                        object created) except -1
    cdef bytes extra_fields(self, list found, size_t room, bint *cut)
