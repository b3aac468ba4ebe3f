"""The ring: many producers put records of any length in, one writer takes them out in order.

Positions are bytes since the ring was made; they only grow (2**64 bytes never
come around), and `position & mask` is the place in memory. A record starts at
a multiple of 8 with one 8-byte word, 0 until the record is committed; its
bytes follow. The first half of the memory is mapped a second time behind its
end, so a record that reaches over the end is still one run of bytes.

    producer                                 writer
    1. claim [head, head + span)             1. at tail: is the word set?
    2. fill in the bytes                     2. use the bytes
    3. set the word: committed               3. zero all of it, move tail on

Free memory is all zeros, always: that is what makes "the word is set" safe to
ask before the producer of that record has written a single byte. (A position
or lap number in the word would cost the writer no zeroing, but bytes of an old
message could then be made to look like a committed record.)

The pairs of the memory orders, named where they stand below:

    C1 ring_commit   seq_cst store of the word    > P1 ring_peek   acquire
    R1 ring_release  seq_cst store of tail        > A1 ring_try_reserve acquire
    H1 ring_try_reserve, cas on head              relaxed: see there
"""
from libc.stdint cimport int64_t, uint32_t, uint64_t
from libc.string cimport memset
from posix.unistd cimport close, ftruncate, sysconf, _SC_PAGESIZE
from posix.mman cimport (MAP_ANONYMOUS, MAP_FAILED, MAP_FIXED, MAP_NORESERVE, MAP_PRIVATE,
                         MAP_SHARED, PROT_NONE, PROT_READ, PROT_WRITE, mmap, munmap)

from fastlog._atomics cimport (atomic_u64, cas_relaxed, line_u64, load_acquire, load_relaxed,
                               load_seq_cst, store_relaxed, store_seq_cst)

cdef extern from "<sys/mman.h>" nogil:
    int memfd_create(const char *name, unsigned int flags) noexcept
    unsigned int MFD_CLOEXEC

cdef enum:
    RECORD_ALIGN = 8
    RECORD_HEADER = 8             # the word

cdef extern from *:
    """
    /* A record's word. Bits 0-31: length in bytes. */
    #define FASTLOG_COMMITTED ((uint64_t)1 << 63)
    #define FASTLOG_SHORTENED ((uint64_t)1 << 62)
    #define FASTLOG_LENGTH_MASK ((uint64_t)0xffffffff)
    """
    const uint64_t COMMITTED "FASTLOG_COMMITTED"    # always set, so no word is 0
    const uint64_t SHORTENED "FASTLOG_SHORTENED"    # by the producer, who counted it
    const uint64_t LENGTH_MASK "FASTLOG_LENGTH_MASK"

ctypedef struct Record:
    atomic_u64 word               # 0, or COMMITTED | flags | length
    # the record's bytes follow

ctypedef struct Ring:
    line_u64 head                 # next position to claim; moved by producers
    line_u64 tail                 # next position to send; moved by the writer only
    # Constant from ring_create to ring_destroy:
    char *memory
    uint64_t mapped               # bytes of address space, second mapping included
    uint64_t capacity             # bytes, a power of two
    uint64_t mask                 # capacity - 1
    uint64_t open_capacity        # bytes that records below WARNING may fill
    uint64_t max_length           # bytes of the longest record


cdef inline uint64_t record_span(uint64_t length) noexcept nogil:
    """Bytes that a record of `length` bytes takes up in the ring."""
    return (RECORD_HEADER + length + RECORD_ALIGN - 1) & ~<uint64_t>(RECORD_ALIGN - 1)


cdef inline char *record_bytes(Record *record) noexcept nogil:
    return <char *>record + RECORD_HEADER


cdef inline int ring_create(Ring *ring, uint64_t capacity) noexcept nogil:
    """Map the memory. Returns 0, or -1 with errno set. `capacity`: a power of two >= a page."""
    cdef uint64_t page = <uint64_t>sysconf(_SC_PAGESIZE)
    # A record is at most half the ring, so no more can ever reach over the end.
    cdef uint64_t window = capacity // 2 if capacity // 2 > page else page
    cdef void *base
    cdef int fd = memfd_create("fastlog-ring", MFD_CLOEXEC)
    if fd < 0:
        return -1
    if ftruncate(fd, <int64_t>capacity) != 0:
        close(fd)
        return -1
    base = mmap(NULL, capacity + window, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE,
                -1, 0)
    if base == MAP_FAILED:
        close(fd)
        return -1
    if (mmap(base, capacity, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_FIXED, fd, 0) == MAP_FAILED
            or mmap(<char *>base + capacity, window, PROT_READ | PROT_WRITE,
                    MAP_SHARED | MAP_FIXED, fd, 0) == MAP_FAILED):
        munmap(base, capacity + window)
        close(fd)
        return -1
    close(fd)                     # the mappings keep the memory alive
    ring.memory = <char *>base
    ring.mapped = capacity + window
    ring.capacity = capacity
    ring.mask = capacity - 1
    ring.open_capacity = capacity - capacity // 8
    ring.max_length = capacity // 2 - RECORD_HEADER
    store_relaxed(&ring.head.value, 0)
    store_relaxed(&ring.tail.value, 0)
    return 0


cdef inline void ring_destroy(Ring *ring) noexcept nogil:
    """Unmap the memory. No other thread may use the ring any more. Twice is harmless."""
    if ring.memory != NULL:
        munmap(ring.memory, ring.mapped)
        ring.memory = NULL


cdef inline Record *ring_at(Ring *ring, uint64_t position) noexcept nogil:
    return <Record *>(ring.memory + (position & ring.mask))


cdef inline Record *ring_try_reserve(Ring *ring, uint64_t length, bint privileged,
                                     uint64_t *used) noexcept nogil:
    """Claim room for `length` bytes, at most ring.max_length. Any thread.

    Returns NULL if there is not enough; else the record, and in `used` the
    bytes of the ring that are then taken. `privileged` records may take the
    last eighth too. The caller fills record_bytes() and then must ring_commit():
    the writer stops at this record until it does.
    """
    cdef uint64_t span = record_span(length)
    cdef uint64_t limit = ring.capacity if privileged else ring.open_capacity
    # H1, relaxed: head orders nothing. A claim is the cas itself, and what the
    # claim makes visible to the writer is the word (C1), never head.
    cdef uint64_t head = load_relaxed(&ring.head.value)
    while True:
        # A1 pairs with R1: the writer's zeroing is over before we fill.
        used[0] = head + span - load_acquire(&ring.tail.value)
        # Signed: a head that is out of date may lie behind tail; then the cas
        # fails and tells the new one.
        if <int64_t>used[0] > <int64_t>limit:
            return NULL
        if cas_relaxed(&ring.head.value, &head, head + span):
            return ring_at(ring, head)


cdef inline void ring_commit(Record *record, uint64_t length, uint64_t flags) noexcept nogil:
    """Hand a reserved and filled record to the writer. The thread that reserved it.

    `length` as reserved; flags: SHORTENED or 0.
    """
    # C1 pairs with P1: the bytes are there before the word. Stronger than
    # release because the producer then asks whether the writer sleeps, see
    # _writer.pxd: S1.
    store_seq_cst(&record.word, COMMITTED | flags | length)


cdef inline uint64_t ring_peek(Ring *ring, uint64_t position) noexcept nogil:
    """The word of the record at `position`, 0 if it is not committed. Writer only."""
    return load_acquire(&ring_at(ring, position).word)          # P1 pairs with C1


cdef inline bint ring_is_ready(Ring *ring) noexcept nogil:
    """Whether the record at tail is committed. Writer only, before it sleeps."""
    # seq_cst instead of P1: the writer stored its state just before (S2).
    return load_seq_cst(&ring_at(ring, load_relaxed(&ring.tail.value)).word) != 0


cdef inline void ring_release(Ring *ring, uint64_t position) noexcept nogil:
    """Give the memory from tail up to `position` back to the producers. Writer only."""
    cdef uint64_t tail = load_relaxed(&ring.tail.value)         # only the writer moves it
    cdef uint64_t offset = tail & ring.mask
    cdef uint64_t size = position - tail
    cdef uint64_t to_end = ring.capacity - offset
    if size > to_end:             # several records may reach further than the second mapping
        memset(ring.memory, 0, size - to_end)
        size = to_end
    memset(ring.memory + offset, 0, size)
    # R1 pairs with A1: zeroed before it is free. Stronger than release because
    # the writer then asks whether somebody waits for room, see _writer.pxd: W1.
    store_seq_cst(&ring.tail.value, position)


cdef inline uint64_t ring_used(Ring *ring) noexcept nogil:
    """Bytes taken at some moment during the call. Any thread."""
    cdef uint64_t tail = load_acquire(&ring.tail.value)
    return load_relaxed(&ring.head.value) - tail
