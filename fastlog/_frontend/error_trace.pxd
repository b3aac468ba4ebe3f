"""Show the caller of a native function in the traceback that handleError() prints."""
from cpython.object cimport PyObject
from cpython.ref cimport Py_INCREF

from fastlog._engine.cpythonx cimport PyErr_SetExcInfo, PyEval_GetFrame


cdef inline int show_caller(object error) except -1:
    """Put the caller's frame at the front of the traceback of the error that is being handled.

    handleError() prints the calls that led to the error, and finds them from the first frame of
    the traceback. The frames of native functions do not lead to their caller.
    """
    cdef PyObject *frame = <PyObject *>PyEval_GetFrame()
    if frame == NULL:
        return 0
    from types import TracebackType
    caller = <object>frame
    trace = TracebackType(error.__traceback__, caller, caller.f_lasti, caller.f_lineno)
    error.__traceback__ = trace
    cls = type(error)
    Py_INCREF(cls)                    # PyErr_SetExcInfo steals these references
    Py_INCREF(error)
    Py_INCREF(trace)
    PyErr_SetExcInfo(<PyObject *>cls, <PyObject *>error, <PyObject *>trace)
    return 0
