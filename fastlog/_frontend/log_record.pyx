# cython: language_level=3, boundscheck=False, wraparound=False, freethreading_compatible=True
"""What LogRecord.__init__ finds out, natively, and a LogRecord that has it.

The record_fields are those of CPython, Lib/logging/__init__.py: LogRecord, Logger.findCaller.
"""
import logging
import os
import sys
import threading
import time
from collections.abc import Mapping

cimport cython
from cpython.dict cimport PyDict_Copy, PyDict_Next
from cpython.object cimport PyObject
from cpython.tuple cimport PyTuple_New, PyTuple_SET_ITEM
from cpython.ref cimport Py_DECREF, Py_INCREF
from libc.stdint cimport int64_t

from fastlog._backend.atomics cimport atomic_u64, load_relaxed, store_relaxed
from fastlog._engine.cpythonx cimport (
    PyEval_GetFrame, PyFrameObject, PyFrame_GetCode, PyFrame_GetLineNumber, PyList_GET_ITEM,
    PyTypeObject)
from fastlog._engine.freethreading cimport FREE_THREADED, dict_find
from fastlog._frontend.dict_guard cimport DictGuard, type_version, ensure_type_version, guard_is_valid

cdef object LogRecord = logging.LogRecord
cdef dict stdlib_methods = {name: getattr(LogRecord, name) for name in (
    "__init__", "__new__", "__setattr__", "__getattribute__", "getMessage")}
cdef atomic_u64 unmodified_version             # LogRecord's when it was last found to be stock
cdef dict logging_names = vars(logging)
cdef dict time_names = vars(time)

# Which clock LogRecord reads, and how it computes with it.
cdef bint counts_ns = sys.version_info >= (3, 13)
cdef str clock_name = "time_ns" if counts_ns else "time"
cdef object stdlib_clock = time_names[clock_name]
if type(stdlib_clock) is not type(len):        # it is somebody's for tests already
    stdlib_clock = None
# How findCaller counts stacklevel: frames of the logging module, too.
cdef bint counts_internal_frames = sys.version_info < (3, 11)
cdef bint has_task_name = sys.version_info >= (3, 12)

# To ask whether a value is a Mapping takes long.
cdef frozenset no_mappings = frozenset({str, int, float, bool, type(None), tuple, list, bytes})

# Names in the logging module that a call depends on.
cdef dict stdlib_names = {name: logging_names[name] for name in (
    "getLevelName", "_levelToName", "LogRecord", "collections", "os", "sys", "threading", "time")}
for _name in ("_is_internal_frame", "currentframe"):
    if _name in logging_names:
        stdlib_names[_name] = logging_names[_name]
stdlib_names["_logRecordFactory"] = LogRecord
cdef DictGuard surroundings = DictGuard()     # of them and the clock
surroundings.expect(logging_names, stdlib_names, False)
surroundings.expect(time_names, {clock_name: stdlib_clock}, False)

cdef dict level_names = logging._levelToName
cdef enum:
    USUAL_LEVELS = 6                  # NOTSET to CRITICAL
cdef list usual_names = [None] * USUAL_LEVELS
cdef DictGuard level_names_guard = None         # while usual_names are theirs

_record = LogRecord("", 0, "", 0, "", (), None)
# Instances share their dict's keys (PEP 412), and each one that is made lets fewer be added: with
# ten LogRecords before the first that is formatted, every later one gets a dict of its own when
# Formatter.format sets its second attribute, which takes as long as a whole call of ours.
_record.message = _record.asctime = ""

# All that a LogRecord has, in its order.
cdef dict template = dict(vars(_record))
del template["message"], template["asctime"], _record


cdef class SourceFile:
    """What a source file's name tells."""
    cdef object filename, module
    cdef object source                # the logging._srcfile that it was made for
    cdef bint internal                # a frame that findCaller passes over


# By co_filename. Programs that make code up as they go have names without end.
cdef dict source_files = {}
cdef enum:
    SOURCE_FILES_MAX = 1000


cdef SourceFile new_source_file(object pathname, object source):
    cdef SourceFile source_file = SourceFile()
    source_file.source = source
    try:
        source_file.filename = os.path.basename(pathname)
        source_file.module = os.path.splitext(source_file.filename)[0]
    except (TypeError, ValueError, AttributeError):
        source_file.filename = pathname
        source_file.module = "Unknown module"
    name = os.path.normcase(pathname)
    source_file.internal = name == source or (
        not counts_internal_frames and "importlib" in name and "_bootstrap" in name)
    if len(source_files) >= SOURCE_FILES_MAX:
        source_files.clear()
    source_files[pathname] = source_file
    return source_file


cdef inline SourceFile source_file_of(object pathname, object source):
    known = dict_find(source_files, pathname, None)
    if known is not None and (<SourceFile>known).source is source:
        return <SourceFile>known
    return new_source_file(pathname, source)


cdef CallSite unknown_call_site():
    cdef CallSite call_site = CallSite()
    cdef SourceFile source_file = source_file_of("(unknown file)", None)
    call_site.pathname, call_site.lineno, call_site.function = "(unknown file)", 0, "(unknown function)"
    call_site.filename, call_site.module = source_file.filename, source_file.module
    return call_site


cdef CallSite find_caller(long stacklevel):
    """Where the code stands that called the native function: Logger.findCaller."""
    cdef PyObject *frame = <PyObject *>PyEval_GetFrame()
    cdef CallSite call_site
    cdef SourceFile source_file
    source = logging_names.get("_srcfile")
    if not source or frame == NULL:
        return unknown_call_site()
    held = <object>frame
    if counts_internal_frames:
        held = frame_back(held, stacklevel)
        code = code_of(held)
        source_file = source_file_of(code.co_filename, source)
        while source_file.internal:
            held = held.f_back
            if held is None:
                return unknown_call_site()
            code = code_of(held)
            source_file = source_file_of(code.co_filename, source)
    else:
        while True:
            code = code_of(held)
            source_file = source_file_of(code.co_filename, source)
            stacklevel -= not source_file.internal
            outer = held.f_back if stacklevel > 0 else None
            if outer is None:
                break
            held = outer
    call_site = CallSite()
    call_site.pathname = code.co_filename
    call_site.filename, call_site.module = source_file.filename, source_file.module
    call_site.lineno = PyFrame_GetLineNumber(<PyFrameObject *><PyObject *>held)
    call_site.function = code.co_name
    return call_site


cdef object code_of(object frame):
    cdef PyObject *code = <PyObject *>PyFrame_GetCode(<PyFrameObject *><PyObject *>frame)
    held = <object>code
    Py_DECREF(held)                   # a new reference came with it
    return held


cdef object frame_back(object frame, long stacklevel):
    """stacklevel - 1 frames further back, or `frame` if there are not so many: up to 3.10."""
    further = frame
    while further is not None and stacklevel > 1:
        further = further.f_back
        stacklevel -= 1
    return frame if further is None else further


# --- the attributes of a LogRecord --------------------------------------------------------------

# Their names, by Field.
cdef list field_names = list(template)[:FIELDS]
cdef bint known_order = field_names == [
    "name", "msg", "args", "levelname", "levelno", "pathname", "filename", "module", "exc_info",
    "exc_text", "stack_info", "lineno", "funcName", "created", "msecs", "relativeCreated",
    "thread", "threadName", "processName", "process"]


cdef bint fields_load(RecordFields *record_fields, dict attributes, const unsigned char *fields,
                     int count) except -1:
    """Read so many attributes, named by their numbers, which ascend and outlive `record_fields`.

    Returns False if they do not stand where LogRecord.__init__ puts them. Else they are
    borrowed: fields_incref() must come before any code that could change the record.
    """
    record_fields.indexes = fields
    record_fields.count = count
    record_fields.held = 0
    if not known_order:
        return False
    if not FREE_THREADED:
        return fields_find(record_fields, attributes)
    # Any code can run meanwhile, in other threads.
    with cython.critical_section(attributes):
        if not fields_find(record_fields, attributes):
            return False
        fields_incref(record_fields)
    return True


cdef inline bint fields_find(RecordFields *record_fields, dict attributes) noexcept:
    """By their places in the dict, without a look-up: what stands there has to have the name."""
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
    """Take references to all. Until fields_decref()."""
    while record_fields.held < record_fields.count:
        Py_INCREF(<object>record_fields.values[record_fields.indexes[record_fields.held]])
        record_fields.held += 1


cdef void fields_decref(RecordFields *record_fields) noexcept:
    while record_fields.held:
        record_fields.held -= 1
        Py_DECREF(<object>record_fields.values[record_fields.indexes[record_fields.held]])


# --- a call that has no LogRecord yet ----------------------------------------------------------

cdef object call_args(PyObject *const *args, Py_ssize_t count):
    """The arguments after the message, as LogRecord keeps them."""
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


cdef double created_of(int64_t ns) noexcept:
    """The attribute `created`, to the last bit."""
    # Python/pytime.c, _PyTime_AsSecondsDouble, up to 3.12: whole seconds stay exact.
    if not counts_ns and ns % 1_000_000_000 == 0:
        return <double>(ns // 1_000_000_000)
    return <double>ns / 1e9


cdef double msecs_of(int64_t ns) noexcept:
    """The attribute `msecs`, likewise."""
    cdef double created = created_of(ns)
    cdef int64_t ms
    if not counts_ns:
        return <double><int64_t>((created - <double><int64_t>created) * 1000)
    ms = ns % 1_000_000_000 // 1_000_000
    # `created` was rounded up to the next second.
    return 0.0 if ms == 999 and <int64_t>created != ns // 1_000_000_000 else <double>ms


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
        except Exception:             # it is being imported
            pass
    return "MainProcess"


cdef object task_name():
    asyncio = sys.modules.get("asyncio")
    if not logging_names["logAsyncioTasks"] or not asyncio:
        return None
    try:
        # Without a loop current_task() would raise, which takes longer.
        return asyncio.current_task().get_name() if asyncio._get_running_loop() else None
    except Exception:
        return None


cdef bint record_class_is_unmodified() except -1:
    """Whether LogRecord is as CPython has it."""
    cdef unsigned int tag = type_version(LogRecord)
    if tag == 0 or load_relaxed(&unmodified_version) != tag:
        tag = ensure_type_version(LogRecord)
        for name, function in stdlib_methods.items():
            if getattr(LogRecord, name) is not function:
                return False
        if not template.keys().isdisjoint(vars(LogRecord)):   # a property in an attribute's place
            return False
        store_relaxed(&unmodified_version, tag)
    return True


cdef bint can_make_record() except -1:
    """Whether a call would make a LogRecord as make_record() does."""
    return guard_is_valid(surroundings) and record_class_is_unmodified()


cdef object level_name(object level, long number):
    """The name of a level, None for one without. After can_make_record()."""
    global level_names_guard
    if FREE_THREADED:
        return dict_find(level_names, level, None)
    if level_names_guard is None or not guard_is_valid(level_names_guard):
        level_names_guard = DictGuard()
        level_names_guard.add(level_names, None)
        usual_names[:] = [level_names.get(10 * i) for i in range(USUAL_LEVELS)]
    if 0 <= number < 10 * USUAL_LEVELS and number % 10 == 0:
        return usual_names[number // 10]
    return level_names.get(level)


cdef object relative_created(int64_t ns):
    start = logging_names["_startTime"]
    return (ns - start) / 1e6 if counts_ns else (created_of(ns) - start) * 1000


cdef object make_record(LogCall *call, object exc_info):
    """The LogRecord of a call that findCaller would find."""
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
