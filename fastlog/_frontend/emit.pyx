# cython: language_level=3, binding=True, freethreading_compatible=True
"""The handler's hot path: from a LogRecord to Engine.put.

These are methods of fastlog._base_handler.EngineHandler. They do what the standard
library's do (CPython, Lib/logging/__init__.py, handlers.py). Where neither the
handler's class nor the handler overrides a step of it, the steps are taken here,
on a snapshot of the handler's attributes that any assignment to one throws away.
"""
import logging
import logging.handlers
import sys
from types import TracebackType

from cpython.object cimport PyObject
from cpython.ref cimport Py_INCREF
from libc.stdint cimport uint64_t

from fastlog._backend.atomics cimport (add_seq_cst, atomic_u64, cas_seq_cst, load_acquire, load_seq_cst,
                               store_seq_cst)
from fastlog._core cimport PUT_ACCEPTED, Engine
from fastlog._engine.cpythonx cimport (
    PyErr_SetExcInfo, PyEval_GetFrame, PyObject_GenericGetDict, PyObject_TypeCheck,
    PyThread_get_thread_ident, PyTypeObject)
from fastlog._frontend.formatter cimport CompiledFormatter, compile_formatter
from fastlog._engine.message cimport (Message, message_add, message_begin, message_end, message_set_prefix,
                               message_reserve_prefix)
from fastlog._frontend.log_record cimport (LEVELNAME, LEVELNO, LogCall, RecordFields, record_class_is_unmodified, fields_load,
                              fields_decref, make_record)
from fastlog._engine.freethreading cimport FREE_THREADED, dict_find
from fastlog._frontend.dict_guard cimport DictGuard, type_version, ensure_type_version, guard_is_valid

cdef object Handler = logging.Handler
cdef object stdlib_handle = Handler.handle
cdef object Formatter = logging.Formatter
cdef object LogRecord = logging.LogRecord

cdef object nothing = object()        # is no levelname

# Counts the assignments to attributes of all handlers.
cdef atomic_u64 assignments

cdef enum:
    LEVEL_MAX = 1_000_000_000         # of a level that is compared in C
    THREADS_MAX = 256                 # that have a snapshot of a handler, where each has its own

cdef enum:                            # Snapshot.state
    MADE
    CURRENT
    OUT_OF_DATE

# What handle() returns for a record that no filter refused.
cdef bint returns_record = sys.version_info >= (3, 12)

# The steps that may be overridden, and the functions that are not.
cdef dict stdlib_steps = {
    "filter": logging.Filterer.filter,
    "format": logging.Handler.format,
    "mapPriority": logging.handlers.SysLogHandler.mapPriority,
    "encodePriority": logging.handlers.SysLogHandler.encodePriority,
}


cdef class Encoder:
    cdef int put(self, Engine engine, Message *message, int prefix, object ident, object append_nul,
                 unsigned int priority, bint urgent, object record, LogCall *call) except -1:
        raise NotImplementedError


cdef bint overrides_steps(object cls, dict own) except -1:
    if (cls.emit is not emit or "emit" in own or cls.__setattr__ is not set_attribute
            or Handler.handle is not stdlib_handle):
        return True
    for name, function in stdlib_steps.items():
        if getattr(cls, name) is not function or name in own:
            return True
    return False


cdef bint is_plain_level(object level) except -1:
    return type(level) is int and -LEVEL_MAX <= level <= LEVEL_MAX


cdef Snapshot take_snapshot(object self, dict own):
    cdef Snapshot now = Snapshot()
    cdef uint64_t before = load_seq_cst(&assignments)
    cdef uint64_t made = MADE
    now.type_version = ensure_type_version(type(self))
    now.is_unmodified = (type(self.priority_map) is dict and type(self.priority_names) is dict
                 and type(self.facility_names) is dict
                 and type(self.filters) is list
                 and not (<Engine>self._engine).adopting
                 and not overrides_steps(type(self), own))
    if now.is_unmodified:
        now.facility = self.facility
        now.facility_names = self.facility_names
        now.engine = self._engine
        now.priority_map = self.priority_map
        now.priority_names = self.priority_names
        now.ident = self.ident
        now.encoder = self._encoder
        now.append_nul = self.append_nul
        now.urgent_level = self.urgent_level
        now.formatter = self.formatter or None
        now.filters = self.filters
        now.last_levelname = nothing
        now.priorities = guard_priorities(now)
        now.for_calls = (type(self).handle is handle and "handle" not in own
                         and is_plain_level(self.level) and is_plain_level(self.urgent_level))
        if now.for_calls:
            now.level_number = self.level
            now.urgent_number = self.urgent_level
    keep_snapshot(own, now)
    # An assignment counts first and looks for snapshots then: one of the two sees the other.
    if load_seq_cst(&assignments) == before:
        cas_seq_cst(&now.state, &made, CURRENT)
    return now


cdef int keep_snapshot(dict own, Snapshot now) except -1:
    cdef dict each
    if not FREE_THREADED:
        own["_fastlog_snapshot"] = now
        return 0
    each = own.setdefault("_fastlog_snapshot", {})      # by thread
    if len(each) >= THREADS_MAX:      # most of them are over
        each.clear()
    each[PyThread_get_thread_ident()] = now
    return 0


cdef bint snapshot_is_current(Snapshot now, object self) noexcept:
    return (load_acquire(&now.state) == CURRENT and now.type_version == type_version(type(self))
            and now.type_version != 0)


cdef inline Snapshot kept_snapshot(object self, dict own):
    """The last one if it is current, else None."""
    last = dict_find(own, "_fastlog_snapshot", None)
    if FREE_THREADED and last is not None:
        last = dict_find(<dict?>last, PyThread_get_thread_ident(), None)
    if type(last) is Snapshot and snapshot_is_current(<Snapshot>last, self):
        return <Snapshot>last
    return None


cdef Snapshot snapshot_of(object self):
    cdef dict own = PyObject_GenericGetDict(self, NULL)
    cdef Snapshot now = kept_snapshot(self, own)
    return now if now is not None else take_snapshot(self, own)


cdef Snapshot find_snapshot(object handler):
    """snapshot_of() of any handler; None if it is not one of ours."""
    cdef dict own
    cdef Snapshot now
    if not PyObject_TypeCheck(handler, <PyTypeObject *>Handler):
        return None
    own = PyObject_GenericGetDict(handler, NULL)
    now = kept_snapshot(handler, own)
    if now is None and type(handler).__setattr__ is set_attribute:
        now = take_snapshot(handler, own)
    return now


cdef int forget_snapshot(object self) except -1:
    add_seq_cst(&assignments, 1)
    last = self.__dict__.pop("_fastlog_snapshot", None)
    if last is None:
        return 0
    if FREE_THREADED:
        for each in list((<dict?>last).values()):
            if type(each) is Snapshot:
                store_seq_cst(&(<Snapshot>each).state, OUT_OF_DATE)
    elif type(last) is Snapshot:
        store_seq_cst(&(<Snapshot>last).state, OUT_OF_DATE)
    return 0


def set_attribute(self, name, value):
    """__setattr__: as usual, and the next record looks at the attributes anew."""
    object.__setattr__(self, name, value)
    forget_snapshot(self)


def delete_attribute(self, name):
    """__delattr__, likewise."""
    object.__delattr__(self, name)
    forget_snapshot(self)


def handle(self, record):
    """Filter and emit, as the standard library does, but not under the handler's lock.

    A subclass with an `emit` of its own may count on the lock, so it gets it.
    """
    cdef Snapshot now
    cdef int outcome
    try:
        now = snapshot_of(self)
        if now.is_unmodified and not now.filters:
            outcome = put_unmodified(now, self, record)
        else:
            outcome = -1
    except Exception as error:
        report(self, record, error)
        return record if returns_record else True
    if outcome >= 0:
        if outcome != PUT_ACCEPTED:
            self._follow_up(record, outcome)
        return record if returns_record else True
    if type(self).emit is not emit or Handler.handle is not stdlib_handle:
        return Handler.handle(self, record)
    passed = self.filter(record)
    if isinstance(passed, LogRecord):         # from 3.12 on a filter may replace it
        record = passed
    if passed:
        self.emit(record)
    return passed


def emit(self, record):
    """CompiledFormatter the record and put it into the ring. Errors go to handleError()."""
    cdef Snapshot now
    cdef int outcome
    try:
        now = snapshot_of(self)
        outcome = put_unmodified(now, self, record) if now.is_unmodified else put_overridden(self, record)
    except Exception as error:
        report(self, record, error)
        return
    if outcome != PUT_ACCEPTED:
        self._follow_up(record, outcome)


cdef int report(object self, object record, object error) except -1:
    """handleError(), in an except clause. It prints the calls that led here.

    It finds them from the first frame of the traceback; those of native functions do not
    tell who called.
    """
    cdef PyObject *frame = <PyObject *>PyEval_GetFrame()
    if frame != NULL:
        caller = <object>frame
        trace = TracebackType(error.__traceback__, caller, caller.f_lasti, caller.f_lineno)
        error.__traceback__ = trace
        cls = type(error)
        Py_INCREF(cls)                # PyErr_SetExcInfo takes references
        Py_INCREF(error)
        Py_INCREF(trace)
        PyErr_SetExcInfo(<PyObject *>cls, <PyObject *>error, <PyObject *>trace)
    self.handleError(record)
    return 0


cdef int put_overridden(object self, object record) except -1:
    cdef Engine engine = self._engine
    cdef Encoder encoder = self._encoder
    cdef Message message
    cdef int prefix
    if engine.adopting and engine.wants_socket():
        self._renew_socket()
    text = format_locked(self, record)
    priority = self.encodePriority(self.facility, self.mapPriority(record.levelname))
    urgent = is_urgent(record.levelno, self.urgent_level)
    message_begin(&message)
    try:
        prefix = message_reserve_prefix(&message)
        message_add(&message, text)
        if encoder is not None:
            return encoder.put(engine, &message, prefix, self.ident, self.append_nul, priority,
                                urgent, record, NULL)
        message_set_prefix(&message, prefix, self.ident or "")
        return engine.put(priority, &message, self.append_nul, urgent)
    finally:
        message_end(&message)


cdef inline bint is_urgent(object levelno, object urgent_level) except -1:
    # makeLogRecord leaves levelno out or takes anything, and the standard library does not mind.
    return isinstance(levelno, (int, float)) and levelno >= urgent_level


cdef object format_locked(object self, object record):
    """format(record), under the lock: code that is not stock may need it."""
    self.acquire()
    try:
        return self.format(record)
    finally:
        self.release()


cdef DictGuard guard_priorities(Snapshot now):
    cdef DictGuard guard = DictGuard()
    guard.add(now.priority_map, None)
    guard.add(now.priority_names, None)
    guard.add(now.facility_names, None)
    return guard


cdef unsigned int priority_of(Snapshot now, object levelname) except? 0:
    """encodePriority(facility, mapPriority(levelname))"""
    cdef bint known = guard_is_valid(now.priorities)
    if not known or now.last_levelname is not levelname:
        if not known:
            now.priorities = guard_priorities(now)
        severity = now.priority_map.get(levelname, "warning")
        if isinstance(severity, str):
            severity = now.priority_names[severity]
        facility = now.facility
        if isinstance(facility, str):
            facility = now.facility_names[facility]
        now.last_priority = facility << 3 | severity
        now.last_levelname = levelname
    return now.last_priority


cdef int put_unmodified(Snapshot now, object self, object record) except -1:
    cdef object attributes
    cdef RecordFields record_fields
    cdef CompiledFormatter format
    format = format_of(now)
    if format is not None and type(record) is LogRecord and record_class_is_unmodified():
        attributes = PyObject_GenericGetDict(record, NULL)
        if (format.ops is not None and type(attributes) is dict
                and fields_load(&record_fields, attributes, format.required_fields, format.required_count)):
            try:
                return put_plain(now, self, format, &record_fields, attributes, record)
            finally:
                fields_decref(&record_fields)
    return put_text(now, self, record)


cdef int put_plain(Snapshot now, object self, CompiledFormatter format, RecordFields *record_fields, dict attributes,
                   object record) except -1:
    """CompiledFormatter natively and put."""
    cdef Message message
    cdef int prefix
    message_begin(&message)
    try:
        prefix = message_reserve_prefix(&message)
        if not format.format_record(record_fields, attributes, &message):
            return put_text(now, self, record)
        return put_message(now, self, &message, prefix, <object>record_fields.values[<int>LEVELNAME],
                           is_urgent(<object>record_fields.values[<int>LEVELNO], now.urgent_level),
                           record, NULL)
    finally:
        message_end(&message)


cdef int put_text(Snapshot now, object self, object record) except -1:
    """Have the formatter format. One other than the stock one gets the lock: it may need it."""
    cdef Message message
    cdef int prefix
    message_begin(&message)
    try:
        prefix = message_reserve_prefix(&message)
        formatter = formatter_of(now)
        message_add(&message, formatter.format(record) if type(formatter) is Formatter else
                    format_locked(self, record))
        return put_message(now, self, &message, prefix, record.levelname,
                           is_urgent(record.levelno, now.urgent_level), record, NULL)
    finally:
        message_end(&message)


cdef inline int put_message(Snapshot now, object self, Message *message, int prefix,
                            object levelname, bint urgent, object record, LogCall *call) except -1:
    """What comes after the formatting, in which code of the program may have run.

    Of a record; or, with None, of a call.
    """
    cdef Snapshot then = now
    cdef unsigned int priority
    if load_acquire(&now.state) != CURRENT:
        then = snapshot_of(self)
        if not then.is_unmodified:
            then = now
    priority = priority_of(then, levelname)
    if then.encoder is not None:
        return then.encoder.put(then.engine, message, prefix, then.ident, then.append_nul, priority,
                                 urgent, record, call)
    if then.ident:
        message_set_prefix(message, prefix, then.ident)
    return then.engine.put(priority, message, then.append_nul, urgent)


cdef inline object formatter_of(Snapshot now):
    return now.formatter if now.formatter is not None else logging._defaultFormatter


cdef inline CompiledFormatter format_of(Snapshot now):
    """The formatter, compiled as it is now; None for one that is not plain."""
    formatter = formatter_of(now)
    if type(formatter) is not Formatter:
        return None
    if now.format is None or now.format.formatter is not formatter or not now.format.is_current():
        now.format = compile_formatter(formatter)
    return now.format


# --- calls of which no LogRecord is made -------------------------------------------------------

cdef bint takes_calls(Snapshot now) except -1:
    """Whether emit_call() can do without a LogRecord what handle() would do with one."""
    cdef CompiledFormatter format
    if not now.is_unmodified or not now.for_calls or now.filters:
        return False
    format = format_of(now)
    return format is not None and format.for_calls


cdef int emit_call(object self, Snapshot now, LogCall *call) except -1:
    """What a Logger does with a handler, for a call. Only if takes_calls()."""
    cdef int outcome
    if call.number < now.level_number:
        return 0
    try:
        outcome = put_call(now, self, call)
    except Exception as error:
        report(self, make_record(call, None), error)
        return 0
    if outcome != PUT_ACCEPTED:
        self._follow_up(make_record(call, None), outcome)
    return 0


cdef int put_call(Snapshot now, object self, LogCall *call) except -1:
    cdef Message message
    cdef CompiledFormatter format = now.format   # code of the program may put another one in its place
    cdef int prefix
    message_begin(&message)
    try:
        prefix = message_reserve_prefix(&message)
        format.format_call(call, &message)
        return put_message(now, self, &message, prefix, <object>call.levelname,
                           call.number >= now.urgent_number, None, call)
    finally:
        message_end(&message)
