# cython: language_level=3, binding=True, freethreading_compatible=True
"""The hot path of the handlers, from a LogRecord or a call to Engine.put.

`handle` and `emit` become methods of fastlog._base_handler.BaseHandler. They do what the
standard library's methods do (CPython, Lib/logging/__init__.py, handlers.py). If neither the
handler's class nor the handler overrides a step, the steps run natively on a snapshot of the
handler's attributes. Assigning to an attribute discards the snapshot.
"""
import logging
import logging.handlers
import sys

cimport cython
from libc.stdint cimport uint64_t

from fastlog._backend.atomics cimport (add_seq_cst, atomic_u64, cas_seq_cst, load_acquire,
                                       load_seq_cst, store_seq_cst)
from fastlog._core cimport PUT_ACCEPTED, PUT_FLUSH, PUT_OUTAGE_CHANGED, Engine
from fastlog._engine.cpythonx cimport (PyObject_GenericGetDict, PyObject_TypeCheck,
                                       PyThread_get_thread_ident, PyTypeObject)
from fastlog._engine.freethreading cimport FREE_THREADED, dict_find
from fastlog._engine.message cimport (Message, message_add, message_begin, message_end,
                                      message_reserve_prefix, message_set_prefix)
from fastlog._frontend.dict_guard cimport DictGuard, ensure_type_version, guard_is_valid
from fastlog._frontend.error_trace cimport show_caller
from fastlog._frontend.formatter cimport (CompiledFormatter, compile_formatter,
                                          formatter_is_current)
from fastlog._frontend.log_record cimport (LEVELNAME, LEVELNO, Encoder, LogCall,
                                           RecordFields, fields_decref, fields_load, make_record,
                                           record_class_is_unmodified)
from fastlog._frontend.stdlib cimport (are_stdlib_methods, bind_attribute, find_attribute,
                                       is_stdlib_function)

cdef object Handler = logging.Handler
cdef object SysLogHandler = logging.handlers.SysLogHandler
cdef object Formatter = logging.Formatter
cdef object LogRecord = logging.LogRecord

cdef object no_levelname = object()   # differs from every levelname

# Counts the assignments to attributes of all handlers.
cdef atomic_u64 assignments

cdef enum:
    LEVEL_MAX = 1_000_000_000         # absolute value of a level that is compared as a C long
    THREADS_MAX = 256                 # snapshots of a handler, if each thread has its own

# Whether handle() returns the record, as from 3.12 on, or True if no filter refused it.
cdef bint returns_record = sys.version_info >= (3, 12)

cdef dict logging_names = vars(logging)
cdef dict handlers_names = vars(logging.handlers)

# The steps that can be overridden, besides emit() and handle(), see are_stdlib_methods().
cdef dict logging_steps = {"filter": "Filterer.filter", "format": "Handler.format"}
cdef dict handlers_steps = {name: f"SysLogHandler.{name}"
                            for name in ("mapPriority", "encodePriority")}
cdef dict stdlib_handle = {"handle": "Handler.handle"}

# None: something else has taken the place of Handler.handleError.
cdef object stdlib_handle_error = find_attribute(Handler, "handleError")
if not is_stdlib_function(stdlib_handle_error, logging_names, "Handler.handleError"):
    stdlib_handle_error = None


# --- snapshots ---------------------------------------------------------------------------------

@cython.final
cdef class Snapshot:
    """The attributes of a handler at one moment.

    Without a GIL, each thread has its own, and its own compiled formatter.
    """


cdef bint handler_overrides_steps(object cls, dict attributes) except -1:
    return (cls.emit is not emit or "emit" in attributes
            or cls.__setattr__ is not handler_set_attribute
            or not logging_steps.keys().isdisjoint(attributes)
            or not handlers_steps.keys().isdisjoint(attributes)
            or not are_stdlib_methods(cls, logging_names, logging_steps)
            or not are_stdlib_methods(cls, handlers_names, handlers_steps))


cdef bint is_plain_level(object level) except -1:
    return type(level) is int and -LEVEL_MAX <= level <= LEVEL_MAX


cdef Snapshot take_snapshot(object self, dict attributes):
    cdef Snapshot snapshot = Snapshot()
    cdef uint64_t assignments_before = load_seq_cst(&assignments)
    cdef uint64_t made = MADE
    snapshot.type_version = ensure_type_version(type(self))
    snapshot.locks_emit = (type(self).emit is not emit or not are_stdlib_methods(
        SysLogHandler, logging_names, stdlib_handle))
    snapshot.is_unmodified = not snapshot.locks_emit and (
        type(self.priority_map) is dict and type(self.priority_names) is dict
        and type(self.facility_names) is dict and type(self.filters) is list
        and not (<Engine>self._engine).adopting
        and not handler_overrides_steps(type(self), attributes))
    if snapshot.is_unmodified:
        read_handler(snapshot, self, attributes)
    store_snapshot(attributes, snapshot)
    # forget_snapshot() counts the assignment before it searches for snapshots. So either the count
    # differs here, or forget_snapshot() finds this snapshot.
    if load_seq_cst(&assignments) == assignments_before:
        cas_seq_cst(&snapshot.state, &made, CURRENT)
    return snapshot


cdef int read_handler(Snapshot snapshot, object self, dict attributes) except -1:
    snapshot.facility = self.facility
    snapshot.facility_names = self.facility_names
    snapshot.engine = self._engine
    snapshot.priority_map = self.priority_map
    snapshot.priority_names = self.priority_names
    # Most handlers have the empty ident of the standard library. None is faster to test.
    snapshot.ident = None if type(self.ident) is str and not self.ident else self.ident
    snapshot.encoder = self._encoder
    snapshot.append_nul = self.append_nul
    snapshot.urgent_level = self.urgent_level
    snapshot.formatter = self.formatter or None
    snapshot.filters = self.filters
    snapshot.last_levelname = no_levelname
    snapshot.priorities = guard_priorities(snapshot)
    snapshot.for_calls = (type(self).handle is handle and "handle" not in attributes
                          and is_plain_level(self.level) and is_plain_level(self.urgent_level))
    if snapshot.for_calls:
        snapshot.level = self.level
        snapshot.urgent = self.urgent_level
    return 0


cdef int store_snapshot(dict attributes, Snapshot snapshot) except -1:
    cdef dict snapshots
    if not FREE_THREADED:
        attributes["_fastlog_snapshot"] = snapshot
        return 0
    snapshots = attributes.setdefault("_fastlog_snapshot", {})    # by thread
    if len(snapshots) >= THREADS_MAX:     # most of these threads have exited
        snapshots.clear()
    snapshots[PyThread_get_thread_ident()] = snapshot
    return 0


cdef inline Snapshot find_snapshot(object self, dict attributes):
    """Return the stored snapshot if it is current, else None."""
    stored = dict_find(attributes, "_fastlog_snapshot", None)
    if FREE_THREADED and stored is not None:
        stored = dict_find(<dict?>stored, PyThread_get_thread_ident(), None)
    if type(stored) is Snapshot and snapshot_is_current(<Snapshot>stored, self):
        return <Snapshot>stored
    return None


cdef inline Snapshot snapshot_of(object self):
    cdef dict attributes = PyObject_GenericGetDict(self, NULL)
    cdef Snapshot snapshot = find_snapshot(self, attributes)
    return snapshot if snapshot is not None else take_snapshot(self, attributes)


cdef int forget_snapshot(object self) except -1:
    add_seq_cst(&assignments, 1)
    stored = self.__dict__.pop("_fastlog_snapshot", None)
    if stored is None:
        return 0
    for snapshot in list((<dict?>stored).values()) if FREE_THREADED else [stored]:
        if type(snapshot) is Snapshot:
            store_seq_cst(&(<Snapshot>snapshot).state, OUT_OF_DATE)
    return 0


def handler_set_attribute(self, name, value):
    """Set an attribute, and let the next record take a new snapshot."""
    object.__setattr__(self, name, value)
    forget_snapshot(self)


def handler_delete_attribute(self, name):
    """Delete an attribute, and let the next record take a new snapshot."""
    object.__delattr__(self, name)
    forget_snapshot(self)


cdef inline object formatter_of(Snapshot snapshot):
    return snapshot.formatter if snapshot.formatter is not None else logging._defaultFormatter


cdef inline CompiledFormatter compiled_formatter_of(Snapshot snapshot):
    """Return the formatter, compiled in its present state, or None if it is not a plain one."""
    formatter = formatter_of(snapshot)
    if type(formatter) is not Formatter:
        return None
    if (snapshot.compiled is None or snapshot.compiled.formatter is not formatter
            or not formatter_is_current(snapshot.compiled)):
        snapshot.compiled = compile_formatter(formatter)
    return snapshot.compiled


cdef DictGuard guard_priorities(Snapshot snapshot):
    cdef DictGuard guard = DictGuard()
    guard.add(snapshot.priority_map, None)
    guard.add(snapshot.priority_names, None)
    guard.add(snapshot.facility_names, None)
    return guard


cdef inline unsigned int priority_of(Snapshot snapshot, object levelname) except? 0:
    """Return encodePriority(facility, mapPriority(levelname))."""
    cdef bint valid = guard_is_valid(snapshot.priorities)
    if valid and snapshot.last_levelname is levelname:
        return snapshot.last_priority
    if not valid:
        snapshot.priorities = guard_priorities(snapshot)
    return compute_priority(snapshot, levelname)


cdef unsigned int compute_priority(Snapshot snapshot, object levelname) except? 0:
    severity = snapshot.priority_map.get(levelname, "warning")
    if isinstance(severity, str):
        severity = snapshot.priority_names[severity]
    facility = snapshot.facility
    if isinstance(facility, str):
        facility = snapshot.facility_names[facility]
    snapshot.last_priority = facility << 3 | severity
    snapshot.last_levelname = levelname
    return snapshot.last_priority


# --- records -----------------------------------------------------------------------------------

def handle(self, record):
    """Filter and emit a record, as the standard library does, but without the handler's lock.

    The emit() of a subclass may rely on the lock, so it is called with the lock held.
    """
    cdef Snapshot snapshot
    cdef int flags = -1
    try:
        snapshot = snapshot_of(self)
        if snapshot.is_unmodified and not snapshot.filters:
            flags = emit_record(snapshot, self, record)
    except Exception as error:
        handle_error(self, record, error)
        return record if returns_record else True
    if flags >= 0:
        if flags != PUT_ACCEPTED:
            follow_up(self, flags, record, NULL)
        return record if returns_record else True
    if snapshot.locks_emit:
        return bind_attribute(SysLogHandler, "handle", self)(record)
    passed = self.filter(record)
    if isinstance(passed, LogRecord):         # from 3.12 on, a filter can replace the record
        record = passed
    if passed:
        self.emit(record)
    return passed


def emit(self, record):
    """Format the record and put it into the ring. Errors go to handleError()."""
    cdef Snapshot snapshot
    cdef int flags
    try:
        snapshot = snapshot_of(self)
        flags = (emit_record(snapshot, self, record) if snapshot.is_unmodified
                 else emit_by_overridden_steps(self, record))
    except Exception as error:
        handle_error(self, record, error)
        return
    if flags != PUT_ACCEPTED:
        follow_up(self, flags, record, NULL)


cdef int emit_record(Snapshot snapshot, object self, object record) except -1:
    """Emit a record on the handler's snapshot. Return the flags of Engine.put()."""
    cdef object attributes
    cdef RecordFields record_fields
    cdef CompiledFormatter compiled = compiled_formatter_of(snapshot)
    if (compiled is not None and compiled.ops is not None and type(record) is LogRecord
            and record_class_is_unmodified()):
        attributes = PyObject_GenericGetDict(record, NULL)
        if (type(attributes) is dict
                and fields_load(&record_fields, attributes, compiled.required_fields,
                                compiled.required_count)):
            try:
                return format_natively(snapshot, self, compiled, &record_fields, attributes, record)
            finally:
                fields_decref(&record_fields)
    return format_by_formatter(snapshot, self, record)


cdef int format_natively(Snapshot snapshot, object self, CompiledFormatter compiled,
                         RecordFields *record_fields, dict attributes, object record) except -1:
    """Format a plain LogRecord with the compiled formatter, then encode and put it."""
    cdef Message message
    cdef int prefix
    message_begin(&message)
    try:
        prefix = message_reserve_prefix(&message)
        if not compiled.format_record(record_fields, attributes, &message):
            return format_by_formatter(snapshot, self, record)
        return encode_and_put(snapshot, self, &message, prefix,
                              <object>record_fields.values[<int>LEVELNAME],
                              is_urgent(<object>record_fields.values[<int>LEVELNO],
                                        snapshot.urgent_level),
                              record, NULL)
    finally:
        message_end(&message)


cdef int format_by_formatter(Snapshot snapshot, object self, object record) except -1:
    """Call the formatter's format(), then encode and put the record.

    Only logging.Formatter itself is known not to rely on the handler's lock.
    """
    cdef Message message
    cdef int prefix
    message_begin(&message)
    try:
        prefix = message_reserve_prefix(&message)
        formatter = formatter_of(snapshot)
        message_add(&message, formatter.format(record) if type(formatter) is Formatter else
                    format_locked(self, record))
        return encode_and_put(snapshot, self, &message, prefix, record.levelname,
                              is_urgent(record.levelno, snapshot.urgent_level), record, NULL)
    finally:
        message_end(&message)


cdef int emit_by_overridden_steps(object self, object record) except -1:
    """Call each step as a method of the handler. Return the flags of Engine.put()."""
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


cdef object format_locked(object self, object record):
    """Return format(record), called with the lock held, because user code may rely on it."""
    self.acquire()
    try:
        return self.format(record)
    finally:
        self.release()


# --- calls without a LogRecord -----------------------------------------------------------------

cdef bint handler_emit_call(object handler, LogCall *call) except -1:
    """Do for a call what a Logger and handle() do with a LogRecord.

    Return False, without any effect, if the handler needs a LogRecord.
    """
    cdef Snapshot snapshot
    cdef CompiledFormatter compiled
    cdef dict attributes
    cdef int flags
    if not PyObject_TypeCheck(handler, <PyTypeObject *>Handler):
        return False
    attributes = PyObject_GenericGetDict(handler, NULL)
    snapshot = find_snapshot(handler, attributes)
    if snapshot is None:
        if type(handler).__setattr__ is not handler_set_attribute:
            return False
        snapshot = take_snapshot(handler, attributes)
    if not snapshot.is_unmodified or not snapshot.for_calls or snapshot.filters:
        return False
    compiled = compiled_formatter_of(snapshot)
    if compiled is None or not compiled.for_calls:
        return False
    if call.level < snapshot.level:
        return True
    try:
        flags = emit_call(snapshot, handler, compiled, call)
    except Exception as error:
        handle_error(handler, make_record(call, None), error)
        return True
    if flags != PUT_ACCEPTED:
        follow_up(handler, flags, None, call)
    return True


cdef int emit_call(Snapshot snapshot, object self, CompiledFormatter compiled,
                   LogCall *call) except -1:
    """Emit a call on the handler's snapshot. Return the flags of Engine.put()."""
    cdef Message message
    cdef int prefix
    message_begin(&message)
    try:
        prefix = message_reserve_prefix(&message)
        compiled.format_call(call, &message)
        return encode_and_put(snapshot, self, &message, prefix, <object>call.levelname,
                              call.level >= snapshot.urgent, None, call)
    finally:
        message_end(&message)


# --- after the formatting ----------------------------------------------------------------------

cdef inline int encode_and_put(Snapshot snapshot, object self, Message *message, int prefix,
                               object levelname, bint urgent, object record,
                               LogCall *call) except -1:
    """Encode a formatted record, or if that is None, a call, and put it into the ring."""
    cdef Snapshot current = snapshot
    cdef unsigned int priority
    # Formatting may have run user code that changed the handler.
    if load_acquire(&snapshot.state) != CURRENT:
        current = snapshot_of(self)
        if not current.is_unmodified:
            current = snapshot
    priority = priority_of(current, levelname)
    if current.encoder is not None:
        return current.encoder.put(current.engine, message, prefix, current.ident,
                                   current.append_nul, priority, urgent, record, call)
    if current.ident:
        message_set_prefix(message, prefix, current.ident)
    return current.engine.put(priority, message, current.append_nul, urgent)


cdef int follow_up(object self, int flags, object record, LogCall *call) except -1:
    """Act on the flags of Engine.put(). Make a LogRecord of a call only for handleError()."""
    cdef bint accepted = flags & PUT_ACCEPTED != 0
    cdef bint outage_changed = flags & PUT_OUTAGE_CHANGED != 0
    cdef bint must_flush = accepted and flags & PUT_FLUSH != 0
    if not accepted and overrides_handle_error(self):
        self._report_drop(record if call == NULL else make_record(call, None))
    if outage_changed or must_flush:
        self._after_put(outage_changed, must_flush)
    return 0


cdef bint overrides_handle_error(object self) except -1:
    return (stdlib_handle_error is None
            or getattr(self.handleError, "__func__", None) is not stdlib_handle_error)


cdef int handle_error(object self, object record, object error) except -1:
    """Call handleError() in an except clause."""
    show_caller(error)
    self.handleError(record)
    return 0
