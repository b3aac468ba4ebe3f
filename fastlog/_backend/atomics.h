/* C11 atomics whose names carry the memory order, and futexes on them.
 *
 * Cython does not declare <stdatomic.h>, and the default order of C's
 * operators on _Atomic objects (seq_cst) would hide which order a line needs.
 * This file holds only the operations that the ring and the writer use. None
 * of them is a fence, because ThreadSanitizer does not see fences.
 *
 * Any thread may call these functions. They are async-signal-safe.
 */
#ifndef FASTLOG_ATOMICS_H
#define FASTLOG_ATOMICS_H

#include <errno.h>
#include <limits.h>
#include <linux/futex.h>
#include <stdatomic.h>
#include <stdint.h>
#include <sys/syscall.h>
#include <time.h>
#include <unistd.h>

typedef _Atomic(uint64_t) atomic_u64;

/* A 64-bit atomic alone on its cache line, so that the thread that stores it
 * does not slow down threads that read its neighbours. */
typedef struct {
    _Alignas(64) atomic_u64 value;
} line_u64;

_Static_assert(sizeof(atomic_u64) == 8, "a record header is one 8-byte word");
_Static_assert(sizeof(line_u64) == 64, "an atomic fills its cache line");
_Static_assert(ATOMIC_LLONG_LOCK_FREE == 2, "signal handlers read these");

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

/* Return the previous value, as add_relaxed() and add_seq_cst() do. */
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

/* Store `desired` if *object == *expected. Return whether it was stored. After
 * a failure *expected holds the value found. This cas is strong: it does not
 * fail spuriously. */
static inline int cas_seq_cst(atomic_u64 *object, uint64_t *expected,
                              uint64_t desired)
{
    return atomic_compare_exchange_strong_explicit(
        object, expected, desired, memory_order_seq_cst, memory_order_seq_cst);
}

/* As cas_seq_cst(), but weak: it may fail although *object == *expected. Call
 * it in a loop. */
static inline int cas_relaxed(atomic_u64 *object, uint64_t *expected,
                              uint64_t desired)
{
    return atomic_compare_exchange_weak_explicit(
        object, expected, desired, memory_order_relaxed, memory_order_relaxed);
}

/* Where long has 32 bits, futex(2) has one system call for each size of time_t. */
#ifdef SYS_futex_time64
#define FASTLOG_FUTEX (sizeof(time_t) > sizeof(long) ? SYS_futex_time64 : SYS_futex)
#else
#define FASTLOG_FUTEX SYS_futex
#endif

/* Return the 32 bits that the kernel compares: the low half of the object. */
static inline uint32_t *fastlog_futex_word(atomic_u64 *object)
{
    return (uint32_t *)object + (__BYTE_ORDER__ == __ORDER_BIG_ENDIAN__);
}

/* Sleep while the low half of the object equals that of `expected`, at most
 * until `deadline` on CLOCK_MONOTONIC, or without limit if that is NULL. May
 * return early. */
static inline void futex_wait(atomic_u64 *object, uint64_t expected,
                              const struct timespec *deadline)
{
    static const struct timespec pause = {0, 1000000};
    if (syscall(FASTLOG_FUTEX, fastlog_futex_word(object),
                FUTEX_WAIT_BITSET | FUTEX_PRIVATE_FLAG, (uint32_t)expected,
                deadline, NULL, FUTEX_BITSET_MATCH_ANY) != 0
        && errno != EAGAIN && errno != ETIMEDOUT)
        /* A signal, or a kernel that refuses futexes. Callers wait in loops,
         * which must not spin. */
        nanosleep(&pause, NULL);
}

/* Wake one thread that sleeps in futex_wait() on the object. */
static inline void futex_wake_one(atomic_u64 *object)
{
    syscall(FASTLOG_FUTEX, fastlog_futex_word(object),
            FUTEX_WAKE | FUTEX_PRIVATE_FLAG, 1, NULL, NULL, 0);
}

/* Wake every thread that sleeps in futex_wait() on the object. Do not wait for
 * any of them. */
static inline void futex_wake_all(atomic_u64 *object)
{
    syscall(FASTLOG_FUTEX, fastlog_futex_word(object),
            FUTEX_WAKE | FUTEX_PRIVATE_FLAG, INT_MAX, NULL, NULL, 0);
}

#endif
