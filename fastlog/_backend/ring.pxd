"""The ring: many producers put records of any length in, one writer takes them out in order.

Positions are bytes since the ring was made; they only grow (2**64 bytes never
come around), and `position & mask` is the place in memory. A record starts at
a multiple of 8 with one 8-byte header; its bytes follow. The first half of the
memory is mapped a second time behind its end, so a record that reaches over
the end is still one run of bytes.

    producer                                 writer
    1. claim [head, head + span)             1. at tail: is the header COMMITTED?
    2. store the header, not committed         2. use the bytes
    3. fill in the bytes                     3. zero all of it, move tail on
    4. commit the header

Free memory is all zeros, always: that is what makes the question safe to
ask before the producer of that record has written a single byte. (A position
or lap number in the header would cost the writer no zeroing, but bytes of an old
message could then be made to look like a committed record.)

The memory is a file: a memfd, or a spool on disk that outlives the process
(_spool/file.py). Its first page holds the positions; what a dead process left in
it, ring_recover() makes whole. For that a header carries, besides the length, the
severity and 26 bits made of its position and length, which bytes of a message, or
a damaged length, hardly match.

The pairs of the memory orders, named where they stand below:

    C1 ring_commit   seq_cst store of the header    > P1 ring_peek   acquire
    R1 ring_release  seq_cst store of tail        > A1 ring_try_reserve acquire
    H1 ring_try_reserve, cas on head              relaxed: see there
"""
from libc.stdint cimport int64_t, uint32_t, uint64_t
from libc.string cimport memset
from posix.unistd cimport close, ftruncate, pwrite, sysconf, _SC_PAGESIZE
from posix.mman cimport (MAP_ANONYMOUS, MAP_FAILED, MAP_FIXED, MAP_NORESERVE, MAP_PRIVATE,
                         MAP_SHARED, PROT_NONE, PROT_READ, PROT_WRITE, madvise, mmap, munmap)

from fastlog._backend.atomics cimport (atomic_u64, cas_relaxed, line_u64, load_acquire, load_relaxed,
                               load_seq_cst, store_relaxed, store_seq_cst)
from fastlog._backend.posix cimport MADV_POPULATE_WRITE, MFD_CLOEXEC, memfd_create

cdef enum:
    RECORD_ALIGN = 8
    HEADER_SIZE = 8             # the header
    POSITIONS_OFFSET = 512        # in the file; what comes before is _spool/file.py's
    CHECK_FACTOR = 0x2545F491     # odd, so that every length up to 2**26 has another place
    WARNING_SEVERITY = 4          # RFC 5424 section 6.2.1; smaller is worse

cdef extern from *:
    """
    /* A record's header. Bits 0-31: length in bytes, 32-34: severity, 35-60: header_check(). */
    #define FASTLOG_COMMITTED ((uint64_t)1 << 63)
    #define FASTLOG_TRUNCATED ((uint64_t)1 << 62)
    #define FASTLOG_DISCARDED ((uint64_t)1 << 61)
    #define FASTLOG_LENGTH_MASK ((uint64_t)0xffffffff)
    #define FASTLOG_CHECK_MASK ((uint64_t)0x3ffffff << 35)
    """
    const uint64_t COMMITTED "FASTLOG_COMMITTED"
    const uint64_t TRUNCATED "FASTLOG_TRUNCATED"    # and counted
    const uint64_t DISCARDED "FASTLOG_DISCARDED"        # no record: not to be sent
    const uint64_t LENGTH_MASK "FASTLOG_LENGTH_MASK"
    const uint64_t CHECK_MASK "FASTLOG_CHECK_MASK"

ctypedef struct Record:
    atomic_u64 header               # 0 in free memory
    # the record's bytes follow

ctypedef struct Positions:
    line_u64 head                 # next position to claim; moved by producers
    line_u64 tail                 # next position to release; moved by the writer only
    line_u64 sent_pos                 # what lies before is sent: tail, but for a moment ahead of it

ctypedef struct Ring:
    # Constant from ring_create to ring_destroy:
    Positions *positions
    char *memory
    uint64_t mapped               # bytes of address space, second mapping included
    uint64_t capacity             # bytes, a power of two
    uint64_t mask                 # capacity - 1
    uint64_t open_capacity        # bytes that records below WARNING may fill
    uint64_t max_length           # bytes of the longest record

ctypedef struct RecoveryStats:           # what ring_recover() found
    uint64_t records              # committed ones
    uint64_t unfinished           # whose producer died before the commit
    uint64_t damaged              # bytes that are no record


cdef inline uint64_t record_span(uint64_t length) noexcept nogil:
    """Bytes that a record of `length` bytes takes up in the ring."""
    return (HEADER_SIZE + length + RECORD_ALIGN - 1) & ~<uint64_t>(RECORD_ALIGN - 1)


cdef inline char *record_bytes(Record *record) noexcept nogil:
    return <char *>record + HEADER_SIZE


cdef inline uint64_t header_make(uint64_t position, uint64_t severity,
                               uint64_t length) noexcept nogil:
    """The header of a record that is not committed."""
    return header_check(position, length) | severity << 32 | length


cdef inline uint64_t header_check(uint64_t position, uint64_t length) noexcept nogil:
    """What tells a header from other bytes, and its length from a damaged one."""
    return ((position + <uint64_t>CHECK_FACTOR * length * RECORD_ALIGN) << 32) & CHECK_MASK


cdef inline uint64_t header_severity(uint64_t header) noexcept nogil:
    return (header >> 32) & 7


cdef inline uint64_t page_size() noexcept nogil:
    return <uint64_t>sysconf(_SC_PAGESIZE)


cdef inline uint64_t ring_file_size(uint64_t capacity) noexcept nogil:
    """Bytes of the file: a page for the positions, then the memory."""
    return page_size() + capacity


cdef inline uint64_t ring_mirror_size(uint64_t capacity) noexcept nogil:
    """Bytes mapped twice. A record is at most half the ring: no more can reach over the end."""
    return capacity // 2 if capacity // 2 > page_size() else page_size()


cdef inline bint ring_map_at(void *base, uint64_t capacity, int fd, bint shared) noexcept nogil:
    """Map a ring's file over what is mapped at `base`."""
    cdef uint64_t size = ring_file_size(capacity)
    cdef int flags = MAP_FIXED | (MAP_SHARED if shared else MAP_PRIVATE)
    return (mmap(base, size, PROT_READ | PROT_WRITE, flags, fd, 0) != MAP_FAILED
            and mmap(<char *>base + size, ring_mirror_size(capacity), PROT_READ | PROT_WRITE, flags,
                     fd, <int64_t>page_size()) != MAP_FAILED)


cdef inline int ring_map(Ring *ring, uint64_t capacity, int fd, bint shared) noexcept nogil:
    """Map a file of ring_file_size(). Returns 0, or -1 with errno set.

    `capacity`: a power of two >= a page. Not `shared`: changes stay in this process.
    """
    cdef uint64_t page = page_size()
    cdef uint64_t size = ring_file_size(capacity) + ring_mirror_size(capacity)
    cdef void *base = mmap(NULL, size, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE,
                           -1, 0)
    if base == MAP_FAILED:
        return -1
    if not ring_map_at(base, capacity, fd, shared):
        munmap(base, size)
        return -1
    ring.positions = <Positions *>(<char *>base + POSITIONS_OFFSET)
    ring.memory = <char *>base + page
    ring.mapped = size
    ring.capacity = capacity
    ring.mask = capacity - 1
    ring.open_capacity = capacity - capacity // 8
    ring.max_length = capacity // 2 - HEADER_SIZE
    return 0


cdef inline int ring_create_memfd(uint64_t capacity) noexcept nogil:
    """A file in memory for a ring. Returns its descriptor, or -1 with errno set."""
    cdef int fd = memfd_create("fastlog-ring", MFD_CLOEXEC)
    if fd >= 0 and ftruncate(fd, <int64_t>ring_file_size(capacity)) != 0:
        close(fd)
        return -1
    return fd


cdef inline int ring_create(Ring *ring, uint64_t capacity) noexcept nogil:
    """An empty ring in memory of its own. Returns 0, or -1 with errno set."""
    cdef int fd = ring_create_memfd(capacity)
    cdef int result
    if fd < 0:
        return -1
    result = ring_map(ring, capacity, fd, True)
    close(fd)                     # the mappings keep the memory alive
    return result


cdef inline bint ring_detach(Ring *ring) noexcept nogil:
    """Leave the ring's file to others, with what is in it, and go on, empty, in memory.

    False, and nothing is changed, if there is none. There must be no writer, and no producer
    between ring_try_reserve() and ring_commit(). Others may read the positions meanwhile.
    """
    cdef uint64_t head = load_relaxed(&ring.positions.head.value)
    cdef int fd = ring_create_memfd(ring.capacity)
    cdef bint done
    cdef int i
    if fd < 0:
        return False
    done = True
    for i in range(<int>(sizeof(Positions) // sizeof(line_u64))):
        if pwrite(fd, &head, sizeof(head),
                  <int64_t>(POSITIONS_OFFSET + i * sizeof(line_u64))) != sizeof(head):
            done = False
    if done:
        done = ring_map_at(ring.memory - page_size(), ring.capacity, fd, True)
    close(fd)
    return done


cdef inline void ring_destroy(Ring *ring) noexcept nogil:
    """Unmap the memory. No other thread may use the ring any more. Twice is harmless."""
    if ring.memory != NULL:
        munmap(ring.memory - page_size(), ring.mapped)
        ring.memory = NULL


cdef inline Record *ring_at(Ring *ring, uint64_t position) noexcept nogil:
    return <Record *>(ring.memory + (position & ring.mask))


cdef inline uint64_t ring_limit(Ring *ring, uint64_t severity) noexcept nogil:
    """Bytes that a record of this severity may fill the ring to."""
    return ring.capacity if severity <= WARNING_SEVERITY else ring.open_capacity


cdef inline Record *ring_try_reserve(Ring *ring, uint64_t length, uint64_t severity,
                                     uint64_t *used) noexcept nogil:
    """Claim space for `length` bytes, 1 to ring.max_length. Any thread.

    Returns NULL if there is not enough; else the record, and in `used` the
    bytes of the ring that are then taken. The caller fills record_bytes() and
    then must ring_commit(): the writer stops at this record until it does.
    """
    cdef uint64_t span = record_span(length)
    cdef uint64_t limit = ring_limit(ring, severity)
    # H1, relaxed: head orders nothing. A claim is the cas itself, and what the
    # claim makes visible to the writer is the header (C1), never head.
    cdef uint64_t head = load_relaxed(&ring.positions.head.value)
    while True:
        # A1 pairs with R1: the writer's zeroing is over before we fill.
        used[0] = head + span - load_acquire(&ring.positions.tail.value)
        # Signed: a head that is out of date may lie behind tail; then the cas
        # fails and tells the new one.
        if <int64_t>used[0] > <int64_t>limit:
            return NULL
        if cas_relaxed(&ring.positions.head.value, &head, head + span):
            # Relaxed: for those who come after a crash, not for the writer.
            store_relaxed(&ring_at(ring, head).header, header_make(head, severity, length))
            return ring_at(ring, head)


cdef inline void ring_commit(Record *record, uint64_t flags) noexcept nogil:
    """Hand a reserved and filled record to the writer. The thread that reserved it.

    flags: TRUNCATED or 0.
    """
    # C1 pairs with P1: the bytes are there before the header. Stronger than
    # release because the producer then asks whether the writer sleeps, see
    # _backend/writer.pxd: S1.
    store_seq_cst(&record.header, COMMITTED | flags | load_relaxed(&record.header))


cdef inline uint64_t ring_peek(Ring *ring, uint64_t position) noexcept nogil:
    """The header of the record at `position`, 0 if it is not committed. Writer only."""
    cdef uint64_t header = load_acquire(&ring_at(ring, position).header)     # P1 pairs with C1
    return header if header & COMMITTED else 0


cdef inline bint ring_is_ready(Ring *ring) noexcept nogil:
    """Whether the record at tail is committed. Writer only, before it sleeps."""
    # seq_cst instead of P1: the writer stored its state just before (S2). The tail, too: a
    # producer that discards old records may have moved it.
    return load_seq_cst(&ring_at(ring, load_seq_cst(&ring.positions.tail.value)).header) & COMMITTED != 0


cdef inline void ring_zero(Ring *ring, uint64_t begin, uint64_t end) noexcept nogil:
    """Make the memory of these positions zeros; at most the whole ring."""
    cdef uint64_t offset = begin & ring.mask
    cdef uint64_t size = end - begin
    cdef uint64_t to_end = ring.capacity - offset
    if size > to_end:             # several records may reach further than the second mapping
        memset(ring.memory, 0, size - to_end)
        size = to_end
    memset(ring.memory + offset, 0, size)


cdef inline void ring_release(Ring *ring, uint64_t position) noexcept nogil:
    """Give the memory from tail up to `position` back to the producers. Writer only."""
    # Before the first byte goes: a process that is killed in the middle leaves
    # half-zeroed records, which must not be looked at. seq_cst so that no
    # compiler moves the zeroing up.
    store_seq_cst(&ring.positions.sent_pos.value, position)
    ring_zero(ring, load_relaxed(&ring.positions.tail.value), position)
    # R1 pairs with A1: zeroed before it is free. Stronger than release because
    # the writer then asks whether somebody waits for space, see _backend/writer.pxd: W1.
    store_seq_cst(&ring.positions.tail.value, position)


cdef inline bint ring_prefault(Ring *ring, uint64_t begin, uint64_t end) noexcept nogil:
    """Have the kernel put memory where these positions are: no producer waits for it then.

    Whole pages, at most the ring. Changes no byte. Any thread. False: the kernel cannot.
    """
    cdef uint64_t size
    while begin != end:
        size = min(end - begin, ring.capacity - (begin & ring.mask))
        if madvise(ring.memory + (begin & ring.mask), size, MADV_POPULATE_WRITE) != 0:
            return False
        begin += size
    return True


cdef inline uint64_t ring_used(Ring *ring) noexcept nogil:
    """Bytes taken at some moment during the call. Any thread."""
    cdef uint64_t tail = load_acquire(&ring.positions.tail.value)
    return load_relaxed(&ring.positions.head.value) - tail


cdef inline void ring_truncate(Ring *ring, uint64_t position, uint64_t length) noexcept nogil:
    """Cut a committed record to `length` bytes, fewer than it has. Writer only, before release.

    What is cut off becomes a record that is skipped.
    """
    cdef Record *record = ring_at(ring, position)
    cdef uint64_t header = load_relaxed(&record.header)
    cdef uint64_t rest = record_span(header & LENGTH_MASK) - record_span(length)
    # The rest first: who recovers the ring must find it, whenever this process ends.
    if rest:
        ring_discard(ring, position + record_span(length), rest)
    store_seq_cst(&record.header, (header & ~(LENGTH_MASK | CHECK_MASK)) | TRUNCATED
                  | header_check(position, length) | length)


cdef inline void ring_discard(Ring *ring, uint64_t position, uint64_t span) noexcept nogil:
    """Make a record of `span` bytes that is not to be sent."""
    store_seq_cst(&ring_at(ring, position).header,
                  COMMITTED | DISCARDED | header_make(position, 0, span - HEADER_SIZE))


# --- after a crash -----------------------------------------------------------------------------

cdef inline uint64_t ring_record_span(Ring *ring, uint64_t position, uint64_t end) noexcept nogil:
    """The span of the record that begins at `position`, committed or not; 0: none does."""
    cdef uint64_t header = load_acquire(&ring_at(ring, position).header)
    cdef uint64_t span = record_span(header & LENGTH_MASK)
    if header == 0 or header & CHECK_MASK != header_check(position, header & LENGTH_MASK):
        return 0
    if header & LENGTH_MASK > ring.max_length and not header & DISCARDED or span > end - position:
        return 0
    return span


cdef inline uint64_t ring_find_next(Ring *ring, uint64_t position, uint64_t end) noexcept nogil:
    """Where the next record after something that is none begins, or `end`."""
    position += RECORD_ALIGN
    while position < end and ring_record_span(ring, position, end) == 0:
        position += RECORD_ALIGN
    return position


cdef inline bint ring_recover(Ring *ring, RecoveryStats *found) noexcept nogil:
    """Make a ring that a dead process left whole: all that is not a committed record is skipped.

    False, and nothing is changed, if the positions make no sense. No thread may use the ring.
    """
    cdef uint64_t head = load_relaxed(&ring.positions.head.value)
    cdef uint64_t tail = load_relaxed(&ring.positions.tail.value)
    cdef uint64_t position = load_relaxed(&ring.positions.sent_pos.value)
    cdef uint64_t header, span, i
    memset(found, 0, sizeof(RecoveryStats))
    if ((head | tail | position) % RECORD_ALIGN or head > <uint64_t>1 << 62
            or tail > position or position > head or head - tail > ring.capacity):
        return False
    ring_zero(ring, tail, position)
    store_relaxed(&ring.positions.tail.value, position)
    i = head                      # free memory is nearly always zeros: then leave the pages be
    while i < position + ring.capacity:
        if load_relaxed(&ring_at(ring, i).header):
            store_relaxed(&ring_at(ring, i).header, 0)
        i += RECORD_ALIGN
    while position < head:
        span = ring_record_span(ring, position, head)
        if span:
            header = load_relaxed(&ring_at(ring, position).header)
            if not header & COMMITTED:
                found.unfinished += 1
                ring_discard(ring, position, span)
            elif not header & DISCARDED:
                found.records += 1
        else:
            span = ring_find_next(ring, position, head) - position
            i = position
            while i < position + span:
                if load_relaxed(&ring_at(ring, i).header):
                    found.damaged += RECORD_ALIGN
                i += RECORD_ALIGN
            ring_discard(ring, position, span)
        position += span
    return True
