"""Framing: the bytes around a message, written straight into the ring."""
from libc.stdint cimport uint32_t
from libc.string cimport memcpy

cdef enum:
    FRAME_DIGITS_MAX = 10         # of a 32-bit number
    FRAMING_OVERHEAD_MAX = FRAME_DIGITS_MAX + 1     # that a framing adds to a record, at most
    FRAME_START_MAX = FRAMING_OVERHEAD_MAX + FRAME_DIGITS_MAX + 2
    TRUNCATION_MARK_SIZE = 21

cdef extern from *:
    """
    #define FASTLOG_TRUNCATION_MARK " [... cut by fastlog]"
    _Static_assert(sizeof(FASTLOG_TRUNCATION_MARK) - 1 == 21, "TRUNCATION_MARK_SIZE");
    """
    const char *TRUNCATION_MARK "FASTLOG_TRUNCATION_MARK"   # at the end of what was truncated

cdef enum Framing:                # what is put around a message; of records on a stream:
    UNFRAMED                      # the standard library's: nothing but the NUL, if any
    OCTET_COUNTING                # length and a space in front: RFC 6587 section 3.4.1
    NEWLINE                       # a line feed behind: RFC 6587 section 3.4.2
    ENTRY                         # no stream: an entry of the journal, no PRI before it either


cdef inline int frame_number(char *out, uint32_t number) noexcept nogil:
    """Write a number in decimal to `out`; returns its length."""
    cdef char digits[FRAME_DIGITS_MAX]
    cdef int count = 0, length = 0
    while True:
        digits[count] = <char>(c'0' + number % 10)
        count += 1
        number //= 10
        if number == 0:
            break
    while count:
        count -= 1
        out[length] = digits[count]
        length += 1
    return length


cdef inline int frame_priority(char *out, uint32_t priority) noexcept nogil:
    """Write "<priority>" (RFC 3164 section 4.1.1) to `out`; returns its length."""
    cdef int length = frame_number(out + 1, priority)
    out[0] = c'<'
    out[length + 1] = c'>'
    return length + 2


cdef inline int frame_priority_size(uint32_t priority) noexcept nogil:
    """Bytes that frame_priority() writes."""
    cdef int size = 3
    while priority >= 10:
        priority //= 10
        size += 1
    return size


cdef inline int frame_start(char *out, uint32_t priority, size_t size,
                            bint counted) noexcept nogil:
    """Write what comes before a message of `size` bytes; returns its length.

    That is its priority, and if `counted` before it the length of both.
    """
    cdef int length = 0
    if counted:
        length = frame_number(out, <uint32_t>(frame_priority_size(priority) + size))
        out[length] = c' '
        length += 1
    return length + frame_priority(out + length, priority)


cdef inline size_t frame_utf8_floor(const char *text, size_t limit) noexcept nogil:
    """The greatest length <= limit that does not cut a UTF-8 character of `text` in two.

    `text` must be longer than `limit`. A character's later bytes are 10xxxxxx
    and there are at most three (RFC 3629 section 3); bytes that are no UTF-8
    are cut at the limit.
    """
    cdef size_t back = 0
    while back < 4 and back <= limit:
        if (<unsigned char>text[limit - back] & 0xC0) != 0x80:
            return limit - back
        back += 1
    return limit


cdef inline size_t frame_truncate(char *record, size_t length, size_t limit) noexcept nogil:
    """Shorten a record to at most `limit` bytes, fewer than it has: a whole character, the mark,
    and the NUL if there was one. Returns the new length.
    """
    cdef bint nul = record[length - 1] == 0
    cdef size_t kept = 0
    if limit >= <size_t>TRUNCATION_MARK_SIZE + nul:
        kept = frame_utf8_floor(record, limit - TRUNCATION_MARK_SIZE - nul)
        memcpy(record + kept, TRUNCATION_MARK, TRUNCATION_MARK_SIZE)
        kept += TRUNCATION_MARK_SIZE
        if nul:
            record[kept] = 0
            kept += 1
    return kept


cdef inline void frame_sanitize(char *record, size_t length) noexcept nogil:
    """Put spaces for what could end a record on a stream: line feeds and NULs before its end."""
    cdef size_t i
    for i in range(length - 1 if length else 0):
        if record[i] == c'\n' or record[i] == 0:
            record[i] = c' '
