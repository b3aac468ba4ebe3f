"""CPython's C API, as far as Cython's own cpython package leaves it out or declares it differently.

This is the only file with an `extern "Python.h"`. It declares objects as `object` where CPython
takes or returns a reference that Cython can manage, and as `PyObject *` where it borrows one.
"""
from cpython.object cimport PyObject

cdef extern from "Python.h":
    # Types. tp_version_tag: _frontend/dict_guard.pxd. tp_alloc makes an instance without
    # __new__ and __init__.
    ctypedef struct PyTypeObject:
        unsigned int tp_version_tag
        object (*tp_alloc)(PyTypeObject *cls, Py_ssize_t count)

    bint PyObject_TypeCheck(object self, PyTypeObject *cls)

    # The __dict__ of an instance, without a look-up of "__dict__" in its class.
    object PyObject_GenericGetDict(object self, void *context)

    # Methods of the fastest calling convention, PEP 590. PyDescr_NewMethod keeps the pointer, so
    # the PyMethodDef must outlive the class.
    ctypedef void *PyCFunction
    ctypedef struct PyMethodDef:
        const char *ml_name
        PyCFunction ml_meth
        int ml_flags
        const char *ml_doc
    ctypedef struct PyCFunctionObject:
        PyMethodDef *m_ml
    int METH_FASTCALL
    int METH_KEYWORDS
    object PyDescr_NewMethod(PyTypeObject *cls, PyMethodDef *method)

    # Numbers. The value is -1 and *overflow is not 0 if the number does not fit.
    long PyLong_AsLongAndOverflow(object number, int *overflow) except? -1
    long long PyLong_AsLongLongAndOverflow(object number, int *overflow) except? -1

    # Strings. The UTF-8 form is cached in the str and lives as long as it does.
    const char *PyUnicode_AsUTF8AndSize(object text, Py_ssize_t *size) except NULL
    bint PyUnicode_IS_COMPACT_ASCII(object text)
    void *PyUnicode_DATA(object text)
    Py_ssize_t PyUnicode_GET_LENGTH(object text)
    object PyUnicode_New(Py_ssize_t size, Py_UCS4 maxchar)

    # Borrowed.
    PyObject *PyList_GET_ITEM(object items, Py_ssize_t i) noexcept

    # Frames. PyEval_GetFrame borrows the frame of the Python code that called the native function,
    # and returns NULL if there is none. PyFrame_GetCode returns a new reference.
    ctypedef struct PyFrameObject
    ctypedef struct PyCodeObject
    PyFrameObject *PyEval_GetFrame() noexcept
    PyCodeObject *PyFrame_GetCode(PyFrameObject *frame) noexcept
    int PyFrame_GetLineNumber(PyFrameObject *frame) noexcept

    # Set what sys.exc_info() returns. It steals all three references.
    void PyErr_SetExcInfo(PyObject *cls, PyObject *value, PyObject *traceback) noexcept

    # Threads. The dict is borrowed, and is destroyed with its thread.
    unsigned long PyThread_get_thread_ident() noexcept
    PyObject *PyThreadState_GetDict() noexcept
