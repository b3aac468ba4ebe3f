# cython: language_level=3, binding=True
"""The handler's hot path: from a LogRecord to Engine.put.

These are methods of fastlog.handlers.SysLogHandler. They do what the standard
library's do (CPython, Lib/logging/__init__.py, handlers.py). Where neither the
handler's class nor the handler overrides a step of it, the steps are taken here,
on a snapshot of the handler's attributes that any assignment to one throws away.
"""
import logging
import logging.handlers
import sys

from cpython.dict cimport PyDict_GetItem
from cpython.object cimport PyObject

from fastlog._core cimport PUT_ACCEPTED, Engine

cdef extern from "Python.h":
    object PyObject_GenericGetDict(object self, void *context)
    ctypedef struct PyTypeObject:
        unsigned int tp_version_tag

cdef object Handler = logging.Handler
cdef object Formatter = logging.Formatter
cdef object PercentStyle = logging.PercentStyle
cdef object LogRecord = logging.LogRecord
cdef object stock_get_message = LogRecord.getMessage

# What handle() returns for a record that no filter refused.
cdef bint returns_record = sys.version_info >= (3, 12)

# The steps that may be overridden, and the functions that are not.
cdef dict stock_steps = {
    "filter": logging.Filterer.filter,
    "format": logging.Handler.format,
    "mapPriority": logging.handlers.SysLogHandler.mapPriority,
    "encodePriority": logging.handlers.SysLogHandler.encodePriority,
}


cdef class Snapshot:
    """A handler's attributes as of now. Never changes: a new one is made instead."""
    cdef unsigned int tag             # the class's when this was made
    cdef bint stock                   # nothing is overridden; else no other field is set
    cdef Engine engine
    cdef object facility              # number, shifted into its place in PRI
    cdef dict priority_map, priority_names      # the handler's own, not copies
    cdef object ident, append_nul, urgent_level, formatter
    cdef list filters


cdef inline unsigned int tag_of(object cls) noexcept:
    """A number that CPython gives to one state of one class, 0 while it has none.

    tp_version_tag, Include/cpython/object.h: a change to the class or a base
    takes it away, so comparing it spares looking up what might have changed.
    """
    return (<PyTypeObject *><PyObject *>cls).tp_version_tag


cdef bint overrides_steps(object cls, dict own) except -1:
    if cls.emit is not emit or "emit" in own:
        return True
    for name, function in stock_steps.items():
        if getattr(cls, name) is not function or name in own:
            return True
    return False


cdef Snapshot take_snapshot(object self, dict own):
    cdef Snapshot now = Snapshot()
    now.stock = (type(self.priority_map) is dict and type(self.priority_names) is dict
                 and not (<Engine>self._engine).adopting
                 and not overrides_steps(type(self), own))
    if now.stock:
        facility = self.facility
        if isinstance(facility, str):
            facility = self.facility_names[facility]
        now.facility = facility << 3
        now.engine = self._engine
        now.priority_map = self.priority_map
        now.priority_names = self.priority_names
        now.ident = self.ident
        now.append_nul = self.append_nul
        now.urgent_level = self.urgent_level
        now.formatter = self.formatter
        now.filters = self.filters
    now.tag = tag_of(type(self))      # after the look-ups, which give the class one
    own["_snapshot"] = now
    return now


cdef inline Snapshot snapshot_of(object self):
    cdef dict own = PyObject_GenericGetDict(self, NULL)
    cdef PyObject *last = PyDict_GetItem(own, "_snapshot")
    cdef unsigned int tag = tag_of(type(self))
    if last != NULL and tag != 0 and (<Snapshot>last).tag == tag:
        return <Snapshot>last
    return take_snapshot(self, own)


def set_attribute(self, name, value):
    """__setattr__: as usual, and the next record looks at the attributes anew."""
    object.__setattr__(self, name, value)
    self.__dict__.pop("_snapshot", None)


def delete_attribute(self, name):
    """__delattr__, likewise."""
    object.__delattr__(self, name)
    self.__dict__.pop("_snapshot", None)


def handle(self, record):
    """Filter and emit, as the standard library does, but not under the handler's lock.

    A subclass with an `emit` of its own may count on the lock, so it gets it.
    """
    cdef Snapshot now
    cdef int outcome
    try:
        now = snapshot_of(self)
        if now.stock and not now.filters:
            outcome = put_stock(now, self, record)
        else:
            outcome = -1
    except Exception:
        self.handleError(record)
        return record if returns_record else True
    if outcome >= 0:
        if outcome != PUT_ACCEPTED:
            self._follow_up(record, outcome)
        return record if returns_record else True
    if type(self).emit is not emit:
        return Handler.handle(self, record)
    passed = self.filter(record)
    if isinstance(passed, LogRecord):         # from 3.12 on a filter may replace it
        record = passed
    if passed:
        self.emit(record)
    return passed


def emit(self, record):
    """Format the record and put it into the ring. Errors go to handleError()."""
    cdef Snapshot now
    cdef int outcome
    try:
        now = snapshot_of(self)
        outcome = put_stock(now, self, record) if now.stock else put_overridden(self, record)
    except Exception:
        self.handleError(record)
        return
    if outcome != PUT_ACCEPTED:
        self._follow_up(record, outcome)


cdef int put_overridden(object self, object record) except -1:
    cdef Engine engine = self._engine
    if engine.adopting and engine.wants_socket():
        self._renew_socket()
    message = format_locked(self, record)
    return engine.put(self.encodePriority(self.facility, self.mapPriority(record.levelname)),
                      message, self.ident, self.append_nul,
                      is_urgent(record.levelno, self.urgent_level))


cdef inline bint is_urgent(object levelno, object urgent_level) except -1:
    # makeLogRecord leaves levelno out, and the standard library does not mind.
    return levelno is not None and levelno >= urgent_level


cdef object format_locked(object self, object record):
    """format(record), under the lock: code that is not stock may need it."""
    self.acquire()
    try:
        return self.format(record)
    finally:
        self.release()


cdef int put_stock(Snapshot now, object self, object record) except -1:
    severity = now.priority_names[now.priority_map.get(record.levelname, "warning")]
    return now.engine.put(now.facility | severity, format_stock(now, self, record), now.ident,
                          now.append_nul, is_urgent(record.levelno, now.urgent_level))


cdef object format_stock(Snapshot now, object self, object record):
    """format(record). A formatter other than the stock one gets the lock: it may need it."""
    formatter = now.formatter or logging._defaultFormatter
    if type(formatter) is not Formatter:
        return format_locked(self, record)
    style = formatter._style
    if (type(style) is not PercentStyle or style._fmt != "%(message)s"
            or record.exc_info or record.exc_text or record.stack_info
            or type(record) is not LogRecord or LogRecord.getMessage is not stock_get_message):
        return formatter.format(record)
    message = str(record.msg)
    args = record.args
    if args:
        message = message % args
    record.message = message                  # as Formatter.format leaves it behind
    return message
