"""The half-sent record: on a stream, the kernel may accept only the beginning of a record.

The rest of that record must be the next bytes on the connection. While the record is in the ring,
`partial` counts the bytes that are already sent. If a producer evicts the record, its unsent rest
is copied out of the ring first: the residual. When the connection ends, a record that is still in
the ring is sent again from its first byte on the next connection, and a residual is lost.

The writer thread uses a HalfSent. Where producers evict (Writer.evicting), they use it too, and
every access is made under `tail_lock`. Only in a crash may the writer continue without the lock.
"""
from libc.stdint cimport uint64_t
from libc.stdlib cimport free, malloc
from libc.string cimport memcpy

ctypedef struct HalfSent:
    size_t partial                # bytes already sent of the next record to send
    char *residual                # unsent rest of a record that has left the ring, or NULL
    size_t residual_size          # bytes, allocated with malloc()
    size_t residual_sent          # bytes of the residual that are sent
    uint64_t residual_severity    # severity of the record that the residual is from


cdef inline bint half_sent_save(HalfSent *half_sent, const char *record, size_t length,
                                uint64_t severity) noexcept nogil:
    """Copy the unsent rest of the half-sent `record` of `length` bytes, so that it can be evicted.

    Return False, and change nothing, if memory is exhausted. Any thread that holds `tail_lock`.
    """
    cdef size_t rest = length - half_sent.partial
    cdef char *copy = <char *>malloc(rest)
    if copy == NULL:
        return False
    memcpy(copy, record + half_sent.partial, rest)
    half_sent.residual = copy
    half_sent.residual_size = rest
    half_sent.residual_sent = 0
    half_sent.residual_severity = severity
    half_sent.partial = 0
    return True


cdef inline void half_sent_free_residual(HalfSent *half_sent) noexcept nogil:
    """Free the residual, which is sent or lost. Writer thread only, under `tail_lock`."""
    free(half_sent.residual)
    half_sent.residual = NULL


cdef inline void half_sent_reset(HalfSent *half_sent) noexcept nogil:
    """Forget what the closed connection had taken. Writer thread only, under `tail_lock`.

    The caller counts a residual as lost.
    """
    half_sent.partial = 0
    half_sent_free_residual(half_sent)
