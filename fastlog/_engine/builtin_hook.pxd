"""Run native code before or after a function of CPython that is written in C.

A hook replaces the C function in the PyMethodDef of a builtin function, and calls it. The Python
object stays as it is. So each reference to the function is covered, also one that was imported
before ("from os import _exit"), and its name, signature, documentation and identity are unchanged.
A Python function that wraps the builtin, whenever it was installed, ends in the hook.

The interpreter reads ml_meth at each call (Objects/methodobject.c). The calling convention of a
function is part of its definition, and hook_install() refuses a function that has another one.
"""
from cpython.object cimport PyObject

cdef extern from "Python.h":
    ctypedef struct PyMethodDef:
        void *ml_meth
        int ml_flags
    ctypedef struct PyCFunctionObject:
        PyMethodDef *m_ml
    bint PyCFunction_CheckExact(object function)
    enum:
        METH_FASTCALL
        METH_KEYWORDS
        METH_NOARGS
        METH_O

# The C functions of the calling conventions. Each returns a new reference, or NULL with an
# exception set, and so do hooks: they are noexcept because they hand the exception on.
ctypedef PyObject *(*OneArgument)(PyObject *, PyObject *) noexcept     # METH_O, METH_NOARGS
ctypedef PyObject *(*Positional)(PyObject *, PyObject **, Py_ssize_t) noexcept
ctypedef PyObject *(*Keywords)(PyObject *, PyObject **, Py_ssize_t, PyObject *) noexcept

ctypedef struct BuiltinHook:
    void *replacement             # the C function that is the hook
    void *original                # the C function that the hook calls, or NULL before the first use
    PyMethodDef *method           # where the hook is installed, or NULL


cdef inline bint hook_install(BuiltinHook *hook, void *replacement, object function,
                              int flags) noexcept:
    """Install `replacement`, unless it is installed. Return whether it is.

    flags: the calling convention of the hook, which must be that of the function.
    """
    cdef PyMethodDef *method
    if hook.method != NULL:
        return True
    if not PyCFunction_CheckExact(function):
        return False
    method = (<PyCFunctionObject *>function).m_ml
    if method.ml_flags != flags:
        return False
    hook.replacement = replacement
    hook.original = method.ml_meth
    hook.method = method
    method.ml_meth = replacement
    return True


cdef inline void hook_remove(BuiltinHook *hook) noexcept:
    """Remove a hook. One over which another hook was installed stays, because that one calls it."""
    if hook.method != NULL and hook.method.ml_meth == hook.replacement:
        hook.method.ml_meth = hook.original
        hook.method = NULL
