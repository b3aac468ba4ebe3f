# cython: language_level=3, boundscheck=False, wraparound=False, freethreading_compatible=True
"""LogRecord.getMessage, which is `msg % args`, without making a str of the result.

A message is nearly always a constant of the program, so its compiled form is cached: the text
between the conversions, and the conversions.
"""
import re

cimport cython
from cpython.object cimport PyObject
from cpython.ref cimport Py_INCREF, Py_XDECREF
from cpython.unicode cimport PyUnicode_Format

from fastlog._engine.cpythonx cimport PyThreadState_GetDict, PyUnicode_AsUTF8AndSize
from fastlog._engine.freethreading cimport FREE_THREADED, dict_find
from fastlog._engine.message cimport (Message, message_add, message_add_bytes, message_add_number,
                                      message_join_from, message_keep_alive)

cdef enum:
    CONVERSIONS_MAX = 14          # of a compiled message, see PIECES_MAX
    LENGTH_MAX = 2000             # characters of a compiled message, to bound the cache's memory
    SLOTS = 256                   # of the cache, a power of two


@cython.final
cdef class CompiledMessage:
    """The parts of a message: literal, conversion, literal, ..., literal."""
    cdef int count                # of conversions
    cdef bint ascii               # all literals are pure ASCII
    cdef list literals, specs     # count + 1 and count of them
    cdef const char *bytes[CONVERSIONS_MAX + 1]       # UTF-8 of the literals, owned by `literals`
    cdef Py_ssize_t sizes[CONVERSIONS_MAX + 1]        # bytes
    cdef char kinds[CONVERSIONS_MAX]      # 's' for %s, 'd' for %d, 0 for any other conversion

    cdef int end_literal(self, str text) except -1:
        self.literals.append(text)
        self.bytes[self.count] = PyUnicode_AsUTF8AndSize(text, &self.sizes[self.count])
        self.ascii = self.ascii and text.isascii()
        return 0

    cdef int add_conversion(self, str spec) except -1:
        self.specs.append(spec)
        self.kinds[self.count] = {"%s": c's', "%d": c'd'}.get(spec, 0)
        self.count += 1
        return 0


cdef struct Slot:
    # Owned. While the slot holds the message, no other str can have its address.
    PyObject *msg
    # Owned. NULL: not compiled yet. None: it cannot be compiled.
    PyObject *compiled

cdef Slot shared_slots[SLOTS]     # protected by the GIL


@cython.final
cdef class SlotTable:
    """The slots of one thread, on a CPython without a GIL."""
    cdef Slot slots[SLOTS]

    def __dealloc__(self):
        cdef int i
        for i in range(SLOTS):
            Py_XDECREF(self.slots[i].msg)
            Py_XDECREF(self.slots[i].compiled)


cdef inline Slot *current_slots() except NULL:
    return slots_of_thread() if FREE_THREADED else shared_slots


cdef Slot *slots_of_thread() except NULL:
    cdef dict thread_dict = <dict>PyThreadState_GetDict()
    table = dict_find(thread_dict, SlotTable, None)
    if table is None:
        table = thread_dict[SlotTable] = SlotTable()
    return (<SlotTable>table).slots       # thread_dict keeps the table alive


# A str, because compiling it here would slow the import down.
cdef str PATTERN = (
    r"%(?:%|[#0\- +]*[0-9]*(?:\.[0-9]+)?[hlL]?(?P<kind>[diouxXeEfFgGcrsa]))")


cdef object compile_message(str msg):
    """Return a CompiledMessage, or None if `msg` has anything that PATTERN does not cover."""
    cdef CompiledMessage compiled = CompiledMessage()
    cdef Py_ssize_t end = 0
    literal = ""
    compiled.ascii = True
    compiled.literals = []
    compiled.specs = []
    for match in re.finditer(PATTERN, msg):
        text = msg[end:match.start()]
        end = match.end()
        if "%" in text:
            return None
        literal += text
        if match["kind"] is None:
            literal += "%"
            continue
        if compiled.count == CONVERSIONS_MAX:
            return None
        compiled.end_literal(literal)
        compiled.add_conversion(match[0])
        literal = ""
    if "%" in msg[end:]:
        return None
    compiled.end_literal(literal + msg[end:])
    return compiled


cdef object find_compiled(object msg, Py_ssize_t count):
    """Return the CompiledMessage for `count` arguments.

    None the first time that a str is seen, or if `msg % args` must be left to Python.
    """
    cdef Slot *slot = &current_slots()[(<size_t><PyObject *>msg >> 4) % SLOTS]
    if slot.msg != <PyObject *>msg:
        # Only remembered: a message that is built for one call is not worth compiling.
        if len(msg) <= LENGTH_MAX:
            replace(&slot.msg, msg)
            Py_XDECREF(slot.compiled)
            slot.compiled = NULL
        return None
    if slot.compiled == NULL:
        return compile_into(slot, msg, count)
    compiled = <object>slot.compiled
    if compiled is None or (<CompiledMessage>compiled).count != count:
        return None
    return compiled


cdef object compile_into(Slot *slot, object msg, Py_ssize_t count):
    try:
        compiled = compile_message(msg)
    except UnicodeEncodeError:        # lone surrogates
        compiled = None
    # Python code ran, which may have given the slot to another message.
    if slot.msg == <PyObject *>msg:
        replace(&slot.compiled, compiled)
    if compiled is None or (<CompiledMessage>compiled).count != count:
        return None
    return compiled


cdef int replace(PyObject **reference, object value) except -1:
    cdef PyObject *previous = reference[0]
    Py_INCREF(value)
    reference[0] = <PyObject *>value
    Py_XDECREF(previous)
    return 0


cdef object percent_format(object msg, object args):
    """Return what LogRecord.getMessage returns for this `msg` and these `args`."""
    if type(msg) is not str:
        msg = str(msg)
        return msg % args if args else msg
    return PyUnicode_Format(msg, args) if args else msg


cdef int percent_format_into(Message *out, object msg, object args) except -1:
    """Add what percent_format() returns, as at most 2 * CONVERSIONS_MAX + 1 pieces."""
    if type(msg) is not str or type(args) is not tuple or not args:
        return message_add(out, percent_format(msg, args))
    compiled = find_compiled(msg, len(<tuple>args))
    if compiled is None:
        return message_add(out, PyUnicode_Format(msg, args))
    return add_compiled(out, compiled, args)


cdef object percent_format_both(Message *out, object msg, object args):
    """Return what percent_format() returns, and add it as percent_format_into() does.

    Only if is_side_effect_free(): a text that is not ASCII is formatted twice.
    """
    cdef int first = out.count
    cdef size_t size = out.size
    cdef bint ascii = out.ascii
    compiled = find_compiled(msg, len(<tuple>args)) if args else None
    if compiled is None:
        text = percent_format(msg, args)
        message_add(out, text)
        return text
    out.ascii = True
    add_compiled(out, compiled, args)
    if not out.ascii:
        return PyUnicode_Format(msg, args)
    out.ascii = ascii
    return message_join_from(out, first, out.size - size)


cdef int add_compiled(Message *out, CompiledMessage compiled, tuple args) except -1:
    cdef int i
    message_keep_alive(out, compiled)
    out.ascii = out.ascii and compiled.ascii
    for i in range(compiled.count):
        message_add_bytes(out, compiled.bytes[i], <size_t>compiled.sizes[i])
        add_value(out, compiled, i, args[i])
    message_add_bytes(out, compiled.bytes[compiled.count],
                      <size_t>compiled.sizes[compiled.count])
    return 0


cdef inline int add_value(Message *out, CompiledMessage compiled, int i, object value) except -1:
    """Add the text that conversion number i makes of a value."""
    cdef char kind = compiled.kinds[i]
    if kind == c's' and type(value) is str:
        return message_add(out, value)
    if kind and type(value) is int and message_add_number(out, value):
        return 0
    return message_add(out, str(value) if kind == c's' else
                       PyUnicode_Format(compiled.specs[i], (value,)))
