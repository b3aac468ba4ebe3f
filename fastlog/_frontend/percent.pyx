# cython: language_level=3, boundscheck=False, wraparound=False, freethreading_compatible=True
"""LogRecord.getMessage: msg % args, and the same without making a str of it.

A message is a constant of the program, nearly always, so what `%` finds in it is
kept: the text between the conversions, and of each conversion what it asks for.
"""
import re

from cpython.object cimport PyObject
from cpython.ref cimport Py_INCREF, Py_XDECREF
from cpython.unicode cimport PyUnicode_Format

from fastlog._engine.cpythonx cimport PyThreadState_GetDict, PyUnicode_AsUTF8AndSize
from fastlog._engine.message cimport (Message, message_add, message_add_bytes, message_add_number,
                               message_begin, message_end, message_join, message_keep_alive)
from fastlog._engine.freethreading cimport FREE_THREADED, dict_find

cdef enum:
    CONVERSIONS_MAX = 14          # of a message that is compiled: PIECES_MAX has space for them
    LENGTH_MAX = 2000             # characters, likewise; it is kept
    SLOTS = 256                   # of the cache, a power of two


cdef class CompiledMessage:
    """A message's parts: literal, conversion, literal, ..., literal."""
    cdef int count                # of conversions
    cdef bint ascii               # the literals are
    cdef list literals, specs     # count + 1 and count of them
    cdef const char *bytes[CONVERSIONS_MAX + 1]       # the literals' UTF-8, which lies in them
    cdef Py_ssize_t sizes[CONVERSIONS_MAX + 1]
    cdef char kinds[CONVERSIONS_MAX]      # s, d, or 0: any other

    cdef int end_literal(self, str text) except -1:
        self.literals.append(text)
        self.bytes[self.count] = PyUnicode_AsUTF8AndSize(text, &self.sizes[self.count])
        self.ascii = self.ascii and text.isascii()
        return 0


cdef struct Slot:
    PyObject *msg                 # a reference, so no other message gets its address
    PyObject *compiled            # likewise; NULL: not yet; None: it cannot be

cdef Slot shared_slots[SLOTS]     # under the GIL


cdef class Table:
    """The slots of one thread, where there is no GIL."""
    cdef Slot slots[SLOTS]

    def __dealloc__(self):
        cdef int i
        for i in range(SLOTS):
            Py_XDECREF(self.slots[i].msg)
            Py_XDECREF(self.slots[i].compiled)


cdef inline Slot *slots_here() except NULL:
    return slots_of_thread() if FREE_THREADED else shared_slots


cdef Slot *slots_of_thread() except NULL:
    cdef dict own = <dict>PyThreadState_GetDict()
    table = dict_find(own, Table, None)
    if table is None:
        table = own[Table] = Table()
    return (<Table>table).slots           # which `own` keeps

# Not compiled here: importing would take longer.
cdef str PATTERN = (
    r"%(?:%|[#0\- +]*[0-9]*(?:\.[0-9]+)?[hlL]?(?P<kind>[diouxXeEfFgGcrsa]))")


cdef object compile_message(str msg):
    """CompiledMessage, or None where there is more to it than PATTERN."""
    cdef CompiledMessage compiled = CompiledMessage()
    cdef Py_ssize_t end = 0
    literal = ""
    compiled.ascii = True
    compiled.literals = []
    compiled.specs = []
    for found in re.finditer(PATTERN, msg):
        before = msg[end:found.start()]
        end = found.end()
        if "%" in before:
            return None
        literal += before
        if found["kind"] is None:
            literal += "%"
            continue
        if compiled.count == CONVERSIONS_MAX:
            return None
        compiled.end_literal(literal)
        compiled.specs.append(found[0])
        compiled.kinds[compiled.count] = {"%s": c's', "%d": c'd'}.get(found[0], 0)
        compiled.count += 1
        literal = ""
    if "%" in msg[end:]:
        return None
    compiled.end_literal(literal + msg[end:])
    return compiled


cdef object find_compiled(object msg):
    """What compile_message(msg) returns, or None, the first time that this msg is met."""
    cdef Slot *slot = &slots_here()[(<size_t><PyObject *>msg >> 4) % SLOTS]
    if slot.msg != <PyObject *>msg:
        # A message that was made for this call alone is not worth the work.
        if len(msg) <= LENGTH_MAX:
            replace(&slot.msg, msg)
            Py_XDECREF(slot.compiled)
            slot.compiled = NULL
        return None
    if slot.compiled != NULL:
        return <object>slot.compiled
    try:
        compiled = compile_message(msg)
    except UnicodeEncodeError:        # lone surrogates
        compiled = None
    if slot.msg == <PyObject *>msg:           # else the slot went to another one meanwhile
        replace(&slot.compiled, compiled)
    return compiled


cdef int replace(PyObject **reference, object value) except -1:
    cdef PyObject *before = reference[0]
    Py_INCREF(value)
    reference[0] = <PyObject *>value
    Py_XDECREF(before)
    return 0


cdef inline bint is_builtin_value(object value) noexcept:
    return type(value) is str or type(value) is int or type(value) is float or value is None


cdef bint is_side_effect_free(object msg, object args) noexcept:
    """Whether percent_format() calls nothing of the program's, such as a __str__."""
    if type(msg) is not str or type(args) is not tuple:
        return False
    for value in <tuple>args:
        if not is_builtin_value(value):
            return False
    return True


cdef object percent_format(object msg, object args):
    """LogRecord.getMessage of a record with this `msg` and these `args`."""
    cdef Message pieces
    if type(msg) is not str:
        msg = str(msg)
        return msg % args if args else msg
    if not args:
        return msg
    # Not if code of the program runs: it might have to run twice.
    found = find_compiled(msg) if is_side_effect_free(msg, args) else None
    if found is None or (<CompiledMessage>found).count != len(<tuple>args):
        return PyUnicode_Format(msg, args)
    message_begin(&pieces)
    try:
        add_compiled(&pieces, found, args)
        return message_join(&pieces) if pieces.ascii else PyUnicode_Format(msg, args)
    finally:
        message_end(&pieces)


cdef int percent_format_into(Message *out, object msg, object args) except -1:
    """Add what percent_format() returns, in up to 2 * CONVERSIONS_MAX + 1 pieces."""
    if type(msg) is not str or type(args) is not tuple or not args:
        return message_add(out, percent_format(msg, args))
    found = find_compiled(msg)
    if found is None or (<CompiledMessage>found).count != len(<tuple>args):
        return message_add(out, PyUnicode_Format(msg, args))
    return add_compiled(out, found, args)


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
    """Add what a conversion makes of a value."""
    cdef char kind = compiled.kinds[i]
    if kind == c's' and type(value) is str:
        return message_add(out, value)
    if kind and type(value) is int and message_add_number(out, value):
        return 0
    return message_add(out, str(value) if kind == c's' else
                       PyUnicode_Format(compiled.specs[i], (value,)))
