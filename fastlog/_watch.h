/* Numbers that tell whether dicts were changed.
 *
 * Up to CPython 3.11 each dict has one of its own (PEP 509). From 3.12 on there
 * are dict watchers (C API, "Dict Watcher"): one count of all changes is kept.
 */
#ifndef FASTLOG_WATCH_H
#define FASTLOG_WATCH_H

#include <Python.h>
#include <stdint.h>

#if PY_VERSION_HEX >= 0x030C0000

static uint64_t watch_changes;
static int watch_id = -1;

static int watch_count_change(PyDict_WatchEvent event, PyObject *dict, PyObject *key,
                              PyObject *value)
{
    (void)dict, (void)key, (void)value;
    watch_changes += event != PyDict_EVENT_DEALLOCATED;
    return 0;
}

/* Begin to watch; returns where the number stands, or NULL with an exception set. */
static inline const uint64_t *watch_begin(PyObject *dict)
{
    if (watch_id < 0 && (watch_id = PyDict_AddWatcher(watch_count_change)) < 0)
        return NULL;
    return PyDict_Watch(watch_id, dict) < 0 ? NULL : &watch_changes;
}

#else

static inline const uint64_t *watch_begin(PyObject *dict)
{
    return &((PyDictObject *)dict)->ma_version_tag;
}

#endif
#endif
