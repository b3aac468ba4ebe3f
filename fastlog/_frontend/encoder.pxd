"""The interface between the hot path and the protocols, see _frontend/encoder.pyx."""
from fastlog._core cimport Engine
from fastlog._engine.message cimport Message
from fastlog._frontend.log_record cimport LogCall

cdef class Encoder:
    # Complete the message, which consists of an empty prefix piece and the text, and put it into
    # the engine. Return the flags of Engine.put().
    # prefix: index of the prefix piece. ident, append_nul: the handler's attributes, but an empty
    # ident may be None. record: the LogRecord, or None if `call` is the call.
    cdef int put(self, Engine engine, Message *message, int prefix, object ident, object append_nul,
                 unsigned int priority, bint urgent, object record, LogCall *call) except -1
