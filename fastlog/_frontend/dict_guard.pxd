"""Dicts and classes that are to stay as they are, as other modules see them; see _frontend/dict_guard.pyx."""
from cpython.object cimport PyObject
from libc.stdint cimport uint64_t

from fastlog._backend.atomics cimport atomic_u64, load_relaxed
from fastlog._engine.cpythonx cimport PyTypeObject

cdef extern from "_frontend/dict_guard.h":
    uint64_t dict_version_read(const uint64_t *number) noexcept

cdef enum:
    VERSIONS_MAX = 8

cdef class DictGuard:
    cdef list dicts                   # each, the keys that matter and their values
    cdef list unversioned                  # likewise; no number tells of these
    cdef int count
    cdef const uint64_t *versions[VERSIONS_MAX]
    cdef atomic_u64 last_seen[VERSIONS_MAX]

    cdef int add(self, dict watched, object keys) except -1
    cdef int add_attributes(self, object owner) except -1
    cdef int expect(self, dict watched, dict values, bint whole) except -1
    cdef bint recheck(self) except -1


cdef bint all_valid(list dicts) except -1


cdef inline bint guard_is_valid(DictGuard guard) except -1:
    """Whether all is as it was. A few loads, unless a dict was changed."""
    cdef int i
    if guard.unversioned is not None and not all_valid(guard.unversioned):
        return False
    for i in range(guard.count):
        if dict_version_read(guard.versions[i]) != load_relaxed(&guard.last_seen[i]):
            return guard.recheck()
    return True


cdef inline unsigned int type_version(object cls) noexcept:
    """A number that CPython gives to one state of one class, 0 while it has none.

    tp_version_tag, Include/cpython/object.h: a change to the class or a base
    takes it away, and a look-up gives it a new one.
    """
    return (<PyTypeObject *><PyObject *>cls).tp_version_tag


cdef inline unsigned int ensure_type_version(object cls) except? 0:
    """The class's tag, which it now gets if it has none. Before it is looked at: what changes
    meanwhile takes it away again.
    """
    getattr(cls, "__doc__", None)
    return type_version(cls)
