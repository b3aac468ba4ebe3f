"""A unix socket in the place of the daemon."""
from __future__ import annotations

import contextlib
import os
import socket

from support import TIMEOUT

FILLER = b"MESSAGE=filler\n"  # also valid for journald


def fill_datagram_queue(path):
    """Fill the receive queue of a socket, like that of a daemon that hangs.

    Return the number of datagrams that fitted.
    """
    count, previous = 0, -1
    # A sender's own buffer may fill up first. Then another sender continues.
    while count != previous:
        previous = count
        with (socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as sender,
              contextlib.suppress(BlockingIOError)):
            sender.setblocking(False)
            sender.connect(str(path))
            while True:
                sender.send(FILLER)
                count += 1
    return count


class Sink:
    """A unix socket that plays the daemon. It only receives when a test asks it to."""

    def __init__(self, path, kind=socket.SOCK_DGRAM):
        self.path = str(path)
        self.kind = kind
        self.connection = None
        self.buffer = memoryview(bytearray(1 << 23))  # one buffer for all datagrams, for speed
        self.bind()

    def bind(self):
        self.socket = socket.socket(socket.AF_UNIX, self.kind)
        self.socket.settimeout(TIMEOUT)
        self.socket.bind(self.path)
        if self.kind == socket.SOCK_STREAM:
            self.socket.listen()

    def hang(self, room=0):
        """Fill the queue, whatever its length, and then free `room` places in it.

        Return the number of datagrams that are left in the queue.
        """
        count = fill_datagram_queue(self.path)
        for _ in range(room):
            self.socket.recv(100)
        return count - room

    def take(self, count=1):
        """Return the next `count` datagrams, without those of hang()."""
        taken = []
        while len(taken) < count:
            datagram = bytes(self.buffer[:self.socket.recv_into(self.buffer)])
            if datagram != FILLER:
                taken.append(datagram)
        return taken

    def take_one(self):
        return self.take()[0]

    def take_bytes(self, size):
        """Return the next `size` bytes of a stream."""
        if self.connection is None:
            self.connection, _ = self.socket.accept()
            self.connection.settimeout(TIMEOUT)
        chunks = b""
        while len(chunks) < size:
            chunk = self.connection.recv(min(65536, size - len(chunks)))
            assert chunk, "the stream ended early"
            chunks += chunk
        return chunks

    def is_empty(self):
        """Return whether the socket has nothing to read at this moment."""
        self.socket.setblocking(False)
        try:
            self.socket.recv(1, socket.MSG_PEEK)
            return False
        except BlockingIOError:
            return True
        finally:
            self.socket.settimeout(TIMEOUT)

    def close(self):
        """Close the sockets and remove the path, as a daemon does when it ends."""
        # Close the listener first. Otherwise a client could connect again in between.
        for open_socket in (self.socket, self.connection):
            if open_socket is not None:
                open_socket.close()
        self.connection = None
        if not self.path.startswith("\0") and os.path.exists(self.path):
            os.unlink(self.path)
