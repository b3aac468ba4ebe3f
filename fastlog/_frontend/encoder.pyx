# cython: language_level=3, freethreading_compatible=True
"""Encoder, the base class of everything that a protocol puts around the text of a record."""
from fastlog._core cimport Engine
from fastlog._engine.message cimport Message
from fastlog._frontend.log_record cimport LogCall


cdef class Encoder:
    """Encodes records for one protocol. The subclasses' modules are imported when first used."""

    cdef int put(self, Engine engine, Message *message, int prefix, object ident, object append_nul,
                 unsigned int priority, bint urgent, object record, LogCall *call) except -1:
        raise NotImplementedError
