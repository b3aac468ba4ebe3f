"""Files that exist only in memory, on kernels and in sandboxes that restrict them.

memfd_create(2) may be missing or refused. From Linux 6.3 on, each such file is executable
(MFD_EXEC) or sealed against it (MFD_NOEXEC_SEAL). Without either flag, the sysctl vm.memfd_noexec
chooses: 1 adds the seal, and 2 refuses the file unless MFD_NOEXEC_SEAL is given. Older kernels
refuse both flags with EINVAL.
"""
from libc.errno cimport EINTR, EINVAL, EMFILE, ENFILE, errno
from posix.types cimport off_t
from posix.unistd cimport close, pwrite

from fastlog._backend.posix cimport (F_ADD_SEALS, F_SEAL_GROW, F_SEAL_SEAL, F_SEAL_SHRINK,
                                     F_SEAL_WRITE, MFD_ALLOW_SEALING, MFD_CLOEXEC, MFD_EXEC,
                                     MFD_NOEXEC_SEAL, O_CLOEXEC, O_RDWR, O_TMPFILE, fcntl,
                                     memfd_create, open_new)

cdef enum:
    ATTEMPTS_MAX = 8              # of one call that the kernel interrupts


cdef inline int memfd_make(const char *name, unsigned int flags) noexcept nogil:
    """Create a memfd without seals. Return it, or -1 with errno set. Async-signal-safe.

    `flags` are added to MFD_CLOEXEC. The caller owns the descriptor.
    """
    cdef int fd = memfd_create(name, flags | MFD_CLOEXEC | MFD_EXEC)
    if fd < 0 and errno == EINVAL:
        fd = memfd_create(name, flags | MFD_CLOEXEC)
    return fd


cdef inline int memfd_make_noexec(const char *name, unsigned int flags) noexcept nogil:
    """Create a memfd where vm.memfd_noexec is 2. It has F_SEAL_EXEC. As memfd_make()."""
    return memfd_create(name, flags | MFD_CLOEXEC | MFD_NOEXEC_SEAL)


cdef inline bint memfd_fill(int fd, const char *data, size_t size) noexcept nogil:
    """Write `data` to an empty file. Return False, with errno set, on failure."""
    cdef size_t offset = 0
    cdef ssize_t written
    cdef int attempts = 0
    while offset < size:
        written = pwrite(fd, data + offset, size - offset, <off_t>offset)
        attempts += 1
        if written > 0:
            offset += written
        elif errno != EINTR or attempts >= ATTEMPTS_MAX:
            return False
    return True


cdef inline int memfd_fill_or_close(int fd, const char *data, size_t size,
                                    bint sealed) noexcept nogil:
    """Write `data` to an empty file, and seal it if `sealed`. Return `fd`.

    On failure close `fd`, and return -1. `fd` may be -1.
    """
    if fd < 0:
        return -1
    if memfd_fill(fd, data, size) and (not sealed or fcntl(
            fd, F_ADD_SEALS, F_SEAL_SHRINK | F_SEAL_GROW | F_SEAL_WRITE | F_SEAL_SEAL) == 0):
        return fd
    close(fd)
    return -1


cdef inline int memfd_make_record(const char *data, size_t size) noexcept nogil:
    """Create a file that journald accepts and that holds `data`. Return it, or -1 with errno set.

    Async-signal-safe. The caller owns the descriptor.

    journald accepts a memfd with four seals (up to systemd 252 with no other one, such as
    F_SEAL_EXEC), and a file in /dev/shm, /tmp or /var/tmp: systemd, docs/JOURNAL_NATIVE_PROTOCOL.md
    and src/journal/journald-native.c.
    """
    cdef const char *name = "fastlog-record"
    cdef int fd = memfd_fill_or_close(memfd_make(name, MFD_ALLOW_SEALING), data, size, True)
    if fd >= 0 or errno == EMFILE or errno == ENFILE:
        return fd
    fd = memfd_fill_or_close(open_new("/dev/shm", O_TMPFILE | O_RDWR | O_CLOEXEC, 0o600),
                             data, size, False)
    if fd >= 0:
        return fd
    return memfd_fill_or_close(memfd_make_noexec(name, MFD_ALLOW_SEALING), data, size, True)
