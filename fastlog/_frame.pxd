"""Framing: the bytes around a message, written straight into the ring."""
from libc.stdint cimport uint32_t

cdef enum:
    FRAME_PRIORITY_MAX = 12       # "<" + ten digits + ">"


cdef inline int frame_priority(char *out, uint32_t priority) noexcept nogil:
    """Write "<priority>" (RFC 3164 section 4.1.1) to `out`; returns its length."""
    cdef char digits[10]
    cdef int count = 0, length = 1
    while True:
        digits[count] = <char>(c'0' + priority % 10)
        count += 1
        priority //= 10
        if priority == 0:
            break
    out[0] = c'<'
    while count:
        count -= 1
        out[length] = digits[count]
        length += 1
    out[length] = c'>'
    return length + 1


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
