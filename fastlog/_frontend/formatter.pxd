"""Compiled formatters as other extension modules see them; _frontend/formatter.pyx explains."""
from libc.stdint cimport int64_t

from fastlog._engine.message cimport Message
from fastlog._frontend.log_record cimport FIELDS, LogCall, RecordFields
from fastlog._frontend.dict_guard cimport DictGuard

cdef class CompiledFormatter:
    cdef object formatter, style_class
    cdef list ops                   # of FormatOp; None: to be left to formatter.format
    cdef list others                  # keys of fields that not every record has
    cdef unsigned char required_fields[FIELDS]  # of a record's attributes, see RecordFields; so many:
    cdef int required_count
    cdef bint for_calls               # format_call() can do it
    cdef unsigned int formatter_version, style_version, template_version
    cdef DictGuard guard                  # of the formatter's and its style's attributes
    cdef dict defaults                # or None
    cdef bint uses_time
    cdef object converter, time_format, msec_format
    cdef int64_t second               # since 1970, that second_text was made for
    cdef object second_text           # None: not made yet

    cdef bint is_current(self) except -1
    cdef bint format_record(self, RecordFields *record_fields, dict attributes, Message *out) except -1
    cdef int format_call(self, LogCall *call, Message *out) except -1

    cdef object find(self, str key, dict attributes)
    cdef int add_traces(self, dict attributes, Message *out, int first) except -1
    cdef object asctime(self, object created, object msecs)
    cdef int add_asctime(self, int64_t ns, Message *out) except -1
    cdef bint has_second(self, int64_t second) noexcept
    cdef object text_of_second(self, object created)


cdef CompiledFormatter compile_formatter(object formatter)
