/* C11 atomics under names that carry the memory order.
 *
 * Cython has no stdatomic, and the default order of C's operators on _Atomic
 * objects (seq_cst) would hide which order a line needs. Only the operations
 * that the ring and the writer use are here. There are no fences:
 * ThreadSanitizer cannot see them.
 */
#ifndef FASTLOG_ATOMICS_H
#define FASTLOG_ATOMICS_H

#include <limits.h>
#include <linux/futex.h>
#include <stdatomic.h>
#include <stdint.h>
#include <sys/syscall.h>
#include <time.h>
#include <unistd.h>

typedef _Atomic(uint64_t) atomic_u64;

/* A 64-bit atomic with a cache line of its own, so that the thread which
 * stores it does not slow down readers of its neighbours. */
typedef struct {
    _Alignas(64) atomic_u64 value;
} line_u64;

_Static_assert(sizeof(atomic_u64) == 8, "a record header is one 8-byte word");
_Static_assert(sizeof(line_u64) == 64, "one cache line each");
_Static_assert(ATOMIC_LLONG_LOCK_FREE == 2, "a crash handler reads these");

static inline uint64_t load_relaxed(const atomic_u64 *object)
{
    return atomic_load_explicit(object, memory_order_relaxed);
}

static inline uint64_t load_acquire(const atomic_u64 *object)
{
    return atomic_load_explicit(object, memory_order_acquire);
}

static inline uint64_t load_seq_cst(const atomic_u64 *object)
{
    return atomic_load_explicit(object, memory_order_seq_cst);
}

static inline void store_relaxed(atomic_u64 *object, uint64_t value)
{
    atomic_store_explicit(object, value, memory_order_relaxed);
}

static inline void store_release(atomic_u64 *object, uint64_t value)
{
    atomic_store_explicit(object, value, memory_order_release);
}

static inline void store_seq_cst(atomic_u64 *object, uint64_t value)
{
    atomic_store_explicit(object, value, memory_order_seq_cst);
}

static inline uint64_t exchange_seq_cst(atomic_u64 *object, uint64_t value)
{
    return atomic_exchange_explicit(object, value, memory_order_seq_cst);
}

static inline uint64_t add_relaxed(atomic_u64 *object, uint64_t value)
{
    return atomic_fetch_add_explicit(object, value, memory_order_relaxed);
}

static inline uint64_t add_seq_cst(atomic_u64 *object, uint64_t value)
{
    return atomic_fetch_add_explicit(object, value, memory_order_seq_cst);
}

/* Fails only if *object != *expected; then *expected is reloaded. */
static inline int cas_seq_cst(atomic_u64 *object, uint64_t *expected,
                              uint64_t desired)
{
    return atomic_compare_exchange_strong_explicit(
        object, expected, desired, memory_order_seq_cst, memory_order_seq_cst);
}

/* Weak: may fail although *object == *expected; then *expected is reloaded. */
static inline int cas_relaxed(atomic_u64 *object, uint64_t *expected,
                              uint64_t desired)
{
    return atomic_compare_exchange_weak_explicit(
        object, expected, desired, memory_order_relaxed, memory_order_relaxed);
}

/* futex(2) has one number for each size of time_t where long has 32 bits. */
#ifdef SYS_futex_time64
#define FASTLOG_FUTEX (sizeof(time_t) > sizeof(long) ? SYS_futex_time64 : SYS_futex)
#else
#define FASTLOG_FUTEX SYS_futex
#endif

/* What a futex looks at: the low 32 bits. */
static inline uint32_t *fastlog_low_half(atomic_u64 *object)
{
    return (uint32_t *)object + (__BYTE_ORDER__ == __ORDER_BIG_ENDIAN__);
}

/* Sleep while the object is `seen`, until CLOCK_MONOTONIC is `deadline` at the
 * latest; may come back earlier. */
static inline void futex_wait(atomic_u64 *object, uint64_t seen,
                              const struct timespec *deadline)
{
    syscall(FASTLOG_FUTEX, fastlog_low_half(object),
            FUTEX_WAIT_BITSET | FUTEX_PRIVATE_FLAG, (uint32_t)seen, deadline,
            NULL, FUTEX_BITSET_MATCH_ANY);
}

/* Wake all who futex_wait(). Async-signal-safe, and waits for none of them. */
static inline void futex_wake_all(atomic_u64 *object)
{
    syscall(FASTLOG_FUTEX, fastlog_low_half(object),
            FUTEX_WAKE | FUTEX_PRIVATE_FLAG, INT_MAX, NULL, NULL, 0);
}

#endif
