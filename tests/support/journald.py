"""A private systemd-journald: a /run of its own, in a mount namespace of its own. Needs root."""
from __future__ import annotations

import contextlib
import json
import os
import shutil
import subprocess
from pathlib import Path
from typing import Any

from fastlog._daemons.daemon import own_environment, wait_until
from support.daemons import ControlledDaemon

# Holds the namespace, so that a daemon that was killed can be started again in it.
_HOLD = """\
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
    """The path of systemd-journald, which lives outside any PATH; None: not installed."""
    return shutil.which("systemd-journald", path="/lib/systemd:/usr/lib/systemd")


class Journald(ControlledDaemon):
    """systemd-journald as a context manager, without rate limit. The machine's is not touched.

    directory: where its output goes. Raises PermissionError where such a namespace is not allowed.

    Attributes: `root`, under which its files are seen from here; `native` and `syslog`, its
    sockets' paths from here; `enter`, what a command needs in front to have its /run.
    """

    def __init__(self, directory: str | os.PathLike[str]) -> None:
        super().__init__("journald")
        self.output = Path(directory) / "journald.out"
        if find_journald() is None:
            raise FileNotFoundError("systemd-journald is not installed")
        with open(self.output, "wb") as output:
            self.holder = subprocess.Popen(["unshare", "--mount", "sh", "-c", _HOLD],
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
        for path in self.native, self.syslog:     # a daemon that was killed left them
            with contextlib.suppress(FileNotFoundError):
                os.unlink(path)
        with open(self.output, "ab") as output:
            self.process = subprocess.Popen([*self.enter, program], stdin=subprocess.DEVNULL,
                                            stdout=output, stderr=output, env=own_environment())
        wait_until(lambda: os.path.exists(self.native) and os.path.exists(self.syslog), 20,
                   f"journald, see {self.output}")

    def close(self) -> None:
        """End the daemon, and with the namespace its files."""
        self.stop()
        self.holder.kill()
        self.holder.communicate()

    def __exit__(self, *exc_info: object) -> None:
        self.close()

    def journalctl(self, *arguments: str) -> str:
        """What `journalctl` says of this journal."""
        done = subprocess.run([*self.enter, "journalctl", "--no-pager", *arguments],
                              capture_output=True, text=True, check=True)
        return done.stdout

    def entries(self, ident: str) -> list[dict[str, Any]]:
        """The entries of a SYSLOG_IDENTIFIER, oldest first: a dict of fields each.

        Values are str, lists of numbers for bytes that are no text, lists for several.
        """
        lines = self.journalctl("-t", ident, "-o", "json", "--all").splitlines()
        return [json.loads(line) for line in lines]

    def wait_for_entries(self, ident: str, count: int, timeout: float = 60) -> list[dict[str, Any]]:
        """Wait until there are at least `count`."""
        wait_until(lambda: len(self.entries(ident)) >= count, timeout,
                   f"{count} entries of {ident}")
        return self.entries(ident)
