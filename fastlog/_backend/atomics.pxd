"""C11 atomics whose names end with the memory order, and futexes. See _backend/atomics.h."""
from libc.stdint cimport uint64_t
from posix.time cimport timespec

cdef extern from "_backend/atomics.h" nogil:
    ctypedef struct atomic_u64:
        pass
    ctypedef struct line_u64:      # an atomic_u64 alone on its cache line
        atomic_u64 value

    uint64_t load_relaxed(const atomic_u64 *obj) noexcept
    uint64_t load_acquire(const atomic_u64 *obj) noexcept
    uint64_t load_seq_cst(const atomic_u64 *obj) noexcept
    void store_relaxed(atomic_u64 *obj, uint64_t value) noexcept
    void store_release(atomic_u64 *obj, uint64_t value) noexcept
    void store_seq_cst(atomic_u64 *obj, uint64_t value) noexcept
    uint64_t exchange_seq_cst(atomic_u64 *obj, uint64_t value) noexcept
    uint64_t add_relaxed(atomic_u64 *obj, uint64_t value) noexcept
    uint64_t add_seq_cst(atomic_u64 *obj, uint64_t value) noexcept
    int cas_seq_cst(atomic_u64 *obj, uint64_t *expected, uint64_t desired) noexcept
    int cas_relaxed(atomic_u64 *obj, uint64_t *expected, uint64_t desired) noexcept
    void futex_wait(atomic_u64 *obj, uint64_t expected, const timespec *deadline) noexcept
    void futex_wake_one(atomic_u64 *obj) noexcept
    void futex_wake_all(atomic_u64 *obj) noexcept
