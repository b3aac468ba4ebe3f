"""The socket: connect, send, and what each errno means. The only unit that calls send.

Only the writer thread uses a Transport, so nothing here is atomic.
"""
from libc.errno cimport (EAGAIN, EHOSTUNREACH, EINPROGRESS, EINTR, EMFILE, EMSGSIZE, ENFILE,
                         ENOBUFS, ENOMEM, ENOTCONN, EPIPE, EPROTOTYPE, ETIMEDOUT, ETOOMANYREFS,
                         errno)
from libc.stdint cimport uint64_t
from libc.string cimport memcpy, memset
from posix.types cimport off_t
from posix.unistd cimport close, pwrite

from fastlog._backend.clock cimport MILLISECOND, SECOND, monotonic_ns
from fastlog._backend.half_sent cimport HalfSent, half_sent_free_residual
from fastlog._backend.posix cimport (AF_UNIX, AI_NUMERICSERV, CMSG_DATA, CMSG_FIRSTHDR, CMSG_LEN,
                             CMSG_SPACE, EAI_SYSTEM, F_ADD_SEALS, F_SEAL_GROW, F_SEAL_SEAL,
                             F_SEAL_SHRINK, F_SEAL_WRITE, IPPROTO_TCP, MFD_ALLOW_SEALING,
                             MFD_CLOEXEC, MSG_DONTWAIT, MSG_NOSIGNAL, MSG_PEEK, POLLOUT,
                             SCM_RIGHTS, SOCK_CLOEXEC, SOCK_DGRAM, SOCK_NONBLOCK, SOCK_STREAM,
                             SOL_SOCKET, SO_ERROR, SO_SNDBUF, SO_SNDBUFFORCE, SO_SNDTIMEO,
                             SO_TYPE, TCP_NODELAY, addrinfo, cmsghdr, connect, fcntl,
                             freeaddrinfo, getaddrinfo, getsockopt, iovec, memfd_create, mmsghdr,
                             msghdr, poll, pollfd, recv, send, sendmmsg, sendmsg, setsockopt,
                             sockaddr, sockaddr_storage, sockaddr_un, socket, socklen_t, timeval)


cdef extern from *:
    """
    static inline void fastlog_errno_set(int error) { errno = error; }
    """
    void errno_set "fastlog_errno_set"(int error) noexcept nogil


cdef enum:
    TRANSPORT_BATCH = 16          # records in one sendmmsg or sendmsg at the most
    SEND_TIMEOUT = 4 * MILLISECOND   # that a send waits for space for one datagram
    TRANSPORT_ADDRESSES = 8       # that are kept of what a name resolves to
    HOST_MAX = 256                # a name has at most 253 characters: RFC 1035 section 2.3.4

cdef enum ErrnoClass:                # what an errno asks of the writer
    WAIT_WRITABLE                 # the peer's queue is full: poll
    WAIT_MEMORY                   # of memory, or of descriptors, there are none: try again later
    RECONNECT                     # the connection is gone; the records stay
    TOO_LONG                      # this record will never pass in this length

ctypedef struct Address:
    sockaddr_storage storage
    socklen_t length

ctypedef struct Transport:
    int fd                        # -1: none
    bint connecting               # connect(2) is under way on fd: POLLOUT tells when it is over
    int socktype                  # as asked for; 0: datagram, else stream
    int connected_socktype        # of fd
    # Where to: for unix sockets constant, for a host what its name resolved to.
    Address addresses[TRANSPORT_ADDRESSES]
    int address_count
    int next_address              # network: the one to try next
    char host[HOST_MAX]           # "": unix sockets
    char service[8]               # the port in digits
    uint64_t resolved_at          # monotonic ns
    uint64_t connect_timeout      # ns; 0: the kernel's own
    uint64_t connect_started      # monotonic ns, while `connecting`
    bint by_memfd                 # journald: what is too long for a datagram goes as a file
    bint adopting                 # sockets are connected elsewhere and handed over
    bint blocking_send                  # a send to a unix datagram socket may wait, SEND_TIMEOUT each
    int send_flags                # of fd
    bint sanitize_stream                   # stream in a datagram socket's place: nothing frames the records
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
    cdef Address *address = &transport.addresses[transport.address_count]
    cdef sockaddr_un *name = <sockaddr_un *>&address.storage
    name.sun_family = AF_UNIX
    memcpy(name.sun_path, path, size)
    address.length = <socklen_t>(sizeof(name.sun_family) + size + (1 if path[0] else 0))
    transport.address_count += 1


cdef inline bint transport_is_network(Transport *transport) noexcept nogil:
    return transport.host[0] != 0


cdef inline void transport_close(Transport *transport) noexcept nogil:
    if transport.fd >= 0:
        close(transport.fd)
        transport.fd = -1
    transport.connecting = False


# --- connecting --------------------------------------------------------------------------------

cdef inline int transport_resolve(Transport *transport) noexcept nogil:
    """Look the host up. Blocks as long as the resolver does. Returns 0 or an errno."""
    cdef addrinfo hints
    cdef addrinfo *found = NULL
    cdef addrinfo *item
    cdef int error
    memset(&hints, 0, sizeof(hints))
    hints.ai_socktype = transport.socktype or SOCK_DGRAM
    hints.ai_flags = AI_NUMERICSERV
    error = getaddrinfo(transport.host, transport.service, &hints, &found)
    transport.resolved_at = monotonic_ns()
    transport.next_address = 0
    transport.address_count = 0
    if error != 0:
        return errno if error == EAI_SYSTEM else EHOSTUNREACH
    item = found
    while item != NULL and transport.address_count < TRANSPORT_ADDRESSES:
        memcpy(&transport.addresses[transport.address_count].storage, item.ai_addr,
               item.ai_addrlen)
        transport.addresses[transport.address_count].length = item.ai_addrlen
        transport.address_count += 1
        item = item.ai_next
    freeaddrinfo(found)
    return 0


cdef inline int transport_try_address(Transport *transport, int index,
                                      int socktype) noexcept nogil:
    """Returns 0, EINPROGRESS, or an errno."""
    cdef Address *address = &transport.addresses[index]
    cdef int error = 0, yes = 1
    cdef bint waits = (transport.blocking_send and socktype == SOCK_DGRAM
                       and not transport_is_network(transport))
    cdef timeval timeout
    # To connect a unix datagram socket never blocks.
    cdef int fd = socket(address.storage.ss_family,
                         socktype | SOCK_CLOEXEC | (0 if waits else SOCK_NONBLOCK), 0)
    if fd < 0:
        return errno
    if waits:
        timeout.tv_sec = 0
        timeout.tv_usec = SEND_TIMEOUT // 1000
        setsockopt(fd, SOL_SOCKET, SO_SNDTIMEO, &timeout, sizeof(timeout))
    if transport_is_network(transport) and socktype == SOCK_STREAM:
        # Records are batched already; Nagle's algorithm would hold an urgent one back.
        setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &yes, sizeof(yes))
    if connect(fd, <sockaddr *>&address.storage, address.length) != 0:
        error = errno
        if error != EINPROGRESS:
            close(fd)
            return error
    transport.fd = fd
    transport.connecting = error == EINPROGRESS
    transport.connect_started = monotonic_ns() if transport.connecting else 0
    transport.connected_socktype = socktype
    transport.sanitize_stream = socktype == SOCK_STREAM and transport.socktype == 0
    transport.send_flags = MSG_NOSIGNAL if waits else MSG_NOSIGNAL | MSG_DONTWAIT
    return error


cdef inline int transport_connect_unix(Transport *transport) noexcept nogil:
    cdef int error = 0
    for i in range(transport.address_count):
        error = transport_try_address(transport, i, transport.socktype or SOCK_DGRAM)
        # unix(7): EPROTOTYPE says that the listener is of the other type.
        if error == EPROTOTYPE and transport.socktype == 0:
            error = transport_try_address(transport, i, SOCK_STREAM)
        if error == 0:
            break
    return error


cdef inline int transport_connect_network(Transport *transport) noexcept nogil:
    """Each address of the host in turn, one call after the other; then look the host up anew."""
    cdef int error = 0
    if transport.next_address >= transport.address_count:
        transport.next_address = 0
        if (transport.address_count == 0
                or monotonic_ns() - transport.resolved_at >= SECOND):
            error = transport_resolve(transport)
    while error == 0 and transport.next_address < transport.address_count:
        error = transport_try_address(transport, transport.next_address,
                                      transport.socktype or SOCK_DGRAM)
        transport.next_address += 1
        if error == 0 or error == EINPROGRESS:
            return error
        if transport.next_address < transport.address_count:
            error = 0
    return error


cdef inline int transport_finish_connect(Transport *transport) noexcept nogil:
    """How the connect under way went: 0, EINPROGRESS, or an errno."""
    cdef pollfd writable
    cdef int error = 0
    cdef socklen_t size = sizeof(error)
    writable.fd = transport.fd
    writable.events = POLLOUT
    writable.revents = 0
    if poll(&writable, 1, 0) == 0:
        if (transport.connect_timeout == 0
                or monotonic_ns() - transport.connect_started < transport.connect_timeout):
            return EINPROGRESS
        error = ETIMEDOUT
    elif getsockopt(transport.fd, SOL_SOCKET, SO_ERROR, &error, &size) != 0:
        error = errno
    transport.connecting = False
    if error:
        transport_close(transport)
    return error


cdef inline int transport_connect(Transport *transport) noexcept nogil:
    """Connect, or go on connecting. Returns 0, EINPROGRESS (poll fd for writing), or an errno.

    Always connected, datagrams too: poll(2) tells of space in the peer's queue
    only on a connected datagram socket.
    """
    if transport.connecting:
        return transport_finish_connect(transport)
    if transport.adopting:
        return ENOTCONN
    if transport_is_network(transport):
        return transport_connect_network(transport)
    return transport_connect_unix(transport)


cdef inline void transport_adopt(Transport *transport, int fd) noexcept nogil:
    """Use a connected socket from now on, and own it."""
    cdef socklen_t size = sizeof(transport.connected_socktype)
    transport_close(transport)
    transport.fd = fd
    transport.send_flags = MSG_NOSIGNAL | MSG_DONTWAIT
    getsockopt(fd, SOL_SOCKET, SO_TYPE, &transport.connected_socktype, &size)


# --- sending -----------------------------------------------------------------------------------

cdef inline ErrnoClass transport_classify(int error) noexcept nogil:
    """The class of an errno from send, see send(2) and unix(7)."""
    if error == EAGAIN:
        return WAIT_WRITABLE
    if error in (ENOBUFS, ENOMEM, EMFILE, ENFILE, ETOOMANYREFS):    # the last: a memfd's
        return WAIT_MEMORY
    if error == EMSGSIZE:
        return TOO_LONG
    # ECONNREFUSED, ENOTCONN, ECONNRESET, EPIPE after the daemon went away; and
    # whatever nobody foresaw: a new socket is the one remedy there is.
    return RECONNECT


cdef inline bint transport_send_residual(Transport *transport,
                                         HalfSent *half_sent) noexcept nogil:
    """Send the residual. Return False, with errno set, while some of it is left."""
    cdef ssize_t size = send(transport.fd, half_sent.residual + half_sent.residual_sent,
                             half_sent.residual_size - half_sent.residual_sent,
                             transport.send_flags)
    if size < 0:
        return False
    half_sent.residual_sent += size
    if half_sent.residual_sent < half_sent.residual_size:
        errno_set(EAGAIN)
        return False
    half_sent_free_residual(half_sent)
    return True


cdef inline int transport_send_stream(Transport *transport, HalfSent *half_sent,
                                      int count) noexcept nogil:
    cdef iovec first = transport.parts[0]
    cdef msghdr message
    cdef ssize_t size
    cdef int whole = 0
    cdef char byte = 0
    # TCP takes records for a peer that has gone and loses them, unless asked:
    # nothing to read means that it is there, the end of the stream that it is not.
    if recv(transport.fd, &byte, 1, MSG_PEEK | MSG_DONTWAIT) == 0:
        errno_set(EPIPE)
        return -1
    if half_sent.residual != NULL and not transport_send_residual(transport, half_sent):
        return -1
    memset(&message, 0, sizeof(msghdr))
    message.msg_iov = transport.parts
    message.msg_iovlen = count
    transport.parts[0].iov_base = <char *>first.iov_base + half_sent.partial
    transport.parts[0].iov_len = first.iov_len - half_sent.partial
    size = sendmsg(transport.fd, &message, transport.send_flags)
    transport.parts[0] = first
    if size < 0:
        return -1
    size += half_sent.partial
    while whole < count and <size_t>size >= transport.parts[whole].iov_len:
        size -= transport.parts[whole].iov_len
        whole += 1
    half_sent.partial = size
    return whole


cdef inline int transport_make_memfd(const char *data, size_t size) noexcept nogil:
    """A sealed file in memory that holds `data`; -1 with errno set. Async-signal-safe."""
    cdef int fd = memfd_create("fastlog-record", MFD_CLOEXEC | MFD_ALLOW_SEALING)
    cdef size_t done = 0
    cdef ssize_t written
    while fd >= 0 and done < size:
        written = pwrite(fd, data + done, size - done, <off_t>done)
        if written > 0:
            done += written
        elif errno != EINTR:
            close(fd)
            return -1
    if fd >= 0 and fcntl(fd, F_ADD_SEALS,
                         F_SEAL_SHRINK | F_SEAL_GROW | F_SEAL_WRITE | F_SEAL_SEAL) != 0:
        close(fd)
        return -1
    return fd


cdef inline int transport_send_memfd(Transport *transport) noexcept nogil:
    """Send the first record as the memfd of an empty datagram. 1, or -1 with errno set.

    systemd, docs/JOURNAL_NATIVE_PROTOCOL.md. EMSGSIZE: this cannot be done here.
    """
    cdef msghdr message
    cdef cmsghdr *control
    cdef uint64_t space[4]                 # for one descriptor, aligned
    cdef ssize_t sent
    cdef int error
    cdef int fd = transport_make_memfd(<char *>transport.parts[0].iov_base,
                                       transport.parts[0].iov_len)
    if fd < 0:
        if transport_classify(errno) != WAIT_MEMORY:
            errno_set(EMSGSIZE)
        return -1
    memset(&message, 0, sizeof(msghdr))
    message.msg_control = space
    message.msg_controllen = CMSG_SPACE(sizeof(int))
    control = CMSG_FIRSTHDR(&message)
    control.cmsg_level = SOL_SOCKET
    control.cmsg_type = SCM_RIGHTS
    control.cmsg_len = CMSG_LEN(sizeof(int))
    memcpy(CMSG_DATA(control), &fd, sizeof(int))
    sent = sendmsg(transport.fd, &message, transport.send_flags)
    error = errno
    close(fd)
    errno_set(error)
    return -1 if sent < 0 else 1


cdef inline int transport_send(Transport *transport, HalfSent *half_sent,
                               int count) noexcept nogil:
    """Send `parts[:count]`; blocks for at most SEND_TIMEOUT a record, and only if `blocking_send`.

    Returns how many records went out whole, possibly 0, or -1 with errno set:
    EAGAIN when there is no space. After fewer than `count`, call again with the
    rest: sendmmsg(2) does not report the error that stopped it, the next call does.
    """
    cdef int result
    while True:
        if transport.connected_socktype == SOCK_STREAM:
            result = transport_send_stream(transport, half_sent, count)
        elif count == 1:
            result = <int>send(transport.fd, transport.parts[0].iov_base,
                               transport.parts[0].iov_len, transport.send_flags)
            result = -1 if result < 0 else 1
        else:
            result = sendmmsg(transport.fd, transport.messages, count, transport.send_flags)
        if result < 0 and errno == EMSGSIZE and transport.by_memfd:
            result = transport_send_memfd(transport)
        if result >= 0 or errno != EINTR:
            return result


cdef inline int transport_buffer_size(Transport *transport) noexcept nogil:
    """Bytes that one datagram may have as far as SO_SNDBUF goes; 0: unknown.

    For a unix socket 32 fewer than that: Linux, unix_dgram_sendmsg in net/unix/af_unix.c.
    """
    cdef int size = 0
    cdef socklen_t length = sizeof(size)
    if getsockopt(transport.fd, SOL_SOCKET, SO_SNDBUF, &size, &length) != 0:
        return 0
    return size - 32


cdef inline bint transport_grow_buffer(Transport *transport, size_t length) noexcept nogil:
    """After EMSGSIZE: raise SO_SNDBUF to what a datagram of `length` bytes needs.

    False if it was enough before, or the kernel allows no more: socket(7), wmem_max.
    """
    cdef int wanted = <int>length + 32
    if transport_is_network(transport) or <size_t>transport_buffer_size(transport) >= length:
        return False
    if setsockopt(transport.fd, SOL_SOCKET, SO_SNDBUFFORCE, &wanted, sizeof(wanted)) != 0:
        setsockopt(transport.fd, SOL_SOCKET, SO_SNDBUF, &wanted, sizeof(wanted))
    return <size_t>transport_buffer_size(transport) >= length


cdef inline size_t transport_truncated_size(Transport *transport, size_t length) noexcept nogil:
    """The length to try after EMSGSIZE for `length` bytes; 0: there is none.

    What the buffer allows; for UDP 65,507 (IPv4: 65,535 less headers). Where that explains
    nothing, half; but not less than 2,048 bytes, which every receiver should accept (RFC 5424
    section 6.1).
    """
    cdef int limit = transport_buffer_size(transport)
    if transport_is_network(transport) and limit > 65507:
        limit = 65507
    if limit <= 0 or <size_t>limit >= length:
        limit = <int>(length // 2)
    if limit < 2048:
        limit = 2048
    return <size_t>limit if <size_t>limit < length else 0
