"""The headers of RFC 3164 and RFC 5424, as other extension modules see them; see _frontend/rfc_header.pyx."""
from libc.stdint cimport int64_t

from fastlog._frontend.encoder cimport Encoder

cdef object text_of(object value)


cdef class Header(Encoder):
    cdef bint is_5424
    cdef str constant                 # what stands between the time and the process id
    cdef object procid                # str; None: this process's
    cdef str msgid, data              # RFC 5424: where a record brings none
    cdef int process                  # that process_text is of
    cdef str process_text
    cdef int64_t second               # since 1970, that the next two were made for
    cdef str second_text, zone

    cdef str render(self, object created, object record)
    cdef str this_process(self)
    cdef str timestamp(self, object created)
    cdef int set_second(self, int64_t second) except -1
