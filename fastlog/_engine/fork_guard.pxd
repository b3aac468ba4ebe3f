"""Detect a fork with one load, even a fork made in C that runs none of Python's hooks.

The epoch of the current process is stored on a page that the kernel hands to a forked child as
zeros (madvise(2), MADV_WIPEONFORK, Linux 4.14). All other memory is copied. A child therefore
counts on from the last epoch of its parent, and no epoch occurs twice in one line of descent.

gVisor and some seccomp filters refuse MADV_WIPEONFORK. There a handler of pthread_atfork(3) zeroes
the page in the child. It runs in fork(3), but not in _Fork(3), nor in a raw clone(2), whose child
then takes itself for its parent.
"""
from libc.stdint cimport uint64_t
from posix.mman cimport MAP_ANONYMOUS, MAP_FAILED, MAP_PRIVATE, PROT_READ, PROT_WRITE, madvise, mmap

from fastlog._backend.atomics cimport add_relaxed, atomic_u64, cas_relaxed, load_relaxed

cdef extern from "<sys/mman.h>" nogil:
    int MADV_WIPEONFORK

cdef extern from *:
    """
    #include <pthread.h>
    #include <stdint.h>

    static uint64_t *fastlog_fork_page;

    static void fastlog_fork_wipe(void) { *fastlog_fork_page = 0; }

    static inline int fastlog_fork_wipe_in_children(void *page)
    {
        fastlog_fork_page = page;
        return pthread_atfork(NULL, NULL, fastlog_fork_wipe);
    }
    """
    # Zero the first word of `page` in each child of fork(3). Once, at import. Returns 0 or an
    # errno.
    int wipe_in_children "fastlog_fork_wipe_in_children"(void *page) noexcept nogil

ctypedef struct ForkGuard:
    atomic_u64 *page              # the epoch of this process; 0 in a child that has none yet
    atomic_u64 last_epoch         # the highest epoch assigned so far, inherited from the parent


cdef inline int fork_guard_init(ForkGuard *guard) noexcept nogil:
    """Map the page. Called once, at import. Returns 0, or -1 if memory is exhausted."""
    cdef void *page = mmap(NULL, sizeof(atomic_u64), PROT_READ | PROT_WRITE,
                           MAP_PRIVATE | MAP_ANONYMOUS, -1, 0)
    if page == MAP_FAILED:
        return -1
    if madvise(page, sizeof(atomic_u64), MADV_WIPEONFORK) != 0 and wipe_in_children(page) != 0:
        return -1
    guard.page = <atomic_u64 *>page
    return 0


cdef inline uint64_t fork_guard_assign_epoch(ForkGuard *guard) noexcept nogil:
    """Give this process its epoch and return it. Any thread."""
    cdef uint64_t assigned = 0
    cdef uint64_t epoch = add_relaxed(&guard.last_epoch, 1) + 1
    while not cas_relaxed(guard.page, &assigned, epoch):
        if assigned != 0:         # another thread was first
            return assigned
    return epoch


cdef inline uint64_t fork_guard_epoch(ForkGuard *guard) noexcept nogil:
    """Return the epoch of this process, which is never that of its parent. Any thread."""
    cdef uint64_t epoch = load_relaxed(guard.page)
    return epoch if epoch != 0 else fork_guard_assign_epoch(guard)
