"""A private systemd-journald with its own /run in its own mount namespace. Requires root."""
from __future__ import annotations

import contextlib
import json
import os
import shutil
import subprocess
from pathlib import Path
from typing import Any

from fastlog._daemons.daemon import own_environment
from support import wait_until
from support.daemons import ControlledDaemon

# The process that keeps the namespace alive, so that a killed daemon can be restarted in it.
_HOLDER = """\
set -e
mount -t tmpfs -o size=75% tmpfs /run
mount -t tmpfs tmpfs /var/log
mkdir -p /run/systemd/journal /run/log/journal /run/systemd/journald.conf.d
test -s /etc/machine-id || systemd-machine-id-setup
printf '[Journal]\\nStorage=volatile\\nRateLimitIntervalSec=0\\nRuntimeMaxUse=8G\\n' \\
    > /run/systemd/journald.conf.d/private.conf
echo ready
exec sleep infinity
"""


def find_journald() -> str | None:
    """Return the path of systemd-journald, or None if it is not installed. It is not on PATH."""
    return shutil.which("systemd-journald", path="/lib/systemd:/usr/lib/systemd")


class Journald(ControlledDaemon):
    """A systemd-journald without a rate limit, as a context manager.

    It does not touch the machine's own journald. The constructor raises PermissionError where
    a mount namespace is not allowed.

    directory: where the daemon's output is stored.

    Attributes:
        root: the daemon's root directory, as a path outside the namespace.
        native: the path of its native socket outside the namespace.
        syslog: the path of its syslog socket outside the namespace.
        enter: the prefix of a command that runs in the namespace.
    """

    def __init__(self, directory: str | os.PathLike[str]) -> None:
        super().__init__("journald")
        self.output = Path(directory) / "journald.out"
        if find_journald() is None:
            raise FileNotFoundError("systemd-journald is not installed")
        with open(self.output, "wb") as output:
            self.holder = subprocess.Popen(["unshare", "--mount", "sh", "-c", _HOLDER],
                                           stdin=subprocess.DEVNULL, stdout=subprocess.PIPE,
                                           stderr=output)
        assert self.holder.stdout is not None
        if self.holder.stdout.readline() != b"ready\n":
            self.holder.communicate()
            raise PermissionError(self.output.read_text().strip())
        self.root = Path(f"/proc/{self.holder.pid}/root")
        self.enter = ("nsenter", f"--mount=/proc/{self.holder.pid}/ns/mnt")
        self.native = str(self.root / "run/systemd/journal/socket")
        self.syslog = str(self.root / "run/systemd/journal/dev-log")

    def start(self) -> None:
        """Start the daemon and wait until it listens."""
        program = find_journald()
        assert program is not None
        for path in self.native, self.syslog:  # left by a killed daemon
            with contextlib.suppress(FileNotFoundError):
                os.unlink(path)
        with open(self.output, "ab") as output:
            self.process = subprocess.Popen([*self.enter, program], stdin=subprocess.DEVNULL,
                                            stdout=output, stderr=output, env=own_environment())
        wait_until(lambda: os.path.exists(self.native) and os.path.exists(self.syslog), 20,
                   f"journald, see {self.output}")

    def close(self) -> None:
        """Stop the daemon and remove the namespace with all its files."""
        self.stop()
        self.holder.kill()
        self.holder.communicate()

    def __exit__(self, *exc_info: object) -> None:
        self.close()

    def journalctl(self, *arguments: str) -> str:
        """Run `journalctl` on this journal and return its output."""
        done = subprocess.run([*self.enter, "journalctl", "--no-pager", *arguments],
                              capture_output=True, text=True, check=True)
        return done.stdout

    def entries(self, ident: str) -> list[dict[str, Any]]:
        """Return the entries of a SYSLOG_IDENTIFIER as dicts of fields, oldest first.

        A value is a str, or a list of numbers if its bytes are not text, or a list of such values
        if the field occurs more than once.
        """
        lines = self.journalctl("-t", ident, "-o", "json", "--all").splitlines()
        return [json.loads(line) for line in lines]

    def wait_for_entries(self, ident: str, count: int, timeout: float = 60) -> list[dict[str, Any]]:
        """Wait until the journal contains at least `count` entries, and return all entries."""
        wait_until(lambda: len(self.entries(ident)) >= count, timeout,
                   f"{count} entries of {ident}")
        return self.entries(ident)
