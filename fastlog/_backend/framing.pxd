"""Framing: the bytes around a message that make it a record.

These functions write straight into the ring. Producers call them on a record that they have
reserved, and the writer on a committed record before it sends it. No function here allocates
memory.
"""
from libc.stdint cimport uint32_t
from libc.string cimport memcpy

cdef enum:
    FRAME_DIGITS_MAX = 10         # decimal digits of a 32-bit number
    FRAMING_OVERHEAD_MAX = FRAME_DIGITS_MAX + 1     # bytes that a framing adds to a record
    FRAME_START_MAX = FRAMING_OVERHEAD_MAX + FRAME_DIGITS_MAX + 2   # bytes from frame_start()
    TRUNCATION_MARK_SIZE = 21     # bytes

cdef extern from *:
    """
    #define FASTLOG_TRUNCATION_MARK " [... cut by fastlog]"
    _Static_assert(sizeof(FASTLOG_TRUNCATION_MARK) - 1 == 21, "TRUNCATION_MARK_SIZE");
    """
    const char *TRUNCATION_MARK "FASTLOG_TRUNCATION_MARK"   # ends a truncated record

cdef enum Framing:                # how a message becomes a record
    UNFRAMED                      # the standard library's: only the NUL, if append_nul asks for it
    OCTET_COUNTING                # stream: a length and a space first, RFC 6587 section 3.4.1
    NEWLINE                       # stream: a line feed last, RFC 6587 section 3.4.2
    ENTRY                         # datagram: a journal entry, without a PRI


cdef inline int frame_number(char *out, uint32_t number) noexcept nogil:
    """Write a number in decimal to `out`. Return the bytes written, at most FRAME_DIGITS_MAX."""
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
    """Write "<priority>" (RFC 3164 section 4.1.1) to `out`. Return the bytes written."""
    cdef int length = frame_number(out + 1, priority)
    out[0] = c'<'
    out[length + 1] = c'>'
    return length + 2


cdef inline int frame_priority_size(uint32_t priority) noexcept nogil:
    """Return the number of bytes that frame_priority() writes."""
    cdef int size = 3
    while priority >= 10:
        priority //= 10
        size += 1
    return size


cdef inline int frame_start(char *out, uint32_t priority, size_t size,
                            bint octet_counting) noexcept nogil:
    """Write the bytes before a message of `size` bytes to `out`. Return the bytes written.

    They are the PRI. With `octet_counting`, the length of PRI and message precedes it. `out` has
    space for FRAME_START_MAX bytes.
    """
    cdef int length = 0
    if octet_counting:
        length = frame_number(out, <uint32_t>(frame_priority_size(priority) + size))
        out[length] = c' '
        length += 1
    return length + frame_priority(out + length, priority)


cdef inline size_t frame_utf8_floor(const char *text, size_t limit) noexcept nogil:
    """Return the greatest length <= limit that does not cut a UTF-8 character of `text` in two.

    `text` must be longer than `limit`. The continuation bytes of a character are 10xxxxxx, and a
    character has at most three (RFC 3629 section 3). Bytes that are not UTF-8 are cut at the limit.
    """
    cdef size_t back = 0
    while back < 4 and back <= limit:
        if (<unsigned char>text[limit - back] & 0xC0) != 0x80:
            return limit - back
        back += 1
    return limit


cdef inline size_t frame_truncate(char *record, size_t length, size_t limit) noexcept nogil:
    """Truncate a record of `length` bytes to at most `limit`, which must be less.

    The text is cut between characters. The mark follows it, and then the NUL if the record ended
    with one. Return the new length, 0 if `limit` has no space for the mark.
    """
    cdef bint has_nul = record[length - 1] == 0
    cdef size_t size = 0
    if limit >= <size_t>TRUNCATION_MARK_SIZE + has_nul:
        size = frame_utf8_floor(record, limit - TRUNCATION_MARK_SIZE - has_nul)
        memcpy(record + size, TRUNCATION_MARK, TRUNCATION_MARK_SIZE)
        size += TRUNCATION_MARK_SIZE
        if has_nul:
            record[size] = 0
            size += 1
    return size


cdef inline void frame_sanitize(char *record, size_t length) noexcept nogil:
    """Replace line feeds and NULs by spaces, except in the last byte.

    On a stream they would end the record early, and the rest would be read as another record.
    """
    cdef size_t i
    for i in range(length - 1 if length else 0):
        if record[i] == c'\n' or record[i] == 0:
            record[i] = c' '
