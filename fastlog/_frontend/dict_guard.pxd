"""Cheap checks that dicts and classes have not changed, see _frontend/dict_guard.pyx."""
cimport cython
from cpython.object cimport PyObject
from libc.stdint cimport uint64_t

from fastlog._backend.atomics cimport atomic_u64, load_relaxed
from fastlog._engine.cpythonx cimport PyTypeObject

cdef extern from "_frontend/dict_guard.h":
    uint64_t dict_version_read(const uint64_t *version) noexcept

cdef enum:
    VERSIONS_MAX = 8


@cython.final
cdef class DictGuard:
    cdef list dicts                   # of (dict, {key: expected value}, no other key may exist)
    # The same for dicts whose changes no version shows, or None.
    cdef list unversioned
    cdef int count                    # of versions
    cdef const uint64_t *versions[VERSIONS_MAX]
    cdef atomic_u64 last_seen[VERSIONS_MAX]       # values of the versions when all was as expected

    cdef int add(self, dict watched, object keys) except -1
    cdef int add_attributes(self, object owner) except -1
    cdef int expect(self, dict watched, dict values, bint whole) except -1
    cdef bint recheck(self) except -1


cdef bint all_valid(list dicts) except -1


cdef inline bint guard_is_valid(DictGuard guard) except -1:
    """Return whether all values are still the expected ones. A few loads if no dict changed."""
    cdef int i
    if guard.unversioned is not None and not all_valid(guard.unversioned):
        return False
    for i in range(guard.count):
        if dict_version_read(guard.versions[i]) != load_relaxed(&guard.last_seen[i]):
            return guard.recheck()
    return True


cdef inline unsigned int type_version(object cls) noexcept:
    """Return the number of a class's current state, or 0 if it has none.

    tp_version_tag, Include/cpython/object.h: changing the class or one of its bases resets the
    number, and the next attribute look-up assigns a new one.
    """
    return (<PyTypeObject *><PyObject *>cls).tp_version_tag


cdef inline unsigned int ensure_type_version(object cls) except? 0:
    """Return type_version() after a look-up that assigns one if the class has none.

    Call this before reading the class. A change during the read resets the number again.
    """
    # The look-up has to reach the class itself. Its metaclass answers for some other names.
    getattr(cls, "__hash__", None)
    return type_version(cls)
