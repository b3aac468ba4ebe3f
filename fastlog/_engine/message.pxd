"""A message as a list of pieces.

The pieces stay in the memory of the objects that they come from. They are copied once, into the
ring.
"""
from cpython.bytes cimport PyBytes_AS_STRING, PyBytes_FromStringAndSize, PyBytes_GET_SIZE
from cpython.object cimport PyObject
from cpython.ref cimport Py_DECREF, Py_INCREF
from cpython.unicode cimport PyUnicode_Check
from libc.limits cimport LLONG_MAX
from libc.string cimport memchr, memcpy

from fastlog._backend.framing cimport TRUNCATION_MARK, TRUNCATION_MARK_SIZE, frame_utf8_floor
from fastlog._engine.cpythonx cimport (
    PyLong_AsLongLongAndOverflow, PyUnicode_AsUTF8AndSize, PyUnicode_DATA, PyUnicode_GET_LENGTH,
    PyUnicode_IS_COMPACT_ASCII, PyUnicode_New)

cdef enum:
    # No code checks this limit, so the producers of pieces must respect it together. They need at
    # most 79: 1 for the prefix, 52 for a format whose message has all its conversions
    # (_frontend/formatter.pyx, _frontend/percent.pyx), 4 for a traceback and a stack, 22 for the
    # fields of a journal entry.
    PIECES_MAX = 80
    SCRATCH_SIZE = 256            # bytes
    NUMBER_MAX = 20               # characters of a 64-bit number with its sign

cdef struct Piece:
    const char *data              # UTF-8, whole characters
    size_t size                   # bytes

cdef struct Message:
    size_t size                   # bytes of all pieces
    int count                     # of pieces
    int owned                     # number of owners
    bint ascii                    # every str added so far is pure ASCII
    Piece pieces[PIECES_MAX]
    PyObject *owners[PIECES_MAX]  # new references to the objects that hold the bytes of the pieces
    size_t scratch_used           # bytes
    char scratch[SCRATCH_SIZE]    # holds pieces that belong to no object, such as digits


cdef inline void message_begin(Message *message) noexcept:
    message.size = 0
    message.count = 0
    message.owned = 0
    message.ascii = True
    message.scratch_used = 0


cdef inline void message_end(Message *message) noexcept:
    """Release the owners. Call this exactly once for each message_begin()."""
    while message.owned:
        message.owned -= 1
        Py_DECREF(<object>message.owners[message.owned])


cdef inline void message_add_bytes(Message *message, const char *data, size_t size) noexcept:
    """Add UTF-8 bytes, which the caller keeps alive until message_end()."""
    message.pieces[message.count].data = data
    message.pieces[message.count].size = size
    message.count += 1
    message.size += size


cdef inline void message_keep_alive(Message *message, object owner) noexcept:
    """Hold a reference to the owner of a piece until message_end()."""
    Py_INCREF(owner)
    message.owners[message.owned] = <PyObject *>owner
    message.owned += 1


cdef inline int message_add(Message *message, object text) except -1:
    """Add a str. A lone surrogate, which has no UTF-8 form, becomes an escape such as \\udc80."""
    if not PyUnicode_Check(text) or not PyUnicode_IS_COMPACT_ASCII(text):
        return message_add_non_ascii(message, text)
    message_keep_alive(message, text)
    message_add_bytes(message, <const char *>PyUnicode_DATA(text),
                      <size_t>PyUnicode_GET_LENGTH(text))
    return 0


cdef inline int message_add_non_ascii(Message *message, object text) except -1:
    cdef Py_ssize_t size = 0
    cdef const char *data
    if not PyUnicode_Check(text):
        raise TypeError(f"a message must be str, not {type(text).__name__}")
    message.ascii = False
    try:
        data = PyUnicode_AsUTF8AndSize(text, &size)
    except UnicodeEncodeError:
        text = text.encode("utf-8", "backslashreplace")
        data = PyBytes_AS_STRING(text)
        size = PyBytes_GET_SIZE(text)
    message_keep_alive(message, text)
    message_add_bytes(message, data, <size_t>size)
    return 0


cdef inline void message_add_object(Message *message, bytes data) noexcept:
    """Add a bytes object."""
    message_keep_alive(message, data)
    message_add_bytes(message, PyBytes_AS_STRING(data), <size_t>PyBytes_GET_SIZE(data))


cdef inline int message_reserve_prefix(Message *message) noexcept:
    """Add an empty piece for message_set_prefix() to fill, and return its index."""
    message_add_bytes(message, NULL, 0)
    return message.count - 1


cdef inline int message_set_prefix(Message *message, int piece, object text) except -1:
    """Replace the piece at this index by a str."""
    message_add(message, text)
    message.count -= 1
    message.pieces[piece] = message.pieces[message.count]
    return 0


cdef inline void message_set_piece(Message *message, int piece, bytes data) noexcept:
    """Replace the piece at this index by a bytes object.

    This adds the size of the new piece to message.size. The caller subtracts the size of the old.
    """
    message_add_object(message, data)
    message.count -= 1
    message.pieces[piece] = message.pieces[message.count]


cdef inline char *message_take_scratch(Message *message, size_t size) noexcept:
    """Return space for a piece of `size` bytes that the caller writes, or NULL if none is left."""
    cdef char *space = message.scratch + message.scratch_used
    if size > SCRATCH_SIZE - message.scratch_used:
        return NULL
    message.scratch_used += size
    return space


cdef inline bint message_add_number(Message *message, object number) except -1:
    """Add an int in decimal. Return False, and add nothing, if it is too big or space is short."""
    cdef int overflow = 0
    cdef long long value = PyLong_AsLongLongAndOverflow(number, &overflow)
    cdef unsigned long long remainder
    cdef char *end
    cdef char *start
    if overflow or value < -LLONG_MAX:
        return False
    start = message_take_scratch(message, NUMBER_MAX)
    if start == NULL:
        return False
    end = start + NUMBER_MAX
    start = end
    remainder = <unsigned long long>(-value if value < 0 else value)
    while True:
        start -= 1
        start[0] = <char>(c'0' + <int>(remainder % 10))
        remainder //= 10
        if remainder == 0:
            break
    if value < 0:
        start -= 1
        start[0] = c'-'
    message_add_bytes(message, start, <size_t>(end - start))
    return True


cdef inline bint message_ends_line(Message *message, int first) noexcept:
    """Return whether the pieces from index `first` on end with a line feed."""
    cdef int i = message.count
    cdef Piece *piece
    while i > first:
        i -= 1
        piece = &message.pieces[i]
        if piece.size:
            return piece.data[piece.size - 1] == c'\n'
    return False


cdef inline void message_copy_from(Message *message, int first, char *out) noexcept nogil:
    """Copy the pieces from index `first` on to `out`."""
    cdef int i
    for i in range(first, message.count):
        if message.pieces[i].size:
            memcpy(out, message.pieces[i].data, message.pieces[i].size)
        out += message.pieces[i].size


cdef inline void message_copy(Message *message, char *out) noexcept nogil:
    """Copy the whole message, message.size bytes, to `out`."""
    message_copy_from(message, 0, out)


cdef inline object message_join_from(Message *message, int first, size_t size):
    """Return the pieces from index `first` on, `size` bytes of ASCII, as a str."""
    cdef object text = PyUnicode_New(<Py_ssize_t>size, 127)
    message_copy_from(message, first, <char *>PyUnicode_DATA(text))
    return text


cdef inline void message_truncate(Message *message, size_t space) noexcept:
    """Truncate to `space` bytes, between characters, with the truncation mark at the end."""
    cdef int i = 0
    cdef bint marked = space >= TRUNCATION_MARK_SIZE
    cdef size_t kept = 0
    cdef Piece *piece
    if marked:
        space -= TRUNCATION_MARK_SIZE
    while i < message.count:
        piece = &message.pieces[i]
        i += 1
        if piece.size > space - kept:
            piece.size = frame_utf8_floor(piece.data, space - kept)
            kept += piece.size
            break
        kept += piece.size
    message.count = i
    message.size = kept
    if marked:
        if message.count == PIECES_MAX:       # the mark replaces the last piece
            message.count -= 1
            message.size -= message.pieces[message.count].size
        message_add_bytes(message, TRUNCATION_MARK, TRUNCATION_MARK_SIZE)


cdef inline bytes message_bytes(Message *message):
    """Return the whole message."""
    cdef bytes whole = PyBytes_FromStringAndSize(NULL, <Py_ssize_t>message.size)
    message_copy(message, PyBytes_AS_STRING(whole))
    return whole


cdef inline bint message_has(Message *message, char byte) noexcept:
    """Return whether a byte occurs in the message."""
    cdef int i
    for i in range(message.count):
        if (message.pieces[i].size
                and memchr(message.pieces[i].data, byte, message.pieces[i].size) != NULL):
            return True
    return False


cdef inline bytes message_escape_bytes(bytes text, bint line_feeds):
    text = text.replace(b"\0", b"#000")
    return text.replace(b"\n", b"#012") if line_feeds else text


cdef inline int message_escape(Message *message, bint keep_last_byte,
                               bint line_feeds) except -1:
    """Escape NULs as rsyslog does (#000), so that none ends the record early.

    keep_last_byte: leave the last byte alone, because it may be the end of the record.
    line_feeds: escape line feeds, too (#012).
    """
    cdef bytes whole, first, end = b""
    if not message_has(message, 0) and not (line_feeds and message_has(message, c'\n')):
        return 0
    whole = message_bytes(message)
    if keep_last_byte:
        end = whole[len(whole) - 1:]
        whole = whole[:len(whole) - 1]
    first = whole[:message.pieces[0].size]
    whole = whole[message.pieces[0].size:]
    first = message_escape_bytes(first, line_feeds)
    whole = message_escape_bytes(whole, line_feeds) + end
    message_end(message)
    message_begin(message)
    message_add_object(message, first)
    message_add_object(message, whole)
    return 0
