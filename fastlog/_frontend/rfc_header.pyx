# cython: language_level=3, binding=True, freethreading_compatible=True
"""The headers between <PRI> and the message: RFC 3164 section 4.1, RFC 5424 sections 6.2 and 6.3.

A Header stores the parts that all records of a handler share, and caches the text of the current
second. The rest comes from the record: its time, and in RFC 5424 the attributes `msgid` and
`structured_data`, which a program passes by `extra`.
"""
import re
import time
from collections.abc import Mapping

cimport cython
from libc.stdint cimport int64_t
from posix.unistd cimport getpid

from fastlog._backend.atomics cimport add_relaxed
from fastlog._core cimport Engine, engine_writer
from fastlog._engine.message cimport Message, message_set_prefix
from fastlog._frontend.log_record cimport Encoder, LogCall, created_of

cdef tuple MONTHS = ("Jan", "Feb", "Mar", "Apr", "May", "Jun",
                     "Jul", "Aug", "Sep", "Oct", "Nov", "Dec")

cdef str NIL = "-"                    # RFC 5424 section 6: NILVALUE
cdef object NOT_PRINTABLE = re.compile("[^!-~]")          # PRINTUSASCII
cdef object NOT_NAME = re.compile('[^!#-<>-\\\\^-~]')     # and not = ] ": SD-NAME
cdef object ESCAPED = re.compile(r'(["\\\]])')            # in a PARAM-VALUE: section 6.3.3
# The parts of structured data: [SD-ID, a parameter, or ].
cdef object DATA_PART = re.compile(r'\[[^ \]]+|( [^ =]+=")((?:[^"\\]|\\.)*)"|\]', re.DOTALL)

cdef enum:
    NAME_MAX = 32                     # SD-NAME
    MSGID_MAX = 32
    HEADER_MAX = 32 * 1024            # bytes, of records whose size is not limited otherwise
    CHARACTER_MAX = 6                 # bytes of a character, which is escaped if it is a surrogate
    FRAME_MAX = 8                     # bytes of a PRI and a NUL, at least

# Seconds from 1970 to the year 10000, less a day for the time zone.
cdef double YEAR_10000 = 253_402_214_400


cdef object text_of(object value):
    """Return str(value), or a replacement if that raises."""
    try:
        return value if type(value) is str else str(value)
    except Exception:
        return f"<{type(value).__name__} without a str()>"


def sanitize(text, int longest):
    """Return `text` as a header field of at most `longest` characters.

    "_" replaces each character that is not printable ASCII, and "-" an empty text.
    """
    return NOT_PRINTABLE.sub("_", text_of(text))[:longest] or NIL


cdef str valid_name(object name):
    return NOT_NAME.sub("_", text_of(name))[:NAME_MAX] or "_"


cdef list items_of(object mapping):
    """Return a copy of the items, because another thread or a __str__ may change the mapping."""
    return list(mapping.items()) if isinstance(mapping, Mapping) else []


def structured_data(elements):
    """Return {id: {name: value}} in the form of RFC 5424, or "-" if it is empty.

    In ids and names, "_" replaces invalid characters, and only the first 32 characters are used.
    An id must not occur twice (section 6.3.2), so parameters whose ids become equal are merged.
    Values can be any objects. Anything that should be a mapping but is not is left out.
    """
    cdef dict written = {}
    for element, parameters in items_of(elements):
        element = valid_name(element)
        parts = [written.get(element, "")]
        for name, value in items_of(parameters):
            text = ESCAPED.sub(r"\\\1", text_of(value))
            parts.append(f' {valid_name(name)}="{text}"')
        written[element] = "".join(parts)
    return "".join([f"[{element}{text}]" for element, text in written.items()]) or NIL


cdef str shorten_value(str value, Py_ssize_t space):
    """Return the first `space` bytes of a PARAM-VALUE: whole characters and whole escapes."""
    cdef str kept = value.encode()[:max(space, 0)].decode(errors="ignore")
    cdef Py_ssize_t backslashes = len(kept) - len(kept.rstrip("\\"))
    return kept[:-1] if backslashes % 2 else kept


cdef str shorten_data(str data, Py_ssize_t space):
    """Return structured data if it has at most `space` bytes on the wire, else its beginning.

    The beginning is valid structured data. Its last parameter has the beginning of its value.
    """
    cdef list parts = []
    cdef bint is_open = False         # whether a "]" must follow, for which one byte is reserved
    # As Engine.put() may escape it.
    cdef str sent = (data.encode("utf-8", "backslashreplace").decode()
                     .replace("\0", "#000").replace("\n", "#012"))
    if len(sent.encode()) <= space:
        return data
    space -= 1
    for part in DATA_PART.finditer(sent):
        text = part[0]
        size = len(text.encode()) - (text == "]")
        if size > space:
            value = shorten_value(part[2], space - len(part[1]) - 1) if part[2] else ""
            if value:
                parts.append(f'{part[1]}{value}"')
            break
        parts.append(text)
        space -= size + (text == "]")
        is_open = text != "]"
    return "".join(parts) + "]" * is_open or NIL


cdef Py_ssize_t max_header_size(Engine engine) except -1:
    """Return the bytes that a header may have: half of the longest record is for its message."""
    cdef size_t size = engine.max_entry_size()
    if engine.max_size and engine.max_size < size:
        size = engine.max_size
    return min(size // 2 - FRAME_MAX, <size_t>HEADER_MAX)


cdef double seconds_of(object created) except? -1:
    """Return a record's time, or the current time if no header can represent it."""
    cdef double when = -1
    if isinstance(created, (float, int)):
        try:
            when = created
        except OverflowError:
            pass
    return when if 0 <= when < YEAR_10000 else time.time()


@cython.final
cdef class Header(Encoder):
    """Encodes the header of one handler's records. Thread-safe.

    protocol: "rfc3164" or "rfc5424". hostname, app_name, msgid: valid header fields.
    procid: a str, or None for the id of the process that logs.
    data: the result of structured_data(), for records that have none of their own.
    """

    def __init__(self, str protocol, str hostname, str app_name, procid, str msgid, str data):
        self.is_5424 = protocol == "rfc5424"
        # An empty host name is left out, as in the local form of RFC 3164 that syslog(3) sends.
        self.constant = f" {hostname} {app_name}" if hostname else f" {app_name}"
        self.procid = procid
        self.msgid = msgid
        self.data = data
        self.second = -1

    cdef int put(self, Engine engine, Message *message, int prefix, object ident, object append_nul,
                 unsigned int priority, bint urgent, object record, LogCall *call) except -1:
        created = record.__dict__.get("created") if call == NULL else created_of(call.time)
        message_set_prefix(message, prefix, self.render(engine, created, record))
        return engine.put(priority, message, append_nul, urgent)

    cdef str render(self, Engine engine, object created, object record):
        """Return the header, with a space at its end. created: seconds since 1970.

        Structured data that would leave no space for the message is shortened, and counted.
        """
        cdef Py_ssize_t space
        cdef str when = self.timestamp(created)
        cdef str process = self.procid if self.procid is not None else self.this_process()
        if not self.is_5424:
            return f"{when}{self.constant}[{process}]: "
        msgid, data = self.msgid, self.data
        if record is not None:
            attributes = record.__dict__
            if attributes.get("msgid") is not None:
                msgid = sanitize(attributes["msgid"], MSGID_MAX)
            if attributes.get("structured_data") is not None:
                data = structured_data(attributes["structured_data"])
        start = f"1 {when}{self.constant} {process} {msgid} "
        if len(data) > 1:
            space = max_header_size(engine) - len(start) - 1
            if len(data) > space // CHARACTER_MAX:
                whole, data = data, shorten_data(data, space)
                if data is not whole:
                    add_relaxed(&engine_writer(engine).counters.truncated, 1)
        return f"{start}{data} "

    cdef str timestamp(self, object created):
        """Return the time as the protocol writes it, to the microsecond in RFC 5424 (6.2.3)."""
        cdef double when = seconds_of(created)
        cdef int64_t second = <int64_t>when
        cdef int64_t micro = <int64_t>((when - <double>second) * 1e6 + 0.5)
        if micro >= 1_000_000:
            second += 1
            micro = 0
        with cython.critical_section(self):
            if second != self.second:
                self.set_second(second)
            text, zone = self.second_text, self.zone
        return f"{text}.{micro:06d}{zone}" if self.is_5424 else text

    cdef str this_process(self):
        with cython.critical_section(self):
            if self.process != getpid():
                self.process = getpid()
                self.process_text = str(self.process)
            return self.process_text

    cdef int set_second(self, int64_t second) except -1:
        """Cache the local time of a second, with its offset in RFC 5424."""
        zone = ""
        local = time.localtime(second)
        # The time zones in zoneinfo/right have leap seconds, which both RFCs forbid.
        tm_sec = min(local.tm_sec, 59)
        if self.is_5424:
            offset = local.tm_gmtoff // 60
            sign = "-" if offset < 0 else "+"
            zone = f"{sign}{abs(offset) // 60:02d}:{abs(offset) % 60:02d}"
            text = (f"{local.tm_year:04d}-{local.tm_mon:02d}-{local.tm_mday:02d}"
                    f"T{local.tm_hour:02d}:{local.tm_min:02d}:{tm_sec:02d}")
        else:
            # Not strftime(), because the month is in English whatever the locale.
            text = (f"{MONTHS[local.tm_mon - 1]} {local.tm_mday:2d} "
                    f"{local.tm_hour:02d}:{local.tm_min:02d}:{tm_sec:02d}")
        # Last and together, because other threads may have run during the code above.
        self.second, self.second_text, self.zone = second, text, zone
        return 0
