# cython: language_level=3, boundscheck=False, wraparound=False, freethreading_compatible=True
"""The fast Logger: from log.info(...) to the ring, without a LogRecord where nobody needs one.

These are methods of fastlog.Logger. They do what the standard library's do
(CPython, Lib/logging/__init__.py, class Logger). What a call meets on its way,
the logger's own attributes, its ancestors and their handlers, is looked up once
and kept as a *plan*, until a logger or a handler changes.
"""
import logging
import sys
import weakref

from cpython.object cimport PyObject
from cpython.ref cimport Py_INCREF
from libc.stdint cimport int64_t, uint64_t
from posix.time cimport CLOCK_REALTIME, clock_gettime, timespec

from fastlog._backend.atomics cimport add_seq_cst, atomic_u64, load_acquire
from fastlog._engine.cpythonx cimport (
    METH_FASTCALL, METH_KEYWORDS, PyCFunction, PyDescr_NewMethod, PyLong_AsLongAndOverflow,
    PyMethodDef, PyObject_GenericGetDict, PyTypeObject)
from fastlog._frontend.emit cimport Snapshot, emit_call, find_snapshot, takes_calls
from fastlog._frontend.log_record cimport LogCall, call_args, level_name, make_record, can_make_record
from fastlog._engine.freethreading cimport dict_find, list_first
from fastlog._frontend.dict_guard cimport type_version, ensure_type_version

cdef object StdlibLogger = logging.Logger

# Methods that a subclass, an instance or a patch may replace: then the standard library's
# code runs, and calls them. Those that are replaced here are looked up in its class.
cdef dict stdlib_steps = {name: vars(StdlibLogger)[name] for name in (
    "_log", "makeRecord", "findCaller", "handle", "callHandlers", "getEffectiveLevel")}
stdlib_steps["filter"] = logging.Filterer.filter
# Some versions (3.13.5 is one) drop what is logged while a record is handled,
# in the same thread, and keep there that one is.
cdef object handling = getattr(StdlibLogger, "_tls", None) if hasattr(
    StdlibLogger, "_is_disabled") else None
if handling is not None:
    stdlib_steps["_is_disabled"] = vars(StdlibLogger)["_is_disabled"]
cdef dict stdlib_calls = {name: vars(StdlibLogger)[name] for name in (
    "debug", "info", "warning", "error", "critical", "log", "isEnabledFor")}
cdef frozenset data = frozenset({
    "name", "level", "parent", "propagate", "handlers", "filters", "disabled", "_cache"})

cdef object is_enabled_method = None  # ours

# Counts every change to a logger of ours: what was looked up before is out of date.
cdef atomic_u64 epoch


cdef class DispatchPlan:
    """What a logger's calls meet, as of now. It never changes."""
    cdef uint64_t epoch
    cdef unsigned int type_version             # the class's when this was made
    cdef bint is_unmodified                   # nothing is overridden; else no other field is set
    cdef bint all_ancestors_notify                   # all ancestors tell their changes; else no `handlers`
    cdef bint disabled
    cdef object name
    cdef dict cache                   # the logger's: which levels are enabled
    cdef list filters
    cdef list handlers                # the loggers' own lists, which may change in place


def set_attribute(self, name, value):
    """__setattr__: as usual, and the next call looks everything up anew."""
    cdef bint replaced = name == "handlers" and name in self.__dict__
    object.__setattr__(self, name, value)
    invalidate_plans()
    if replaced:
        drop_plans()


def delete_attribute(self, name):
    """__delattr__, likewise."""
    object.__delattr__(self, name)
    invalidate_plans()


def invalidate_plans():
    """Have every logger look its plan up anew."""
    add_seq_cst(&epoch, 1)


# By id(): the loggers that have a plan.
cdef object loggers_with_plans = weakref.WeakValueDictionary()


cdef int drop_plans() except -1:
    """From 3.14 on removeHandler() replaces the list: no plan may keep the old one, and what is
    in it, alive.
    """
    for reference in loggers_with_plans.valuerefs():
        logger = reference()
        if logger is not None:
            logger.__dict__.pop("_fastlog_plan", None)
    return 0


cdef bint overrides_steps(object cls, dict own) except -1:
    for name, function in stdlib_steps.items():
        if getattr(cls, name) is not function or name in own:
            return True
    for name, function in stdlib_calls.items():
        if vars(StdlibLogger).get(name) is not function:
            return True
    return "isEnabledFor" in own or cls.isEnabledFor is not is_enabled_method


cdef bint notifies_on_change(object logger) except -1:
    """Whether no attribute of this logger can change unheard."""
    cls = type(logger)
    return (cls.__setattr__ is set_attribute
            and cls.__getattribute__ is object.__getattribute__
            and not any([hasattr(cls, name) for name in data]))


cdef DispatchPlan make_plan(object self, dict own):
    cdef DispatchPlan plan = DispatchPlan()
    plan.epoch = load_acquire(&epoch)
    plan.type_version = ensure_type_version(type(self))
    plan.is_unmodified = (notifies_on_change(self) and not overrides_steps(type(self), own)
                   and type(self.filters) is list and type(self._cache) is dict)
    if plan.is_unmodified:
        plan.disabled = self.disabled
        plan.name = self.name
        plan.cache = self._cache
        plan.filters = self.filters
        plan.handlers = find_handlers(self)
        plan.all_ancestors_notify = plan.handlers is not None
    own["_fastlog_plan"] = plan
    loggers_with_plans[id(self)] = self
    return plan


cdef list find_handlers(object logger):
    """The lists that Logger.callHandlers goes through, or None where one could change unheard."""
    cdef list found = []
    while logger:
        if not notifies_on_change(logger) or type(logger.handlers) is not list:
            return None
        found.append(logger.handlers)
        logger = logger.parent if logger.propagate else None
    return found


cdef inline DispatchPlan plan_of(object self):
    cdef dict own = PyObject_GenericGetDict(self, NULL)
    cdef DispatchPlan plan
    last = dict_find(own, "_fastlog_plan", None)
    if type(last) is DispatchPlan:
        plan = <DispatchPlan>last
        if (plan.epoch == load_acquire(&epoch) and plan.type_version == type_version(type(self))
                and plan.type_version != 0):
            return plan
    return make_plan(self, own)


# --- calls -------------------------------------------------------------------------------------

cdef struct Options:                  # the keyword arguments of a call, borrowed
    PyObject *exc_info
    PyObject *extra
    long stacklevel


cdef bint read_options(Options *options, PyObject *const *values, object names) except -1:
    """Returns whether these are all that we do; others are the standard library's."""
    cdef Py_ssize_t i
    cdef PyObject *value
    for i in range(len(names)):
        name, value = names[i], values[i]
        if name == "exc_info":
            options.exc_info = value
        elif name == "extra":
            options.extra = value
        elif name == "stacklevel":
            if type(<object>value) is not int or not 1 <= <object>value < 1_000_000:
                return False
            options.stacklevel = <object>value
        elif name != "stack_info" or <object>value:
            return False
    return True


cdef object fallback_to_stdlib(object self, str name, PyObject *const *args, Py_ssize_t count,
                            object names):
    cdef Py_ssize_t i
    values = [<object>args[i] for i in range(count)]
    options = {}
    if names is not None:
        options = {names[i]: <object>args[count + i] for i in range(len(names))}
    return getattr(StdlibLogger, name)(self, *values, **options)


cdef object exception_of(object exc_info):
    """As Logger._log makes it of its argument."""
    if isinstance(exc_info, BaseException):
        return type(exc_info), exc_info, exc_info.__traceback__
    return exc_info if isinstance(exc_info, tuple) else sys.exc_info()


cdef inline int64_t time_now() noexcept:
    cdef timespec now
    clock_gettime(CLOCK_REALTIME, &now)
    return <int64_t>now.tv_sec * 1_000_000_000 + now.tv_nsec


cdef bint is_enabled(object self, DispatchPlan plan, object level) except -1:
    """Logger.isEnabledFor."""
    if plan.disabled or (handling is not None and getattr(handling, "in_progress", False)):
        return False
    known = dict_find(plan.cache, level, None)
    return known if known is not None else stdlib_calls["isEnabledFor"](self, level)


cdef object log(object self, str name, object level, PyObject *const *args, Py_ssize_t first,
                Py_ssize_t count, object names):
    """Logger.info and its like. args: all of them; the message is the one at `first`."""
    cdef DispatchPlan plan = plan_of(self)
    cdef Options options
    cdef LogCall call
    cdef int overflow
    options.exc_info = options.extra = <PyObject *>None
    options.stacklevel = 1
    if (plan.is_unmodified and count > first and type(level) is int
            and (names is None or read_options(&options, args + count, names))):
        if not is_enabled(self, plan, level):
            return None
        call.number = PyLong_AsLongAndOverflow(level, &overflow)
        levelname = level_name(level, call.number) if not overflow and can_make_record() else None
        if levelname is not None:
            values = call_args(args + first + 1, count - first - 1)
            call.name = <PyObject *>plan.name
            call.levelno = <PyObject *>level
            call.levelname = <PyObject *>levelname
            call.msg = args[first]
            call.args = <PyObject *>values
            call.time = time_now()
            call.stacklevel = options.stacklevel
            if not emit(plan, &call, &options):
                handle(self, plan, record_of(&call, &options))
            return None
    return fallback_to_stdlib(self, name, args, count, names)


cdef bint emit(DispatchPlan plan, LogCall *call, Options *options) except -1:
    """Emit the call without a LogRecord, unless somebody needs one: then return False.

    That is done only for a single handler, as nearly all programs have. Between two, code
    of the program could run (a __str__) and change what the second is to do.
    """
    cdef list handlers
    cdef object handler = None
    cdef Snapshot now
    cdef Py_ssize_t i, count
    if (not plan.all_ancestors_notify or plan.filters or options.extra != <PyObject *>None
            or <object>options.exc_info):
        return False
    for i in range(len(plan.handlers)):
        handlers = <list>plan.handlers[i]
        count = len(handlers)
        if count > 1 or (count and handler is not None):
            return False
        if count:
            handler = list_first(handlers)
    if handler is None:
        return False
    now = find_snapshot(handler)
    if now is None or not takes_calls(now):
        return False
    if handling is None:
        emit_call(handler, now, call)
        return True
    handling.in_progress = True
    try:
        emit_call(handler, now, call)
    finally:
        handling.in_progress = False
    return True


cdef object record_of(LogCall *call, Options *options):
    """Logger.makeRecord."""
    cdef dict values
    exc_info = <object>options.exc_info
    record = make_record(call, exception_of(exc_info) if exc_info else exc_info)
    extra = <object>options.extra
    if extra is not None:
        values = PyObject_GenericGetDict(record, NULL)
        for key in extra:
            if key in ("message", "asctime") or key in values:
                raise KeyError(f"Attempt to overwrite {key!r} in LogRecord")
            values[key] = extra[key]
    return record


cdef int handle(object self, DispatchPlan plan, object record) except -1:
    """Logger.handle and Logger.callHandlers."""
    cdef bint found = False
    cdef object logger = self
    if plan.filters or handling is not None:
        self.handle(record)
        return 0
    while logger:
        for handler in logger.handlers:
            found = True
            if record.levelno >= handler.level:
                handler.handle(record)
        logger = logger.parent if logger.propagate else None
    if not found:
        self.callHandlers(record)
    return 0


# --- methods -----------------------------------------------------------------------------------

# Functions of CPython's fastest calling convention, which takes arguments where the caller
# has them; Cython's own would make a tuple and a dict of them first.

cdef PyObject *new_reference(object value) noexcept:
    Py_INCREF(value)
    return <PyObject *>value


cdef PyObject *log_at(object self, str name, object level, PyObject *const *args,
                      Py_ssize_t count, PyObject *names) except NULL:
    return new_reference(log(self, name, level, args, 0, count,
                             <object>names if names != NULL else None))


cdef PyObject *native_debug(PyObject *self, PyObject *const *args, Py_ssize_t count,
                            PyObject *names) except NULL:
    return log_at(<object>self, "debug", 10, args, count, names)


cdef PyObject *native_info(PyObject *self, PyObject *const *args, Py_ssize_t count,
                           PyObject *names) except NULL:
    return log_at(<object>self, "info", 20, args, count, names)


cdef PyObject *native_warning(PyObject *self, PyObject *const *args, Py_ssize_t count,
                              PyObject *names) except NULL:
    return log_at(<object>self, "warning", 30, args, count, names)


cdef PyObject *native_error(PyObject *self, PyObject *const *args, Py_ssize_t count,
                            PyObject *names) except NULL:
    return log_at(<object>self, "error", 40, args, count, names)


cdef PyObject *native_critical(PyObject *self, PyObject *const *args, Py_ssize_t count,
                               PyObject *names) except NULL:
    return log_at(<object>self, "critical", 50, args, count, names)


cdef PyObject *native_log(PyObject *self, PyObject *const *args, Py_ssize_t count,
                          PyObject *names) except NULL:
    level = <object>args[0] if count else None
    return new_reference(log(<object>self, "log", level, args, 1, count,
                             <object>names if names != NULL else None))


cdef PyObject *native_is_enabled_for(PyObject *self, PyObject *const *args, Py_ssize_t count,
                                     PyObject *names) except NULL:
    cdef DispatchPlan plan = plan_of(<object>self)
    if plan.is_unmodified and count == 1 and names == NULL and type(<object>args[0]) is int:
        return new_reference(is_enabled(<object>self, plan, <object>args[0]))
    return new_reference(fallback_to_stdlib(<object>self, "isEnabledFor", args, count,
                                         <object>names if names != NULL else None))


cdef PyMethodDef[7] methods

cdef int define(int i, const char *name, void *function, const char *doc) except -1:
    methods[i].ml_name = name
    methods[i].ml_meth = <PyCFunction>function
    methods[i].ml_flags = METH_FASTCALL | METH_KEYWORDS
    methods[i].ml_doc = doc
    return 0


define(0, "debug", <void *>native_debug,
       "debug($self, msg, *args, **kwargs)\n--\n\nLog msg % args with level DEBUG.")
define(1, "info", <void *>native_info,
       "info($self, msg, *args, **kwargs)\n--\n\nLog msg % args with level INFO.")
define(2, "warning", <void *>native_warning,
       "warning($self, msg, *args, **kwargs)\n--\n\nLog msg % args with level WARNING.")
define(3, "error", <void *>native_error,
       "error($self, msg, *args, **kwargs)\n--\n\nLog msg % args with level ERROR.")
define(4, "critical", <void *>native_critical,
       "critical($self, msg, *args, **kwargs)\n--\n\nLog msg % args with level CRITICAL.")
define(5, "log", <void *>native_log,
       "log($self, level, msg, *args, **kwargs)\n--\n\nLog msg % args with this level.")
define(6, "isEnabledFor", <void *>native_is_enabled_for,
       "isEnabledFor($self, level)\n--\n\nWhether this logger handles records of a level.")


def install_native_methods(cls):
    """Give the class the native methods."""
    global is_enabled_method
    cdef int i
    for i in range(7):
        setattr(cls, methods[i].ml_name.decode(),
                PyDescr_NewMethod(<PyTypeObject *><PyObject *>cls, &methods[i]))
    is_enabled_method = cls.isEnabledFor
