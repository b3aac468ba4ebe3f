"""Three-digit numbers, such as the milliseconds of a time."""
from libc.string cimport memcpy

from fastlog._engine.cpythonx cimport (PyUnicode_DATA, PyUnicode_GET_LENGTH,
                                       PyUnicode_IS_COMPACT_ASCII, PyUnicode_New)


cdef inline void write_three_digits(char *out, int number) noexcept:
    """Write a number from 0 to 999 as %03d does."""
    out[0] = <char>(c'0' + number // 100)
    out[1] = <char>(c'0' + number // 10 % 10)
    out[2] = <char>(c'0' + number % 10)


cdef inline object three_digits(int number):
    """Format a number from 0 to 999 as %03d does."""
    cdef object text = PyUnicode_New(3, 127)
    write_three_digits(<char *>PyUnicode_DATA(text), number)
    return text


cdef inline object with_msecs(object text, int msecs):
    """Return text, a comma and three digits."""
    cdef Py_ssize_t size
    cdef char *out
    if not PyUnicode_IS_COMPACT_ASCII(text):
        return text + "," + three_digits(msecs)
    size = PyUnicode_GET_LENGTH(text)
    whole = PyUnicode_New(size + 4, 127)
    out = <char *>PyUnicode_DATA(whole)
    memcpy(out, PyUnicode_DATA(text), <size_t>size)
    out[size] = c','
    write_three_digits(out + size + 1, msecs)
    return whole
