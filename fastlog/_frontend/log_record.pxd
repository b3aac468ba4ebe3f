"""A logging call before it is a LogRecord, see _frontend/log_record.pyx."""
cimport cython
from cpython.object cimport PyObject
from cpython.ref cimport Py_DECREF
from libc.stdint cimport int64_t

from fastlog._core cimport Engine
from fastlog._engine.message cimport Message

cdef extern from *:
    """
    /* From 3.13 on, LogRecord reads time.time_ns() instead of time.time(). */
    #define FASTLOG_CLOCK_COUNTS_NS (PY_VERSION_HEX >= 0x030D0000)
    """
    const bint CLOCK_COUNTS_NS "FASTLOG_CLOCK_COUNTS_NS"

cdef enum Field:                      # the attributes of a LogRecord, in the order of its __dict__
    NAME
    MSG
    ARGS
    LEVELNAME
    LEVELNO
    PATHNAME
    FILENAME
    MODULE
    EXC_INFO
    EXC_TEXT
    STACK_INFO
    LINENO
    FUNCTION
    CREATED
    MSECS
    RELATIVE_CREATED
    THREAD
    THREAD_NAME
    PROCESS_NAME
    PROCESS
    FIELDS                            # their number. Not every record has the following ones
    MESSAGE
    ASCTIME
    OTHER

cdef struct RecordFields:             # values of some attributes of a LogRecord
    const unsigned char *indexes      # the fields that are loaded
    int count                         # of indexes
    int owned                         # number of indexes whose values are new references
    PyObject *values[FIELDS]          # by Field, undefined for fields that are not loaded

cdef struct LogCall:                  # a call that no LogRecord was made for
    PyObject *name                    # of the logger, borrowed
    PyObject *levelno                 # borrowed
    long level                        # the value of levelno
    PyObject *msg                     # borrowed from the caller's arguments
    long stacklevel
    PyObject *levelname               # owned, from prepare_call() to release_call()
    PyObject *args                    # owned, too. A tuple or a mapping, as LogRecord stores it
    int64_t time                      # ns since 1970


cdef frozenset record_attributes      # the names of the attributes that every LogRecord has


@cython.final
cdef class CallSite:
    """The place in the source that a call comes from."""
    cdef object pathname, filename, module, lineno, function


cdef class Encoder:
    # Complete the message, which consists of an empty prefix piece and the text, and put it into
    # the engine. Return the flags of Engine.put().
    # prefix: index of the prefix piece. ident, append_nul: the handler's attributes, but an empty
    # ident may be None. record: the LogRecord, or None if `call` is the call.
    cdef int put(self, Engine engine, Message *message, int prefix, object ident, object append_nul,
                 unsigned int priority, bint urgent, object record, LogCall *call) except -1


cdef bint fields_load(RecordFields *record_fields, dict attributes, const unsigned char *indexes,
                      int count) except -1
cdef void fields_incref(RecordFields *record_fields) noexcept
cdef void fields_decref(RecordFields *record_fields) noexcept
cdef bint prepare_call(LogCall *call, PyObject *const *args, Py_ssize_t count) except -1
cdef object thread_ident()
cdef object thread_name()
cdef object process_id()
cdef CallSite find_caller(long stacklevel)
cdef bint record_class_is_unmodified() except -1
cdef object make_record(LogCall *call, object exc_info)


cdef inline void release_call(LogCall *call) noexcept:
    """Drop what a prepare_call() that returned True has stored."""
    Py_DECREF(<object>call.levelname)
    Py_DECREF(<object>call.args)


cdef inline double created_of(int64_t ns) noexcept:
    """Return the attribute `created`, equal to CPython's to the last bit."""
    # Python/pytime.c, _PyTime_AsSecondsDouble, up to 3.12: whole seconds stay exact.
    if not CLOCK_COUNTS_NS and ns % 1_000_000_000 == 0:
        return <double>(ns // 1_000_000_000)
    return <double>ns / 1e9


cdef inline double msecs_of(int64_t ns) noexcept:
    """Return the attribute `msecs`, equal to CPython's to the last bit."""
    cdef double created = created_of(ns)
    cdef int64_t ms
    if not CLOCK_COUNTS_NS:
        return <double><int64_t>((created - <double><int64_t>created) * 1000)
    ms = ns % 1_000_000_000 // 1_000_000
    # `created` may have been rounded up to the next second.
    return 0.0 if ms == 999 and <int64_t>created != ns // 1_000_000_000 else <double>ms
