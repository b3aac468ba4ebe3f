"""Compiled formatters, see _frontend/formatter.pyx."""
cimport cython
from cpython.object cimport PyObject
from libc.stdint cimport int64_t

from fastlog._engine.message cimport Message
from fastlog._frontend.dict_guard cimport DictGuard, guard_is_valid, type_version
from fastlog._frontend.log_record cimport FIELDS, LogCall, RecordFields

cdef enum:
    OPS_MAX = 24                      # of a compiled format, see PIECES_MAX


@cython.final
cdef class CompiledFormatter:
    cdef object formatter, style_class, template_class
    cdef list ops                     # of FormatOp, or None if only formatter.format() can do it
    cdef int op_count                 # of ops
    cdef PyObject *op_at[OPS_MAX]     # the ops, borrowed from `ops`
    cdef int message_op               # index of the one op that adds just the message, or -1
    cdef list others                  # keys of fields that not every record has
    cdef unsigned char required_fields[FIELDS]    # Fields that format_record() reads, ascending
    cdef int required_count           # of required_fields
    cdef bint for_calls               # format_call() can do it
    cdef unsigned int formatter_version, style_version, template_version      # of the classes
    cdef DictGuard guard              # of the attributes of the formatter and its style
    cdef dict defaults                # for missing fields, or None
    cdef bint uses_time
    cdef object converter, time_format, msec_format
    cdef int64_t second               # since 1970, the one that second_text was made for
    cdef object second_text           # None: not made yet

    cdef bint format_record(self, RecordFields *record_fields, dict attributes,
                            Message *out) except -1
    cdef int format_call(self, LogCall *call, Message *out) except -1

    cdef object find(self, str key, dict attributes)
    cdef object add_message(self, RecordFields *record_fields, Message *out)
    cdef object asctime_of_record(self, RecordFields *record_fields)
    cdef int add_ops(self, RecordFields *record_fields, dict attributes, object message,
                     object asctime, Message *out, int end) except -1
    cdef int add_traces(self, dict attributes, Message *out, int first) except -1
    cdef object asctime(self, object created, object msecs)
    cdef int add_asctime(self, int64_t ns, Message *out) except -1
    cdef bint has_second(self, int64_t second) noexcept
    cdef object text_of_second(self, object created)


cdef CompiledFormatter compile_formatter(object formatter)


cdef inline bint formatter_is_current(CompiledFormatter compiled) except -1:
    """Return whether the formatter is still as it was when it was compiled."""
    return (compiled.formatter_version != 0 and compiled.style_version != 0
            and compiled.template_version != 0
            and compiled.formatter_version == type_version(type(compiled.formatter))
            and compiled.style_version == type_version(compiled.style_class)
            and compiled.template_version == type_version(compiled.template_class)
            and guard_is_valid(compiled.guard))
