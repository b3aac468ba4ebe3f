"""The destination of an engine, from the Python objects that its options hold."""
from cpython.bytes cimport PyBytes_AS_STRING, PyBytes_GET_SIZE
from libc.string cimport memset

from fastlog._backend.destination cimport (Destination, destination_add_path, destination_set_host)


cdef inline int fill_destination(Destination *destination, tuple paths, bytes host,
                                 bytes service) except -1:
    """Make `destination` that of `paths`, or of a host. EngineOptions has checked their lengths."""
    cdef bytes path
    memset(destination, 0, sizeof(Destination))
    for path in paths:
        destination_add_path(destination, PyBytes_AS_STRING(path), PyBytes_GET_SIZE(path))
    destination_set_host(destination, PyBytes_AS_STRING(host), PyBytes_AS_STRING(service),
                         PyBytes_GET_SIZE(host) + 1, PyBytes_GET_SIZE(service) + 1)
    return 0
