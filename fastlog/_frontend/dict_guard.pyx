# cython: language_level=3, freethreading_compatible=True
"""Detect that a dict was changed, at the price of one load."""
import sys

cimport cython
from libc.stdint cimport uint64_t

from fastlog._backend.atomics cimport store_relaxed

cdef extern from "_frontend/dict_guard.h":
    int dict_guard_init() except -1
    const uint64_t *dict_guard_watch(object watched) except NULL

cdef object missing = object()
# From 3.13 on, attributes are stored in the instance itself, and its __dict__ is a view of them.
# An assignment to one does not call the watchers of that dict.
cdef bint inline_attributes = sys.version_info >= (3, 13)

dict_guard_init()


@cython.final
cdef class DictGuard:
    """A set of dicts whose values must stay the same objects.

    It has space for VERSIONS_MAX dicts. Add all of them before other threads see the guard. After
    that it is thread-safe.
    """

    cdef int add(self, dict watched, object keys) except -1:
        """Expect the present values of these keys. None stands for all keys and no others."""
        return self.expect(watched, dict(watched) if keys is None else
                           {key: watched.get(key, missing) for key in keys}, keys is None)

    cdef int add_attributes(self, object owner) except -1:
        """Expect the present attributes of an instance and no others."""
        cdef dict attributes = vars(owner)
        if not inline_attributes:
            return self.add(attributes, None)
        if self.unversioned is None:
            self.unversioned = []
        self.unversioned.append((attributes, dict(attributes), True))
        return 0

    cdef int expect(self, dict watched, dict values, bint whole) except -1:
        """Expect these values, and with `whole` no other key."""
        cdef const uint64_t *version
        with cython.critical_section(watched):
            version = dict_guard_watch(watched)
        if self.dicts is None:
            self.dicts = []
        self.dicts.append((watched, values, whole))
        # From 3.12 on, all dicts share one version.
        if self.count == 0 or self.versions[0] != version:
            self.versions[self.count] = version
            # Not the present version: the first check must compare the values.
            store_relaxed(&self.last_seen[self.count], dict_version_read(version) - 1)
            self.count += 1
        return 0

    cdef bint recheck(self) except -1:
        """Compare the values after a version changed, perhaps because of another key or dict."""
        cdef uint64_t current[VERSIONS_MAX]
        cdef int i
        for i in range(self.count):
            current[i] = dict_version_read(self.versions[i])
        for watched, values, whole in self.dicts:
            # The version may already count a change that another thread is about to make. That
            # thread holds the dict's lock until the change is done.
            with cython.critical_section(watched):
                if not is_valid(watched, values, whole):
                    return False
        for i in range(self.count):
            store_relaxed(&self.last_seen[i], current[i])
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
