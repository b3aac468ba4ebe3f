"""A substitute for rsyslogd where it is not installed. It writes each datagram to a file as a line.

It runs in a process of its own, as a daemon does: `python receiver.py SOCKET FILE`.
"""
from __future__ import annotations

import re
import socket
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import os


def receive(socket_path: str, file: str) -> None:
    """Write the text after `<PRI>TAG: ` of each datagram to the file, until terminated."""
    listener = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
    listener.bind(socket_path)
    print("listening", flush=True)
    header = re.compile(rb"<\d+>(?:\w+: )?")
    with open(file, "wb", buffering=0) as output:
        while True:
            datagram = listener.recv(1 << 16)
            output.write(header.sub(b"", datagram.rstrip(b"\0"), count=1) + b"\n")


class Receiver:
    """The receiver's process as a context manager.

    Attributes: the paths `socket` and `server_log`, as in Rsyslogd.
    """

    def __init__(self, directory: str | os.PathLike[str]) -> None:
        self.socket = str(Path(directory) / "log")
        self.server_log = Path(directory) / "server.log"

    def __enter__(self) -> Receiver:
        self.process = subprocess.Popen(
            [sys.executable, __file__, self.socket, str(self.server_log)], stdout=subprocess.PIPE)
        assert self.process.stdout is not None
        if not self.process.stdout.readline():
            raise RuntimeError("the receiver did not start")
        return self

    def __exit__(self, *exc_info: object) -> None:
        self.process.terminate()
        self.process.communicate()


if __name__ == "__main__":
    receive(*sys.argv[1:])
