/* Version numbers that change with a dict.
 *
 * Up to CPython 3.11 each dict has a version of its own (PEP 509). From 3.12 on, dict watchers (C
 * API, "Dict Watcher") count the changes of all watched dicts in one number. Without a GIL,
 * CPython calls a watcher before the change, with the dict's lock held.
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

/* Called once, when the module is imported. Returns -1 with an exception set. */
static inline int dict_guard_init(void)
{
    dict_guard_id = PyDict_AddWatcher(dict_guard_count_change);
    return dict_guard_id < 0 ? -1 : 0;
}

/* Watch a dict, which the caller has locked. Returns the address of its version, which stays valid
 * as long as the dict lives, or NULL with an exception set. */
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

static inline uint64_t dict_version_read(const uint64_t *version)
{
    return __atomic_load_n(version, __ATOMIC_ACQUIRE);
}

#endif
