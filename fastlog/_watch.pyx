# cython: language_level=3
"""Noticing that a dict was changed, for the price of a load."""
import sys

from libc.stdint cimport uint64_t

cdef extern from "_watch.h":
    const uint64_t *watch_begin(object watched) except NULL

cdef object missing = object()
cdef bint inline_attributes = sys.version_info >= (3, 13)


cdef class Watch:
    """Dicts and those of their values that are to stay the same objects, at most NUMBERS_MAX."""

    cdef int add(self, dict watched, object keys) except -1:
        """Watch these keys' values, or with None all and that none is added."""
        cdef const uint64_t *number = watch_begin(watched)
        if self.dicts is None:
            self.dicts = []
        self.dicts.append((watched, keys, dict(watched) if keys is None else
                           {key: watched.get(key, missing) for key in keys}))
        if self.count == 0 or self.numbers[0] != number:      # one for all, from 3.12 on
            self.numbers[self.count] = number
            self.seen[self.count] = number[0]
            self.count += 1
        return 0

    cdef int add_attributes(self, object owner) except -1:
        """Watch all attributes of an instance."""
        # From 3.13 on they lie in the instance itself, and its __dict__ shows them: an
        # assignment tells the dict's watchers nothing.
        self.always_looks = self.always_looks or inline_attributes
        return self.add(vars(owner), None)

    cdef bint look(self) except -1:
        """watch_holds() after some change, perhaps to another value or dict."""
        cdef int i
        for watched, keys, values in self.dicts:
            if keys is None and len(watched) != len(values):
                return False
            for key, value in values.items():
                if watched.get(key, missing) is not value:
                    return False
        for i in range(self.count):
            self.seen[i] = self.numbers[i][0]
        return True
