"""A receiver of datagrams that loses none even if it is killed: `receiver.py FD LOG DELAY`.

It peeks at a datagram, writes it to the log, and only then removes it from the queue. Its socket
stays open in the process that started it. After a restart, the last datagram in the log may still
be in the queue.
"""
from __future__ import annotations

import os
import socket
import struct
import sys
import time

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterator

_LENGTH = struct.Struct("=I")
_SIZE_MAX = 1 << 18  # bytes of a datagram


def read_log(path: str) -> Iterator[bytes]:
    """Yield the datagrams in a log, without one that was only written in part."""
    with open(path, "rb") as file:
        content = file.read()
    position = 0
    while position + _LENGTH.size <= len(content):
        (size,) = _LENGTH.unpack_from(content, position)
        position += _LENGTH.size + size
        if position <= len(content):
            yield content[position - size:position]


class Log:
    """The log file. It is opened to be continued."""

    def __init__(self, path: str) -> None:
        self.last = b""
        size = 0
        if os.path.exists(path):
            for self.last in read_log(path):
                size += _LENGTH.size + len(self.last)
        self._file = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC)
        os.truncate(self._file, size)

    def add(self, data: bytes) -> None:
        os.write(self._file, _LENGTH.pack(len(data)) + data)

    def close(self) -> None:
        os.close(self._file)


def receive(listener: socket.socket, path: str, delay: float = 0.0) -> None:
    """Write datagrams to the log until the socket is shut down and empty.

    delay: seconds to sleep after each datagram.
    """
    log = Log(path)
    while data := listener.recv(_SIZE_MAX, socket.MSG_PEEK):
        if data != log.last:
            log.add(data)
        log.last = b""
        listener.recv(1)
        if delay:
            time.sleep(delay)
    log.close()


if __name__ == "__main__":
    receive(socket.socket(fileno=int(sys.argv[1])), sys.argv[2], float(sys.argv[3]))
