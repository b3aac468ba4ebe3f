# cython: language_level=3, freethreading_compatible=True
"""Noticing that a dict was changed, for the price of a load."""
import sys

cimport cython
from libc.stdint cimport uint64_t

from fastlog._backend.atomics cimport store_relaxed

cdef extern from "_frontend/dict_guard.h":
    int dict_guard_init() except -1
    const uint64_t *dict_guard_watch(object watched) except NULL

cdef object missing = object()
cdef bint inline_attributes = sys.version_info >= (3, 13)

dict_guard_init()


cdef class DictGuard:
    """Dicts and those of their values that are to stay the same objects, at most VERSIONS_MAX.

    Complete before other threads see it, and then thread-safe.
    """

    cdef int add(self, dict watched, object keys) except -1:
        """DictGuard these keys' values, or with None all and that none is added."""
        return self.expect(watched, dict(watched) if keys is None else
                           {key: watched.get(key, missing) for key in keys}, keys is None)

    cdef int add_attributes(self, object owner) except -1:
        """DictGuard all attributes of an instance."""
        cdef dict own = vars(owner)
        # From 3.13 on they lie in the instance itself, and its __dict__ shows them: an
        # assignment tells the dict's watchers nothing.
        if not inline_attributes:
            return self.add(own, None)
        if self.unversioned is None:
            self.unversioned = []
        self.unversioned.append((own, dict(own), True))
        return 0

    cdef int expect(self, dict watched, dict values, bint whole) except -1:
        """DictGuard whether these are the values; `whole`: and all that there are."""
        cdef const uint64_t *number
        with cython.critical_section(watched):
            number = dict_guard_watch(watched)
        if self.dicts is None:
            self.dicts = []
        self.dicts.append((watched, values, whole))
        if self.count == 0 or self.versions[0] != number:      # one for all, from 3.12 on
            self.versions[self.count] = number
            store_relaxed(&self.last_seen[self.count], dict_version_read(number) - 1)     # look first
            self.count += 1
        return 0

    cdef bint recheck(self) except -1:
        """guard_is_valid() after some change, perhaps to another value or dict."""
        cdef uint64_t now[VERSIONS_MAX]
        cdef int i
        for i in range(self.count):
            now[i] = dict_version_read(self.versions[i])
        for watched, values, whole in self.dicts:
            # A change of which the number tells already may be about to be made: not with the lock.
            with cython.critical_section(watched):
                if not is_valid(watched, values, whole):
                    return False
        for i in range(self.count):
            store_relaxed(&self.last_seen[i], now[i])
        return True


cdef bint all_valid(list dicts) except -1:
    for watched, values, whole in dicts:
        if not is_valid(watched, values, whole):
            return False
    return True


cdef bint is_valid(dict watched, dict values, bint whole) except -1:
    if whole and len(watched) != len(values):
        return False
    for key, value in values.items():
        if watched.get(key, missing) is not value:
            return False
    return True
