"""The transport: one socket. It connects, sends, and classifies errno. No other unit sends.

Only the writer thread uses a Transport, so nothing here is atomic. Before the thread starts, the
thread that creates the writer fills in the addresses and options. In a crash without a writer
thread, the signal handler uses it.
"""
from libc.errno cimport (EAGAIN, EBADF, ECONNREFUSED, EINPROGRESS, EINTR, EMFILE, EMSGSIZE, ENFILE,
                         ENOBUFS, ENOMEM, ENOSYS, ENOTCONN, EPERM, EPIPE, EPROTOTYPE, ETIMEDOUT,
                         ETOOMANYREFS, errno)
from libc.stdint cimport uint32_t, uint64_t
from libc.string cimport memcpy, memset
from posix.time cimport timespec
from posix.unistd cimport close

from fastlog._backend.clock cimport MILLISECOND, monotonic_ns
from fastlog._backend.descriptor cimport (Descriptor, descriptor_close, descriptor_is_valid,
                                          descriptor_move_up, descriptor_set)
from fastlog._backend.destination cimport (Address, Destination, destination_has_moved,
                                           destination_is_host, destination_next)
from fastlog._backend.half_sent cimport HalfSent, half_sent_free_residual
from fastlog._backend.memfd cimport ATTEMPTS_MAX, memfd_make_record
from fastlog._backend.posix cimport (CMSG_DATA, CMSG_FIRSTHDR, CMSG_LEN, CMSG_SPACE, IPPROTO_TCP,
                                     MSG_DONTWAIT, MSG_NOSIGNAL, POLLERR, POLLHUP, POLLIN, POLLNVAL,
                                     POLLOUT, POLLRDHUP, SCM_RIGHTS, SO_ERROR, SO_SNDBUF,
                                     SO_SNDBUFFORCE, SO_SNDTIMEO, SO_TYPE, SOCK_CLOEXEC,
                                     SOCK_DGRAM, SOCK_NONBLOCK, SOCK_STREAM, SOL_SOCKET,
                                     TCP_NODELAY, cmsghdr, connect, errno_set, getsockopt, iovec,
                                     mmsghdr, msghdr, poll_descriptors, pollfd, recv, send,
                                     sendmmsg, sendmsg, setsockopt, sockaddr, socket, socklen_t,
                                     timeval)


cdef enum:
    TRANSPORT_BATCH = 16          # records in one sendmmsg or sendmsg at most
    INPUT_SIZE = 4096             # bytes of a peer's input that are read at a time
    INPUT_READS_MAX = 16          # such reads in a batch at most
    SEND_TIMEOUT = 4 * MILLISECOND      # ns that a blocking send waits for space for one datagram
    # Bytes of SO_SNDBUF that a unix datagram cannot use: Linux, unix_dgram_sendmsg in
    # net/unix/af_unix.c.
    UNIX_OVERHEAD = 32
    UDP_PAYLOAD_MAX = 65507       # bytes, the 65,535 of IPv4 less the headers
    TRUNCATED_MIN = 2048          # bytes that every receiver should accept: RFC 5424 section 6.1

cdef enum ErrnoClass:             # what the writer must do about an errno
    WAIT_WRITABLE                 # the peer's queue is full: poll the socket
    WAIT_MEMORY                   # the kernel lacks memory or descriptors: try again later
    RECONNECT                     # the connection is gone: the records stay in the ring
    TOO_LONG                      # the kernel never accepts a record of this length

ctypedef struct Transport:
    Descriptor socket             # checked before each batch
    bint connecting               # connect(2) is in progress on the socket, until POLLOUT
    int socktype                  # as configured, 0 for datagram with fallback to stream
    int connected_socktype        # of the socket
    Destination destination
    uint64_t connect_timeout      # ns, 0 for the kernel's own
    uint64_t connect_started      # monotonic ns, while `connecting`
    bint by_memfd                 # journald: a record too long for a datagram goes as a file
    bint adopting                 # never connect: other threads connect sockets and offer them
    bint blocking_send            # a send to a unix datagram socket may wait, SEND_TIMEOUT each
    bint by_caller                # a logging call sends: neither a look-up nor a send may wait
    int send_flags                # for the socket
    # System calls that a filter refuses, by a success of the one that replaced it:
    bint no_sendmmsg
    bint no_send
    bint no_sendmsg
    bint sanitize_stream          # a stream in place of datagrams: the records are not framed
    iovec parts[TRANSPORT_BATCH]  # the batch, one part for each record
    mmsghdr messages[TRANSPORT_BATCH]   # one for each part


cdef inline void transport_init(Transport *transport, int socktype) noexcept nogil:
    """Initialize a transport without addresses. Only the thread that creates the writer."""
    memset(transport, 0, sizeof(Transport))
    transport.socket.fd = -1
    transport.socktype = socktype
    for i in range(TRANSPORT_BATCH):
        transport.messages[i].msg_hdr.msg_iov = &transport.parts[i]
        transport.messages[i].msg_hdr.msg_iovlen = 1


cdef inline bint transport_is_network(Transport *transport) noexcept nogil:
    """Return whether the destination is a host, and not unix sockets. Any thread."""
    return destination_is_host(&transport.destination)


cdef inline bint transport_is_udp(Transport *transport) noexcept nogil:
    """Return whether the socket sends datagrams to a host."""
    return transport_is_network(transport) and transport.connected_socktype == SOCK_DGRAM


cdef inline bint transport_is_refused(int error) noexcept nogil:
    """Return whether a seccomp filter may have refused the system call itself.

    EPERM may also be a firewall's answer to this datagram.
    """
    return error == ENOSYS or error == EPERM


cdef inline int transport_take_error(Transport *transport) noexcept nogil:
    """Return the errno of an earlier send that the socket has learned of since, or 0."""
    cdef int error = 0
    cdef socklen_t size = sizeof(error)
    if not descriptor_is_valid(&transport.socket):
        return EBADF
    if getsockopt(transport.socket.fd, SOL_SOCKET, SO_ERROR, &error, &size) != 0:
        return 0 if transport_is_refused(errno) else errno
    return error


cdef inline void transport_discard_input(Transport *transport) noexcept nogil:
    """Read what the peer of a stream has sent, at most INPUT_READS_MAX buffers, and discard it."""
    cdef char[INPUT_SIZE] data
    cdef int reads = 0
    while (reads < INPUT_READS_MAX
           and recv(transport.socket.fd, data, INPUT_SIZE, MSG_DONTWAIT) > 0):
        reads += 1


cdef inline void transport_close(Transport *transport) noexcept nogil:
    """Close the socket, if there is one. The caller resets the HalfSent of a connected stream.

    First discard what the peer of a stream has sent. Unread bytes would make TCP reset the
    connection, and the peer would lose what it has not read yet: RFC 2525 section 2.17.
    """
    if (transport.connected_socktype == SOCK_STREAM and not transport.adopting
            and descriptor_is_valid(&transport.socket)):
        transport_discard_input(transport)
    descriptor_close(&transport.socket)
    transport.connecting = False
    transport.sanitize_stream = False


# --- connecting --------------------------------------------------------------------------------

cdef inline bint transport_limit_send(int fd) noexcept nogil:
    """Limit a blocking send to SEND_TIMEOUT. Return False if the kernel refuses."""
    cdef timeval timeout
    timeout.tv_sec = 0
    timeout.tv_usec = SEND_TIMEOUT // 1000
    return setsockopt(fd, SOL_SOCKET, SO_SNDTIMEO, &timeout, sizeof(timeout)) == 0


cdef inline int transport_try_address(Transport *transport, int index,
                                      int socktype) noexcept nogil:
    """Connect a new socket to one address. Return as transport_connect()."""
    cdef Address *address = &transport.destination.addresses[index]
    cdef int error = 0, enabled = 1
    cdef bint blocking = (transport.blocking_send and not transport.by_caller
                          and socktype == SOCK_DGRAM and not transport_is_network(transport))
    # A unix datagram socket that blocks in send(2) does not block in connect(2).
    cdef int fd = descriptor_move_up(socket(
        address.storage.ss_family,
        socktype | SOCK_CLOEXEC | (0 if blocking else SOCK_NONBLOCK), 0))
    if fd < 0:
        return errno
    # Without the timeout, a send would block until a hung daemon continues.
    blocking = blocking and transport_limit_send(fd)
    if transport_is_network(transport) and socktype == SOCK_STREAM:
        # Records are batched already, and Nagle's algorithm would delay an urgent one.
        setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &enabled, sizeof(enabled))
    if connect(fd, <sockaddr *>&address.storage, address.length) != 0:
        error = errno
        if error != EINPROGRESS:
            close(fd)
            return error
    if not descriptor_set(&transport.socket, fd):
        return errno
    transport.connecting = error == EINPROGRESS
    transport.connect_started = monotonic_ns() if transport.connecting else 0
    transport.connected_socktype = socktype
    transport.sanitize_stream = socktype == SOCK_STREAM and transport.socktype == 0
    transport.send_flags = MSG_NOSIGNAL if blocking else MSG_NOSIGNAL | MSG_DONTWAIT
    return error


cdef inline int transport_connect_unix(Transport *transport) noexcept nogil:
    """Connect to the first path that accepts. Return as transport_connect()."""
    cdef int error = 0
    for i in range(transport.destination.address_count):
        error = transport_try_address(transport, i, transport.socktype or SOCK_DGRAM)
        # EPROTOTYPE means that the listener has the other type: unix(7).
        if error == EPROTOTYPE and transport.socktype == 0:
            error = transport_try_address(transport, i, SOCK_STREAM)
        if error == 0:
            break
    return error


cdef inline int transport_connect_network(Transport *transport) noexcept nogil:
    """Connect to the next address of the host. Return as transport_connect().

    An address whose connect fails later is followed by the next one in the next call.
    """
    cdef Destination *destination = &transport.destination
    cdef int socktype = transport.socktype or SOCK_DGRAM
    cdef int error = destination_next(destination, socktype, not transport.by_caller)
    while error == 0 and destination.next_address < destination.address_count:
        error = transport_try_address(transport, destination.next_address, socktype)
        destination.next_address += 1
        if error == 0 or error == EINPROGRESS:
            return error
        if destination.next_address < destination.address_count:
            error = 0
    return error


cdef inline int transport_finish_connect(Transport *transport) noexcept nogil:
    """Check the connect in progress. Return as transport_connect()."""
    cdef pollfd writable
    cdef timespec at_once
    cdef int error = 0
    cdef socklen_t size = sizeof(error)
    memset(&at_once, 0, sizeof(at_once))
    writable.fd = transport.socket.fd
    writable.events = POLLOUT
    writable.revents = 0
    if not descriptor_is_valid(&transport.socket):
        error = EBADF
    elif poll_descriptors(&writable, 1, &at_once) == 0:
        if (transport.connect_timeout == 0
                or monotonic_ns() - transport.connect_started < transport.connect_timeout):
            return EINPROGRESS
        error = ETIMEDOUT
    elif getsockopt(transport.socket.fd, SOL_SOCKET, SO_ERROR, &error, &size) != 0:
        # A filter refuses getsockopt(2). Then only poll(2) shows whether the connect has failed.
        error = ECONNREFUSED if writable.revents & (POLLERR | POLLHUP) else 0
    transport.connecting = False
    if error:
        transport_close(transport)
    return error


cdef inline int transport_connect(Transport *transport) noexcept nogil:
    """Connect, or continue to. Return 0, EINPROGRESS (poll for writing), or an errno.

    Datagram sockets are connected too, because only then poll(2) reports space in the peer's
    queue.
    """
    cdef int error
    if transport.connecting:
        error = transport_finish_connect(transport)
        if (error == 0 or error == EINPROGRESS or transport.destination.next_address
                >= transport.destination.address_count):
            return error          # else at once to the next address
    if transport.adopting:
        return ENOTCONN
    if transport_is_network(transport):
        return transport_connect_network(transport)
    return transport_connect_unix(transport)


cdef inline bint transport_connects_early(Transport *transport) noexcept nogil:
    """Return whether a connect needs no look-up, so that any thread may make it."""
    return not transport.adopting and (not transport_is_network(transport)
                                       or transport.destination.numeric)


cdef inline bint transport_inherit(Transport *transport, Transport *parent) noexcept nogil:
    """In a forked child without a socket, take over the parent's. Return whether that is possible.

    The path of a unix socket may be out of the child's reach, after chroot(2) for example. Only
    datagrams of two processes may share a socket. The child closes its own descriptor only.
    """
    if (transport.socket.fd >= 0 or transport.adopting or transport_is_network(transport)
            or parent.connected_socktype != SOCK_DGRAM
            or not descriptor_is_valid(&parent.socket)):
        return False
    transport.socket = parent.socket
    transport.connected_socktype = SOCK_DGRAM
    transport.send_flags = parent.send_flags
    return True


cdef inline bint transport_has_moved(Transport *transport) noexcept nogil:
    """Return whether a UDP socket is connected to an address that the host no longer has.

    Look the host up if the last look-up is old, and block as long as the resolver does.
    """
    return (transport.connected_socktype == SOCK_DGRAM and not transport.adopting
            and not transport.by_caller and destination_has_moved(&transport.destination))


cdef inline int transport_adopt(Transport *transport, int fd, uint32_t inode) noexcept nogil:
    """Take over the connected socket `fd`, and own it from now on. Return 0 or an errno.

    inode: the low half of its inode number when it was offered.
    """
    cdef socklen_t size = sizeof(transport.connected_socktype)
    transport_close(transport)
    if not descriptor_set(&transport.socket, fd) or <uint32_t>transport.socket.inode != inode:
        transport.socket.fd = -1
        return EBADF
    transport.send_flags = MSG_NOSIGNAL | MSG_DONTWAIT
    getsockopt(fd, SOL_SOCKET, SO_TYPE, &transport.connected_socktype, &size)
    return 0


# --- sending -----------------------------------------------------------------------------------

cdef inline ErrnoClass transport_classify(int error) noexcept nogil:
    """Return the class of an errno from send(2), see also unix(7)."""
    if error == EAGAIN:
        return WAIT_WRITABLE
    # EMFILE to ETOOMANYREFS occur when a memfd is created or sent. EINTR occurs when the kernel
    # interrupts each attempt.
    if error in (ENOBUFS, ENOMEM, EMFILE, ENFILE, ETOOMANYREFS, EINTR):
        return WAIT_MEMORY
    if error == EMSGSIZE:
        return TOO_LONG
    # ECONNREFUSED, ENOTCONN, ECONNRESET and EPIPE follow when the daemon has exited. For an errno
    # that nobody foresaw, a new socket is the only remedy.
    return RECONNECT


cdef inline ssize_t transport_send_message(Transport *transport, msghdr *message) noexcept nogil:
    """Send as sendmsg(2). Where a filter refuses that, send the first part only."""
    cdef ssize_t size
    if not transport.no_sendmsg:
        size = sendmsg(transport.socket.fd, message, transport.send_flags)
        if size >= 0 or not transport_is_refused(errno):
            return size
    size = send(transport.socket.fd, message.msg_iov.iov_base, message.msg_iov.iov_len,
                transport.send_flags)
    transport.no_sendmsg = transport.no_sendmsg or size >= 0
    return size


cdef inline bint transport_send_datagram(Transport *transport, int index) noexcept nogil:
    """Send parts[index] as a datagram. Return False, with errno set, on failure."""
    cdef ssize_t size
    if not transport.no_send:
        size = send(transport.socket.fd, transport.parts[index].iov_base,
                    transport.parts[index].iov_len, transport.send_flags)
        if size >= 0 or not transport_is_refused(errno):
            return size >= 0
    size = transport_send_message(transport, &transport.messages[index].msg_hdr)
    transport.no_send = transport.no_send or size >= 0
    return size >= 0


cdef inline int transport_send_each(Transport *transport, int count) noexcept nogil:
    """Send parts[:count] as datagrams, one by one. Return as sendmmsg(2)."""
    cdef int sent = 0
    while sent < count and transport_send_datagram(transport, sent):
        sent += 1
    return sent if sent else -1


cdef inline int transport_send_datagrams(Transport *transport, int count) noexcept nogil:
    """Send parts[:count] as datagrams. Return as sendmmsg(2)."""
    cdef int sent
    if count == 1 or transport.no_sendmmsg:
        return transport_send_each(transport, count)
    sent = sendmmsg(transport.socket.fd, transport.messages, count, transport.send_flags)
    if sent < 0 and transport_is_refused(errno):
        sent = transport_send_each(transport, count)
        transport.no_sendmmsg = sent > 0
    return sent


cdef inline bint transport_send_residual(Transport *transport,
                                         HalfSent *half_sent) noexcept nogil:
    """Send the residual. Return False, with errno set, while some of it is left."""
    cdef ssize_t size = send(transport.socket.fd, half_sent.residual + half_sent.residual_sent,
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


cdef inline bint transport_check_stream(Transport *transport) noexcept nogil:
    """Return whether the peer still reads the stream. If not, errno is EPIPE.

    TCP accepts records for a peer that is gone, and loses them. poll(2) reports the end of the
    stream even if unread bytes precede it. These are discarded, except on a socket that a subclass
    connected, because the program may want to read them.
    """
    cdef pollfd stream
    cdef timespec at_once
    memset(&at_once, 0, sizeof(at_once))
    stream.fd = transport.socket.fd
    stream.events = POLLIN | POLLRDHUP
    stream.revents = 0
    if poll_descriptors(&stream, 1, &at_once) <= 0:
        return True
    if stream.revents & POLLIN and not transport.adopting:
        transport_discard_input(transport)
    errno_set(EPIPE)
    return not stream.revents & (POLLRDHUP | POLLHUP | POLLERR | POLLNVAL)


cdef inline int transport_send_stream(Transport *transport, HalfSent *half_sent,
                                      int count) noexcept nogil:
    """Send the residual, then parts[:count], on a stream. Return as transport_send()."""
    cdef iovec first_part = transport.parts[0]
    cdef msghdr message
    cdef ssize_t size
    cdef int complete = 0
    if not transport_check_stream(transport):
        return -1
    if half_sent.residual != NULL and not transport_send_residual(transport, half_sent):
        return -1
    memset(&message, 0, sizeof(msghdr))
    message.msg_iov = transport.parts
    message.msg_iovlen = count
    transport.parts[0].iov_base = <char *>first_part.iov_base + half_sent.partial
    transport.parts[0].iov_len = first_part.iov_len - half_sent.partial
    size = transport_send_message(transport, &message)
    transport.parts[0] = first_part
    if size < 0:
        return -1
    size += half_sent.partial
    while complete < count and <size_t>size >= transport.parts[complete].iov_len:
        size -= transport.parts[complete].iov_len
        complete += 1
    half_sent.partial = size
    return complete


cdef inline int transport_send_memfd(Transport *transport) noexcept nogil:
    """Send the first record as a memfd in an empty datagram. Return 1, or -1 with errno set.

    See systemd, docs/JOURNAL_NATIVE_PROTOCOL.md. errno is EMSGSIZE if this machine cannot do it.
    """
    cdef msghdr message
    cdef cmsghdr *control
    cdef uint64_t control_data[4]     # aligned, for one descriptor
    cdef ssize_t sent
    cdef Descriptor memfd
    if (not descriptor_set(&memfd, descriptor_move_up(memfd_make_record(
            <char *>transport.parts[0].iov_base, transport.parts[0].iov_len)))
            or memfd.fd < 0):
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
    memcpy(CMSG_DATA(control), &memfd.fd, sizeof(int))
    sent = sendmsg(transport.socket.fd, &message, transport.send_flags)
    descriptor_close(&memfd)          # keeps errno
    return -1 if sent < 0 else 1


cdef inline int transport_send(Transport *transport, HalfSent *half_sent,
                               int count) noexcept nogil:
    """Send parts[:count]. Block only if `blocking_send`, for at most SEND_TIMEOUT a record.

    Return the number of records that were sent completely, possibly 0, or -1 with errno set. errno
    is EAGAIN if space is lacking. After fewer than `count` records, call again with the rest:
    sendmmsg(2) does not report the error that stopped it, but the next call does. On a stream,
    `half_sent` describes the beginning of the batch before and after the call, and the caller is
    the holder of the tail.

    errno is EBADF if the program has closed the socket, and EINTR if the kernel interrupts each
    attempt although all signals are blocked.
    """
    cdef int result
    cdef int _attempt
    if not descriptor_is_valid(&transport.socket):
        return -1
    for _attempt in range(ATTEMPTS_MAX):
        if transport.connected_socktype == SOCK_STREAM:
            result = transport_send_stream(transport, half_sent, count)
        else:
            result = transport_send_datagrams(transport, count)
        if result < 0 and errno == EMSGSIZE and transport.by_memfd:
            result = transport_send_memfd(transport)
        if result >= 0 or errno != EINTR:
            break
    return result


cdef inline int transport_buffer_size(Transport *transport) noexcept nogil:
    """Return the bytes of the longest datagram that SO_SNDBUF allows, or 0 if that is unknown."""
    cdef int size = 0
    cdef socklen_t length = sizeof(size)
    if getsockopt(transport.socket.fd, SOL_SOCKET, SO_SNDBUF, &size, &length) != 0:
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
    if setsockopt(transport.socket.fd, SOL_SOCKET, SO_SNDBUFFORCE, &needed, sizeof(needed)) != 0:
        setsockopt(transport.socket.fd, SOL_SOCKET, SO_SNDBUF, &needed, sizeof(needed))
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
