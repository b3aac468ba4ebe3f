# cython: language_level=3, boundscheck=False, wraparound=False, freethreading_compatible=True
"""logging.Formatter, compiled: the same text, byte for byte, in native ops.

What is not known here is left to Formatter.format (CPython, Lib/logging/__init__.py):
a subclass, an overridden method, a converter other than time.localtime and
time.gmtime, a format that is more than text and plain fields.
"""
import logging
import string
import sys
import time

from fastlog._frontend import format_parser

from cpython.object cimport PyObject
from cpython.unicode cimport PyUnicode_Format
from libc.stdint cimport int64_t
from libc.string cimport memcpy

from fastlog._engine.cpythonx cimport (
    PyUnicode_AsUTF8AndSize, PyUnicode_DATA, PyUnicode_GET_LENGTH, PyUnicode_IS_COMPACT_ASCII,
    PyUnicode_New)
from fastlog._frontend.percent cimport percent_format, percent_format_into, is_side_effect_free
from fastlog._engine.message cimport (Message, message_add, message_add_bytes, message_ends_line,
                               message_take_scratch)
from fastlog._frontend.log_record cimport (ASCTIME, CREATED, EXC_INFO, EXC_TEXT, FIELDS, FILENAME, FUNCTION,
                              LEVELNAME, LEVELNO, LINENO, MESSAGE, MODULE, MSECS, MSG, NAME,
                              OTHER, PATHNAME, PROCESS, PROCESS_NAME, RELATIVE_CREATED,
                              STACK_INFO, THREAD, THREAD_NAME, ARGS, LogCall, CallSite, RecordFields, Field,
                              created_of, fields_incref, find_caller, msecs_of, process_id,
                              thread_ident, thread_name)
from fastlog._engine.freethreading cimport dict_find
from fastlog._frontend.dict_guard cimport DictGuard, type_version, ensure_type_version, guard_is_valid

cdef enum:
    OPS_MAX = 24                    # PIECES_MAX has space for them, see _frontend/percent.pyx

cdef dict fields = {
    "name": NAME, "levelname": LEVELNAME, "levelno": LEVELNO, "pathname": PATHNAME,
    "filename": FILENAME, "module": MODULE, "lineno": LINENO, "funcName": FUNCTION,
    "created": CREATED, "msecs": MSECS, "relativeCreated": RELATIVE_CREATED, "thread": THREAD,
    "threadName": THREAD_NAME, "processName": PROCESS_NAME, "process": PROCESS,
    "message": MESSAGE, "asctime": ASCTIME,
}
cdef frozenset fields_of_calls = frozenset(fields.values()) - {RELATIVE_CREATED, PROCESS_NAME}

cdef str STDLIB_MSEC_FORMAT = logging.Formatter.default_msec_format

cdef object missing = object()

cdef enum Conversion:                      # how a value becomes text
    LITERAL                           # no value: the text itself
    STRING                            # str(value)
    PERCENT                           # spec % (value,)
    BRACES                            # spec.format(value)

cdef object Formatter = logging.Formatter
cdef object LogRecord = logging.LogRecord
cdef object PercentStyle = logging.PercentStyle
cdef object StrFormatStyle = logging.StrFormatStyle
cdef object StringTemplateStyle = logging.StringTemplateStyle
cdef object Template = string.Template

cdef frozenset record_attributes = frozenset(vars(LogRecord("", 0, "", 0, "", (), None))) | {
    "message", "asctime"}
cdef tuple converters = (time.localtime, time.gmtime)

# The methods that are done natively, and the attributes of a formatter that are read.
cdef dict stdlib_methods = {
    cls: {name: getattr(cls, name) for name in names}
    for cls, *names in (
        (Formatter, "format", "formatTime", "formatException", "usesTime", "formatMessage",
         "formatStack"),
        (PercentStyle, "usesTime", "_format", "format"),
        (StrFormatStyle, "usesTime", "_format", "format"),
        (StringTemplateStyle, "usesTime", "_format", "format"),
        (Template, "substitute"))}
cdef frozenset known_attributes = frozenset({
    "_style", "_fmt", "datefmt", "converter", "default_time_format", "default_msec_format"})


cdef class FormatOp:
    """Text, or a field's value made text."""
    cdef Conversion conversion
    cdef Field field
    cdef str key                      # the field's name
    cdef bint plain                   # the text of a str is the str
    cdef bint looks_at_locale
    cdef const char *bytes            # of LITERAL: its UTF-8, which lies in `spec`
    cdef Py_ssize_t size
    cdef object spec                  # of LITERAL: the text; of PERCENT and BRACES: the format
    # The last value and its text, which few fields change often.
    cdef object last_value, last_text

    cdef object text_of(self, object value):
        """The value's text, a str."""
        if type(value) is str and self.plain:
            return value
        if (type(value) is not str and type(value) is not int) or self.looks_at_locale:
            return self.fresh_text_of(value)
        if value is not self.last_value:
            text = self.fresh_text_of(value)
            self.last_value, self.last_text = value, text
        return self.last_text

    cdef object fresh_text_of(self, object value):
        if self.conversion == STRING:
            return str(value)
        if self.conversion == BRACES:
            return self.spec.format(value)
        if type(value) is float and self.spec == "%03d" and 0 <= <double>value < 1000:
            return three_digits(<int>(<double>value))
        return PyUnicode_Format(self.spec, (value,))


# --- compiling ---------------------------------------------------------------------------------

cdef dict conversions = {"literal": LITERAL, "string": STRING, "percent": PERCENT, "braces": BRACES}


cdef FormatOp new_op(str conversion, str key, str spec):
    cdef FormatOp op = FormatOp()
    op.conversion = conversions[conversion]
    op.key = sys.intern(key) if key is not None else None   # is found sooner
    op.field = fields.get(key, OTHER)
    op.spec = spec
    op.plain = op.conversion == STRING or spec in ("%s", "{}", "{!s}")
    op.looks_at_locale = op.conversion == BRACES and spec.endswith("n}")
    if op.conversion == LITERAL:
        op.bytes = PyUnicode_AsUTF8AndSize(spec, &op.size)
    return op


cdef list compile_style(object style):
    """The ops of a format, or None if there is more to it."""
    try:
        ops = [new_op(conversion, key, spec) for conversion, key, spec in format_parser.parse(style)]
    except (format_parser.UnsupportedFormat, ValueError):     # Formatter.format does it, or says what is wrong
        return None
    keys = [(<FormatOp>op).key for op in ops if (<FormatOp>op).key is not None]
    if not keys or ("asctime" in keys and not style.usesTime()):
        return None
    if len(ops) + keys.count("asctime") > OPS_MAX:        # which may be two pieces
        return None
    return ops


cdef bint is_unmodified(object formatter, object style) except -1:
    if type(formatter) is not Formatter or type(style) not in stdlib_methods:
        return False
    for cls in (Formatter, type(style), Template):
        for name, function in stdlib_methods[cls].items():
            if getattr(cls, name) is not function:
                return False
    for name in vars(formatter):
        if name not in known_attributes and hasattr(Formatter, name):
            return False
    return not any(hasattr(type(style), name) for name in vars(style))


cdef CompiledFormatter compile_formatter(object formatter):
    """The formatter's ops as it is now. It is asked for again when they are not current."""
    cdef CompiledFormatter format = CompiledFormatter()
    style = formatter._style
    format.formatter = formatter
    format.style_class = type(style)
    format.formatter_version = ensure_type_version(type(formatter))
    format.style_version = ensure_type_version(type(style))
    format.template_version = ensure_type_version(Template)
    format.guard = DictGuard()
    format.guard.add_attributes(formatter)
    format.guard.add(vars(time), ("strftime", "tzname"))      # the latter is time.tzset()'s
    if type(style) in stdlib_methods:
        format.guard.add_attributes(style)
        if type(style._defaults) is dict:
            format.guard.add(style._defaults, None)
    if is_unmodified(formatter, style):
        format.converter = formatter.converter
        format.time_format = formatter.datefmt or formatter.default_time_format
        format.msec_format = None if formatter.datefmt else formatter.default_msec_format
        format.defaults = style._defaults or None if type(style._defaults) is dict else None
        format.uses_time = style.usesTime()
        if ((format.converter in converters or not format.uses_time)
                and (not style._defaults or format.defaults)):
            format.ops = compile_style(style)
    if format.ops is not None:
        format.others = [(<FormatOp>op).key for op in format.ops
                         if (<FormatOp>op).field == OTHER and (<FormatOp>op).key is not None]
        find_required_fields(format)
        format.for_calls = (
            all([op_needs_no_record(op, format.defaults) for op in format.ops])
            and [(<FormatOp>op).key for op in format.ops].count("message") <= 1)
    return format


cdef int find_required_fields(CompiledFormatter format) except -1:
    """What format_record() wants of a record: what the ops show, and what it needs itself."""
    wanted = {<int>MSG, <int>ARGS, <int>LEVELNAME, <int>LEVELNO, <int>EXC_INFO, <int>EXC_TEXT,
              <int>STACK_INFO}
    if format.uses_time:
        wanted |= {<int>CREATED, <int>MSECS}
    for op in format.ops:
        if (<FormatOp>op).field < FIELDS:
            wanted.add(<int>(<FormatOp>op).field)
    for field in sorted(wanted):
        format.required_fields[format.required_count] = field
        format.required_count += 1
    return 0


cdef bint op_needs_no_record(FormatOp op, dict defaults) except -1:
    """Whether its value is known before there is a LogRecord."""
    return (op.conversion == LITERAL or op.field in fields_of_calls
            or (defaults is not None and op.key in defaults
                and op.key not in record_attributes))


# --- formatting --------------------------------------------------------------------------------

cdef object three_digits(int number):
    """A number from 0 to 999, as %03d."""
    cdef object text = PyUnicode_New(3, 127)
    write_three_digits(<char *>PyUnicode_DATA(text), number)
    return text


cdef object with_msecs(object text, int msecs):
    """text, a comma and three digits."""
    cdef Py_ssize_t size
    cdef char *out
    if not PyUnicode_IS_COMPACT_ASCII(text):
        return text + "," + three_digits(msecs)
    size = PyUnicode_GET_LENGTH(text)
    whole = PyUnicode_New(size + 4, 127)
    out = <char *>PyUnicode_DATA(whole)
    memcpy(out, PyUnicode_DATA(text), <size_t>size)
    out[size] = c','
    write_three_digits(out + size + 1, msecs)
    return whole


cdef inline void write_three_digits(char *out, int number) noexcept:
    out[0] = <char>(c'0' + number // 100)
    out[1] = <char>(c'0' + number // 10 % 10)
    out[2] = <char>(c'0' + number % 10)


cdef class CompiledFormatter:
    """A formatter's ops. Thread-safe under the GIL; without one, each thread has its own."""

    cdef bint is_current(self) except -1:
        """Whether the formatter is as it was when this was made of it."""
        return (self.formatter_version == type_version(type(self.formatter)) and self.formatter_version != 0
                and self.style_version == type_version(self.style_class) and self.style_version != 0
                and self.template_version == type_version(Template)
                and guard_is_valid(self.guard))

    cdef bint format_record(self, RecordFields *record_fields, dict attributes, Message *out) except -1:
        """What formatter.format() returns, and does to the record, of a plain LogRecord.

        record_fields: what `required_fields` names of its attributes. Returns False, and has done nothing, if
        formatter.format() must do it, because a field is missing.
        """
        cdef PyObject *value
        cdef FormatOp op
        cdef int first = out.count
        for key in self.others:
            if self.find(key, attributes) is missing:
                return False
        if not is_side_effect_free(<object>record_fields.values[<int>MSG], <object>record_fields.values[<int>ARGS]):
            fields_incref(record_fields)
        message = percent_format(<object>record_fields.values[<int>MSG], <object>record_fields.values[<int>ARGS])
        attributes["message"] = message
        asctime = None
        if self.uses_time:
            if (type(<object>record_fields.values[<int>CREATED]) is not float
                    or type(<object>record_fields.values[<int>MSECS]) is not float):
                fields_incref(record_fields)             # a __float__ or __format__ may run
            asctime = self.asctime(<object>record_fields.values[<int>CREATED],
                                   <object>record_fields.values[<int>MSECS])
            attributes["asctime"] = asctime
        for op in self.ops:
            if op.conversion == LITERAL:
                message_add_bytes(out, op.bytes, <size_t>op.size)
                continue
            if op.field < FIELDS:
                value = record_fields.values[<int>op.field]
            elif op.field == MESSAGE:
                value = <PyObject *>message
            elif op.field == ASCTIME:
                value = <PyObject *>asctime
            else:
                found = self.find(op.key, attributes)
                if found is missing:          # a __str__ took it away
                    raise KeyError(op.key)
                value = <PyObject *>found
            if type(<object>value) is not str and type(<object>value) is not int:
                fields_incref(record_fields)             # a __str__ may run
            message_add(out, op.text_of(<object>value))
        if (record_fields.values[<int>EXC_INFO] != <PyObject *>None
                or record_fields.values[<int>EXC_TEXT] != <PyObject *>None
                or record_fields.values[<int>STACK_INFO] != <PyObject *>None):
            fields_incref(record_fields)                 # the exception's __str__ may run
            self.add_traces(attributes, out, first)
        return True

    cdef object find(self, str key, dict attributes):
        """The value of a field that not every LogRecord has, or `missing`."""
        value = dict_find(attributes, key, missing)
        if value is missing and self.defaults is not None:
            value = dict_find(self.defaults, key, missing)
        return value

    cdef int add_traces(self, dict attributes, Message *out, int first) except -1:
        """What Formatter.format puts after the message, whose first piece is `first`."""
        if attributes["exc_info"] and not attributes["exc_text"]:
            attributes["exc_text"] = self.formatter.formatException(attributes["exc_info"])
        for text in (attributes["exc_text"], attributes["stack_info"]):
            if text:
                if not message_ends_line(out, first):
                    message_add_bytes(out, "\n", 1)
                message_add(out, text)
        return 0

    cdef int format_call(self, LogCall *call, Message *out) except -1:
        """The same for a call of which no LogRecord was made. Only if for_calls."""
        cdef CallSite call_site = None
        cdef FormatOp op
        for op in self.ops:
            if op.conversion == LITERAL:
                message_add_bytes(out, op.bytes, <size_t>op.size)
            elif op.field == MESSAGE and op.plain:
                percent_format_into(out, <object>call.msg, <object>call.args)
            elif op.field == ASCTIME and op.plain and self.msec_format == STDLIB_MSEC_FORMAT:
                self.add_asctime(call.time, out)
            else:
                if call_site is None and op.field in (PATHNAME, FILENAME, MODULE, LINENO, FUNCTION):
                    call_site = find_caller(call.stacklevel)
                message_add(out, op.text_of(value_of(self, op, call, call_site)))
        return 0

    cdef object asctime(self, object created, object msecs):
        """What formatTime() returns."""
        text = self.text_of_second(created)
        if not self.msec_format:
            return text
        if (self.msec_format == STDLIB_MSEC_FORMAT and type(msecs) is float
                and 0 <= <double>msecs < 1000):
            return with_msecs(text, <int>(<double>msecs))
        return self.msec_format % (text, msecs)

    cdef int add_asctime(self, int64_t ns, Message *out) except -1:
        """Add what asctime() returns, for the stock default_msec_format."""
        cdef double created = created_of(ns)
        cdef char *space = message_take_scratch(out, 4)
        if space == NULL:
            return message_add(out, self.asctime(created, msecs_of(ns)))
        if self.has_second(<int64_t>created):
            message_add(out, self.second_text)
        else:
            message_add(out, self.text_of_second(created))
        space[0] = c','
        write_three_digits(space + 1, <int>msecs_of(ns))
        message_add_bytes(out, space, 4)
        return 0

    cdef bint has_second(self, int64_t second) noexcept:
        """Whether second_text is this second's."""
        return self.second == second and self.second_text is not None

    cdef object text_of_second(self, object created):
        """strftime() of the second that `created` lies in; the last one's is kept."""
        if type(created) is not float or not 0 <= <double>created < 1e15:
            return time.strftime(self.time_format, self.converter(created))
        if not self.has_second(<int64_t><double>created):
            self.second_text = None
            text = time.strftime(self.time_format, self.converter(created))
            self.second = <int64_t><double>created
            self.second_text = text
        return self.second_text


cdef object value_of(CompiledFormatter format, FormatOp op, LogCall *call, CallSite call_site):
    if op.field == MESSAGE:
        return percent_format(<object>call.msg, <object>call.args)
    if op.field == LEVELNAME:
        return <object>call.levelname
    if op.field == NAME:
        return <object>call.name
    if op.field == ASCTIME:
        return format.asctime(created_of(call.time), msecs_of(call.time))
    if op.field == LINENO:
        return call_site.lineno
    if op.field == FILENAME:
        return call_site.filename
    if op.field == FUNCTION:
        return call_site.function
    if op.field == MODULE:
        return call_site.module
    if op.field == PATHNAME:
        return call_site.pathname
    if op.field == LEVELNO:
        return <object>call.levelno
    if op.field == MSECS:
        return msecs_of(call.time)
    if op.field == CREATED:
        return created_of(call.time)
    if op.field == PROCESS:
        return process_id()
    if op.field == THREAD:
        return thread_ident()
    if op.field == THREAD_NAME:
        return thread_name()
    return format.defaults[op.key]
