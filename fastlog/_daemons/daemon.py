"""What the private daemons have in common: they are started, stalled and ended."""
from __future__ import annotations

import os
import signal
import subprocess
import time
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable

    from typing_extensions import Self


def wait_until(condition: Callable[[], bool], timeout: float, what: str) -> None:
    """Return as soon as the condition holds; TimeoutError after `timeout` seconds."""
    deadline = time.monotonic() + timeout
    while not condition():
        if time.monotonic() > deadline:
            raise TimeoutError(f"waited {timeout} s for {what}")
        time.sleep(0.005)


def own_environment() -> dict[str, str]:
    """A daemon's: without a library that was put into this Python, as a sanitizer's is."""
    return {name: value for name, value in os.environ.items() if name != "LD_PRELOAD"}


class Daemon:
    """A daemon's process, as a context manager. A subclass has start()."""

    def __init__(self, name: str) -> None:
        self.name = name
        self.process: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        """Start the daemon and wait until it listens."""
        raise NotImplementedError

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(self, *exc_info: object) -> None:
        self.stop()

    @property
    def pid(self) -> int:
        assert self.process is not None, f"{self.name} is not running"
        return self.process.pid

    def stop(self) -> None:
        """Let it write what it has taken in, and end. Harmless if it does not run."""
        self._end(signal.SIGTERM)

    def kill(self) -> None:
        """End it at once; what it has taken in and not written is lost."""
        self._end(signal.SIGKILL)

    def _end(self, signum: int) -> None:
        if self.process is None:
            return
        self.process.send_signal(signal.SIGCONT)
        self.process.send_signal(signum)
        self.process.wait(30)
        self.process = None

    def pause(self) -> None:
        """Stop it, as a debugger would; returns when it has stopped."""
        os.kill(self.pid, signal.SIGSTOP)
        wait_until(lambda: self._state() == "T", 10, f"{self.name} to stop")

    def resume(self) -> None:
        os.kill(self.pid, signal.SIGCONT)

    def _state(self) -> str:
        stat = Path(f"/proc/{self.pid}/stat").read_text()
        return stat.rpartition(") ")[2][0]  # proc(5): the state follows the command's name
