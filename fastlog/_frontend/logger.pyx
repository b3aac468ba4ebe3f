# cython: language_level=3, boundscheck=False, wraparound=False, freethreading_compatible=True
"""The fast Logger, from log.info(...) to the handler, without a LogRecord if nothing needs one.

These functions become methods of fastlog.Logger. They do what the standard library's methods do
(CPython, Lib/logging/__init__.py, class Logger). Everything that the calls of a logger depend on,
its own attributes, its ancestors and their handlers, is looked up once and cached as a
DispatchPlan until a logger changes.
"""
import logging
import sys
import weakref

cimport cython
from cpython.object cimport PyObject
from cpython.ref cimport Py_INCREF
from libc.stdint cimport uint64_t

from fastlog._backend.atomics cimport add_seq_cst, atomic_u64, load_acquire
from fastlog._engine.cpythonx cimport (METH_FASTCALL, METH_KEYWORDS, PyCFunction,
                                       PyDescr_NewMethod, PyLong_AsLongAndOverflow, PyMethodDef,
                                       PyObject_GenericGetDict, PyTypeObject)
from fastlog._engine.freethreading cimport dict_find, list_first
from fastlog._frontend.dict_guard cimport ensure_type_version, type_version
from fastlog._frontend.emit cimport handler_emit_call
from fastlog._frontend.log_record cimport LogCall, make_record, prepare_call, release_call
from fastlog._frontend.stdlib cimport are_stdlib_methods, bind_attribute

cdef object StdlibLogger = logging.Logger

cdef object StdlibRootLogger = logging.RootLogger
cdef dict logging_names = vars(logging)

# Methods that a subclass, an instance or a patch may replace. If one is replaced, the standard
# library's code runs and calls the replacement. See are_stdlib_methods().
cdef dict stdlib_steps = {name: f"Logger.{name}" for name in (
    "_log", "makeRecord", "findCaller", "handle", "callHandlers", "getEffectiveLevel")}
stdlib_steps["filter"] = "Filterer.filter"
# Some versions, such as 3.13.5, discard calls that a thread makes while it handles a record. They
# mark such a thread by an attribute of this thread-local object.
cdef object handling = getattr(StdlibLogger, "_tls", None) if hasattr(
    StdlibLogger, "_is_disabled") else None
if handling is not None:
    stdlib_steps["_is_disabled"] = "Logger._is_disabled"
# The methods that have a native equivalent.
cdef dict stdlib_calls = {name: f"Logger.{name}" for name in (
    "debug", "info", "warning", "error", "critical", "log", "isEnabledFor")}
cdef frozenset plan_attributes = frozenset({
    "name", "level", "parent", "propagate", "handlers", "filters", "disabled", "_cache"})

cdef object is_enabled_method = None  # the native isEnabledFor

# Counts the changes to all fast Loggers. A plan of another epoch is out of date.
cdef atomic_u64 epoch


@cython.final
cdef class DispatchPlan:
    """Everything that the calls of a logger depend on. Never changes once it is made."""
    cdef uint64_t epoch
    cdef unsigned int type_version    # of the logger's class
    cdef bint is_unmodified           # no step is overridden, else the fields below are unset
    cdef bint disabled
    cdef object name
    cdef dict cache                   # the logger's {level: whether it is enabled}
    cdef list filters
    # The lists of handlers of the logger and its ancestors, whose contents may change in place.
    # None if one of these loggers does not report its changes.
    cdef list handlers


def logger_set_attribute(self, name, value):
    """Set an attribute, and let the next call of every logger make a new plan."""
    cdef bint replaces_handlers = name == "handlers" and name in self.__dict__
    object.__setattr__(self, name, value)
    invalidate_plans()
    if replaces_handlers:
        drop_plans()


def logger_delete_attribute(self, name):
    """Delete an attribute, and let the next call of every logger make a new plan."""
    object.__delattr__(self, name)
    invalidate_plans()


def invalidate_plans():
    """Let the next call of every logger make a new plan."""
    add_seq_cst(&epoch, 1)


# By id(): the loggers that have a plan.
cdef object loggers_with_plans = weakref.WeakValueDictionary()


cdef int drop_plans() except -1:
    """Remove all plans.

    From 3.14 on, removeHandler() replaces the list. No plan may keep the old list, and the handler
    in it, alive.
    """
    for reference in loggers_with_plans.valuerefs():
        logger = reference()
        if logger is not None:
            logger.__dict__.pop("_fastlog_plan", None)
    return 0


cdef bint logger_overrides_steps(object cls, dict attributes) except -1:
    return ("isEnabledFor" in attributes or cls.isEnabledFor is not is_enabled_method
            or not stdlib_steps.keys().isdisjoint(attributes)
            or not are_stdlib_methods(cls, logging_names, stdlib_steps)
            or not are_stdlib_methods(stdlib_class_of(cls), logging_names, stdlib_calls))


cdef object stdlib_class_of(object cls):
    """Return the class whose methods the native methods of a logger's class stand for."""
    return StdlibRootLogger if issubclass(cls, StdlibRootLogger) else StdlibLogger


cdef bint notifies_on_change(object logger) except -1:
    """Return whether every assignment to the logger's attributes calls logger_set_attribute()."""
    cls = type(logger)
    return (cls.__setattr__ is logger_set_attribute
            and cls.__getattribute__ is object.__getattribute__
            and not any([hasattr(cls, name) for name in plan_attributes]))


cdef DispatchPlan make_plan(object self, dict attributes):
    cdef DispatchPlan plan = DispatchPlan()
    plan.epoch = load_acquire(&epoch)
    plan.type_version = ensure_type_version(type(self))
    plan.is_unmodified = (
        notifies_on_change(self) and not logger_overrides_steps(type(self), attributes)
        and type(self.filters) is list and type(self._cache) is dict)
    if plan.is_unmodified:
        plan.disabled = self.disabled
        plan.name = self.name
        plan.cache = self._cache
        plan.filters = self.filters
        plan.handlers = find_handlers(self)
    attributes["_fastlog_plan"] = plan
    loggers_with_plans[id(self)] = self
    return plan


cdef list find_handlers(object logger):
    """Return the lists that Logger.callHandlers visits, or None if one may change unnoticed."""
    cdef list handlers = []
    while logger:
        if not notifies_on_change(logger) or type(logger.handlers) is not list:
            return None
        handlers.append(logger.handlers)
        logger = logger.parent if logger.propagate else None
    return handlers


cdef inline DispatchPlan plan_of(object self):
    cdef dict attributes = PyObject_GenericGetDict(self, NULL)
    cdef DispatchPlan plan
    stored = dict_find(attributes, "_fastlog_plan", None)
    if type(stored) is DispatchPlan:
        plan = <DispatchPlan>stored
        if (plan.epoch == load_acquire(&epoch) and plan.type_version != 0
                and plan.type_version == type_version(type(self))):
            return plan
    return make_plan(self, attributes)


# --- calls -------------------------------------------------------------------------------------

cdef struct Options:                  # the keyword arguments of a call, borrowed
    PyObject *exc_info
    PyObject *extra
    long stacklevel


cdef bint read_options(Options *options, PyObject *const *values, object names) except -1:
    """Return False if only the standard library can handle these keyword arguments."""
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
                               PyObject *names):
    """Call the standard library's method with the arguments as they are."""
    cdef Py_ssize_t i
    values = [<object>args[i] for i in range(count)]
    options = {}
    if names != NULL:
        options = {name: <object>args[count + i] for i, name in enumerate(<tuple>names)}
    return bind_attribute(stdlib_class_of(type(self)), name, self)(*values, **options)


cdef object exception_of(object exc_info):
    """Return the tuple that Logger._log makes of this argument."""
    if isinstance(exc_info, BaseException):
        return type(exc_info), exc_info, exc_info.__traceback__
    return exc_info if isinstance(exc_info, tuple) else sys.exc_info()


cdef inline bint is_enabled(object self, DispatchPlan plan, object levelno) except -1:
    """Logger.isEnabledFor."""
    if plan.disabled or (handling is not None and getattr(handling, "in_progress", False)):
        return False
    cached = dict_find(plan.cache, levelno, None)
    if cached is None:
        return StdlibLogger.isEnabledFor(self, levelno)
    return cached


cdef object log(object self, str name, object levelno, long level, PyObject *const *args,
                Py_ssize_t first, Py_ssize_t count, PyObject *names):
    """Logger.debug() to critical() and log(). args: all of them, with the message at `first`."""
    cdef DispatchPlan plan = plan_of(self)
    cdef Options options
    options.exc_info = options.extra = <PyObject *>None
    options.stacklevel = 1
    if (not plan.is_unmodified or count <= first
            or (names != NULL and not read_options(&options, args + count, <object>names))):
        return fallback_to_stdlib(self, name, args, count, names)
    if not is_enabled(self, plan, levelno):
        return None
    if not make_call(self, plan, levelno, level, args + first, count - first, &options):
        return fallback_to_stdlib(self, name, args, count, names)
    return None


cdef bint make_call(object self, DispatchPlan plan, object levelno, long level,
                    PyObject *const *args, Py_ssize_t count, Options *options) except -1:
    """Logger._log. args: the message and its arguments.

    Return False, without any effect, if only the standard library can make this call.
    """
    cdef LogCall call
    call.name = <PyObject *>plan.name
    call.levelno = <PyObject *>levelno
    call.level = level
    call.stacklevel = options.stacklevel
    if not prepare_call(&call, args, count):
        return False
    try:
        if not emit_without_record(plan, &call, options):
            handle_record(self, plan, record_of(&call, options))
    finally:
        release_call(&call)
    return True


cdef bint emit_without_record(DispatchPlan plan, LogCall *call, Options *options) except -1:
    """Emit the call without a LogRecord. Return False, without any effect, if one is needed."""
    cdef object handler
    if (plan.handlers is None or plan.filters or options.extra != <PyObject *>None
            or <object>options.exc_info):
        return False
    handler = only_handler(plan.handlers)
    if handler is None:
        return False
    if handling is None:
        return handler_emit_call(handler, call)
    handling.in_progress = True
    try:
        return handler_emit_call(handler, call)
    finally:
        handling.in_progress = False


cdef inline object only_handler(list lists):
    """Return the one handler in these lists, as nearly all programs have it, else None.

    Between two handlers, user code such as a __str__ could run and change what the second one has
    to do. So they get a LogRecord.
    """
    cdef list handlers
    cdef object handler = None
    cdef Py_ssize_t i, count
    for i in range(len(lists)):
        handlers = <list>lists[i]
        count = len(handlers)
        if count > 1 or (count and handler is not None):
            return None
        if count:
            handler = list_first(handlers)
    return handler


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


cdef int handle_record(object self, DispatchPlan plan, object record) except -1:
    """Logger.handle and Logger.callHandlers."""
    cdef bint has_handlers = False
    cdef object logger = self
    if plan.filters or handling is not None:
        self.handle(record)
        return 0
    while logger:
        for handler in logger.handlers:
            has_handlers = True
            if record.levelno >= handler.level:
                handler.handle(record)
        logger = logger.parent if logger.propagate else None
    if not has_handlers:
        self.callHandlers(record)
    return 0


# --- methods -----------------------------------------------------------------------------------

# These use CPython's fastest calling convention, which passes a pointer to the caller's array of
# arguments. Cython would pack them into a tuple and a dict first.

cdef PyObject *new_reference(object value) noexcept:
    Py_INCREF(value)
    return <PyObject *>value


cdef inline PyObject *log_at(PyObject *self, str name, object levelno, long level,
                             PyObject *const *args, Py_ssize_t count, PyObject *names) except NULL:
    return new_reference(log(<object>self, name, levelno, level, args, 0, count, names))


cdef PyObject *native_debug(PyObject *self, PyObject *const *args, Py_ssize_t count,
                            PyObject *names) except NULL:
    return log_at(self, "debug", 10, 10, args, count, names)


cdef PyObject *native_info(PyObject *self, PyObject *const *args, Py_ssize_t count,
                           PyObject *names) except NULL:
    return log_at(self, "info", 20, 20, args, count, names)


cdef PyObject *native_warning(PyObject *self, PyObject *const *args, Py_ssize_t count,
                              PyObject *names) except NULL:
    return log_at(self, "warning", 30, 30, args, count, names)


cdef PyObject *native_error(PyObject *self, PyObject *const *args, Py_ssize_t count,
                            PyObject *names) except NULL:
    return log_at(self, "error", 40, 40, args, count, names)


cdef PyObject *native_critical(PyObject *self, PyObject *const *args, Py_ssize_t count,
                               PyObject *names) except NULL:
    return log_at(self, "critical", 50, 50, args, count, names)


cdef PyObject *native_log(PyObject *self, PyObject *const *args, Py_ssize_t count,
                          PyObject *names) except NULL:
    cdef int overflow = 0
    cdef long level
    if count == 0 or type(<object>args[0]) is not int:
        return new_reference(fallback_to_stdlib(<object>self, "log", args, count, names))
    level = PyLong_AsLongAndOverflow(<object>args[0], &overflow)
    if overflow:
        return new_reference(fallback_to_stdlib(<object>self, "log", args, count, names))
    return new_reference(log(<object>self, "log", <object>args[0], level, args, 1, count, names))


cdef PyObject *native_is_enabled_for(PyObject *self, PyObject *const *args, Py_ssize_t count,
                                     PyObject *names) except NULL:
    cdef DispatchPlan plan = plan_of(<object>self)
    if plan.is_unmodified and count == 1 and names == NULL and type(<object>args[0]) is int:
        return new_reference(is_enabled(<object>self, plan, <object>args[0]))
    return new_reference(fallback_to_stdlib(<object>self, "isEnabledFor", args, count, names))


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
    """Add the native methods to the class."""
    global is_enabled_method
    cdef int i
    for i in range(7):
        setattr(cls, methods[i].ml_name.decode(),
                PyDescr_NewMethod(<PyTypeObject *><PyObject *>cls, &methods[i]))
    is_enabled_method = cls.isEnabledFor
