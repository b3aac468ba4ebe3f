"""A private rsyslogd, with its socket, configuration and log files in one directory."""
from __future__ import annotations

import os
import shutil
import socket
import subprocess
from pathlib import Path

from fastlog._daemons.daemon import Daemon, own_environment, wait_until

# The routing that many services use: one facility and tag have a file of
# their own, and everything else is written to the common file.
_CONFIGURATION = """\
global(workDirectory="{directory}" maxMessageSize="{max_message_size}")
module(load="imuxsock" SysSock.Use="off")
input(type="imuxsock" Socket="{socket}")
template(name="plain" type="string" string="%msg:2:$%\\n")
if $syslogfacility-text == "local0" and $programname == "ServerLog" then {{
    action(type="omfile" file="{server_log}" template="plain")
    stop
}}
action(type="omfile" file="{rest_log}")
"""


def find_rsyslogd() -> str | None:
    """Return the path of rsyslogd, or None if it is not installed.

    The PATH of ordinary users does not contain its directory.
    """
    return shutil.which("rsyslogd", path=os.environ.get("PATH", "") + ":/usr/sbin:/sbin")


class Rsyslogd(Daemon):
    """rsyslogd as a context manager.

    directory: an existing directory for the socket and all files. Its path must be short, because
        the path of a socket has at most 107 bytes.
    max_message_size: rsyslog's maxMessageSize. rsyslogd truncates longer messages.
    configuration: the contents of rsyslog.conf, a format string with the same fields as
        _CONFIGURATION.

    Attributes: the paths `socket`, `server_log` (facility local0 with tag ServerLog) and
    `rest_log` (all other records).
    """

    def __init__(self, directory: str | os.PathLike[str], max_message_size: str = "8k",
                 configuration: str = _CONFIGURATION) -> None:
        super().__init__("rsyslogd")
        self.directory = Path(directory)
        self.socket = str(self.directory / "log")
        self.server_log = self.directory / "server.log"
        self.rest_log = self.directory / "rest.log"
        (self.directory / "rsyslog.conf").write_text(configuration.format(
            directory=self.directory, socket=self.socket, server_log=self.server_log,
            rest_log=self.rest_log, max_message_size=max_message_size))

    def start(self) -> None:
        """Start the daemon and wait until it listens."""
        program = find_rsyslogd()
        if program is None:
            raise FileNotFoundError("rsyslogd is not installed")
        with open(self.directory / "rsyslogd.out", "ab") as output:
            self.process = subprocess.Popen(
                [program, "-n", "-f", str(self.directory / "rsyslog.conf"),
                 "-i", str(self.directory / "rsyslogd.pid")],
                stdin=subprocess.DEVNULL, stdout=output, stderr=output, env=own_environment())
        wait_until(self._listens, 20, f"rsyslogd, see {self.directory}/rsyslogd.out")

    def _listens(self) -> bool:
        assert self.process is not None
        if self.process.poll() is not None:
            raise RuntimeError("rsyslogd ended: "
                               + (self.directory / "rsyslogd.out").read_text(errors="replace"))
        with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as probe:
            try:
                probe.connect(self.socket)
            except OSError:
                return False
            return True


class LineCount:
    """Count the lines of a growing file, reading each byte once."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.offset = 0
        self.lines = 0

    def update(self) -> int:
        """Return the number of lines, including those written since the last call."""
        if self.path.exists():
            with open(self.path, "rb") as file:
                file.seek(self.offset)
                while chunk := file.read(1 << 20):
                    self.offset += len(chunk)
                    self.lines += chunk.count(b"\n")
        return self.lines
