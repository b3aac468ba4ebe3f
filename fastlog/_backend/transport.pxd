"""The transport: one socket. It connects, sends, and classifies errno. No other unit sends.

Only the writer thread uses a Transport, so nothing here is atomic. Before the thread starts, the
thread that creates the writer fills in the addresses and options. In a crash without a writer
thread, the signal handler uses it.
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
from fastlog._backend.posix cimport (AF_UNIX, AI_NUMERICHOST, AI_NUMERICSERV, CMSG_DATA,
                                     CMSG_FIRSTHDR, CMSG_LEN, CMSG_SPACE, EAI_SYSTEM, F_ADD_SEALS,
                                     F_SEAL_GROW, F_SEAL_SEAL, F_SEAL_SHRINK, F_SEAL_WRITE,
                                     IPPROTO_TCP, MFD_ALLOW_SEALING, MFD_CLOEXEC, MSG_DONTWAIT,
                                     MSG_NOSIGNAL, MSG_PEEK, POLLOUT, SCM_RIGHTS, SO_ERROR,
                                     SO_SNDBUF, SO_SNDBUFFORCE, SO_SNDTIMEO, SO_TYPE, SOCK_CLOEXEC,
                                     SOCK_DGRAM, SOCK_NONBLOCK, SOCK_STREAM, SOL_SOCKET,
                                     TCP_NODELAY, addrinfo, cmsghdr, connect, fcntl, freeaddrinfo,
                                     getaddrinfo, getsockopt, iovec, memfd_create, mmsghdr, msghdr,
                                     poll, pollfd, recv, send, sendmmsg, sendmsg, setsockopt,
                                     sockaddr, sockaddr_storage, sockaddr_un, socket, socklen_t,
                                     timeval)


cdef extern from *:
    """
    static inline void fastlog_errno_set(int error) { errno = error; }
    """
    # Store errno, which Cython can only read. Any thread.
    void errno_set "fastlog_errno_set"(int error) noexcept nogil


cdef enum:
    TRANSPORT_BATCH = 16          # records in one sendmmsg or sendmsg at most
    TRANSPORT_ADDRESSES = 8       # addresses of a host at most (the rest is ignored)
    SEND_TIMEOUT = 4 * MILLISECOND      # ns that a blocking send waits for space for one datagram
    HOST_MAX = 256                # a name has at most 253 characters: RFC 1035 section 2.3.4
    # Bytes of SO_SNDBUF that a unix datagram cannot use: Linux, unix_dgram_sendmsg in
    # net/unix/af_unix.c.
    UNIX_OVERHEAD = 32
    UDP_PAYLOAD_MAX = 65507       # bytes, the 65,535 of IPv4 less the headers
    TRUNCATED_MIN = 2048          # bytes that every receiver should accept: RFC 5424 section 6.1

cdef enum ErrnoClass:             # what the writer must do about an errno
    WAIT_WRITABLE                 # the peer's queue is full: poll the socket
    WAIT_MEMORY                   # the kernel has no memory or no descriptors: try again later
    RECONNECT                     # the connection is gone: the records stay in the ring
    TOO_LONG                      # the kernel never accepts a record of this length

ctypedef struct Address:
    sockaddr_storage storage
    socklen_t length

ctypedef struct Transport:
    int fd                        # -1: none
    bint connecting               # connect(2) is in progress on fd, until POLLOUT
    int socktype                  # as configured, 0 for datagram with fallback to stream
    int connected_socktype        # of fd
    # The destinations: for unix sockets constant, for a host the addresses that it resolved to.
    Address addresses[TRANSPORT_ADDRESSES]
    int address_count
    int next_address              # network: index of the address to try next
    char host[HOST_MAX]           # "": unix sockets
    char service[8]               # the port in decimal
    uint64_t resolved_at          # monotonic ns
    uint64_t connect_timeout      # ns, 0 for the kernel's own
    uint64_t connect_started      # monotonic ns, while `connecting`
    bint by_memfd                 # journald: a record too long for a datagram goes as a file
    bint adopting                 # never connect: other threads connect sockets and offer them
    bint blocking_send            # a send to a unix datagram socket may wait, SEND_TIMEOUT each
    bint by_caller                # a logging call sends: neither a look-up nor a send may wait
    int send_flags                # for fd
    bint sanitize_stream          # a stream in place of datagrams: the records are not framed
    iovec parts[TRANSPORT_BATCH]  # the batch, one part for each record
    mmsghdr messages[TRANSPORT_BATCH]   # one for each part


cdef inline void transport_init(Transport *transport, int socktype) noexcept nogil:
    """Initialize a transport without addresses. Only the thread that creates the writer."""
    memset(transport, 0, sizeof(Transport))
    transport.fd = -1
    transport.socktype = socktype
    for i in range(TRANSPORT_BATCH):
        transport.messages[i].msg_hdr.msg_iov = &transport.parts[i]
        transport.messages[i].msg_hdr.msg_iovlen = 1


cdef inline void transport_add_path(Transport *transport, const char *path,
                                    size_t size) noexcept nogil:
    """Add the path of a unix socket, at most 107 bytes, or 108 if abstract (led by a NUL).

    Only the thread that creates the writer, for at most TRANSPORT_ADDRESSES paths.
    """
    cdef Address *address = &transport.addresses[transport.address_count]
    cdef sockaddr_un *unix_address = <sockaddr_un *>&address.storage
    unix_address.sun_family = AF_UNIX
    memcpy(unix_address.sun_path, path, size)
    address.length = <socklen_t>(sizeof(unix_address.sun_family) + size + (1 if path[0] else 0))
    transport.address_count += 1


cdef inline bint transport_is_network(Transport *transport) noexcept nogil:
    """Return whether the destination is a host, and not unix sockets. Any thread."""
    return transport.host[0] != 0


cdef inline void transport_close(Transport *transport) noexcept nogil:
    """Close the socket, if there is one. The caller resets the HalfSent of a connected stream."""
    if transport.fd >= 0:
        close(transport.fd)
        transport.fd = -1
    transport.connecting = False


# --- connecting --------------------------------------------------------------------------------

cdef inline int transport_resolve(Transport *transport) noexcept nogil:
    """Resolve the host. Block as long as the resolver does. Return 0 or an errno."""
    cdef addrinfo hints
    cdef addrinfo *results = NULL
    cdef addrinfo *item
    cdef int error
    memset(&hints, 0, sizeof(hints))
    hints.ai_socktype = transport.socktype or SOCK_DGRAM
    hints.ai_flags = AI_NUMERICSERV | (AI_NUMERICHOST if transport.by_caller else 0)
    error = getaddrinfo(transport.host, transport.service, &hints, &results)
    transport.resolved_at = monotonic_ns()
    transport.next_address = 0
    transport.address_count = 0
    if error != 0:
        return errno if error == EAI_SYSTEM else EHOSTUNREACH
    item = results
    while item != NULL and transport.address_count < TRANSPORT_ADDRESSES:
        memcpy(&transport.addresses[transport.address_count].storage, item.ai_addr,
               item.ai_addrlen)
        transport.addresses[transport.address_count].length = item.ai_addrlen
        transport.address_count += 1
        item = item.ai_next
    freeaddrinfo(results)
    return 0


cdef inline int transport_try_address(Transport *transport, int index,
                                      int socktype) noexcept nogil:
    """Connect a new socket to one address. Return as transport_connect()."""
    cdef Address *address = &transport.addresses[index]
    cdef int error = 0, enabled = 1
    cdef bint blocking = (transport.blocking_send and not transport.by_caller
                          and socktype == SOCK_DGRAM and not transport_is_network(transport))
    cdef timeval timeout
    # A unix datagram socket that blocks in send(2) does not block in connect(2).
    cdef int fd = socket(address.storage.ss_family,
                         socktype | SOCK_CLOEXEC | (0 if blocking else SOCK_NONBLOCK), 0)
    if fd < 0:
        return errno
    if blocking:
        timeout.tv_sec = 0
        timeout.tv_usec = SEND_TIMEOUT // 1000
        setsockopt(fd, SOL_SOCKET, SO_SNDTIMEO, &timeout, sizeof(timeout))
    if transport_is_network(transport) and socktype == SOCK_STREAM:
        # Records are batched already, and Nagle's algorithm would delay an urgent one.
        setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &enabled, sizeof(enabled))
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
    transport.send_flags = MSG_NOSIGNAL if blocking else MSG_NOSIGNAL | MSG_DONTWAIT
    return error


cdef inline int transport_connect_unix(Transport *transport) noexcept nogil:
    """Connect to the first path that accepts. Return as transport_connect()."""
    cdef int error = 0
    for i in range(transport.address_count):
        error = transport_try_address(transport, i, transport.socktype or SOCK_DGRAM)
        # EPROTOTYPE means that the listener has the other type: unix(7).
        if error == EPROTOTYPE and transport.socktype == 0:
            error = transport_try_address(transport, i, SOCK_STREAM)
        if error == 0:
            break
    return error


cdef inline int transport_connect_network(Transport *transport) noexcept nogil:
    """Connect to the next address of the host. Return as transport_connect().

    An address whose connect fails later is followed by the next one in the next call. When all
    addresses have been tried, resolve the host again, at most once a second.
    """
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
    """Check the connect in progress. Return as transport_connect()."""
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
    """Connect, or continue to. Return 0, EINPROGRESS (poll fd for writing), or an errno.

    Datagram sockets are connected too, because only then poll(2) reports space in the peer's
    queue.
    """
    if transport.connecting:
        return transport_finish_connect(transport)
    if transport.adopting:
        return ENOTCONN
    if transport_is_network(transport):
        return transport_connect_network(transport)
    return transport_connect_unix(transport)


cdef inline void transport_adopt(Transport *transport, int fd) noexcept nogil:
    """Take over a connected socket and own it from now on."""
    cdef socklen_t size = sizeof(transport.connected_socktype)
    transport_close(transport)
    transport.fd = fd
    transport.send_flags = MSG_NOSIGNAL | MSG_DONTWAIT
    getsockopt(fd, SOL_SOCKET, SO_TYPE, &transport.connected_socktype, &size)


# --- sending -----------------------------------------------------------------------------------

cdef inline ErrnoClass transport_classify(int error) noexcept nogil:
    """Return the class of an errno from send(2), see also unix(7)."""
    if error == EAGAIN:
        return WAIT_WRITABLE
    # The last three occur when a memfd is created or sent.
    if error in (ENOBUFS, ENOMEM, EMFILE, ENFILE, ETOOMANYREFS):
        return WAIT_MEMORY
    if error == EMSGSIZE:
        return TOO_LONG
    # ECONNREFUSED, ENOTCONN, ECONNRESET and EPIPE follow when the daemon has exited. For an errno
    # that nobody foresaw, a new socket is the only remedy.
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
    """Send the residual, then parts[:count], on a stream. Return as transport_send()."""
    cdef iovec first_part = transport.parts[0]
    cdef msghdr message
    cdef ssize_t size
    cdef int complete = 0
    cdef char byte = 0
    # TCP accepts records for a peer that is gone, and loses them. So check first: recv(2) returns 0
    # when the peer has closed the stream.
    if recv(transport.fd, &byte, 1, MSG_PEEK | MSG_DONTWAIT) == 0:
        errno_set(EPIPE)
        return -1
    if half_sent.residual != NULL and not transport_send_residual(transport, half_sent):
        return -1
    memset(&message, 0, sizeof(msghdr))
    message.msg_iov = transport.parts
    message.msg_iovlen = count
    transport.parts[0].iov_base = <char *>first_part.iov_base + half_sent.partial
    transport.parts[0].iov_len = first_part.iov_len - half_sent.partial
    size = sendmsg(transport.fd, &message, transport.send_flags)
    transport.parts[0] = first_part
    if size < 0:
        return -1
    size += half_sent.partial
    while complete < count and <size_t>size >= transport.parts[complete].iov_len:
        size -= transport.parts[complete].iov_len
        complete += 1
    half_sent.partial = size
    return complete


cdef inline int transport_make_memfd(const char *data, size_t size) noexcept nogil:
    """Create a sealed memfd that holds `data`. Return it, or -1 with errno set.

    Async-signal-safe. The caller owns the descriptor.
    """
    cdef int fd = memfd_create("fastlog-record", MFD_CLOEXEC | MFD_ALLOW_SEALING)
    cdef size_t offset = 0
    cdef ssize_t written
    while fd >= 0 and offset < size:
        written = pwrite(fd, data + offset, size - offset, <off_t>offset)
        if written > 0:
            offset += written
        elif errno != EINTR:
            close(fd)
            return -1
    if fd >= 0 and fcntl(fd, F_ADD_SEALS,
                         F_SEAL_SHRINK | F_SEAL_GROW | F_SEAL_WRITE | F_SEAL_SEAL) != 0:
        close(fd)
        return -1
    return fd


cdef inline int transport_send_memfd(Transport *transport) noexcept nogil:
    """Send the first record as a memfd in an empty datagram. Return 1, or -1 with errno set.

    See systemd, docs/JOURNAL_NATIVE_PROTOCOL.md. errno is EMSGSIZE if this machine cannot do it.
    """
    cdef msghdr message
    cdef cmsghdr *control
    cdef uint64_t control_data[4]     # aligned, for one descriptor
    cdef ssize_t sent
    cdef int error
    cdef int fd = transport_make_memfd(<char *>transport.parts[0].iov_base,
                                       transport.parts[0].iov_len)
    if fd < 0:
        if transport_classify(errno) != WAIT_MEMORY:
            errno_set(EMSGSIZE)
        return -1
    memset(&message, 0, sizeof(msghdr))
    message.msg_control = control_data
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
    """Send parts[:count]. Block only if `blocking_send`, for at most SEND_TIMEOUT a record.

    Return the number of records that were sent completely, possibly 0, or -1 with errno set. errno
    is EAGAIN if space is lacking. After fewer than `count` records, call again with the rest:
    sendmmsg(2) does not report the error that stopped it, but the next call does. On a stream,
    `half_sent` describes the beginning of the batch before and after the call, and the caller is
    the holder of the tail.
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
    """Return the bytes of the longest datagram that SO_SNDBUF allows, or 0 if that is unknown."""
    cdef int size = 0
    cdef socklen_t length = sizeof(size)
    if getsockopt(transport.fd, SOL_SOCKET, SO_SNDBUF, &size, &length) != 0:
        return 0
    return size - UNIX_OVERHEAD


cdef inline bint transport_grow_buffer(Transport *transport, size_t length) noexcept nogil:
    """After EMSGSIZE, raise SO_SNDBUF to what a datagram of `length` bytes needs.

    Return False if it was sufficient before, or if the kernel does not allow as much: socket(7),
    wmem_max.
    """
    cdef int needed = <int>length + UNIX_OVERHEAD
    if transport_is_network(transport) or <size_t>transport_buffer_size(transport) >= length:
        return False
    if setsockopt(transport.fd, SOL_SOCKET, SO_SNDBUFFORCE, &needed, sizeof(needed)) != 0:
        setsockopt(transport.fd, SOL_SOCKET, SO_SNDBUF, &needed, sizeof(needed))
    return <size_t>transport_buffer_size(transport) >= length


cdef inline size_t transport_truncated_size(Transport *transport, size_t length) noexcept nogil:
    """Return the length to try after EMSGSIZE for `length` bytes, or 0 if there is none.

    This is what the buffer and UDP allow. If these do not explain EMSGSIZE, it is half of
    `length`. It is never less than TRUNCATED_MIN.
    """
    cdef int limit = transport_buffer_size(transport)
    if transport_is_network(transport) and limit > UDP_PAYLOAD_MAX:
        limit = UDP_PAYLOAD_MAX
    if limit <= 0 or <size_t>limit >= length:
        limit = <int>(length // 2)
    if limit < TRUNCATED_MIN:
        limit = TRUNCATED_MIN
    return <size_t>limit if <size_t>limit < length else 0
