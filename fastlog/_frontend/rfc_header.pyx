# cython: language_level=3, binding=True, freethreading_compatible=True
"""What stands between <PRI> and the message: RFC 3164 section 4.1, RFC 5424 section 6.2 and 6.3.

A Header keeps what is the same for all records of a handler and the text of the second, and
takes the rest from the record: its time, and in RFC 5424 the attributes `msgid` and
`structured_data`, which a program gives by `extra`.
"""
import re
import time
from collections.abc import Mapping

cimport cython
from libc.stdint cimport int64_t
from posix.unistd cimport getpid

from fastlog._core cimport Engine
from fastlog._frontend.encoder cimport Encoder
from fastlog._engine.message cimport Message, message_set_prefix
from fastlog._frontend.log_record cimport LogCall, created_of

cdef tuple MONTHS = ("Jan", "Feb", "Mar", "Apr", "May", "Jun",
                     "Jul", "Aug", "Sep", "Oct", "Nov", "Dec")

cdef str NIL = "-"                    # RFC 5424 section 6: NILVALUE
cdef object NOT_PRINTABLE = re.compile("[^!-~]")          # PRINTUSASCII
cdef object NOT_NAME = re.compile('[^!#-<>-\\\\^-~]')     # nor = ] ": SD-NAME
cdef object ESCAPED = re.compile(r'(["\\\]])')            # in a PARAM-VALUE: section 6.3.3

cdef enum:
    NAME_MAX = 32                     # SD-NAME
    MSGID_MAX = 32

cdef double YEAR_10000 = 253_402_214_400          # seconds since 1970, less a day for the time zone


cdef object text_of(object value):
    """str(value), or what stands for it if there is none."""
    try:
        return value if type(value) is str else str(value)
    except Exception:
        return f"<{type(value).__name__} without a str()>"


def sanitize(text, int longest):
    """`text` as a header's field: "_" for what is not printable ASCII, cut, "-" for nothing."""
    return NOT_PRINTABLE.sub("_", text_of(text))[:longest] or NIL


cdef str valid_name(object name):
    return NOT_NAME.sub("_", text_of(name))[:NAME_MAX] or "_"


cdef list items_of(object mapping):
    """Copied: another thread, or a str(), may change a dict meanwhile."""
    return list(mapping.items()) if isinstance(mapping, Mapping) else []


def structured_data(elements):
    """{id: {name: value}} as RFC 5424 writes it; "-" if it is empty.

    In ids and names "_" stands for what may not be there, and they are cut at 32
    characters; of ids that come out alike the parameters are put together, as an id must not
    come twice (section 6.3.2). Values can be anything. What is no mapping is left out.
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


cdef double seconds_of(object created) except? -1:
    """A record's time; where that is none that can be written, now."""
    cdef double when = -1
    if isinstance(created, (float, int)):
        try:
            when = created
        except OverflowError:
            pass
    return when if 0 <= when < YEAR_10000 else time.time()


cdef class Header(Encoder):
    """The header of one handler's records. Thread-safe.

    protocol: "rfc3164" or "rfc5424". hostname, app_name, msgid: valid already.
    procid: str, None for the id of the process that logs. data: structured data for records
    that bring none, as structured_data() makes it.
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
        message_set_prefix(message, prefix, self.render(created, record))
        return engine.put(priority, message, append_nul, urgent)

    cdef str render(self, object created, object record):
        """The text for a record of this time (seconds since 1970), with a space at its end."""
        cdef str when = self.timestamp(created)
        cdef str process = self.procid if self.procid is not None else self.this_process()
        if not self.is_5424:
            return f"{when}{self.constant}[{process}]: "
        msgid, data = self.msgid, self.data
        if record is not None:
            own = record.__dict__
            if own.get("msgid") is not None:
                msgid = sanitize(own["msgid"], MSGID_MAX)
            if own.get("structured_data") is not None:
                data = structured_data(own["structured_data"])
        return f"1 {when}{self.constant} {process} {msgid} {data} "

    cdef str timestamp(self, object created):
        """As the protocol writes it; in RFC 5424 (section 6.2.3) to the microsecond."""
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
        """The local time of the process, with its offset in RFC 5424."""
        zone = ""
        now = time.localtime(second)
        tm_sec = min(now.tm_sec, 59)      # the zones in zoneinfo/right have leap seconds, RFCs none
        if self.is_5424:
            offset = now.tm_gmtoff // 60
            sign = "-" if offset < 0 else "+"
            zone = f"{sign}{abs(offset) // 60:02d}:{abs(offset) % 60:02d}"
            text = (f"{now.tm_year:04d}-{now.tm_mon:02d}-{now.tm_mday:02d}"
                    f"T{now.tm_hour:02d}:{now.tm_min:02d}:{tm_sec:02d}")
        else:
            # Not strftime: the month is in English whatever the locale.
            text = (f"{MONTHS[now.tm_mon - 1]} {now.tm_mday:2d} "
                    f"{now.tm_hour:02d}:{now.tm_min:02d}:{tm_sec:02d}")
        # In one go, as another thread may have come between what was done before.
        self.second, self.second_text, self.zone = second, text, zone
        return 0
