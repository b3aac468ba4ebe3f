"""`msg % args`, as other extension modules see it, see _frontend/percent.pyx."""
from fastlog._engine.message cimport Message

cdef object percent_format(object msg, object args)
cdef int percent_format_into(Message *out, object msg, object args) except -1
cdef object percent_format_both(Message *out, object msg, object args)


cdef inline bint is_builtin_value(object value) noexcept:
    return type(value) is str or type(value) is int or type(value) is float or value is None


cdef inline bint is_side_effect_free(object msg, object args) noexcept:
    """Return whether formatting runs no user code, such as a __str__."""
    if type(msg) is not str or type(args) is not tuple:
        return False
    for value in <tuple>args:
        if not is_builtin_value(value):
            return False
    return True
