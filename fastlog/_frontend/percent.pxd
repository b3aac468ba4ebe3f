"""Merging a message with its arguments, as other extension modules see it; see _frontend/percent.pyx."""
from fastlog._engine.message cimport Message

cdef bint is_side_effect_free(object msg, object args) noexcept
cdef object percent_format(object msg, object args)
cdef int percent_format_into(Message *out, object msg, object args) except -1
