/* Functions that differ on a CPython without a GIL (PEP 703).
 *
 * Without a GIL, another thread can drop an object at any moment. A reference borrowed from a dict
 * or a list that other threads modify is therefore not safe, so these functions return new
 * references.
 */
#ifndef FASTLOG_FREETHREADING_H
#define FASTLOG_FREETHREADING_H

#include <Python.h>

#ifdef Py_GIL_DISABLED
#define FASTLOG_FREE_THREADED 1
#else
#define FASTLOG_FREE_THREADED 0
#endif

/* Return the value of a key, or `otherwise` if the dict lacks it. NULL with an exception set. */
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
    if (value != NULL)
        return Py_NewRef(value);
    if (PyErr_Occurred())
        return NULL;
#endif
    return Py_NewRef(otherwise);
}

/* Return the first item of a list, or None if the list is empty. */
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

/* Load or store a pointer that other threads replace. A thread that loads the pointer also sees
 * everything that was written before the store. */
#define pointer_load(place) __atomic_load_n(place, __ATOMIC_ACQUIRE)
#define pointer_store(place, pointer) __atomic_store_n(place, pointer, __ATOMIC_RELEASE)

#endif
