"""The part of the C library that Cython does not declare, the size of a page, and ppoll(2)."""
from libc.errno cimport EINTR, errno
from libc.stdint cimport uint64_t
from posix.time cimport nanosleep, timespec
from posix.unistd cimport _SC_PAGESIZE, sysconf

cdef extern from *:
    """
    #include <errno.h>
    static inline void fastlog_errno_set(int error) { errno = error; }
    """
    # Store errno, which Cython can only read. Any thread.
    void errno_set "fastlog_errno_set"(int error) noexcept nogil

cdef extern from "<sys/socket.h>" nogil:
    enum:
        AF_INET
        AF_INET6
        AF_UNIX
        SOCK_STREAM
        SOCK_DGRAM
        SOCK_CLOEXEC
        SOCK_NONBLOCK
        SOL_SOCKET
        SO_ERROR
        SO_SNDBUF
        SO_SNDBUFFORCE
        SO_SNDTIMEO
        SO_TYPE
        SCM_RIGHTS
        MSG_DONTWAIT
        MSG_NOSIGNAL
    ctypedef unsigned int socklen_t
    struct iovec:
        void *iov_base
        size_t iov_len
    struct msghdr:
        iovec *msg_iov
        size_t msg_iovlen
        void *msg_control
        size_t msg_controllen
    struct cmsghdr:
        size_t cmsg_len
        int cmsg_level
        int cmsg_type
    struct mmsghdr:
        msghdr msg_hdr
        unsigned int msg_len
    struct sockaddr:
        pass
    struct sockaddr_storage:
        unsigned short ss_family
    cmsghdr *CMSG_FIRSTHDR(msghdr *message) noexcept
    unsigned char *CMSG_DATA(cmsghdr *control) noexcept
    size_t CMSG_LEN(size_t size) noexcept
    size_t CMSG_SPACE(size_t size) noexcept
    int socket(int family, int socktype, int protocol) noexcept
    int connect(int fd, const sockaddr *address, socklen_t length) noexcept
    int setsockopt(int fd, int level, int name, const void *value, socklen_t length) noexcept
    int getsockopt(int fd, int level, int name, void *value, socklen_t *length) noexcept
    ssize_t recv(int fd, void *data, size_t size, int flags) noexcept
    ssize_t send(int fd, const void *data, size_t size, int flags) noexcept
    ssize_t sendmsg(int fd, const msghdr *message, int flags) noexcept
    int sendmmsg(int fd, mmsghdr *messages, unsigned int count, int flags) noexcept

cdef extern from *:
    """
    #include <sys/mman.h>
    #ifndef MADV_POPULATE_WRITE       /* Linux 5.14; madvise(2) */
    #define MADV_POPULATE_WRITE 23
    #endif
    #ifndef MFD_EXEC                  /* Linux 6.3; memfd_create(2) */
    #define MFD_NOEXEC_SEAL 0x8U
    #define MFD_EXEC 0x10U
    #endif
    """
    enum:
        MADV_POPULATE_WRITE
        MFD_NOEXEC_SEAL
        MFD_EXEC

cdef extern from "<sys/mman.h>" nogil:
    enum:
        MFD_CLOEXEC
        MFD_ALLOW_SEALING
        MREMAP_MAYMOVE
        MREMAP_FIXED
    int memfd_create(const char *name, unsigned int flags) noexcept
    void *mremap(void *address, size_t size, size_t new_size, int flags, ...) noexcept

cdef extern from "<sys/resource.h>" nogil:
    ctypedef unsigned long rlim_t
    enum:
        RLIMIT_FSIZE
    struct rlimit:
        rlim_t rlim_cur
    int getrlimit(int resource, rlimit *limit) noexcept

cdef extern from "<fcntl.h>" nogil:
    enum:
        O_CLOEXEC
        O_RDWR
        O_TMPFILE
        F_ADD_SEALS
        F_DUPFD_CLOEXEC
        F_SEAL_SEAL
        F_SEAL_SHRINK
        F_SEAL_GROW
        F_SEAL_WRITE
    int fcntl(int fd, int command, ...) noexcept
    int open_new "open"(const char *path, int flags, unsigned int mode) noexcept

cdef extern from "<sys/time.h>" nogil:
    struct timeval:
        long tv_sec
        long tv_usec

cdef extern from "<sys/un.h>" nogil:
    struct sockaddr_un:
        unsigned short sun_family
        char sun_path[108]        # unix(7), at full length without a terminating NUL

cdef extern from "<netinet/in.h>" nogil:
    enum:
        IPPROTO_TCP

cdef extern from "<arpa/inet.h>" nogil:
    int inet_pton(int family, const char *text, void *address) noexcept

cdef extern from "<netinet/tcp.h>" nogil:
    enum:
        TCP_NODELAY

cdef extern from "<netdb.h>" nogil:
    enum:
        AI_NUMERICHOST
        AI_NUMERICSERV
        EAI_SYSTEM
    struct addrinfo:
        int ai_flags
        int ai_family
        int ai_socktype
        socklen_t ai_addrlen
        sockaddr *ai_addr
        addrinfo *ai_next
    int getaddrinfo(const char *host, const char *service, const addrinfo *hints,
                    addrinfo **found) noexcept
    void freeaddrinfo(addrinfo *found) noexcept

cdef extern from "<signal.h>" nogil:
    ctypedef struct sigset_t:
        pass
    enum:
        SIG_SETMASK
    int sigfillset(sigset_t *signals) noexcept
    int pthread_sigmask(int how, const sigset_t *signals, sigset_t *before) noexcept

cdef extern from "<poll.h>" nogil:
    struct pollfd:
        int fd
        short events
        short revents
    enum:
        POLLERR
        POLLHUP
        POLLIN
        POLLNVAL
        POLLOUT
        POLLRDHUP
    int poll(pollfd *descriptors, unsigned long count, int timeout) noexcept
    int ppoll(pollfd *descriptors, unsigned long count, const timespec *timeout,
              const sigset_t *signals) noexcept

cdef enum:
    NANOSECONDS = 1000000         # in a millisecond
    MISSED_POLL = 10000000        # ns to sleep where the kernel refuses every kind of poll(2)

cdef extern from "<pthread.h>" nogil:
    ctypedef unsigned long pthread_t
    ctypedef struct pthread_mutex_t:
        pass
    int pthread_create(pthread_t *thread, const void *attributes,
                       void *(*entry)(void *) noexcept nogil, void *argument) noexcept
    int pthread_join(pthread_t thread, void **result) noexcept
    int pthread_detach(pthread_t thread) noexcept
    int pthread_setname_np(pthread_t thread, const char *name) noexcept
    int pthread_mutex_init(pthread_mutex_t *mutex, const void *attributes) noexcept
    int pthread_mutex_lock(pthread_mutex_t *mutex) noexcept
    int pthread_mutex_unlock(pthread_mutex_t *mutex) noexcept

cdef inline uint64_t page_size() noexcept nogil:
    """Return the bytes of a page. Any thread. Async-signal-safe."""
    return <uint64_t>sysconf(_SC_PAGESIZE)


cdef inline int poll_descriptors(pollfd *descriptors, unsigned long count,
                                 const timespec *timeout) noexcept nogil:
    """Poll as ppoll(2), also where a seccomp filter refuses that. NULL is no timeout.

    Where poll(2) is refused as well, sleep for a moment, so that callers do not spin. Any thread.
    Async-signal-safe.
    """
    cdef timespec pause
    cdef int milliseconds = -1
    cdef int ready = ppoll(descriptors, count, timeout, NULL)
    if ready >= 0 or errno == EINTR:
        return ready
    if timeout != NULL:
        # Rounded up, and at most some 20 days.
        milliseconds = <int>min(<uint64_t>timeout.tv_sec * 1000 + (<uint64_t>timeout.tv_nsec
                                + NANOSECONDS - 1) // NANOSECONDS, <uint64_t>0x7fffffff)
    ready = poll(descriptors, count, milliseconds)
    if ready < 0 and errno != EINTR:
        pause.tv_sec = 0
        pause.tv_nsec = MISSED_POLL
        nanosleep(&pause, NULL)
    return ready
