"""The base class of the private daemons: starting and stopping a process."""
from __future__ import annotations

import os
import signal
import subprocess
import time
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable

    from typing_extensions import Self


def wait_until(condition: Callable[[], bool], timeout: float, goal: str) -> None:
    """Return as soon as the condition holds.

    goal: describes the condition in the TimeoutError that is raised after `timeout` seconds.
    """
    deadline = time.monotonic() + timeout
    while not condition():
        if time.monotonic() > deadline:
            raise TimeoutError(f"waited {timeout} s for {goal}")
        time.sleep(0.005)


def own_environment() -> dict[str, str]:
    """Return the environment for a daemon, without LD_PRELOAD.

    A sanitizer that is preloaded into this Python must not be loaded into the daemon.
    """
    return {name: value for name, value in os.environ.items() if name != "LD_PRELOAD"}


class Daemon:
    """The process of a daemon, as a context manager. Subclasses implement start()."""

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
        """Stop the daemon after it has written what it received. Do nothing if it does not run."""
        self._end(signal.SIGTERM)

    def _end(self, signum: int) -> None:
        """Send a signal that ends the process, and wait until it has ended."""
        if self.process is None:
            return
        self.process.send_signal(signal.SIGCONT)    # a stopped process handles no SIGTERM
        self.process.send_signal(signum)
        self.process.wait(30)
        self.process = None
