# cython: language_level=3, boundscheck=False, wraparound=False, freethreading_compatible=True
"""Compiled logging.Formatters. They produce the same text, byte for byte.

Everything else is left to Formatter.format (CPython, Lib/logging/__init__.py): a subclass, an
overridden method, a converter other than time.localtime and time.gmtime, and a format with more
than text and plain fields.
"""
import logging
import string
import sys
import time

from fastlog._frontend import format_parser

cimport cython
from cpython.object cimport PyObject
from cpython.unicode cimport PyUnicode_Format
from libc.stdint cimport int64_t

from fastlog._engine.cpythonx cimport PyUnicode_AsUTF8AndSize
from fastlog._engine.freethreading cimport dict_find
from fastlog._engine.message cimport (Message, message_add, message_add_bytes, message_ends_line,
                                      message_take_scratch)
from fastlog._frontend.dict_guard cimport DictGuard, ensure_type_version
from fastlog._frontend.digits cimport three_digits, with_msecs, write_three_digits
from fastlog._frontend.log_record cimport (ARGS, ASCTIME, CREATED, EXC_INFO, EXC_TEXT, FIELDS,
                                           FILENAME, FUNCTION, LEVELNAME, LEVELNO, LINENO, MESSAGE,
                                           MODULE, MSECS, MSG, NAME, OTHER, PATHNAME, PROCESS,
                                           PROCESS_NAME, RELATIVE_CREATED, STACK_INFO, THREAD,
                                           THREAD_NAME, CallSite, Field, LogCall, RecordFields,
                                           created_of, fields_incref, find_caller, msecs_of,
                                           process_id, record_attributes, thread_ident,
                                           thread_name)
from fastlog._frontend.percent cimport (is_side_effect_free, percent_format, percent_format_both,
                                        percent_format_into)
from fastlog._frontend.stdlib cimport are_stdlib_methods, is_builtin_of

cdef dict fields = {
    "name": NAME, "levelname": LEVELNAME, "levelno": LEVELNO, "pathname": PATHNAME,
    "filename": FILENAME, "module": MODULE, "lineno": LINENO, "funcName": FUNCTION,
    "created": CREATED, "msecs": MSECS, "relativeCreated": RELATIVE_CREATED, "thread": THREAD,
    "threadName": THREAD_NAME, "processName": PROCESS_NAME, "process": PROCESS,
    "message": MESSAGE, "asctime": ASCTIME,
}
# Those that value_of_call() knows.
cdef frozenset fields_of_calls = frozenset(fields.values()) - {RELATIVE_CREATED, PROCESS_NAME}

cdef str STDLIB_MSEC_FORMAT = "%s,%03d"          # Formatter.default_msec_format

cdef object missing = object()

cdef enum Conversion:                 # how a value becomes text
    LITERAL                           # no value, only text
    STRING                            # str(value)
    PERCENT                           # spec % (value,)
    BRACES                            # spec.format(value)

cdef dict conversions = {
    format_parser.LITERAL: LITERAL, format_parser.STRING: STRING,
    format_parser.PERCENT: PERCENT, format_parser.BRACES: BRACES}

cdef object Formatter = logging.Formatter
cdef object PercentStyle = logging.PercentStyle
cdef object StrFormatStyle = logging.StrFormatStyle
cdef object StringTemplateStyle = logging.StringTemplateStyle
cdef object Template = string.Template

# The methods that have a native equivalent, see are_stdlib_methods(), and the attributes of a
# formatter that are read.
cdef dict logging_methods = {
    Formatter: {name: f"Formatter.{name}" for name in (
        "format", "formatTime", "formatException", "usesTime", "formatMessage", "formatStack")},
    PercentStyle: {name: f"PercentStyle.{name}" for name in ("usesTime", "_format", "format")},
    StrFormatStyle: {"usesTime": "PercentStyle.usesTime", "_format": "StrFormatStyle._format",
                     "format": "PercentStyle.format"},
    StringTemplateStyle: {"usesTime": "StringTemplateStyle.usesTime",
                          "_format": "StringTemplateStyle._format",
                          "format": "PercentStyle.format"}}
cdef dict template_methods = {"substitute": "Template.substitute"}
cdef dict logging_names = vars(logging)
cdef dict string_names = vars(string)
cdef frozenset known_attributes = frozenset({
    "_style", "_fmt", "datefmt", "converter", "default_time_format", "default_msec_format"})


@cython.final
cdef class FormatOp:
    """One part of a format: literal text, or a field and its conversion to text."""
    cdef Conversion conversion
    cdef Field field
    cdef str key                      # the field's name, or None for a literal
    cdef bint plain                   # a str is converted to itself
    cdef bint uses_locale
    cdef const char *bytes            # of a literal: its UTF-8, owned by `spec`
    cdef Py_ssize_t size              # bytes
    cdef object spec                  # the literal text, or the format of PERCENT and BRACES
    # The most recent value and its text, because few fields change with every record.
    cdef object cached_value, cached_text

    cdef object text_of(self, object value):
        """Return the text of a value, a str."""
        if type(value) is str and self.plain:
            return value
        if (type(value) is not str and type(value) is not int) or self.uses_locale:
            return self.convert(value)
        if value is not self.cached_value:
            text = self.convert(value)
            self.cached_value, self.cached_text = value, text
        return self.cached_text

    cdef object convert(self, object value):
        if self.conversion == STRING:
            return str(value)
        if self.conversion == BRACES:
            return self.spec.format(value)
        if type(value) is float and self.spec == "%03d" and 0 <= <double>value < 1000:
            return three_digits(<int>(<double>value))
        return PyUnicode_Format(self.spec, (value,))


# --- compiling ---------------------------------------------------------------------------------

cdef FormatOp new_op(object conversion, str key, str spec):
    cdef FormatOp op = FormatOp()
    op.conversion = conversions[conversion]
    op.key = sys.intern(key) if key is not None else None     # for faster look-ups
    op.field = fields.get(key, OTHER)
    op.spec = spec
    op.plain = op.conversion == STRING or spec in ("%s", "{}", "{!s}")
    op.uses_locale = op.conversion == BRACES and spec.endswith("n}")
    if op.conversion == LITERAL:
        op.bytes = PyUnicode_AsUTF8AndSize(spec, &op.size)
    return op


cdef list compile_style(object style):
    """Return the ops of a format, or None if Formatter.format must apply it or report its error."""
    try:
        ops = [new_op(conversion, key, spec)
               for conversion, key, spec in format_parser.parse(style)]
    except (format_parser.UnsupportedFormat, ValueError):
        return None
    keys = [(<FormatOp>op).key for op in ops if (<FormatOp>op).key is not None]
    if not keys or ("asctime" in keys and not style.usesTime()):
        return None
    if len(ops) + keys.count("asctime") > OPS_MAX:        # asctime may take two pieces
        return None
    return ops


cdef bint is_unmodified(object formatter, object style) except -1:
    if type(formatter) is not Formatter or type(style) not in logging_methods:
        return False
    for cls in (Formatter, type(style)):
        if not are_stdlib_methods(cls, logging_names, logging_methods[cls]):
            return False
    if not are_stdlib_methods(Template, string_names, template_methods):
        return False
    for name in vars(formatter):
        if name not in known_attributes and hasattr(Formatter, name):
            return False
    return not any(hasattr(type(style), name) for name in vars(style))


cdef CompiledFormatter compile_formatter(object formatter):
    """Compile the present state of a formatter, see formatter_is_current()."""
    cdef CompiledFormatter compiled = CompiledFormatter()
    style = formatter._style
    compiled.formatter = formatter
    compiled.style_class = type(style)
    compiled.template_class = Template
    compiled.formatter_version = ensure_type_version(type(formatter))
    compiled.style_version = ensure_type_version(type(style))
    compiled.template_version = ensure_type_version(Template)
    compiled.guard = guard_formatter(formatter, style)
    if is_unmodified(formatter, style):
        read_formatter(compiled, style)
    if compiled.ops is not None:
        examine_ops(compiled)
    return compiled


cdef DictGuard guard_formatter(object formatter, object style):
    cdef DictGuard guard = DictGuard()
    guard.add_attributes(formatter)
    guard.add(vars(time), ("strftime", "tzname"))     # time.tzset() assigns a new tzname
    if type(style) in logging_methods:
        guard.add_attributes(style)
        if type(style._defaults) is dict:
            guard.add(style._defaults, None)
    return guard


cdef int read_formatter(CompiledFormatter compiled, object style) except -1:
    formatter = compiled.formatter
    compiled.converter = formatter.converter
    compiled.time_format = formatter.datefmt or formatter.default_time_format
    compiled.msec_format = None if formatter.datefmt else formatter.default_msec_format
    if type(compiled.msec_format) is str and compiled.msec_format == STDLIB_MSEC_FORMAT:
        compiled.msec_format = STDLIB_MSEC_FORMAT     # the same object is faster to compare
    compiled.defaults = style._defaults or None if type(style._defaults) is dict else None
    compiled.uses_time = style.usesTime()
    if ((is_stdlib_converter(compiled.converter) or not compiled.uses_time)
            and (not style._defaults or compiled.defaults)):
        compiled.ops = compile_style(style)
    return 0


cdef bint is_stdlib_converter(object converter) except -1:
    return is_builtin_of(converter, time, "localtime") or is_builtin_of(converter, time, "gmtime")


cdef int examine_ops(CompiledFormatter compiled) except -1:
    """Derive from the ops which fields they need."""
    cdef list keys = [(<FormatOp>op).key for op in compiled.ops]
    compiled.others = [(<FormatOp>op).key for op in compiled.ops
                       if (<FormatOp>op).field == OTHER and (<FormatOp>op).key is not None]
    for op in compiled.ops:
        compiled.op_at[compiled.op_count] = <PyObject *>op
        compiled.op_count += 1
    compiled.message_op = -1
    if keys.count("message") == 1:
        i = keys.index("message")
        if (<FormatOp>compiled.ops[i]).plain:
            compiled.message_op = i
    compiled.for_calls = (keys.count("message") <= 1
                          and all([op_needs_no_record(op, compiled.defaults)
                                   for op in compiled.ops]))
    return find_required_fields(compiled)


cdef int find_required_fields(CompiledFormatter compiled) except -1:
    """List the fields that format_record() needs, for the ops and for itself."""
    required = {<int>MSG, <int>ARGS, <int>LEVELNAME, <int>LEVELNO, <int>EXC_INFO, <int>EXC_TEXT,
                <int>STACK_INFO}
    if compiled.uses_time:
        required |= {<int>CREATED, <int>MSECS}
    for op in compiled.ops:
        if (<FormatOp>op).field < FIELDS:
            required.add(<int>(<FormatOp>op).field)
    for field in sorted(required):
        compiled.required_fields[compiled.required_count] = field
        compiled.required_count += 1
    return 0


cdef bint op_needs_no_record(FormatOp op, dict defaults) except -1:
    """Return whether value_of_call() can find the op's value."""
    return (op.conversion == LITERAL or op.field in fields_of_calls
            or (defaults is not None and op.key in defaults
                and op.key not in record_attributes and op.key not in ("message", "asctime")))


# --- formatting --------------------------------------------------------------------------------

@cython.final
cdef class CompiledFormatter:
    """The ops of a formatter. Protected by the GIL. Without a GIL, each thread has its own."""

    cdef bint format_record(self, RecordFields *record_fields, dict attributes,
                            Message *out) except -1:
        """Do what formatter.format() does with a plain LogRecord, and add the text to `out`.

        record_fields: the required_fields of its attributes.

        Return False, without any effect, if formatter.format() must do it because a field is
        missing.
        """
        cdef int first = out.count
        cdef int end
        for key in self.others:
            if self.find(key, attributes) is missing:
                return False
        # The order of Formatter.format: first the message, then the time, then all other fields.
        message = self.add_message(record_fields, out)
        attributes["message"] = message
        asctime = None
        if self.uses_time:
            asctime = self.asctime_of_record(record_fields)
            attributes["asctime"] = asctime
        end = out.count               # of the message's pieces, or `first` if it has none yet
        out.count = first
        self.add_ops(record_fields, attributes, message, asctime, out, end)
        if (record_fields.values[<int>EXC_INFO] != <PyObject *>None
                or record_fields.values[<int>EXC_TEXT] != <PyObject *>None
                or record_fields.values[<int>STACK_INFO] != <PyObject *>None):
            fields_incref(record_fields)      # the __str__ of an exception may run
            self.add_traces(attributes, out, first)
        return True

    cdef object find(self, str key, dict attributes):
        """Return the value of a field that not every LogRecord has, or `missing`."""
        value = dict_find(attributes, key, missing)
        if value is missing and self.defaults is not None:
            value = dict_find(self.defaults, key, missing)
        return value

    cdef object add_message(self, RecordFields *record_fields, Message *out):
        """Return record.getMessage().

        If no user code can run, also add it where message_op needs it. Every op before message_op
        adds exactly one piece, and these pieces are left undefined.
        """
        msg = <object>record_fields.values[<int>MSG]
        args = <object>record_fields.values[<int>ARGS]
        if not is_side_effect_free(msg, args):
            fields_incref(record_fields)
        elif self.message_op >= 0:
            out.count += self.message_op
            return percent_format_both(out, msg, args)
        return percent_format(msg, args)

    cdef object asctime_of_record(self, RecordFields *record_fields):
        cdef PyObject *created = record_fields.values[<int>CREATED]
        cdef PyObject *msecs = record_fields.values[<int>MSECS]
        if type(<object>created) is not float or type(<object>msecs) is not float:
            fields_incref(record_fields)      # a __float__ or __format__ may run
        return self.asctime(<object>created, <object>msecs)

    cdef int add_ops(self, RecordFields *record_fields, dict attributes, object message,
                     object asctime, Message *out, int end) except -1:
        """Add the text of each op. If add_message() added pieces, they end before `end`."""
        cdef FormatOp op
        cdef PyObject *value
        cdef int message_op = self.message_op if end > out.count else -1
        cdef int i
        for i in range(self.op_count):
            op = <FormatOp>self.op_at[i]
            if op.conversion == LITERAL:
                message_add_bytes(out, op.bytes, <size_t>op.size)
                continue
            if i == message_op:
                out.count = end
                continue
            if op.field < FIELDS:
                value = record_fields.values[<int>op.field]
            elif op.field == MESSAGE:
                value = <PyObject *>message
            elif op.field == ASCTIME:
                value = <PyObject *>asctime
            else:
                other = self.find(op.key, attributes)
                if other is missing:          # a __str__ has deleted it
                    raise KeyError(op.key)
                value = <PyObject *>other
            if type(<object>value) is not str and type(<object>value) is not int:
                fields_incref(record_fields)          # a __str__ may run
            message_add(out, op.text_of(<object>value))
        return 0

    cdef int add_traces(self, dict attributes, Message *out, int first) except -1:
        """Add what Formatter.format puts after the message, whose first piece is `first`."""
        if attributes["exc_info"] and not attributes["exc_text"]:
            attributes["exc_text"] = self.formatter.formatException(attributes["exc_info"])
        for text in (attributes["exc_text"], attributes["stack_info"]):
            if text:
                if not message_ends_line(out, first):
                    message_add_bytes(out, "\n", 1)
                message_add(out, text)
        return 0

    cdef int format_call(self, LogCall *call, Message *out) except -1:
        """Do the same for a call without a LogRecord. Only if for_calls."""
        cdef CallSite call_site = None
        cdef FormatOp op
        cdef int i
        for i in range(self.op_count):
            op = <FormatOp>self.op_at[i]
            if op.conversion == LITERAL:
                message_add_bytes(out, op.bytes, <size_t>op.size)
            elif op.field == MESSAGE and op.plain:
                percent_format_into(out, <object>call.msg, <object>call.args)
            elif op.field == ASCTIME and op.plain and self.msec_format == STDLIB_MSEC_FORMAT:
                self.add_asctime(call.time, out)
            elif op.field == LEVELNAME:
                message_add(out, op.text_of(<object>call.levelname))
            elif op.field == NAME:
                message_add(out, op.text_of(<object>call.name))
            else:
                if call_site is None and op.field in (PATHNAME, FILENAME, MODULE, LINENO, FUNCTION):
                    call_site = find_caller(call.stacklevel)
                message_add(out, op.text_of(value_of_call(self, op, call, call_site)))
        return 0

    cdef object asctime(self, object created, object msecs):
        """Return what formatTime() returns."""
        text = self.text_of_second(created)
        if not self.msec_format:
            return text
        if (self.msec_format == STDLIB_MSEC_FORMAT and type(msecs) is float
                and 0 <= <double>msecs < 1000):
            return with_msecs(text, <int>(<double>msecs))
        return self.msec_format % (text, msecs)

    cdef int add_asctime(self, int64_t ns, Message *out) except -1:
        """Add what asctime() returns with the standard library's default_msec_format."""
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
        """Return whether second_text was made for this second."""
        return self.second == second and self.second_text is not None

    cdef object text_of_second(self, object created):
        """Return strftime() of the second of `created`. The most recent text is cached."""
        if type(created) is not float or not 0 <= <double>created < 1e15:
            return time.strftime(self.time_format, self.converter(created))
        if not self.has_second(<int64_t><double>created):
            self.second_text = None
            text = time.strftime(self.time_format, self.converter(created))
            self.second = <int64_t><double>created
            self.second_text = text
        return self.second_text


cdef object value_of_call(CompiledFormatter compiled, FormatOp op, LogCall *call,
                          CallSite call_site):
    """Return the value of a field that has no branch of its own in format_call()."""
    if op.field == MESSAGE:
        return percent_format(<object>call.msg, <object>call.args)
    if op.field == ASCTIME:
        return compiled.asctime(created_of(call.time), msecs_of(call.time))
    if op.field in (PATHNAME, FILENAME, MODULE, LINENO, FUNCTION):
        return value_of_call_site(op.field, call_site)
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
    return compiled.defaults[op.key]


cdef object value_of_call_site(Field field, CallSite call_site):
    if field == PATHNAME:
        return call_site.pathname
    if field == FILENAME:
        return call_site.filename
    if field == MODULE:
        return call_site.module
    return call_site.lineno if field == LINENO else call_site.function
