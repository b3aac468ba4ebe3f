# cython: language_level=3, binding=True, freethreading_compatible=True
"""Records as entries of the journal: systemd, docs/JOURNAL_NATIVE_PROTOCOL.md.

An entry is a series of fields, NAME=value and a line feed; where the value has a line feed, NAME,
a line feed, the value's length in 8 bytes, little-endian, the value, a line feed. MESSAGE comes
first, what the program gave by `extra` last.
"""
import logging
import re
import struct

cimport cython
from libc.string cimport memchr, strlen

from fastlog._core cimport Engine
from fastlog._frontend.encoder cimport Encoder
from fastlog._backend.framing cimport TRUNCATION_MARK, TRUNCATION_MARK_SIZE, frame_utf8_floor
from fastlog._frontend.rfc_header cimport Header, text_of
from fastlog._engine.message cimport (Message, Piece, message_add, message_add_bytes, message_add_number,
                               message_add_object, message_set_prefix, message_set_piece, message_has,
                               message_truncate)
from fastlog._frontend.log_record cimport LogCall, CallSite, created_of, find_caller, thread_name

cdef enum:
    NAME_MAX = 64                     # systemd, journal_field_valid() in journal-file.c
    NAMES_MAX = 1000                  # programs may make names up as they go
    # Fields besides our own; journald ignores an entry of more than 1,024: systemd,
    # journald-native.c.
    OTHERS_MAX = 1000
    LENGTH_OVERHEAD = 10                  # of a value: its length, and line feeds
    OTHERS_SHARE = 4                  # of the longest entry this part is left to fields of our own

# The fields that each entry has, so none of the program's is called so.
OWN_FIELDS = frozenset({
    "MESSAGE", "PRIORITY", "SYSLOG_FACILITY", "SYSLOG_IDENTIFIER", "SYSLOG_TIMESTAMP", "LOGGER",
    "CODE_FILE", "CODE_LINE", "CODE_FUNC", "THREAD_NAME", "EXCEPTION_TEXT"})
# Fields with a 128-bit id in them: systemd.journal-fields(7). Readers look for its 32 digits.
cdef frozenset ID_FIELDS = frozenset({b"MESSAGE_ID", b"INVOCATION_ID", b"USER_INVOCATION_ID"})
cdef object NOT_ALLOWED = re.compile("[^A-Z0-9_]")

# What a LogRecord has by itself; all else is from `extra`.
cdef frozenset own_attributes = frozenset(vars(logging.makeLogRecord({}))) | {
    "message", "asctime", "taskName"}
cdef dict names = {}                  # of attributes, as fields


def field_name(attribute):
    """An attribute's name as a field's: of A-Z, 0-9 and _, at most 64, beginning with a letter.

    In capitals, with _ for what is not allowed. With X_ in front where it would begin with a digit
    or _ (which journald keeps to itself), or would be one of OWN_FIELDS.
    """
    name = NOT_ALLOWED.sub("_", str.upper(text_of(attribute)))
    if not "A" <= name[:1] <= "Z" or name in OWN_FIELDS:
        name = "X_" + name
    return name[:NAME_MAX]


cdef bytes name_of(object attribute):
    if type(attribute) is not str or len(attribute) > NAME_MAX:
        return field_name(attribute).encode()
    known = names.get(attribute)
    if known is None:
        if len(names) >= NAMES_MAX:
            names.clear()
        known = names[attribute] = field_name(attribute).encode()
    return known


def id_digits(bytes name, value):
    """Return a UUID in one of ID_FIELDS as its 32 hexadecimal digits, and other values unchanged.

    Any class named UUID with a str as `hex` is one: uuid_utils and asyncpg have classes of their
    own.
    """
    if name not in ID_FIELDS or type(value).__name__ != "UUID":
        return value
    digits = getattr(value, "hex", None)
    return digits if isinstance(digits, str) else value


def value_bytes(value):
    """Bytes as they are, all else as its str()."""
    if type(value) is bytes:
        return value
    if isinstance(value, (bytes, bytearray, memoryview)):
        try:
            return bytes(memoryview(value))   # a subclass may have a __bytes__
        except ValueError:                    # released
            pass
    return str.encode(text_of(value), "utf-8", "backslashreplace")


def field(bytes name, bytes value):
    """One field, serialized."""
    if b"\n" in value:
        return b"%b\n%b%b\n" % (name, struct.pack("<Q", len(value)), value)
    return b"%b=%b\n" % (name, value)


cdef bint add_field(Message *message, const char *name, object value,
                    Py_ssize_t longest) except -1:
    """Add a field of our own; its name with a = at the end. Nothing, if there is no value.

    What would make the message longer than `longest` is cut or left out. Returns whether it was.
    """
    cdef int first = message.count
    cdef Py_ssize_t space = (longest - <Py_ssize_t>message.size - <Py_ssize_t>strlen(name)
                            - LENGTH_OVERHEAD)
    cdef Piece *piece = &message.pieces[first + 1]
    cdef bint truncated
    if value is None or type(value) is str and not value:
        return False
    if space < TRUNCATION_MARK_SIZE:
        return True
    message_add_bytes(message, name, strlen(name))
    if type(value) is str:
        message_add(message, value)
    elif type(value) is not int or not message_add_number(message, value):
        message_add_object(message, value_bytes(value))
    truncated = piece.size > <size_t>space
    if truncated:
        message.size -= piece.size
        message_set_piece(message, first + 1, piece.data[:frame_utf8_floor(
            piece.data, space - TRUNCATION_MARK_SIZE)] + TRUNCATION_MARK)
    if memchr(piece.data, c"\n", piece.size) != NULL:
        message.size -= message.pieces[first].size
        message_set_piece(message, first, b"%b\n%b" % (
            name[:strlen(name) - 1], struct.pack("<Q", piece.size)))
    message_add_bytes(message, "\n", 1)
    return truncated


cdef object exception_text(dict own):
    """The traceback; made here where the formatter left none (or a line feed: loguru)."""
    text, info = own.get("exc_text"), own.get("exc_info")
    if isinstance(text, str) and not text.isspace() and text:
        return text
    if type(info) is not tuple or len(info) != 3 or info[0] is None:
        return text
    try:
        return logging.Formatter().formatException(info)
    except Exception:
        return text


cdef class Syslog(Encoder):
    """What stands around the text on the syslog socket, where there is no journal."""

    cdef int put(self, Engine engine, Message *message, int prefix, object ident, object append_nul,
                 unsigned int priority, bint urgent, object record, LogCall *call) except -1:
        message_set_prefix(message, prefix, f"{ident}: " if ident else "")
        return engine.put(priority, message, append_nul, urgent)


cdef class Journal(Encoder):
    """What makes one handler's entries. Thread-safe.

    fields: {name: value} of every entry, checked by _validation.py.
    """

    def __init__(self, fields):
        self.constants = {name.encode(): field(name.encode(), value_bytes(value))
                          for name, value in fields.items()}
        self.constant = b"".join(self.constants.values())
        self.clock = Header("rfc5424", "", "", None, "", "")
        self.ident = None
        self.identifier = b""

    cdef int put(self, Engine engine, Message *message, int prefix, object ident, object append_nul,
                 unsigned int priority, bint urgent, object record, LogCall *call) except -1:
        cdef size_t longest = engine.max_entry_size()
        cdef Py_ssize_t rest              # what the fields of our own end before
        cdef bytes others = self.constant
        cdef bint truncated = False
        cdef dict own
        cdef list found
        cdef CallSite call_site
        if call == NULL:
            attributes = record.__dict__
            own = attributes if type(attributes) is dict else dict(attributes)
            found = [item for item in own.items() if item[0] not in own_attributes]
            if found:
                others = self.extra_fields(found, longest // 2, &truncated)
        if self.add_text(message, prefix, longest - longest // OTHERS_SHARE - min(
                <size_t>len(others), longest // 2)):
            truncated = True
        self.add_origin(message, ident, priority,
                        own.get("created") if call == NULL else created_of(call.time))
        rest = <Py_ssize_t>longest - len(others)
        if call == NULL:
            truncated |= add_field(message, "LOGGER=", own.get("name"), rest)
            truncated |= add_field(message, "CODE_FILE=", own.get("pathname"), rest)
            truncated |= add_field(message, "CODE_LINE=", own.get("lineno"), rest)
            truncated |= add_field(message, "CODE_FUNC=", own.get("funcName"), rest)
            truncated |= add_field(message, "THREAD_NAME=", own.get("threadName"), rest)
            truncated |= add_field(message, "EXCEPTION_TEXT=", exception_text(own), rest)
        else:
            call_site = find_caller(call.stacklevel)
            truncated |= add_field(message, "LOGGER=", <object>call.name, rest)
            truncated |= add_field(message, "CODE_FILE=", call_site.pathname, rest)
            truncated |= add_field(message, "CODE_LINE=", call_site.lineno, rest)
            truncated |= add_field(message, "CODE_FUNC=", call_site.function, rest)
            truncated |= add_field(message, "THREAD_NAME=", thread_name(), rest)
        message_add_object(message, others)
        return engine.put_entry(priority, message, urgent, truncated)

    cdef bint add_text(self, Message *message, int prefix, size_t longest) except -1:
        """Make the text the field MESSAGE, of at most so many bytes; whether it was truncated."""
        cdef bint truncated = message.size > longest
        if truncated:
            message_truncate(message, longest)
        if message_has(message, c"\n"):
            message_set_piece(message, prefix, b"MESSAGE\n" + struct.pack("<Q", message.size))
        else:
            message_set_piece(message, prefix, b"MESSAGE=")
        message_add_bytes(message, "\n", 1)
        return truncated

    cdef int add_origin(self, Message *message, object ident, unsigned int priority,
                        object created) except -1:
        cdef bytes identifier
        with cython.critical_section(self):
            if ident is not self.ident:
                identifier = field(b"SYSLOG_IDENTIFIER", value_bytes(ident)) if ident else b""
                self.ident, self.identifier = ident, identifier
            identifier = self.identifier
        message_add_object(message, identifier)
        message_add(message, f"PRIORITY={priority & 7}\nSYSLOG_FACILITY={priority >> 3}\n"
                    f"SYSLOG_TIMESTAMP={self.clock.timestamp(created)}\n")
        return 0

    cdef bytes extra_fields(self, list found, size_t space, bint *cut):
        """The handler's fields and the record's, whose values have `space` bytes together."""
        cdef list parts = []
        cdef set taken = set()
        cdef bytes data
        if len(found) > OTHERS_MAX - len(self.constants):
            del found[OTHERS_MAX - len(self.constants):]
            cut[0] = True
        for attribute, value in found:
            name = name_of(attribute)
            data = value_bytes(id_digits(name, value))
            if <size_t>len(data) > space:
                data = data[:frame_utf8_floor(data, space)] + TRUNCATION_MARK
                space = 0
                cut[0] = True
            else:
                space -= len(data)
            taken.add(name)
            parts.append(field(name, data))
        if taken.isdisjoint(self.constants):
            return self.constant + b"".join(parts)
        return b"".join([each for name, each in self.constants.items() if name not in taken]
                        + parts)
