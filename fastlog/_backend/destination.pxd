"""The destination: the addresses to which a socket may connect, and how a host's are found.

Unix sockets have constant addresses. A host's are looked up, again when all of them have been
tried, and for datagrams also by age: nothing else tells a UDP socket that the host has moved. The
writer's thread makes all look-ups. A numeric host needs none, and is resolved at once.

Only the owner of the Transport uses its Destination.
"""
from libc.errno cimport EHOSTUNREACH, errno
from libc.stdint cimport uint64_t
from libc.string cimport memcmp, memcpy, memset

from fastlog._backend.clock cimport SECOND, monotonic_ns
from fastlog._backend.posix cimport (AF_INET, AF_INET6, AF_UNIX, AI_NUMERICHOST, AI_NUMERICSERV,
                                     EAI_SYSTEM, SOCK_DGRAM, addrinfo, freeaddrinfo, getaddrinfo,
                                     inet_pton, sockaddr_storage, sockaddr_un, socklen_t)

cdef enum:
    DESTINATION_ADDRESSES = 64    # addresses of a host at a time; further look-ups page through
    HOST_MAX = 256                # a name has at most 253 characters: RFC 1035 section 2.3.4
    IN_ADDRESS_MAX = 16           # bytes of an IPv6 address, as inet_pton(3) stores it
    LOOKUP_SHARE = 60             # look-ups by age take at most 1/60 of the writer's time

ctypedef struct Address:
    sockaddr_storage storage
    socklen_t length

ctypedef struct Destination:
    Address addresses[DESTINATION_ADDRESSES]
    int address_count
    int next_address              # host: index of the address to try next
    int skipped                   # host: addresses that the next look-up leaves out, tried before
    char host[HOST_MAX]           # "": unix sockets
    char service[8]               # the port in decimal
    bint numeric                  # `host` is an address, not a name
    uint64_t resolved_at          # monotonic ns of the last look-up
    uint64_t stale_at             # monotonic ns from which on another look-up is due by age


cdef inline void destination_add_path(Destination *destination, const char *path,
                                      size_t size) noexcept nogil:
    """Add the path of a unix socket, at most 107 bytes, or 108 if abstract (led by a NUL).

    At most DESTINATION_ADDRESSES paths.
    """
    cdef Address *address = &destination.addresses[destination.address_count]
    cdef sockaddr_un *unix_address = <sockaddr_un *>&address.storage
    unix_address.sun_family = AF_UNIX
    memcpy(unix_address.sun_path, path, size)
    address.length = <socklen_t>(sizeof(unix_address.sun_family) + size + (1 if path[0] else 0))
    destination.address_count += 1


cdef inline void destination_set_host(Destination *destination, const char *host,
                                      const char *service, size_t host_size,
                                      size_t service_size) noexcept nogil:
    """Store a host and its port, or "" twice for unix sockets. The sizes include the NULs."""
    cdef char number[IN_ADDRESS_MAX]
    memcpy(destination.host, host, host_size)
    memcpy(destination.service, service, service_size)
    destination.numeric = (inet_pton(AF_INET, host, number) == 1
                           or inet_pton(AF_INET6, host, number) == 1)


cdef inline bint destination_is_host(Destination *destination) noexcept nogil:
    """Return whether this is a host, and not unix sockets. Any thread."""
    return destination.host[0] != 0


cdef inline void destination_store(Destination *destination, addrinfo *item) noexcept nogil:
    """Store the addresses of a look-up, from number `skipped` on, as many as fit."""
    cdef int number = 0, first = destination.skipped
    destination.address_count = 0
    destination.skipped = 0
    while item != NULL:
        if destination.address_count == DESTINATION_ADDRESSES:
            destination.skipped = number
            return
        if number >= first:
            memcpy(&destination.addresses[destination.address_count].storage, item.ai_addr,
                   item.ai_addrlen)
            destination.addresses[destination.address_count].length = item.ai_addrlen
            destination.address_count += 1
        number += 1
        item = item.ai_next


cdef inline int destination_resolve(Destination *destination, int socktype,
                                    bint may_wait) noexcept nogil:
    """Look the host up, and begin with its first address. Return 0 or an errno.

    Block as long as the resolver does. Without `may_wait`, accept a numeric host only. After a
    failure the addresses of the last look-up stay.
    """
    cdef addrinfo hints
    cdef addrinfo *results = NULL
    cdef uint64_t started = monotonic_ns()
    cdef int error
    memset(&hints, 0, sizeof(hints))
    hints.ai_socktype = socktype
    hints.ai_flags = AI_NUMERICSERV | (0 if may_wait else AI_NUMERICHOST)
    error = getaddrinfo(destination.host, destination.service, &hints, &results)
    if error != 0:
        error = errno if error == EAI_SYSTEM else EHOSTUNREACH
    else:
        destination_store(destination, results)
        freeaddrinfo(results)
    destination.resolved_at = monotonic_ns()
    destination.stale_at = destination.resolved_at + max(
        LOOKUP_SHARE * (destination.resolved_at - started), <uint64_t>SECOND)
    destination.next_address = 0
    return error


cdef inline int destination_next(Destination *destination, int socktype,
                                 bint may_wait) noexcept nogil:
    """Make next_address the address to try. Return 0, or an errno if the host has no address.

    When all have been tried, look the host up, at most once a second. Without `may_wait`, do not
    wait for a resolver.
    """
    cdef int error = 0
    if destination.next_address < destination.address_count:
        return 0
    destination.next_address = 0
    if (destination.address_count == 0
            or monotonic_ns() - destination.resolved_at >= SECOND):
        error = destination_resolve(destination, socktype, may_wait)
    if destination.address_count == 0 and destination.skipped == 0:
        return error or EHOSTUNREACH
    return 0


cdef inline bint destination_find(Destination *destination, Address *address) noexcept nogil:
    """Return whether `address` is among the stored ones. Then the one behind it is tried next."""
    cdef int i
    for i in range(destination.address_count):
        if (destination.addresses[i].length == address.length
                and memcmp(&destination.addresses[i].storage, &address.storage,
                           address.length) == 0):
            destination.next_address = i + 1
            return True
    return False


cdef inline bint destination_has_moved(Destination *destination) noexcept nogil:
    """Look a host up whose addresses are old. Return whether they lack the one in use.

    The one in use is that before next_address. This is for datagrams only, because a stream ends
    when its host goes away.
    """
    cdef Address current
    cdef int next_address = destination.next_address
    if (not destination_is_host(destination) or destination.numeric or next_address == 0
            or destination.skipped or monotonic_ns() < destination.stale_at):
        return False
    current = destination.addresses[next_address - 1]
    if destination_resolve(destination, SOCK_DGRAM, True) != 0:
        destination.next_address = next_address
        return False
    return not destination_find(destination, &current) and destination.skipped == 0
