# cython: language_level=3, binding=True
"""Records as entries of the journal: systemd, docs/JOURNAL_NATIVE_PROTOCOL.md.

An entry is a series of fields, NAME=value and a line feed; where the value has a line feed, NAME,
a line feed, the value's length in 8 bytes, little-endian, the value, a line feed. MESSAGE comes
first, what the program gave by `extra` last.
"""
import logging
import re
import struct

from libc.string cimport memchr, strlen

from fastlog._core cimport Engine
from fastlog._emit cimport Envelope
from fastlog._frame cimport MARK, frame_utf8_floor
from fastlog._header cimport Header
from fastlog._message cimport (Message, message_add, message_add_bytes, message_add_number,
                               message_add_whole, message_fill_whole, message_has, message_shorten)
from fastlog._record cimport Call, Caller, created_of, find_caller, thread_name

cdef enum:
    NAME_MAX = 64                     # systemd, journal_field_valid() in journal-file.c
    NAMES_MAX = 1000                  # programs may make names up as they go
    OTHERS_SHARE = 4                  # of the longest entry this part is left to fields of our own

# The fields that each entry has, so none of the program's is called so.
OWN_FIELDS = frozenset({
    "MESSAGE", "PRIORITY", "SYSLOG_FACILITY", "SYSLOG_IDENTIFIER", "SYSLOG_TIMESTAMP", "LOGGER",
    "CODE_FILE", "CODE_LINE", "CODE_FUNC", "THREAD_NAME", "EXCEPTION_TEXT"})
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
    name = NOT_ALLOWED.sub("_", str(attribute).upper())
    if not "A" <= name[:1] <= "Z" or name in OWN_FIELDS:
        name = "X_" + name
    return name[:NAME_MAX]


cdef bytes name_of(object attribute):
    known = names.get(attribute)
    if known is None:
        if len(names) >= NAMES_MAX:
            names.clear()
        known = names[attribute] = field_name(attribute).encode()
    return known


def value_bytes(value):
    """Bytes as they are, all else as its str()."""
    if isinstance(value, (bytes, bytearray, memoryview)):
        return bytes(value)
    if type(value) is not str:
        try:
            value = str(value)
        except Exception:
            value = f"<{type(value).__name__} without a str()>"
    return value.encode("utf-8", "backslashreplace")


def field(bytes name, bytes value):
    """One field, serialized."""
    if b"\n" in value:
        return b"%b\n%b%b\n" % (name, struct.pack("<Q", len(value)), value)
    return b"%b=%b\n" % (name, value)


cdef int add_field(Message *message, const char *name, object value) except -1:
    """Add a field of our own; its name with a = at the end. Nothing, if there is no value."""
    cdef int first = message.count
    if value is None or value == "":
        return 0
    message_add_bytes(message, name, strlen(name))
    if type(value) is not int or not message_add_number(message, value):
        message_add(message, value if type(value) is str else str(value))
        if memchr(message.pieces[first + 1].data, c"\n", message.pieces[first + 1].size) != NULL:
            message.size -= message.pieces[first].size
            message_fill_whole(message, first, b"%b\n%b" % (
                name[:strlen(name) - 1], struct.pack("<Q", message.pieces[first + 1].size)))
    message_add_bytes(message, "\n", 1)
    return 0


cdef class Journal(Envelope):
    """What makes one handler's entries.

    fields: {name: value} of every entry, checked by _options.py.
    """

    def __init__(self, fields):
        self.constants = {name.encode(): field(name.encode(), value_bytes(value))
                          for name, value in fields.items()}
        self.constant = b"".join(self.constants.values())
        self.clock = Header("rfc5424", "", "", None, "", "")
        self.ident = None
        self.identifier = b""

    cdef int put(self, Engine engine, Message *message, int room, object ident, object append_nul,
                 unsigned int priority, bint urgent, object record, Call *call) except -1:
        cdef size_t longest = engine.longest_entry()
        cdef bytes others = self.constant
        cdef bint shortened = False
        cdef dict own
        cdef list found
        cdef Caller caller
        if call == NULL:
            own = record.__dict__
            found = [item for item in own.items() if item[0] not in own_attributes]
            if found:
                others = self.extra_fields(found, longest // 2, &shortened)
        if self.add_text(message, room, longest - longest // OTHERS_SHARE - min(
                <size_t>len(others), longest // 2)):
            shortened = True
        self.add_origin(message, ident, priority,
                        own.get("created") if call == NULL else created_of(call.time))
        if call == NULL:
            add_field(message, "LOGGER=", own.get("name"))
            add_field(message, "CODE_FILE=", own.get("pathname"))
            add_field(message, "CODE_LINE=", own.get("lineno"))
            add_field(message, "CODE_FUNC=", own.get("funcName"))
            add_field(message, "THREAD_NAME=", own.get("threadName"))
            add_field(message, "EXCEPTION_TEXT=", own.get("exc_text"))
        else:
            caller = find_caller(call.stacklevel)
            add_field(message, "LOGGER=", <object>call.name)
            add_field(message, "CODE_FILE=", caller.pathname)
            add_field(message, "CODE_LINE=", caller.lineno)
            add_field(message, "CODE_FUNC=", caller.function)
            add_field(message, "THREAD_NAME=", thread_name())
        message_add_whole(message, others)
        return engine.put_entry(priority, message, urgent, shortened)

    cdef bint add_text(self, Message *message, int room, size_t longest) except -1:
        """Make the text the field MESSAGE, of at most so many bytes; whether it was shortened."""
        cdef bint shortened = message.size > longest
        if shortened:
            message_shorten(message, longest)
        if message_has(message, c"\n"):
            message_fill_whole(message, room, b"MESSAGE\n" + struct.pack("<Q", message.size))
        else:
            message_fill_whole(message, room, b"MESSAGE=")
        message_add_bytes(message, "\n", 1)
        return shortened

    cdef int add_origin(self, Message *message, object ident, unsigned int priority,
                        object created) except -1:
        if ident is not self.ident:
            self.identifier = field(b"SYSLOG_IDENTIFIER", value_bytes(ident))
            self.ident = ident
        message_add_whole(message, self.identifier)
        message_add(message, f"PRIORITY={priority & 7}\nSYSLOG_FACILITY={priority >> 3}\n"
                    f"SYSLOG_TIMESTAMP={self.clock.timestamp(created)}\n")
        return 0

    cdef bytes extra_fields(self, list found, size_t room, bint *cut):
        """The handler's fields and the record's, whose values have `room` bytes together."""
        cdef list parts = []
        cdef set taken = set()
        cdef bytes data
        for attribute, value in found:
            data = value_bytes(value)
            if <size_t>len(data) > room:
                data = data[:frame_utf8_floor(data, room)] + MARK
                room = 0
                cut[0] = True
            else:
                room -= len(data)
            name = name_of(attribute)
            taken.add(name)
            parts.append(field(name, data))
        if taken.isdisjoint(self.constants):
            return self.constant + b"".join(parts)
        return b"".join([each for name, each in self.constants.items() if name not in taken]
                        + parts)
