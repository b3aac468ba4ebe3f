"""A message as a list of pieces, gathered where they lie and copied once: into the ring."""
from cpython.bytes cimport PyBytes_AS_STRING, PyBytes_FromStringAndSize, PyBytes_GET_SIZE
from cpython.object cimport PyObject
from cpython.ref cimport Py_DECREF, Py_INCREF
from cpython.unicode cimport PyUnicode_Check
from libc.limits cimport LLONG_MAX
from libc.string cimport memchr, memcpy

from fastlog._backend.framing cimport TRUNCATION_MARK, TRUNCATION_MARK_SIZE, frame_utf8_floor
from fastlog._engine.cpythonx cimport (
    PyLong_AsLongLongAndOverflow, PyUnicode_AsUTF8AndSize, PyUnicode_DATA,
    PyUnicode_GET_LENGTH, PyUnicode_IS_COMPACT_ASCII, PyUnicode_New)

cdef enum:
    # Of a message; who adds them keeps to it: 1 in front, 52 of a format whose message has all its
    # conversions (_frontend/formatter.pyx, _frontend/percent.pyx), 22 of an entry of the journal.
    PIECES_MAX = 80
    SCRATCH_SIZE = 256
    NUMBER_MAX = 20               # characters of a number of 64 bits

cdef struct Piece:
    const char *data              # UTF-8, whole characters
    size_t size                   # bytes

cdef struct Message:
    size_t size                   # bytes of all pieces
    int count
    int owned
    bint ascii                    # no str that was added has other characters
    Piece pieces[PIECES_MAX]
    PyObject *owners[PIECES_MAX]  # a reference for each piece that lies in a Python object
    size_t scratch_used
    char scratch[SCRATCH_SIZE]    # for pieces that are made here


cdef inline void message_begin(Message *message) noexcept:
    message.size = 0
    message.count = 0
    message.owned = 0
    message.ascii = True
    message.scratch_used = 0


cdef inline void message_end(Message *message) noexcept:
    """Give the references back. Exactly once for each message_begin()."""
    while message.owned:
        message.owned -= 1
        Py_DECREF(<object>message.owners[message.owned])


cdef inline void message_add_bytes(Message *message, const char *data, size_t size) noexcept:
    """Add UTF-8 that the caller keeps until the end."""
    message.pieces[message.count].data = data
    message.pieces[message.count].size = size
    message.count += 1
    message.size += size


cdef inline void message_keep_alive(Message *message, object owner) noexcept:
    Py_INCREF(owner)
    message.owners[message.owned] = <PyObject *>owner
    message.owned += 1


cdef inline int message_add(Message *message, object text) except -1:
    """Add a str. Lone surrogates, which have no UTF-8 form, are written as escapes: \\udc80."""
    cdef Py_ssize_t size = 0
    cdef const char *data
    if not PyUnicode_Check(text):
        raise TypeError(f"a message must be str, not {type(text).__name__}")
    if PyUnicode_IS_COMPACT_ASCII(text):
        data = <const char *>PyUnicode_DATA(text)
        size = PyUnicode_GET_LENGTH(text)
    else:
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
    message_keep_alive(message, data)
    message_add_bytes(message, PyBytes_AS_STRING(data), <size_t>PyBytes_GET_SIZE(data))


cdef inline int message_reserve_prefix(Message *message) noexcept:
    """Add an empty piece, to be filled by message_set_prefix(); returns its number."""
    message_add_bytes(message, NULL, 0)
    return message.count - 1


cdef inline int message_set_prefix(Message *message, int piece, object text) except -1:
    """Let the empty piece be this str."""
    message_add(message, text)
    message.count -= 1
    message.pieces[piece] = message.pieces[message.count]
    return 0


cdef inline void message_set_piece(Message *message, int piece, bytes data) noexcept:
    message_add_object(message, data)
    message.count -= 1
    message.pieces[piece] = message.pieces[message.count]


cdef inline char *message_take_scratch(Message *message, size_t size) noexcept:
    """Room for a piece of `size` bytes that the caller writes, or NULL if there is no more."""
    cdef char *space = message.scratch + message.scratch_used
    if size > SCRATCH_SIZE - message.scratch_used:
        return NULL
    message.scratch_used += size
    return space


cdef inline bint message_add_number(Message *message, object number) except -1:
    """Add an int in decimal. False, and nothing is added, if it is too big or there is no space."""
    cdef int overflow = 0
    cdef long long value = PyLong_AsLongLongAndOverflow(number, &overflow)
    cdef unsigned long long rest
    cdef char *end
    cdef char *start
    if overflow or value < -LLONG_MAX:
        return False
    start = message_take_scratch(message, NUMBER_MAX)
    if start == NULL:
        return False
    end = start + NUMBER_MAX
    start = end
    rest = <unsigned long long>(-value if value < 0 else value)
    while True:
        start -= 1
        start[0] = <char>(c'0' + <int>(rest % 10))
        rest //= 10
        if rest == 0:
            break
    if value < 0:
        start -= 1
        start[0] = c'-'
    message_add_bytes(message, start, <size_t>(end - start))
    return True


cdef inline bint message_ends_line(Message *message, int first) noexcept:
    """Whether the last byte of the pieces from `first` on is a line feed."""
    cdef int i = message.count
    cdef Piece *piece
    while i > first:
        i -= 1
        piece = &message.pieces[i]
        if piece.size:
            return piece.data[piece.size - 1] == c'\n'
    return False


cdef inline void message_copy(Message *message, char *out) noexcept nogil:
    """Write message.size bytes to `out`."""
    cdef int i
    for i in range(message.count):
        if message.pieces[i].size:
            memcpy(out, message.pieces[i].data, message.pieces[i].size)
        out += message.pieces[i].size


cdef inline object message_join(Message *message):
    """The pieces as a str. Only if `ascii`."""
    cdef object text = PyUnicode_New(<Py_ssize_t>message.size, 127)
    message_copy(message, <char *>PyUnicode_DATA(text))
    return text


cdef inline void message_truncate(Message *message, size_t space) noexcept:
    """Keep the first `space` bytes at most: whole characters, and the mark behind them."""
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
        if message.count == PIECES_MAX:       # nothing but the mark is left of the last piece
            message.count -= 1
            message.size -= message.pieces[message.count].size
        message_add_bytes(message, TRUNCATION_MARK, TRUNCATION_MARK_SIZE)


cdef inline bytes message_bytes(Message *message):
    cdef bytes whole = PyBytes_FromStringAndSize(NULL, <Py_ssize_t>message.size)
    message_copy(message, PyBytes_AS_STRING(whole))
    return whole


cdef inline bint message_has(Message *message, char byte) noexcept:
    cdef int i
    for i in range(message.count):
        if (message.pieces[i].size
                and memchr(message.pieces[i].data, byte, message.pieces[i].size) != NULL):
            return True
    return False


cdef inline int message_escape(Message *message, bint own_end) except -1:
    """Line feeds and NULs as rsyslog would write them, #012 and #000: none ends the record early.

    own_end: the message's last byte may be meant as the end of the record.
    """
    cdef bytes whole, first, end = b""
    if not message_has(message, c'\n') and not message_has(message, 0):
        return 0
    whole = message_bytes(message)
    first = whole[:message.pieces[0].size]
    whole = whole[message.pieces[0].size:]
    if own_end and whole:
        end = whole[len(whole) - 1:]
        whole = whole[:len(whole) - 1]
    first = first.replace(b"\n", b"#012").replace(b"\0", b"#000")
    whole = whole.replace(b"\n", b"#012").replace(b"\0", b"#000") + end
    message_end(message)
    message_begin(message)
    message_add_object(message, first)
    message_add_object(message, whole)
    return 0
