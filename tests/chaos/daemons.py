"""The daemons of a chaos run, and the faults that they can have."""
from __future__ import annotations

import contextlib
import os
import signal
import socket
import subprocess
import sys
from pathlib import Path

import receiver

sys.path.append(str(Path(__file__).parents[1]))
from support import wait_until
from support.daemons import Rsyslogd

#: Datagrams in a socket's queue, which are lost with the socket: unix(7), max_dgram_qlen.
QUEUE = int(Path("/proc/sys/net/unix/max_dgram_qlen").read_text()) + 1
TIMEOUT = 60  # seconds
_DELAY = 0.002  # seconds that a slow receiver takes for a record


class SimulatedDaemon:
    """A datagram socket with a receiver process.

    Attributes:
        plain: whether records must be free of control characters.
        faults: the names of methods that disturb the daemon without losing a datagram.
        hard_faults: `faults`, and those that may lose datagrams.
        may_lose: the number of datagrams that may have been lost in the kernel.
    """

    plain = False
    faults = ("pause", "slow", "kill", "stop")
    hard_faults = (*faults, "die")

    def __init__(self, directory: Path) -> None:
        self.path = str(directory / "log")
        self.may_lose = 0
        self._log = str(directory / "received")
        self._listener: socket.socket | None = None
        self._process: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        self._listener = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        self._listener.bind(self.path)
        self._start_receiver()

    def _start_receiver(self, delay: float = 0.0) -> None:
        descriptor = self._listener.fileno()
        self._process = subprocess.Popen(
            [sys.executable, "-I", "-S", receiver.__file__, str(descriptor), self._log, str(delay)],
            pass_fds=[descriptor])

    def _kill_receiver(self) -> None:
        if self._process is not None:
            self._process.kill()
            self._process.wait(TIMEOUT)
        self._process = None

    def pause(self) -> None:
        self._process.send_signal(signal.SIGSTOP)

    def slow(self) -> None:
        self._kill_receiver()
        self._start_receiver(_DELAY)

    def kill(self) -> None:
        """Kill the receiver. Its socket stays open."""
        self._kill_receiver()

    def stop(self) -> None:
        """Stop cleanly: store all queued datagrams and close the socket. Nothing is lost."""
        os.unlink(self.path)
        self._listener.shutdown(socket.SHUT_RD)
        self._kill_receiver()
        receiver.receive(self._listener, self._log)
        self._close()

    def die(self) -> None:
        """Close the socket and lose the datagrams in its queue."""
        os.unlink(self.path)
        self._kill_receiver()
        self._close()
        self.may_lose += QUEUE

    def _close(self) -> None:
        self._listener.close()
        self._listener = None

    def recover(self) -> None:
        """Resume normal work after any fault."""
        if self._listener is None:
            self.start()
        else:
            self._kill_receiver()
            self._start_receiver()

    def finish(self) -> list[bytes]:
        """Stop and return all datagrams that arrived."""
        self.stop()
        return list(receiver.read_log(self._log))

    def close(self) -> None:
        """End the receiver process if it still runs."""
        self._kill_receiver()


class RealDaemon:
    """rsyslogd. When it ends, it loses the datagrams in its socket's queue."""

    plain = True
    faults = hard_faults = ("pause", "stop")

    _CONFIGURATION = """\
global(workDirectory="{directory}" maxMessageSize="{max_message_size}")
module(load="imuxsock" SysSock.Use="off")
input(type="imuxsock" Socket="{socket}")
template(name="wire" type="string" string="<%pri%>%rawmsg-after-pri%\\n")
action(type="omfile" file="{server_log}" template="wire")
# {rest_log}
"""
    _END = b"<13>the end"

    def __init__(self, directory: Path) -> None:
        self._daemon = Rsyslogd(directory, "64k", self._CONFIGURATION)
        self.path = self._daemon.socket
        self.may_lose = 0
        self._is_paused = False

    def start(self) -> None:
        self._daemon.start()

    def pause(self) -> None:
        self._daemon.pause()
        self._is_paused = True

    def stop(self) -> None:
        self._daemon.stop()
        self.may_lose += QUEUE

    def recover(self) -> None:
        if self._is_paused:
            self._daemon.resume()
            self._is_paused = False
        elif self._daemon.process is None:
            self.start()

    def _lines(self) -> list[bytes]:
        with contextlib.suppress(FileNotFoundError):
            return self._daemon.server_log.read_bytes().splitlines()
        return []

    def finish(self) -> list[bytes]:
        with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as last:
            last.connect(self.path)
            last.send(self._END)
        wait_until(lambda: self._lines()[-1:] == [self._END], TIMEOUT, "rsyslogd's last line")
        self._daemon.stop()
        return self._lines()[:-1]

    def close(self) -> None:
        self._daemon.kill()
