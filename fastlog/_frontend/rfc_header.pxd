"""The headers of RFC 3164 and RFC 5424, see _frontend/rfc_header.pyx."""
cimport cython
from libc.stdint cimport int64_t

from fastlog._core cimport Engine
from fastlog._frontend.log_record cimport Encoder


cdef object text_of(object value)


@cython.final
cdef class Header(Encoder):
    cdef bint is_5424
    cdef str constant                 # the text between the time and the process id
    cdef object procid                # a str, or None for the id of the current process
    cdef str msgid, data              # RFC 5424: for records without their own
    cdef int process                  # the process id that process_text shows
    cdef str process_text
    cdef int64_t second               # since 1970, the one of the next two
    cdef str second_text, zone

    cdef str render(self, Engine engine, object created, object record)
    cdef str this_process(self)
    cdef str timestamp(self, object created)
    cdef int set_second(self, int64_t second) except -1
