"""A logging call before it is a LogRecord, as other extension modules see it; see _frontend/log_record.pyx."""
from cpython.object cimport PyObject
from libc.stdint cimport int64_t

cdef enum Field:                      # what a LogRecord has, in the order in which it gets it
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
    FIELDS                            # so many; what follows is not in each record:
    MESSAGE
    ASCTIME
    OTHER

cdef struct RecordFields:
    const unsigned char *indexes      # the ones that are read
    int count                         # of them
    int held                          # so many are references, the others borrowed
    PyObject *values[FIELDS]          # by Field; of those that are not read: anything

cdef struct LogCall:                     # references are borrowed from who makes the call
    PyObject *name                    # of the logger
    PyObject *levelno
    long number                       # the same
    PyObject *levelname
    PyObject *msg
    PyObject *args                    # a tuple or a mapping, as LogRecord has it
    int64_t time                      # ns since 1970
    long stacklevel


cdef class CallSite:
    """Where the call stands in the source."""
    cdef object pathname, filename, module, lineno, function


cdef bint fields_load(RecordFields *record_fields, dict attributes, const unsigned char *fields,
                     int count) except -1
cdef void fields_incref(RecordFields *record_fields) noexcept
cdef void fields_decref(RecordFields *record_fields) noexcept
cdef object call_args(PyObject *const *args, Py_ssize_t count)
cdef double created_of(int64_t ns) noexcept
cdef double msecs_of(int64_t ns) noexcept
cdef object thread_ident()
cdef object thread_name()
cdef object process_id()
cdef CallSite find_caller(long stacklevel)
cdef bint record_class_is_unmodified() except -1
cdef bint can_make_record() except -1
cdef object level_name(object level, long number)
cdef object make_record(LogCall *call, object exc_info)
