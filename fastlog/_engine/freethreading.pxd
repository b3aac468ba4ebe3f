"""Functions that differ on a CPython without a GIL, see _engine/freethreading.h.

Without a GIL, each thread has its own copy of the objects that calls modify: the snapshots of
handlers with their compiled formatters, and the table of compiled messages. Objects that threads
share are complete before other threads can see them, and never change afterwards.
"""

cdef extern from "_engine/freethreading.h":
    const bint FREE_THREADED "FASTLOG_FREE_THREADED"
    object dict_find(dict searched, object key, object otherwise)
    object list_first(list items)
