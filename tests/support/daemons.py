"""The private daemons of the package, with the methods that only tests need."""
from __future__ import annotations

import os
import signal
from pathlib import Path

from fastlog._daemons import rsyslogd
from fastlog._daemons.daemon import Daemon, wait_until


class ControlledDaemon(Daemon):
    """A daemon that can be paused and killed."""

    def kill(self) -> None:
        """End the daemon at once. It loses what it has received and not written."""
        self._end(signal.SIGKILL)

    def pause(self) -> None:
        """Stop the daemon with SIGSTOP, as a debugger does, and wait until it has stopped."""
        os.kill(self.pid, signal.SIGSTOP)
        wait_until(lambda: self._state() == "T", 10, f"{self.name} to stop")

    def resume(self) -> None:
        os.kill(self.pid, signal.SIGCONT)

    def _state(self) -> str:
        """Return the letter of the process state in /proc/PID/stat."""
        stat = Path(f"/proc/{self.pid}/stat").read_text()
        return stat.rpartition(") ")[2][0]  # proc(5): the state follows the command name


class Rsyslogd(ControlledDaemon, rsyslogd.Rsyslogd):
    """rsyslogd with methods to read `server_log`."""

    def server_lines(self) -> list[str]:
        """Return the lines written to `server_log` so far."""
        return self.server_log.read_text().splitlines() if self.server_log.exists() else []

    def wait_for_lines(self, count: int, timeout: float = 60) -> None:
        """Wait until `server_log` has at least `count` lines."""
        lines = rsyslogd.LineCount(self.server_log)
        wait_until(lambda: lines.update() >= count, timeout, f"{count} lines in {self.server_log}")
