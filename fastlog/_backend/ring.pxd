"""The ring: many producers put in records of any length, one writer takes them out in order.

Positions count bytes since the ring was created. They only grow, and 2**64 bytes never come
around, so a position names one record for good. `position & mask` is its offset in memory.

          tail     sent_pos                                head
           |          |                                     |
    -------+----------+-----------+-----------+-------------+-------> positions
      free | sent,    | committed | committed | reserved,   | free
      zero | about to | record    | record    | no commit   | zero
           | be zeroed|           |           | yet         |
           |<-------------- at most `capacity` ------------>|

A record starts at a multiple of 8 with an 8-byte header. Its bytes follow.

    |<------------- span: a multiple of 8 bytes ------------->|
    +------------------+--------------------------+-----------+
    | header (8 bytes) | `length` bytes           | 0-7 zeros |
    +------------------+--------------------------+-----------+

     63  62  61  60               35 34      32 31                      0
    +---+---+---+-------------------+----------+-------------------------+
    | C | T | D | check (26 bits)   | severity | length in bytes         |
    +---+---+---+-------------------+----------+-------------------------+

    C  COMMITTED  the producer has filled the record
    T  TRUNCATED  bytes were cut off, and Counters.truncated counts that
    D  DISCARDED  not a record: the writer skips these bytes

The first half of the memory is mapped a second time behind its end. A record has at most half
the ring's size, so one that reaches over the end is still contiguous in the address space.

    address   base        memory               memory + capacity
               +-----------+--------------------+----------+
               | positions | data               | mirror   |
               +-----------+--------------------+----------+
    offset       page 0      page 1 to the end    page 1 on

    producer                                 writer
    1. claim [head, head + span)             1. at tail: is the header COMMITTED?
    2. store the header, not committed       2. send the bytes
    3. fill in the bytes                     3. zero header and bytes
    4. commit the header                     4. move tail past them

One thread at a time may release records: the holder of the tail. This is the writer, or under
drop_oldest whichever thread has Writer.tail_lock.

Free memory is always zero, so the writer can check the header at tail before the producer has
stored anything there. A position or a lap number in the header would save the writer the
zeroing, but then the bytes of an old message could pass for a committed record.

The memory is anonymous and shared, which mremap(2) can map a second time without a descriptor and
outside RLIMIT_FSIZE. Where mremap(2) cannot, the memory is a memfd. With a spool it is a file on
disk that outlives the process (_spool/file.py). The first page holds the positions.
ring_recover() makes a file consistent again that a dead process left behind. For that purpose a
header carries 26 check bits made from its position and length. The bytes of a message, or a
damaged length, hardly ever match them.

Memory orders. The code marks each operation with its label.

    C1 ring_commit        seq_cst store of the header, pairs with P1
    P1 ring_peek          acquire load of the header,  pairs with C1
    R1 ring_release       seq_cst store of tail,       pairs with A1
    A1 ring_try_reserve   acquire load of tail,        pairs with R1
    H1 ring_try_reserve   relaxed cas of head,         pairs with nothing
"""
from libc.stdint cimport int64_t, uint32_t, uint64_t
from libc.string cimport memset
from posix.mman cimport (MAP_ANONYMOUS, MAP_FAILED, MAP_FIXED, MAP_NORESERVE, MAP_PRIVATE,
                         MAP_SHARED, PROT_NONE, PROT_READ, PROT_WRITE, madvise, mmap, munmap)
from posix.unistd cimport close, ftruncate, pwrite

from fastlog._backend.atomics cimport (atomic_u64, cas_relaxed, line_u64, load_acquire,
                                       load_relaxed, load_seq_cst, store_relaxed, store_seq_cst)
from fastlog._backend.memfd cimport memfd_make, memfd_make_noexec
from fastlog._backend.posix cimport (MADV_POPULATE_WRITE, MREMAP_FIXED, MREMAP_MAYMOVE,
                                     RLIMIT_FSIZE, getrlimit, mremap, page_size, rlimit)

cdef enum:
    RECORD_ALIGN = 8              # bytes
    HEADER_SIZE = 8               # bytes
    POSITIONS_OFFSET = 512        # bytes into the file (_spool/file.py owns those before)
    CHECK_FACTOR = 0x2545F491     # odd: lengths below 2**26 get different check bits
    WARNING_SEVERITY = 4          # RFC 5424 section 6.2.1 (a lower number is more severe)

cdef extern from *:
    """
    #define FASTLOG_COMMITTED ((uint64_t)1 << 63)
    #define FASTLOG_TRUNCATED ((uint64_t)1 << 62)
    #define FASTLOG_DISCARDED ((uint64_t)1 << 61)
    #define FASTLOG_LENGTH_MASK ((uint64_t)0xffffffff)
    #define FASTLOG_CHECK_MASK ((uint64_t)0x3ffffff << 35)
    """
    const uint64_t COMMITTED "FASTLOG_COMMITTED"
    const uint64_t TRUNCATED "FASTLOG_TRUNCATED"
    const uint64_t DISCARDED "FASTLOG_DISCARDED"
    const uint64_t LENGTH_MASK "FASTLOG_LENGTH_MASK"
    const uint64_t CHECK_MASK "FASTLOG_CHECK_MASK"

ctypedef struct Record:
    atomic_u64 header             # 0 in free memory
    # The record's bytes follow.

ctypedef struct Positions:
    line_u64 head                 # the next position to claim, moved by producers
    line_u64 tail                 # the next position to release, moved by the holder of the tail
    line_u64 sent_pos             # records before it are sent (ahead of tail during a release)

ctypedef struct Ring:
    # Constant from ring_map() to ring_destroy():
    Positions *positions
    char *memory
    uint64_t mapped               # bytes of address space, the mirror included
    uint64_t capacity             # bytes, a power of two
    uint64_t mask                 # capacity - 1
    uint64_t normal_capacity      # bytes that records less severe than WARNING may fill
    uint64_t max_length           # bytes of the longest record

ctypedef struct RecoveryStats:    # what ring_recover() found
    uint64_t records              # committed records
    uint64_t unfinished           # records whose producer died before the commit
    uint64_t damaged              # bytes that belong to no record


cdef inline uint64_t record_span(uint64_t length) noexcept nogil:
    """Return the bytes of the ring that a record of `length` bytes takes. Any thread."""
    return (HEADER_SIZE + length + RECORD_ALIGN - 1) & ~<uint64_t>(RECORD_ALIGN - 1)


cdef inline char *record_bytes(Record *record) noexcept nogil:
    """Return a pointer to the bytes behind the header. Any thread."""
    return <char *>record + HEADER_SIZE


cdef inline uint64_t header_make(uint64_t position, uint64_t severity,
                                 uint64_t length) noexcept nogil:
    """Return the header of a record that is not committed. Any thread."""
    return header_check(position, length) | severity << 32 | length


cdef inline uint64_t header_check(uint64_t position, uint64_t length) noexcept nogil:
    """Return the check bits of a header, in place. Any thread.

    They distinguish a header from the bytes of a message, and a length from a damaged one.
    """
    return ((position + <uint64_t>CHECK_FACTOR * length * RECORD_ALIGN) << 32) & CHECK_MASK


cdef inline uint64_t header_severity(uint64_t header) noexcept nogil:
    """Return the severity, 0 to 7, that a header carries. Any thread."""
    return (header >> 32) & 7


# --- memory ------------------------------------------------------------------------------------

cdef inline uint64_t ring_file_size(uint64_t capacity) noexcept nogil:
    """Return the bytes of a ring's file: one page for the positions, then the data."""
    return page_size() + capacity


cdef inline uint64_t ring_mirror_size(uint64_t capacity) noexcept nogil:
    """Return the bytes that are mapped twice, at least a page.

    A record is at most half the ring, so no more than that can reach over the end.
    """
    return capacity // 2 if capacity // 2 > page_size() else page_size()


cdef inline bint ring_map_at(void *base, uint64_t capacity, int fd, bint shared) noexcept nogil:
    """Map a ring's file over the mapping at `base`. Return False, with errno set, on failure."""
    cdef uint64_t size = ring_file_size(capacity)
    cdef int flags = MAP_FIXED | (MAP_SHARED if shared else MAP_PRIVATE)
    return (mmap(base, size, PROT_READ | PROT_WRITE, flags, fd, 0) != MAP_FAILED
            and mmap(<char *>base + size, ring_mirror_size(capacity), PROT_READ | PROT_WRITE,
                     flags, fd, <int64_t>page_size()) != MAP_FAILED)


cdef inline void *ring_map_memory(void *base, uint64_t size, int flags) noexcept nogil:
    """Map `size` bytes of shared memory that has no file. Return MAP_FAILED on failure."""
    return mmap(base, size, PROT_READ | PROT_WRITE,
                flags | MAP_SHARED | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0)


cdef inline bint ring_mirror(void *base, char *source, uint64_t capacity) noexcept nogil:
    """Map the first half of the data of `source` as the mirror of the ring at `base`.

    `source` is shared memory of ring_file_size() bytes. For a size of 0, mremap(2) leaves the old
    mapping in place, and the new one is of the same memory. Return False on failure.
    """
    return mremap(source + page_size(), 0, ring_mirror_size(capacity),
                  MREMAP_MAYMOVE | MREMAP_FIXED,
                  <char *>base + ring_file_size(capacity)) != MAP_FAILED


cdef inline void *ring_reserve_addresses(uint64_t capacity) noexcept nogil:
    """Reserve address space for a ring and its mirror. Return MAP_FAILED on failure."""
    return mmap(NULL, ring_file_size(capacity) + ring_mirror_size(capacity), PROT_NONE,
                MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0)


cdef inline int ring_set_memory(Ring *ring, void *base, uint64_t capacity,
                                bint mapped) noexcept nogil:
    """Point the ring at the memory at `base`. Return 0.

    If it is not `mapped`, free the reserved addresses instead, and return -1.
    """
    ring.mapped = ring_file_size(capacity) + ring_mirror_size(capacity)
    if not mapped:
        munmap(base, ring.mapped)
        return -1
    ring.positions = <Positions *>(<char *>base + POSITIONS_OFFSET)
    ring.memory = <char *>base + page_size()
    ring.capacity = capacity
    ring.mask = capacity - 1
    ring.normal_capacity = capacity - capacity // 8
    ring.max_length = capacity // 2 - HEADER_SIZE
    return 0


cdef inline int ring_map(Ring *ring, uint64_t capacity, int fd, bint shared) noexcept nogil:
    """Map a file of ring_file_size() bytes. Return 0, or -1 with errno set.

    `capacity` is a power of two of at least a page. Unless `shared`, changes stay in this process
    and do not reach the file. The caller keeps `fd` and may close it. No other thread may use the
    ring yet.
    """
    cdef void *base = ring_reserve_addresses(capacity)
    if base == MAP_FAILED:
        return -1
    return ring_set_memory(ring, base, capacity, ring_map_at(base, capacity, fd, shared))


cdef inline int ring_create_memfd(uint64_t capacity) noexcept nogil:
    """Create a memfd for a ring. Return its descriptor, or -1 with errno set."""
    cdef rlimit limit
    cdef int fd
    # ftruncate(2) sends SIGXFSZ, which ends a process that does not ignore it.
    if getrlimit(RLIMIT_FSIZE, &limit) == 0 and limit.rlim_cur < ring_file_size(capacity):
        return -1
    fd = memfd_make("fastlog-ring", 0)
    if fd < 0:
        fd = memfd_make_noexec("fastlog-ring", 0)
    if fd >= 0 and ftruncate(fd, <int64_t>ring_file_size(capacity)) != 0:
        close(fd)
        return -1
    return fd


cdef inline bint ring_map_memfd(void *base, uint64_t capacity, uint64_t position) noexcept nogil:
    """Map a new memfd over the mapping at `base`, whose Positions are all `position`.

    Return False, with errno set, on failure.
    """
    cdef int fd = ring_create_memfd(capacity)
    cdef bint mapped = fd >= 0
    cdef int i
    for i in range(<int>(sizeof(Positions) // sizeof(line_u64))):
        mapped = mapped and pwrite(
            fd, &position, sizeof(position),
            <int64_t>(POSITIONS_OFFSET + i * sizeof(line_u64))) == sizeof(position)
    mapped = mapped and ring_map_at(base, capacity, fd, True)
    if fd >= 0:
        close(fd)                 # the mappings keep the memory alive
    return mapped


cdef inline int ring_create(Ring *ring, uint64_t capacity) noexcept nogil:
    """Create an empty ring in memory. Return 0, or -1 with errno set.

    `capacity` is as for ring_map(). Free the ring with ring_destroy().
    """
    cdef void *base = ring_reserve_addresses(capacity)
    cdef bint mapped
    if base == MAP_FAILED:
        return -1
    mapped = (ring_map_memory(base, ring_file_size(capacity), MAP_FIXED) != MAP_FAILED
              and ring_mirror(base, <char *>base, capacity))
    return ring_set_memory(ring, base, capacity, mapped or ring_map_memfd(base, capacity, 0))


cdef inline bint ring_replace_memory(void *base, uint64_t capacity, uint64_t position
                                     ) noexcept nogil:
    """Move new memory over the mapping at `base`. Its Positions are all `position`.

    The positions are stored before the memory is moved, because other threads may read them.
    Return False, and leave the ring as it was, on failure.
    """
    cdef uint64_t size = ring_file_size(capacity)
    cdef char *memory = <char *>ring_map_memory(NULL, size, 0)
    cdef Positions *positions = <Positions *>(memory + POSITIONS_OFFSET)
    if memory == MAP_FAILED:
        return False
    store_relaxed(&positions.head.value, position)
    store_relaxed(&positions.tail.value, position)
    store_relaxed(&positions.sent_pos.value, position)
    if ring_mirror(base, memory, capacity):
        if mremap(memory, size, size, MREMAP_MAYMOVE | MREMAP_FIXED, base) != MAP_FAILED:
            return True
        ring_mirror(base, <char *>base, capacity)       # the mirror of what is still there
    munmap(memory, size)
    return False


cdef inline bint ring_detach(Ring *ring) noexcept nogil:
    """Detach the ring from its file, with the records in it, and continue empty in memory.

    Return False, and change nothing, if memory is exhausted. The caller ensures that the writer is
    stopped, and no producer is between ring_try_reserve() and ring_commit(). Other threads may
    read the positions meanwhile. The addresses of the ring do not change.
    """
    cdef void *base = ring.memory - page_size()
    cdef uint64_t head = load_relaxed(&ring.positions.head.value)
    return (ring_replace_memory(base, ring.capacity, head)
            or ring_map_memfd(base, ring.capacity, head))


cdef inline bint ring_attach(Ring *ring, int fd, RecoveryStats *stats) noexcept nogil:
    """Continue in a file of the same capacity, with the records in it, which ring_recover() checks.

    Return False, and change nothing in memory, if the file is damaged or cannot be mapped. The ring
    is empty, and the conditions of ring_detach() hold.
    """
    cdef uint64_t head = load_relaxed(&ring.positions.head.value)
    cdef Ring file_ring
    cdef bint attached
    if ring_map(&file_ring, ring.capacity, fd, True) != 0:
        return False
    attached = ring_recover(&file_ring, stats)
    if attached and load_relaxed(&file_ring.positions.head.value) == 0:
        # A new file. Positions that other threads have read stay behind those that follow.
        store_relaxed(&file_ring.positions.head.value, head)
        store_relaxed(&file_ring.positions.tail.value, head)
        store_relaxed(&file_ring.positions.sent_pos.value, head)
    attached = attached and ring_map_at(ring.memory - page_size(), ring.capacity, fd, True)
    ring_destroy(&file_ring)
    return attached


cdef inline void ring_destroy(Ring *ring) noexcept nogil:
    """Unmap the memory. No other thread may use the ring. A second call does nothing."""
    if ring.memory != NULL:
        munmap(ring.memory - page_size(), ring.mapped)
        ring.memory = NULL


cdef inline bint ring_prefault(Ring *ring, uint64_t begin, uint64_t end) noexcept nogil:
    """Pre-fault the pages of [begin, end) so that producers take no page fault. Any thread.

    Both positions are multiples of a page, at most `capacity` apart. No byte changes. Return
    False if the kernel cannot do it: MADV_POPULATE_WRITE needs Linux 5.14.
    """
    cdef uint64_t size
    while begin != end:
        size = min(end - begin, ring.capacity - (begin & ring.mask))
        if madvise(ring.memory + (begin & ring.mask), size, MADV_POPULATE_WRITE) != 0:
            return False
        begin += size
    return True


# --- producers ---------------------------------------------------------------------------------

cdef inline Record *ring_at(Ring *ring, uint64_t position) noexcept nogil:
    """Return the record that starts at `position`. Any thread."""
    return <Record *>(ring.memory + (position & ring.mask))


cdef inline uint64_t ring_used(Ring *ring) noexcept nogil:
    """Return the bytes that were taken at some moment during the call. Any thread."""
    cdef uint64_t tail = load_acquire(&ring.positions.tail.value)
    return load_relaxed(&ring.positions.head.value) - tail


cdef inline uint64_t ring_limit(Ring *ring, uint64_t severity) noexcept nogil:
    """Return the bytes to which a record of `severity` may fill the ring. Any thread."""
    return ring.capacity if severity <= WARNING_SEVERITY else ring.normal_capacity


cdef inline Record *ring_try_reserve(Ring *ring, uint64_t length, uint64_t severity,
                                     uint64_t *used) noexcept nogil:
    """Claim space for `length` bytes, 1 to ring.max_length. Any thread.

    Return the record, and store in `used` the bytes of the ring that are then taken. Return NULL
    if there is not enough space. The caller fills record_bytes() and then must call
    ring_commit(), because the writer stops at this record until it does.
    """
    cdef uint64_t span = record_span(length)
    cdef uint64_t limit = ring_limit(ring, severity)
    # H1, relaxed: head orders nothing. The claim is the cas itself. The writer
    # learns of the record from its header (C1), never from head.
    cdef uint64_t head = load_relaxed(&ring.positions.head.value)
    while True:
        # A1 pairs with R1: the writer has zeroed the memory before we fill it.
        used[0] = head + span - load_acquire(&ring.positions.tail.value)
        # Signed: a stale head may be behind tail. Then the cas fails and
        # reloads it.
        if <int64_t>used[0] > <int64_t>limit:
            return NULL
        if cas_relaxed(&ring.positions.head.value, &head, head + span):
            # Relaxed: only ring_recover() needs this header, not the writer.
            store_relaxed(&ring_at(ring, head).header, header_make(head, severity, length))
            return ring_at(ring, head)


cdef inline void ring_commit(Record *record, uint64_t flags) noexcept nogil:
    """Pass a reserved and filled record to the writer. Only the thread that reserved it.

    `flags` is TRUNCATED or 0.
    """
    # C1 pairs with P1: the bytes are visible before the header. It is stronger
    # than release because the producer checks next whether the writer sleeps
    # (S1 in _backend/writer.pxd).
    store_seq_cst(&record.header, COMMITTED | flags | load_relaxed(&record.header))


# --- the holder of the tail --------------------------------------------------------------------

cdef inline uint64_t ring_peek(Ring *ring, uint64_t position) noexcept nogil:
    """Return a record's header, 0 if it is not committed. Only the holder of the tail."""
    cdef uint64_t header = load_acquire(&ring_at(ring, position).header)     # P1 pairs with C1
    return header if header & COMMITTED else 0


cdef inline bint ring_is_ready(Ring *ring) noexcept nogil:
    """Return whether the record at tail is committed. Only the writer, before it sleeps."""
    # Both loads are seq_cst, unlike P1, because the writer stored its state
    # just before (S2). A producer that evicts may have moved tail.
    cdef uint64_t tail = load_seq_cst(&ring.positions.tail.value)
    return load_seq_cst(&ring_at(ring, tail).header) & COMMITTED != 0


cdef inline void ring_zero(Ring *ring, uint64_t begin, uint64_t end) noexcept nogil:
    """Zero the memory of [begin, end), at most `capacity` bytes. Only the holder of the tail."""
    cdef uint64_t offset = begin & ring.mask
    cdef uint64_t size = end - begin
    cdef uint64_t to_end = ring.capacity - offset
    if size > to_end:             # a batch of records may reach further than the mirror
        memset(ring.memory, 0, size - to_end)
        size = to_end
    memset(ring.memory + offset, 0, size)


cdef inline void ring_release(Ring *ring, uint64_t position) noexcept nogil:
    """Return the memory from tail up to `position` to the producers. Only the holder of the tail.
    """
    # Store sent_pos before the first byte is zeroed. A process that is killed
    # during the zeroing leaves half-zeroed records, which ring_recover() must
    # not read. seq_cst, so that no compiler moves the zeroing up.
    store_seq_cst(&ring.positions.sent_pos.value, position)
    ring_zero(ring, load_relaxed(&ring.positions.tail.value), position)
    # R1 pairs with A1: the memory is zero before it is free. It is stronger
    # than release because the writer checks next whether a thread waits for
    # space (W1 in _backend/writer.pxd).
    store_seq_cst(&ring.positions.tail.value, position)


cdef inline void ring_discard(Ring *ring, uint64_t position, uint64_t span) noexcept nogil:
    """Turn `span` bytes into a record that the writer skips. Only the holder of the tail."""
    store_seq_cst(&ring_at(ring, position).header,
                  COMMITTED | DISCARDED | header_make(position, 0, span - HEADER_SIZE))


cdef inline void ring_truncate(Ring *ring, uint64_t position, uint64_t length) noexcept nogil:
    """Truncate a committed record to `length` bytes, fewer than it has.

    The bytes that are cut off become a record that the writer skips. Only the holder of the tail.
    """
    cdef Record *record = ring_at(ring, position)
    cdef uint64_t header = load_relaxed(&record.header)
    cdef uint64_t rest = record_span(header & LENGTH_MASK) - record_span(length)
    # The rest first: ring_recover() must find it whenever this process ends.
    if rest:
        ring_discard(ring, position + record_span(length), rest)
    store_seq_cst(&record.header, (header & ~(LENGTH_MASK | CHECK_MASK)) | TRUNCATED
                  | header_check(position, length) | length)


# --- recovery after a crash --------------------------------------------------------------------

cdef inline uint64_t ring_record_span(Ring *ring, uint64_t position, uint64_t end) noexcept nogil:
    """Return the span of the record that starts at `position`, committed or not, or 0 for none.

    A record reaches at most to `end`. For ring_recover(), and for the writer in a crash.
    """
    cdef uint64_t header = load_acquire(&ring_at(ring, position).header)
    cdef uint64_t span = record_span(header & LENGTH_MASK)
    if header == 0 or header & CHECK_MASK != header_check(position, header & LENGTH_MASK):
        return 0
    if header & LENGTH_MASK > ring.max_length and not header & DISCARDED or span > end - position:
        return 0
    return span


cdef inline uint64_t ring_find_next(Ring *ring, uint64_t position, uint64_t end) noexcept nogil:
    """Return where the next record behind `position` starts, or `end`. As ring_record_span()."""
    position += RECORD_ALIGN
    while position < end and ring_record_span(ring, position, end) == 0:
        position += RECORD_ALIGN
    return position


cdef inline bint ring_recover(Ring *ring, RecoveryStats *stats) noexcept nogil:
    """Make a ring consistent that a dead process left: skip all that is not a committed record.

    Fill `stats`. Return False, and change nothing, if the positions contradict each other. No
    other thread may use the ring.
    """
    cdef uint64_t head = load_relaxed(&ring.positions.head.value)
    cdef uint64_t tail = load_relaxed(&ring.positions.tail.value)
    cdef uint64_t position = load_relaxed(&ring.positions.sent_pos.value)
    cdef uint64_t header, span, word
    memset(stats, 0, sizeof(RecoveryStats))
    if ((head | tail | position) % RECORD_ALIGN or head > <uint64_t>1 << 62
            or tail > position or position > head or head - tail > ring.capacity):
        return False
    ring_zero(ring, tail, position)
    store_relaxed(&ring.positions.tail.value, position)
    word = head                   # free memory is nearly always zero: do not dirty its pages
    while word < position + ring.capacity:
        if load_relaxed(&ring_at(ring, word).header):
            store_relaxed(&ring_at(ring, word).header, 0)
        word += RECORD_ALIGN
    while position < head:
        span = ring_record_span(ring, position, head)
        if span:
            header = load_relaxed(&ring_at(ring, position).header)
            if not header & COMMITTED:
                stats.unfinished += 1
                ring_discard(ring, position, span)
            elif not header & DISCARDED:
                stats.records += 1
        else:
            span = ring_find_next(ring, position, head) - position
            word = position
            while word < position + span:
                if load_relaxed(&ring_at(ring, word).header):
                    stats.damaged += RECORD_ALIGN
                word += RECORD_ALIGN
            ring_discard(ring, position, span)
        position += span
    return True
