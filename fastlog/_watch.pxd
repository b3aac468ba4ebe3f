"""Dicts and classes that are to stay as they are, as other modules see them; see _watch.pyx."""
from cpython.object cimport PyObject
from libc.stdint cimport uint64_t

cdef extern from "Python.h":
    ctypedef struct PyTypeObject:
        unsigned int tp_version_tag
        object (*tp_alloc)(PyTypeObject *cls, Py_ssize_t count)

cdef enum:
    NUMBERS_MAX = 8

cdef class Watch:
    cdef list dicts                   # each, the keys that matter and their values
    cdef bint always_looks            # no number tells
    cdef int count
    cdef const uint64_t *numbers[NUMBERS_MAX]
    cdef uint64_t seen[NUMBERS_MAX]

    cdef int add(self, dict watched, object keys) except -1
    cdef int add_attributes(self, object owner) except -1
    cdef bint look(self) except -1


cdef inline bint watch_holds(Watch watch) except -1:
    """Whether all is as it was. A few loads, unless a dict was changed."""
    cdef int i
    if watch.always_looks:
        return watch.look()
    for i in range(watch.count):
        if watch.numbers[i][0] != watch.seen[i]:
            return watch.look()
    return True


cdef inline unsigned int class_tag(object cls) noexcept:
    """A number that CPython gives to one state of one class, 0 while it has none.

    tp_version_tag, Include/cpython/object.h: a change to the class or a base
    takes it away, and a look-up gives it a new one.
    """
    return (<PyTypeObject *><PyObject *>cls).tp_version_tag
