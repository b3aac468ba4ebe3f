"""Waiting under gevent and eventlet, which run many greenlets in one native thread.

The hub of a thread is the greenlet that runs its event loop and switches to the others. A wait that
blocks the thread stops them all. In a process that one of the libraries has patched, a wait
therefore sleeps by the hub's own function, and the other greenlets run meanwhile.

A native thread without a hub blocks, such as one of a thread pool. So does every thread of a
process that is not patched, because there a program does not expect other greenlets to run during
a logging call.

Whether `time.sleep` is patched does not count. Tests and diagnostic tools replace it, too, and a
call of fastlog's would appear in what they record.
"""
from cpython.object cimport PyObject
from cpython.ref cimport Py_DECREF
from libc.stdint cimport uint64_t

from fastlog._backend.atomics cimport add_relaxed, atomic_u64
from fastlog._backend.clock cimport MILLISECOND, SECOND, monotonic_ns

cdef extern from "Python.h":
    PyObject *PyImport_GetModule(object name) except? NULL

cdef enum:
    HUB_POLL = MILLISECOND            # ns that a waiting greenlet sleeps between two checks
    GREENLETS_PER_POLL = 4            # it sleeps as long again for every 4 others that wait
    HUB_BLOCK = 40 * MILLISECOND      # ns for which a callback of the hub may block it

cdef enum Caller:                 # the calling thread and greenlet, as regards waiting
    BLOCKING                      # the thread has no hub that a wait could stop
    GEVENT_GREENLET               # the hub can run other greenlets while this one sleeps
    EVENTLET_GREENLET
    HUB                           # it is the hub, in a callback: no greenlet runs until it returns


cdef inline object find_module(str name):
    """Return a module, or None if it is not imported."""
    cdef PyObject *module = PyImport_GetModule(name)
    if module == NULL:
        return None
    found = <object>module
    Py_DECREF(found)
    return found


cdef inline Caller gevent_caller(object monkey) except? BLOCKING:
    """Return how a thread waits in a process that has imported gevent.monkey."""
    if not (monkey.is_module_patched("socket") or monkey.is_module_patched("time")):
        return BLOCKING
    hub = find_module("gevent._hub_local").get_hub_if_exists()
    if hub is None or hub.loop is None:           # hub.destroy() leaves it without a loop
        return BLOCKING
    return HUB if find_module("gevent").getcurrent() is hub else GEVENT_GREENLET


cdef inline Caller eventlet_caller(object patcher) except? BLOCKING:
    """Return how a thread waits in a process that has imported eventlet.patcher."""
    if not (patcher.is_monkey_patched("socket") or patcher.is_monkey_patched("time")):
        return BLOCKING
    # Not get_hub(), which would create one.
    hub = getattr(find_module("eventlet.hubs")._threadlocal, "hub", None)
    if hub is None:
        return BLOCKING
    current = find_module("eventlet.greenthread").getcurrent()
    return HUB if current is hub.greenlet else EVENTLET_GREENLET


cdef inline Caller find_caller() except? BLOCKING:
    """Return how the calling thread and greenlet can wait."""
    cdef Caller caller = BLOCKING
    try:
        library = find_module("gevent.monkey")
        if library is not None:
            caller = gevent_caller(library)
        if caller == BLOCKING:
            library = find_module("eventlet.patcher")
            if library is not None:
                caller = eventlet_caller(library)
    except Exception:             # the library is being imported, or the interpreter ends
        return BLOCKING
    return caller


cdef inline int sleep_in_hub(Caller caller, double seconds) except -1:
    """Let other greenlets run for some time. Whatever is thrown into this one is raised here."""
    sleep = find_module("gevent.hub" if caller == GEVENT_GREENLET else "eventlet.greenthread").sleep
    # Newer versions of logging mark a thread that is handling a record, and drop other records of
    # that thread. If logging was imported before the patch, all greenlets share the mark.
    marks = getattr(find_module("logging").Logger, "_tls", None)
    cdef bint in_progress = getattr(marks, "in_progress", False)
    if in_progress:
        marks.in_progress = False
    try:
        sleep(seconds)
    finally:
        if in_progress:
            marks.in_progress = True
    return 0


cdef inline bint pause_in_hub(atomic_u64 *pausing, uint64_t timeout) except -1:
    """Sleep for a moment, at most `timeout` ns, so that other greenlets run.

    Return False if the caller must block instead, because it is not in a greenlet or because a
    test has replaced the sleep by something that returns at once.

    pausing: the number of greenlets in this function. With many, each one sleeps longer.
    """
    cdef Caller caller = find_caller()
    cdef uint64_t start, pause
    if caller != GEVENT_GREENLET and caller != EVENTLET_GREENLET:
        return False
    pause = min(timeout, HUB_POLL * (1 + add_relaxed(pausing, 1) // GREENLETS_PER_POLL))
    start = monotonic_ns()
    try:
        sleep_in_hub(caller, <double>pause / <double>SECOND)
    finally:
        add_relaxed(pausing, <uint64_t>-1)
    return monotonic_ns() - start >= pause // 2
