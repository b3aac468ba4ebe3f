# cython: language_level=3, boundscheck=False, wraparound=False, freethreading_compatible=True
"""Native equivalents of LogRecord.__init__ and Logger.findCaller.

They follow CPython, Lib/logging/__init__.py. Attributes are computed one by one, for calls that
need no LogRecord, or all at once by make_record().
"""
import collections
import logging
import os
import sys
import threading
import time
from collections.abc import Mapping

cimport cython
from cpython.dict cimport PyDict_Copy, PyDict_Next
from cpython.object cimport PyObject
from cpython.ref cimport Py_DECREF, Py_INCREF
from cpython.tuple cimport PyTuple_New, PyTuple_SET_ITEM
from libc.stdint cimport int64_t
from posix.time cimport CLOCK_REALTIME, clock_gettime, timespec

from fastlog._backend.atomics cimport atomic_u64, load_relaxed, store_relaxed
from fastlog._core cimport Engine
from fastlog._engine.cpythonx cimport (PyEval_GetFrame, PyFrame_GetCode, PyFrame_GetLineNumber,
                                       PyCFunction, PyCFunctionObject, PyFrameObject,
                                       PyList_GET_ITEM, PyMethodDef, PyTypeObject)
from fastlog._engine.freethreading cimport FREE_THREADED, dict_find
from fastlog._engine.message cimport Message
from fastlog._frontend.dict_guard cimport (DictGuard, ensure_type_version, guard_is_valid,
                                           type_version)
from fastlog._frontend.stdlib cimport are_stdlib_methods, is_builtin_of, is_stdlib_function

cdef extern from "<dlfcn.h>":
    ctypedef struct Dl_info:
        void *dli_fbase
    int dladdr(const void *address, Dl_info *info) noexcept

cdef object LogRecord = logging.LogRecord
cdef dict logging_methods = {name: f"LogRecord.{name}" for name in ("__init__", "getMessage")}
cdef atomic_u64 unmodified_version    # type_version() of LogRecord when it last was unmodified
cdef dict logging_names = vars(logging)
cdef dict time_names = vars(time)

cdef str clock_name = "time_ns" if CLOCK_COUNTS_NS else "time"
cdef object stdlib_clock = time_names[clock_name]
# The C function below it, which time-machine replaces in place.
cdef PyMethodDef *clock_method = NULL
cdef PyCFunction stdlib_clock_function = NULL
# Whether `stacklevel` counts frames of the logging module in findCaller.
cdef bint counts_internal_frames = sys.version_info < (3, 11)
cdef bint has_task_name = sys.version_info >= (3, 12)

# isinstance(value, Mapping) is slow, so these types skip it.
cdef frozenset no_mappings = frozenset({str, int, float, bool, type(None), tuple, list, bytes})

cdef object no_value = object()       # differs from every value that a name can have


cdef bint is_patched(str name) except -1:
    """Return whether a function of the logging module is not the standard library's."""
    function = logging_names[name]
    return not (is_stdlib_function(function, logging_names, name)
                # currentframe is a lambda
                or is_stdlib_function(function, logging_names, "<lambda>"))


cdef bint clock_is_stdlib() except -1:
    """Return whether the clock is the interpreter's. A test may have replaced it already."""
    peer = time.get_clock_info        # nothing replaces this one
    return (is_builtin_of(stdlib_clock, time, clock_name)
            and is_builtin_of(peer, time, "get_clock_info")
            and are_in_one_file(<void *>method_of(stdlib_clock).ml_meth,
                                <void *>method_of(peer).ml_meth))


cdef inline PyMethodDef *method_of(object builtin) noexcept:
    return (<PyCFunctionObject *><PyObject *>builtin).m_ml


cdef bint are_in_one_file(void *function, void *other) noexcept:
    """Return whether one executable or shared library contains both functions."""
    cdef Dl_info info, other_info
    return (dladdr(function, &info) != 0 and dladdr(other, &other_info) != 0
            and info.dli_fbase == other_info.dli_fbase)


cdef dict level_names = logging._levelToName
# Names in the logging module that a call depends on. One that was patched before this import
# leaves all calls to the standard library.
cdef dict stdlib_names = {
    "LogRecord": LogRecord, "_logRecordFactory": LogRecord, "_levelToName": level_names,
    "collections": collections, "os": os, "sys": sys, "threading": threading, "time": time}
for _name in ("getLevelName", "_is_internal_frame", "currentframe"):
    if _name in logging_names:
        stdlib_names[_name] = no_value if is_patched(_name) else logging_names[_name]
if clock_is_stdlib():
    clock_method = method_of(stdlib_clock)
    stdlib_clock_function = clock_method.ml_meth
# Guards these names, and the clock.
cdef DictGuard surroundings = DictGuard()
surroundings.expect(logging_names, stdlib_names, False)
surroundings.expect(time_names, {clock_name: stdlib_clock if clock_method != NULL else no_value},
                    False)

cdef enum:
    USUAL_LEVELS = 6                  # NOTSET to CRITICAL, the multiples of 10
cdef list usual_names = [None] * USUAL_LEVELS
cdef DictGuard level_names_guard = None       # valid while usual_names are those of level_names

# The names of the attributes of a LogRecord. The first ones are in the order of Field.
cdef list stdlib_order = [
    "name", "msg", "args", "levelname", "levelno", "pathname", "filename", "module", "exc_info",
    "exc_text", "stack_info", "lineno", "funcName", "created", "msecs", "relativeCreated",
    "thread", "threadName", "processName", "process"]
record_attributes = frozenset(stdlib_order + (["taskName"] if has_task_name else []))

# All attributes of a LogRecord, in its order. None until record_class_is_unmodified().
cdef dict template = None
cdef list field_names = None          # the names in `template`, by Field
cdef bint known_order = False         # they are as in stdlib_order


cdef int make_template() except -1:
    global template, field_names, known_order
    record = LogRecord("", 0, "", 0, "", (), None)
    # All instances share the keys of their dicts (PEP 412), and each new instance lowers the
    # number of keys that can still be added. After ten LogRecords, every later one would get a
    # dict of its own when Formatter.format sets its second attribute, which takes as long as a
    # whole call here. So one record gets both attributes first.
    record.message = record.asctime = ""
    attributes = dict(vars(record))
    del attributes["message"], attributes["asctime"]
    field_names = list(attributes)[:FIELDS]
    known_order = field_names == stdlib_order
    template = attributes
    return 0


@cython.final
cdef class SourceFile:
    """The attributes that follow from the name of a source file."""
    cdef object filename, module
    cdef object logging_source        # the logging._srcfile that `internal` was computed with
    cdef bint internal                # findCaller skips frames of this file


# By co_filename. Limited, because a program can generate code under any number of names.
cdef dict source_files = {}
cdef enum:
    SOURCE_FILES_MAX = 1000


cdef SourceFile new_source_file(object pathname, object logging_source):
    cdef SourceFile source_file = SourceFile()
    source_file.logging_source = logging_source
    try:
        source_file.filename = os.path.basename(pathname)
        source_file.module = os.path.splitext(source_file.filename)[0]
    except (TypeError, ValueError, AttributeError):
        source_file.filename = pathname
        source_file.module = "Unknown module"
    name = os.path.normcase(pathname)
    source_file.internal = name == logging_source or (
        not counts_internal_frames and "importlib" in name and "_bootstrap" in name)
    if len(source_files) >= SOURCE_FILES_MAX:
        source_files.clear()
    source_files[pathname] = source_file
    return source_file


cdef inline SourceFile source_file_of(object pathname, object logging_source):
    cached = dict_find(source_files, pathname, None)
    if cached is not None and (<SourceFile>cached).logging_source is logging_source:
        return <SourceFile>cached
    return new_source_file(pathname, logging_source)


cdef CallSite new_call_site(object pathname, object lineno, object function,
                            SourceFile source_file):
    cdef CallSite call_site = CallSite()
    call_site.pathname, call_site.lineno, call_site.function = pathname, lineno, function
    call_site.filename, call_site.module = source_file.filename, source_file.module
    return call_site


cdef CallSite find_caller(long stacklevel):
    """Return the place of the code that called the native function: Logger.findCaller."""
    cdef PyObject *frame = <PyObject *>PyEval_GetFrame()
    logging_source = logging_names.get("_srcfile")
    caller = None
    if logging_source and frame != NULL:
        caller = (caller_counting_internal(<object>frame, stacklevel, logging_source)
                  if counts_internal_frames else
                  caller_skipping_internal(<object>frame, stacklevel, logging_source))
    if caller is None:
        return new_call_site("(unknown file)", 0, "(unknown function)",
                             source_file_of("(unknown file)", None))
    code = code_of(caller)
    return new_call_site(code.co_filename,
                         PyFrame_GetLineNumber(<PyFrameObject *><PyObject *>caller), code.co_name,
                         source_file_of(code.co_filename, logging_source))


cdef object caller_skipping_internal(object frame, long stacklevel, object logging_source):
    """Return the frame that findCaller finds from 3.11 on."""
    while True:
        stacklevel -= not is_internal(frame, logging_source)
        outer = frame.f_back if stacklevel > 0 else None
        if outer is None:
            return frame
        frame = outer


cdef object caller_counting_internal(object frame, long stacklevel, object logging_source):
    """Return the frame that findCaller finds up to 3.10, or None."""
    frame = frame_back(frame, stacklevel)
    while frame is not None and is_internal(frame, logging_source):
        frame = frame.f_back
    return frame


cdef bint is_internal(object frame, object logging_source) except -1:
    return source_file_of(code_of(frame).co_filename, logging_source).internal


cdef object code_of(object frame):
    cdef PyObject *code = <PyObject *>PyFrame_GetCode(<PyFrameObject *><PyObject *>frame)
    owned = <object>code
    Py_DECREF(owned)                  # PyFrame_GetCode returned a new reference
    return owned


cdef object frame_back(object frame, long stacklevel):
    """Return the frame stacklevel - 1 frames further out, or `frame` if there are too few."""
    outer = frame
    while outer is not None and stacklevel > 1:
        outer = outer.f_back
        stacklevel -= 1
    return frame if outer is None else outer


cdef class Encoder:
    """Base class of what a protocol puts around the text of a record or a call.

    It is defined here and not in a module of its own, which would cost every program 0.2 ms at
    import. Its subclasses' modules are imported when first used.
    """

    cdef int put(self, Engine engine, Message *message, int prefix, object ident, object append_nul,
                 unsigned int priority, bint urgent, object record, LogCall *call) except -1:
        raise NotImplementedError


# --- the attributes of a LogRecord --------------------------------------------------------------

cdef bint fields_load(RecordFields *record_fields, dict attributes, const unsigned char *indexes,
                      int count) except -1:
    """Load some fields of a LogRecord from its attributes.

    indexes: `count` fields, ascending, which must outlive `record_fields`.

    Return False if the attributes are not where LogRecord.__init__ puts them, or if the record has
    a getMessage() of its own. Otherwise the values are borrowed, so call fields_incref() before any
    code that could change the record.
    """
    record_fields.indexes = indexes
    record_fields.count = count
    record_fields.owned = 0
    if not known_order or (len(attributes) > len(template)
                           and dict_find(attributes, "getMessage", None) is not None):
        return False
    if not FREE_THREADED:
        return fields_find(record_fields, attributes)
    # Without a GIL, other threads may change the record at any moment.
    with cython.critical_section(attributes):
        if not fields_find(record_fields, attributes):
            return False
        fields_incref(record_fields)
    return True


cdef inline bint fields_find(RecordFields *record_fields, dict attributes) noexcept:
    """Read the values by position, which needs no look-up, and compare the names found there."""
    cdef Py_ssize_t position
    cdef PyObject *key
    cdef int i, field
    for i in range(record_fields.count):
        field = record_fields.indexes[i]
        position = field
        if (not PyDict_Next(attributes, &position, &key, &record_fields.values[field])
                or key != PyList_GET_ITEM(field_names, field)):
            return False
    return True


cdef void fields_incref(RecordFields *record_fields) noexcept:
    """Turn all values into references that are owned until fields_decref()."""
    while record_fields.owned < record_fields.count:
        Py_INCREF(<object>record_fields.values[record_fields.indexes[record_fields.owned]])
        record_fields.owned += 1


cdef void fields_decref(RecordFields *record_fields) noexcept:
    while record_fields.owned:
        record_fields.owned -= 1
        Py_DECREF(<object>record_fields.values[record_fields.indexes[record_fields.owned]])


cdef object thread_ident():
    return threading.get_ident() if logging_names["logThreads"] else None


cdef object thread_name():
    return threading.current_thread().name if logging_names["logThreads"] else None


cdef object process_id():
    return os.getpid() if logging_names["logProcesses"] else None


cdef object process_name():
    if not logging_names["logMultiprocessing"]:
        return None
    multiprocessing = sys.modules.get("multiprocessing")
    if multiprocessing is not None:
        try:
            return multiprocessing.current_process().name
        except Exception:             # the module is just being imported
            pass
    return "MainProcess"


cdef object task_name():
    asyncio = sys.modules.get("asyncio")
    if not logging_names["logAsyncioTasks"] or not asyncio:
        return None
    try:
        # current_task() raises if no loop is running, which is slower than asking first.
        return asyncio.current_task().get_name() if asyncio._get_running_loop() else None
    except Exception:
        return None


cdef object relative_created(int64_t ns):
    start = logging_names["_startTime"]
    return (ns - start) / 1e6 if CLOCK_COUNTS_NS else (created_of(ns) - start) * 1000


# --- calls --------------------------------------------------------------------------------------

cdef bint record_class_is_unmodified() except -1:
    """Return whether LogRecord is as CPython defines it."""
    cdef unsigned int version = type_version(LogRecord)
    if version != 0 and load_relaxed(&unmodified_version) == version:
        return True
    version = ensure_type_version(LogRecord)
    if (LogRecord.__mro__ != (LogRecord, object)
            or not are_stdlib_methods(LogRecord, logging_names, logging_methods)):
        return False
    for name in ("__new__", "__setattr__", "__getattribute__"):
        if name in vars(LogRecord):
            return False
    if not record_attributes.isdisjoint(vars(LogRecord)):     # a property replaces an attribute
        return False
    if template is None:
        make_template()
    store_relaxed(&unmodified_version, version)
    return True


cdef object level_name(object levelno, long level):
    """Return the name of a level, or None if it has none."""
    global level_names_guard
    if FREE_THREADED:
        return dict_find(level_names, levelno, None)
    if level_names_guard is None or not guard_is_valid(level_names_guard):
        level_names_guard = DictGuard()
        level_names_guard.add(level_names, None)
        usual_names[:] = [level_names.get(10 * i) for i in range(USUAL_LEVELS)]
    if 0 <= level < 10 * USUAL_LEVELS and level % 10 == 0:
        return usual_names[level // 10]
    return level_names.get(levelno)


cdef object record_args(PyObject *const *args, Py_ssize_t count):
    """Return the arguments after the message in the form that LogRecord stores."""
    cdef tuple values
    cdef Py_ssize_t i
    if count == 1:
        only = <object>args[0]
        if type(only) not in no_mappings and isinstance(only, Mapping) and only:
            return only
    values = PyTuple_New(count)
    for i in range(count):
        Py_INCREF(<object>args[i])
        PyTuple_SET_ITEM(values, i, <object>args[i])
    return values


cdef inline int64_t realtime_ns() noexcept:
    cdef timespec reading
    clock_gettime(CLOCK_REALTIME, &reading)
    return <int64_t>reading.tv_sec * 1_000_000_000 + reading.tv_nsec


cdef bint prepare_call(LogCall *call, PyObject *const *args, Py_ssize_t count) except -1:
    """Fill in what the standard library would compute for this call.

    call: its name, levelno, level and stacklevel are set. args: the message and its arguments.

    Return False if only the standard library can make this call. Otherwise release_call() must
    follow.
    """
    if (not guard_is_valid(surroundings) or clock_method.ml_meth != stdlib_clock_function
            or not record_class_is_unmodified()):
        return False
    levelname = level_name(<object>call.levelno, call.level)
    if levelname is None:
        return False
    values = record_args(args + 1, count - 1)
    Py_INCREF(levelname)
    Py_INCREF(values)
    call.msg = args[0]
    call.levelname = <PyObject *>levelname
    call.args = <PyObject *>values
    call.time = realtime_ns()
    return True


cdef object make_record(LogCall *call, object exc_info):
    """Return the LogRecord that the standard library would make of a call."""
    cdef CallSite call_site = find_caller(call.stacklevel)
    cdef dict values = PyDict_Copy(template)
    values["name"] = <object>call.name
    values["msg"] = <object>call.msg
    values["args"] = <object>call.args
    values["levelname"] = <object>call.levelname
    values["levelno"] = <object>call.levelno
    values["pathname"] = call_site.pathname
    values["filename"] = call_site.filename
    values["module"] = call_site.module
    values["exc_info"] = exc_info
    values["lineno"] = call_site.lineno
    values["funcName"] = call_site.function
    values["created"] = created_of(call.time)
    values["msecs"] = msecs_of(call.time)
    values["relativeCreated"] = relative_created(call.time)
    values["thread"] = thread_ident()
    values["threadName"] = thread_name()
    values["processName"] = process_name()
    values["process"] = process_id()
    if has_task_name:
        values["taskName"] = task_name()
    record = (<PyTypeObject *>LogRecord).tp_alloc(<PyTypeObject *>LogRecord, 0)
    record.__dict__ = values
    return record


# At import, before the program makes many LogRecords, see make_template().
record_class_is_unmodified()
