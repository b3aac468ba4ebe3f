"""Merging a message with its arguments, as other extension modules see it; see _frontend/percent.pyx."""
from fastlog._engine.message cimport Message

cdef bint runs_no_code(object msg, object args) noexcept
cdef object merge(object msg, object args)
cdef int merge_into(Message *out, object msg, object args) except -1
