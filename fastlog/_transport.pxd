"""The socket: connect, send, and what each errno means. The only unit that calls send.

Only the writer thread uses a Transport, so nothing here is atomic.
"""
from libc.errno cimport (EAGAIN, EINTR, EMSGSIZE, ENOBUFS, ENOMEM, EPROTOTYPE, errno)
from libc.string cimport memcpy, memset
from posix.unistd cimport close

from fastlog._frame cimport frame_utf8_floor

cdef extern from "<sys/socket.h>" nogil:
    enum:
        AF_UNIX
        SOCK_STREAM
        SOCK_DGRAM
        SOCK_CLOEXEC
        SOCK_NONBLOCK
        SOL_SOCKET
        SO_SNDBUF
        MSG_DONTWAIT
        MSG_NOSIGNAL
    ctypedef unsigned int socklen_t
    struct iovec:
        void *iov_base
        size_t iov_len
    struct msghdr:
        iovec *msg_iov
        size_t msg_iovlen
    struct mmsghdr:
        msghdr msg_hdr
        unsigned int msg_len
    struct sockaddr:
        pass
    int socket(int family, int socktype, int protocol) noexcept
    int connect(int fd, const sockaddr *address, socklen_t length) noexcept
    int getsockopt(int fd, int level, int name, void *value, socklen_t *length) noexcept
    ssize_t send(int fd, const void *data, size_t size, int flags) noexcept
    ssize_t sendmsg(int fd, const msghdr *message, int flags) noexcept
    int sendmmsg(int fd, mmsghdr *messages, unsigned int count, int flags) noexcept

cdef extern from "<sys/un.h>" nogil:
    struct sockaddr_un:
        unsigned short sun_family
        char sun_path[108]        # unix(7); no terminating NUL needed at full length

cdef enum:
    TRANSPORT_BATCH = 16          # records in one sendmmsg or sendmsg at the most
    TRANSPORT_PATHS = 2           # socket paths that are tried in turn

cdef enum Outcome:                # what an errno asks of the writer
    WAIT_WRITABLE                 # the peer's queue is full: poll
    WAIT_MEMORY                   # the kernel is short of memory: try again later
    RECONNECT                     # the connection is gone; the records stay
    TOO_LONG                      # this record will never pass in this length

ctypedef struct Transport:
    int fd                        # -1: not connected
    int socktype                  # as asked for; 0: datagram, else stream
    int connected_socktype        # of fd
    int path_count
    sockaddr_un paths[TRANSPORT_PATHS]
    socklen_t path_lengths[TRANSPORT_PATHS]
    size_t partial                # stream: bytes of the first record already sent
    iovec parts[TRANSPORT_BATCH]  # the batch: one part for each record
    mmsghdr messages[TRANSPORT_BATCH]


cdef inline void transport_init(Transport *transport, int socktype) noexcept nogil:
    memset(transport, 0, sizeof(Transport))
    transport.fd = -1
    transport.socktype = socktype
    for i in range(TRANSPORT_BATCH):
        transport.messages[i].msg_hdr.msg_iov = &transport.parts[i]
        transport.messages[i].msg_hdr.msg_iovlen = 1


cdef inline void transport_add_path(Transport *transport, const char *path,
                                    size_t size) noexcept nogil:
    """Add a path of at most 107 bytes (abstract, led by a NUL: 108). Before the first connect."""
    cdef sockaddr_un *address = &transport.paths[transport.path_count]
    address.sun_family = AF_UNIX
    memcpy(address.sun_path, path, size)
    transport.path_lengths[transport.path_count] = <socklen_t>(
        sizeof(address.sun_family) + size + (1 if path[0] else 0))
    transport.path_count += 1


cdef inline void transport_close(Transport *transport) noexcept nogil:
    if transport.fd >= 0:
        close(transport.fd)
        transport.fd = -1
    # A half-sent record is sent whole on the next connection.
    transport.partial = 0


cdef inline int transport_try_path(Transport *transport, int index, int socktype) noexcept nogil:
    """Returns 0 or an errno."""
    cdef int error
    cdef int fd = socket(AF_UNIX, socktype | SOCK_CLOEXEC | SOCK_NONBLOCK, 0)
    if fd < 0:
        return errno
    if connect(fd, <sockaddr *>&transport.paths[index], transport.path_lengths[index]) != 0:
        error = errno
        close(fd)
        return error
    transport.fd = fd
    transport.connected_socktype = socktype
    return 0


cdef inline int transport_connect(Transport *transport) noexcept nogil:
    """Connect to the first path that answers. Returns 0, or the last path's errno.

    Always connected, datagrams too: poll(2) tells of room in the peer's queue
    only on a connected datagram socket.
    """
    cdef int error = 0
    for i in range(transport.path_count):
        error = transport_try_path(transport, i, transport.socktype or SOCK_DGRAM)
        # unix(7): EPROTOTYPE says that the listener is of the other type.
        if error == EPROTOTYPE and transport.socktype == 0:
            error = transport_try_path(transport, i, SOCK_STREAM)
        if error == 0:
            break
    return error


cdef inline Outcome transport_outcome(int error) noexcept nogil:
    """The class of an errno from send, see send(2) and unix(7)."""
    if error == EAGAIN:
        return WAIT_WRITABLE
    if error == ENOBUFS or error == ENOMEM:
        return WAIT_MEMORY
    if error == EMSGSIZE:
        return TOO_LONG
    # ECONNREFUSED, ENOTCONN, ECONNRESET, EPIPE after the daemon went away; and
    # whatever nobody foresaw: a new socket is the one remedy there is.
    return RECONNECT


cdef inline int transport_send_stream(Transport *transport, int count) noexcept nogil:
    cdef iovec first = transport.parts[0]
    cdef msghdr message
    cdef ssize_t size
    cdef int whole = 0
    memset(&message, 0, sizeof(msghdr))
    message.msg_iov = transport.parts
    message.msg_iovlen = count
    transport.parts[0].iov_base = <char *>first.iov_base + transport.partial
    transport.parts[0].iov_len = first.iov_len - transport.partial
    size = sendmsg(transport.fd, &message, MSG_DONTWAIT | MSG_NOSIGNAL)
    transport.parts[0] = first
    if size < 0:
        return -1
    size += transport.partial
    while whole < count and <size_t>size >= transport.parts[whole].iov_len:
        size -= transport.parts[whole].iov_len
        whole += 1
    transport.partial = size
    return whole


cdef inline int transport_send(Transport *transport, int count) noexcept nogil:
    """Send `parts[:count]` without blocking.

    Returns how many records went out whole, possibly 0, or -1 with errno set.
    After fewer than `count`, call again with the rest: sendmmsg(2) does not
    report the error that stopped it, the next call does.
    """
    cdef int result
    while True:
        if transport.connected_socktype == SOCK_STREAM:
            result = transport_send_stream(transport, count)
        elif count == 1:
            result = <int>send(transport.fd, transport.parts[0].iov_base,
                               transport.parts[0].iov_len, MSG_DONTWAIT | MSG_NOSIGNAL)
            result = -1 if result < 0 else 1
        else:
            result = sendmmsg(transport.fd, transport.messages, count,
                              MSG_DONTWAIT | MSG_NOSIGNAL)
        if result >= 0 or errno != EINTR:
            return result


cdef inline size_t transport_shorter(Transport *transport, const char *record,
                                     size_t length) noexcept nogil:
    """The length to try, cut between characters, after EMSGSIZE for `length` bytes.

    A unix datagram may have SO_SNDBUF - 32 bytes (Linux, unix_dgram_sendmsg in
    net/unix/af_unix.c). Where that explains nothing: 2,048 bytes, which every
    receiver should accept (RFC 5424 section 6.1). 0: there is no shorter length.
    """
    cdef int limit = 0
    cdef socklen_t size = sizeof(limit)
    if getsockopt(transport.fd, SOL_SOCKET, SO_SNDBUF, &limit, &size) != 0:
        limit = 0
    limit -= 32
    if limit <= 0 or <size_t>limit >= length:
        limit = 2048
    if <size_t>limit >= length:
        return 0
    return frame_utf8_floor(record, limit)
