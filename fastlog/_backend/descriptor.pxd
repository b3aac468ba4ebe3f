"""Descriptors that are used only while they refer to the file for which they were made.

A program may close descriptors that it did not open: a daemon closes all of them when it starts
(os.closerange). The numbers then belong to the program's own files. So the identity of a file is
stored with its descriptor, and checked before the descriptor is used or closed.

These functions are async-signal-safe. A Descriptor has one owner, which does not share it.
"""
from libc.errno cimport EBADF, errno
from libc.stdint cimport uint64_t
from posix.stat cimport fstat, struct_stat
from posix.unistd cimport close

from fastlog._backend.posix cimport F_DUPFD_CLOEXEC, errno_set, fcntl

cdef enum:
    FIRST_DESCRIPTOR = 3          # 0 to 2 are the standard streams, even while they are closed

ctypedef struct Descriptor:
    int fd                        # -1: none
    # st_dev and st_ino of the file. No other file has both as long as this one exists.
    uint64_t device
    uint64_t inode


cdef inline bint descriptor_set(Descriptor *descriptor, int fd) noexcept nogil:
    """Store the open file `fd`, or -1 for none. Return False, with errno set, if fstat() fails."""
    cdef struct_stat status
    descriptor.fd = fd
    if fd < 0:
        return True
    if fstat(fd, &status) != 0:
        descriptor.fd = -1
        return False
    descriptor.device = <uint64_t>status.st_dev
    descriptor.inode = <uint64_t>status.st_ino
    return True


cdef inline bint descriptor_is_valid(const Descriptor *descriptor) noexcept nogil:
    """Return whether the number still refers to the file. If not, errno is EBADF."""
    cdef struct_stat status
    if (descriptor.fd >= 0 and fstat(descriptor.fd, &status) == 0
            and <uint64_t>status.st_dev == descriptor.device
            and <uint64_t>status.st_ino == descriptor.inode):
        return True
    errno_set(EBADF)
    return False


cdef inline void descriptor_close(Descriptor *descriptor) noexcept nogil:
    """Close the file unless the number belongs to another one. Keeps errno."""
    cdef int error = errno
    if descriptor_is_valid(descriptor):
        close(descriptor.fd)
    descriptor.fd = -1
    errno_set(error)


cdef inline int descriptor_move_up(int fd) noexcept nogil:
    """Return a descriptor above 2 of the file that the caller just opened as `fd`.

    A program that reopens its standard streams expects those numbers to be free. Return -1, with
    errno set, if `fd` is -1 or all other descriptors are in use. `fd` is then closed.
    """
    cdef int moved, error
    if fd < 0 or fd >= FIRST_DESCRIPTOR:
        return fd
    moved = fcntl(fd, F_DUPFD_CLOEXEC, <int>FIRST_DESCRIPTOR)
    error = errno
    close(fd)
    errno_set(error)
    return moved
