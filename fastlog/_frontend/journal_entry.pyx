# cython: language_level=3, binding=True, freethreading_compatible=True
"""Records as journal entries: systemd, docs/JOURNAL_NATIVE_PROTOCOL.md.

An entry is a series of fields. A field is NAME=value and a line feed. If the value contains a line
feed, the field is NAME, a line feed, the length of the value as 8 bytes in little-endian order, the
value, and a line feed. MESSAGE is the first field. The fields from `extra` are the last ones.
"""
import logging
import re
import struct

cimport cython
from libc.string cimport memchr, strlen

from fastlog._backend.framing cimport TRUNCATION_MARK, TRUNCATION_MARK_SIZE, frame_utf8_floor
from fastlog._core cimport Engine
from fastlog._engine.message cimport (Message, Piece, message_add, message_add_bytes,
                                      message_add_number, message_add_object, message_has,
                                      message_set_piece, message_set_prefix, message_truncate)
from fastlog._frontend.log_record cimport (CallSite, Encoder, LogCall, created_of,
                                           find_caller, record_attributes, thread_name)
from fastlog._frontend.rfc_header cimport Header, text_of

cdef enum:
    NAME_MAX = 64                     # systemd, journal_field_valid() in journal-file.c
    NAMES_MAX = 1000                  # cached names, because a program can generate any number
    # Fields of the program. journald ignores an entry with more than 1,024 fields: systemd,
    # journald-native.c.
    OTHERS_MAX = 1000
    LENGTH_OVERHEAD = 10              # bytes that a field with a length adds to name and value
    OTHERS_SHARE = 4                  # MESSAGE leaves 1 / OTHERS_SHARE of an entry to other fields

# The fields that fastlog adds to each entry. The program's fields must have other names.
OWN_FIELDS = frozenset({
    "MESSAGE", "PRIORITY", "SYSLOG_FACILITY", "SYSLOG_IDENTIFIER", "SYSLOG_TIMESTAMP", "LOGGER",
    "CODE_FILE", "CODE_LINE", "CODE_FUNC", "THREAD_NAME", "EXCEPTION_TEXT"})
# Fields with a 128-bit id in them: systemd.journal-fields(7). Readers look for its 32 digits.
cdef frozenset ID_FIELDS = frozenset({b"MESSAGE_ID", b"INVOCATION_ID", b"USER_INVOCATION_ID"})
cdef object NOT_ALLOWED = re.compile("[^A-Z0-9_]")

# All other attributes come from `extra`.
cdef frozenset own_attributes = record_attributes | {"message", "asctime", "taskName"}
cdef dict field_names = {}            # {attribute: field name}


def field_name(attribute):
    """Return the field name for an attribute: at most 64 of A-Z, 0-9 and _, a letter first.

    The name is in capitals, with _ for each character that is not allowed. It gets X_ in front if
    it would begin with a digit or _ (which journald reserves), or if it is one of OWN_FIELDS.
    """
    name = NOT_ALLOWED.sub("_", str.upper(text_of(attribute)))
    if not "A" <= name[:1] <= "Z" or name in OWN_FIELDS:
        name = "X_" + name
    return name[:NAME_MAX]


cdef bytes name_of(object attribute):
    if type(attribute) is not str or len(attribute) > NAME_MAX:
        return field_name(attribute).encode()
    name = field_names.get(attribute)
    if name is None:
        if len(field_names) >= NAMES_MAX:
            field_names.clear()
        name = field_names[attribute] = field_name(attribute).encode()
    return name


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
    """Return bytes unchanged, and anything else as its str()."""
    if type(value) is bytes:
        return value
    if isinstance(value, (bytes, bytearray, memoryview)):
        try:
            return bytes(memoryview(value))   # bytes() would call a __bytes__ of a subclass
        except ValueError:                    # a released memoryview
            pass
    return str.encode(text_of(value), "utf-8", "backslashreplace")


def field(bytes name, bytes value):
    """Return one serialized field."""
    if b"\n" in value:
        return b"%b\n%b%b\n" % (name, struct.pack("<Q", len(value)), value)
    return b"%b=%b\n" % (name, value)


cdef bint add_field(Message *message, const char *name, object value,
                    Py_ssize_t longest) except -1:
    """Add a field, unless it has no value. name: with a = at the end.

    Truncate the value, or omit the field, to keep the message within `longest` bytes. Return
    whether that was necessary.
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


cdef object exception_text(dict attributes):
    """Return the traceback that the formatter stored, or format it.

    Some libraries store only a line feed (loguru).
    """
    text, info = attributes.get("exc_text"), attributes.get("exc_info")
    if isinstance(text, str) and not text.isspace() and text:
        return text
    if type(info) is not tuple or len(info) != 3 or info[0] is None:
        return text
    try:
        return logging.Formatter().formatException(info)
    except Exception:
        return text


cdef dict dict_of(object record):
    attributes = record.__dict__
    return attributes if type(attributes) is dict else dict(attributes)


@cython.final
cdef class Syslog(Encoder):
    """Encodes records for the syslog socket, the fallback on a machine without journald."""

    cdef int put(self, Engine engine, Message *message, int prefix, object ident, object append_nul,
                 unsigned int priority, bint urgent, object record, LogCall *call) except -1:
        message_set_prefix(message, prefix, f"{ident}: " if ident else "")
        return engine.put(priority, message, append_nul, urgent)


@cython.final
cdef class Journal(Encoder):
    """Encodes the records of one handler as journal entries. Thread-safe.

    fields: {name: value}, checked by _validation.py and added to every entry.
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
        cdef Py_ssize_t space             # where the program's fields begin at the latest
        cdef bytes others = self.constant
        cdef bint truncated = False
        cdef dict attributes = None
        cdef list extra
        if call == NULL:
            attributes = dict_of(record)
            extra = [item for item in attributes.items() if item[0] not in own_attributes]
            if extra:
                others = self.extra_fields(extra, longest // 2, &truncated)
        if self.add_text(message, prefix, longest - longest // OTHERS_SHARE - min(
                <size_t>len(others), longest // 2)):
            truncated = True
        self.add_origin(message, ident, priority, attributes.get("created") if call == NULL
                        else created_of(call.time))
        space = <Py_ssize_t>longest - len(others)
        if (self.add_record(message, attributes, space) if call == NULL
                else self.add_call(message, call, space)):
            truncated = True
        message_add_object(message, others)
        return engine.put_entry(priority, message, urgent, truncated)

    cdef bint add_record(self, Message *message, dict attributes, Py_ssize_t longest) except -1:
        """Add the fields that come from a LogRecord. Return whether one was truncated."""
        cdef bint truncated = False
        truncated |= add_field(message, "LOGGER=", attributes.get("name"), longest)
        truncated |= add_field(message, "CODE_FILE=", attributes.get("pathname"), longest)
        truncated |= add_field(message, "CODE_LINE=", attributes.get("lineno"), longest)
        truncated |= add_field(message, "CODE_FUNC=", attributes.get("funcName"), longest)
        truncated |= add_field(message, "THREAD_NAME=", attributes.get("threadName"), longest)
        truncated |= add_field(message, "EXCEPTION_TEXT=", exception_text(attributes), longest)
        return truncated

    cdef bint add_call(self, Message *message, LogCall *call, Py_ssize_t longest) except -1:
        """Add the same fields for a call. Return whether one was truncated."""
        cdef CallSite call_site = find_caller(call.stacklevel)
        cdef bint truncated = False
        truncated |= add_field(message, "LOGGER=", <object>call.name, longest)
        truncated |= add_field(message, "CODE_FILE=", call_site.pathname, longest)
        truncated |= add_field(message, "CODE_LINE=", call_site.lineno, longest)
        truncated |= add_field(message, "CODE_FUNC=", call_site.function, longest)
        truncated |= add_field(message, "THREAD_NAME=", thread_name(), longest)
        return truncated

    cdef bint add_text(self, Message *message, int prefix, size_t longest) except -1:
        """Turn the text into the field MESSAGE, truncated to `longest` bytes.

        Return whether it was truncated.
        """
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
        """Add the fields that tell where and when the record was made, except for its code."""
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

    cdef bytes extra_fields(self, list extra, size_t space, bint *truncated):
        """Return the fields of the handler and of the record, serialized.

        extra: (attribute, value) of the record. space: bytes of all these values.
        """
        cdef list parts = []
        cdef set names = set()
        cdef bytes data
        if len(extra) > OTHERS_MAX - len(self.constants):
            del extra[OTHERS_MAX - len(self.constants):]
            truncated[0] = True
        for attribute, value in extra:
            name = name_of(attribute)
            data = value_bytes(id_digits(name, value))
            if <size_t>len(data) > space:
                data = data[:frame_utf8_floor(data, space)] + TRUNCATION_MARK
                space = 0
                truncated[0] = True
            else:
                space -= len(data)
            names.add(name)
            parts.append(field(name, data))
        if names.isdisjoint(self.constants):
            return self.constant + b"".join(parts)
        return b"".join([part for name, part in self.constants.items() if name not in names]
                        + parts)
