/* What is different where there is no GIL (PEP 703, free-threaded CPython).
 *
 * There, a reference that was borrowed from a dict or list that other threads
 * change may be gone at once: so these return references of the caller's own.
 */
#ifndef FASTLOG_SHARED_H
#define FASTLOG_SHARED_H

#include <Python.h>

#ifdef Py_GIL_DISABLED
#define FASTLOG_FREE_THREADED 1
#else
#define FASTLOG_FREE_THREADED 0
#endif

/* The value of a key, else `otherwise`; NULL with an exception set. */
static inline PyObject *dict_find(PyObject *dict, PyObject *key, PyObject *otherwise)
{
    PyObject *value;
#if FASTLOG_FREE_THREADED
    if (PyDict_GetItemRef(dict, key, &value) < 0)
        return NULL;
    if (value != NULL)
        return value;
#else
    value = PyDict_GetItemWithError(dict, key);
    if (value == NULL && PyErr_Occurred())
        return NULL;
    if (value != NULL)
        return Py_NewRef(value);
#endif
    return Py_NewRef(otherwise);
}

/* The first item of a list, None if it has none. */
static inline PyObject *list_first(PyObject *list)
{
    PyObject *item = NULL;
#if FASTLOG_FREE_THREADED
    item = PyList_GetItemRef(list, 0);
    if (item == NULL)
        PyErr_Clear();
#else
    if (PyList_GET_SIZE(list) != 0)
        item = Py_NewRef(PyList_GET_ITEM(list, 0));
#endif
    return item != NULL ? item : Py_NewRef(Py_None);
}

/* A pointer that another thread may replace, with all that it had stored before that. */
#define pointer_load(place) __atomic_load_n(place, __ATOMIC_ACQUIRE)
#define pointer_store(place, pointer) __atomic_store_n(place, pointer, __ATOMIC_RELEASE)

#endif
