"""What is different where there is no GIL; _engine/freethreading.h explains.

Without a GIL, each thread has what changes with each call for itself: snapshots of handlers, with
the compiled formatter that hangs on them, and the table of compiled messages. What all share is
made whole before others can see it, and then stays as it is.
"""
cdef extern from "_engine/freethreading.h":
    const bint FREE_THREADED "FASTLOG_FREE_THREADED"
    object dict_find(dict searched, object key, object otherwise)
    object list_first(list items)
