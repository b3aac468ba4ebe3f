/* Numbers that tell whether dicts were changed.
 *
 * Up to CPython 3.11 each dict has one of its own (PEP 509). From 3.12 on there
 * are dict watchers (C API, "Dict Watcher"): one count of all changes is kept.
 * Without a GIL, a watcher is called with the dict's lock held, before the change.
 */
#ifndef FASTLOG_DICT_GUARD_H
#define FASTLOG_DICT_GUARD_H

#include <Python.h>
#include <stdint.h>

#if PY_VERSION_HEX >= 0x030C0000

static uint64_t dict_guard_changes;
static int dict_guard_id = -1;

static int dict_guard_count_change(PyDict_WatchEvent event, PyObject *dict, PyObject *key,
                              PyObject *value)
{
    (void)dict, (void)key, (void)value;
    if (event != PyDict_EVENT_DEALLOCATED)
        __atomic_add_fetch(&dict_guard_changes, 1, __ATOMIC_RELEASE);
    return 0;
}

/* Once, when the module is imported. -1 with an exception set. */
static inline int dict_guard_init(void)
{
    dict_guard_id = PyDict_AddWatcher(dict_guard_count_change);
    return dict_guard_id < 0 ? -1 : 0;
}

/* Begin to watch a dict, which the caller has locked; returns where the number stands, or
 * NULL with an exception set. */
static inline const uint64_t *dict_guard_watch(PyObject *dict)
{
    return PyDict_Watch(dict_guard_id, dict) < 0 ? NULL : &dict_guard_changes;
}

#else

static inline int dict_guard_init(void)
{
    return 0;
}

static inline const uint64_t *dict_guard_watch(PyObject *dict)
{
    return &((PyDictObject *)dict)->ma_version_tag;
}

#endif

static inline uint64_t dict_version_read(const uint64_t *number)
{
    return __atomic_load_n(number, __ATOMIC_ACQUIRE);
}

#endif
