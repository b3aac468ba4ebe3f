"""The private daemons that records are sent to, and the check of what arrived there."""
from __future__ import annotations

import json
import mmap
import os
import re
import shutil
import signal
import struct
import subprocess
import sys
import time
from pathlib import Path
from typing import NamedTuple

from fastlog._daemons.rsyslogd import LineCount, find_rsyslogd as find_rsyslogd, wait_until

sys.path.append(str(Path(__file__).parents[1] / "tests"))
from support.daemons import Rsyslogd
from support.journald import Journald, find_journald as find_journald

# The number of a record, and the number of the thread that logged it.
RECORD = re.compile(r"call some_func (\d+) from w(\d+)")

# The configuration of fastlog._daemons.rsyslogd, changed to parse RFC 5424. The special parser of
# imuxsock only knows the format of the C library's syslog(3).
_RFC5424 = """\
global(workDirectory="{directory}" maxMessageSize="{max_message_size}")
module(load="imuxsock" SysSock.Use="off")
input(type="imuxsock" Socket="{socket}" UseSpecialParser="off")
template(name="plain" type="string" string="%msg%\\n")
if $syslogfacility-text == "local0" and $programname == "ServerLog" then {{
    action(type="omfile" file="{server_log}" template="plain")
    stop
}}
action(type="omfile" file="{rest_log}")
"""


class Arrived(NamedTuple):
    """The records at a sink."""

    count: int
    disorder: int  # records that arrived after a later one of their thread, or twice


def check(text: str) -> Arrived:
    """Count the records in a sink's text and check the order within each thread."""
    count = disorder = 0
    last: dict[str, int] = {}
    for number, thread in RECORD.findall(text):
        count += 1
        disorder += int(number) <= last.get(thread, -1)
        last[thread] = max(int(number), last.get(thread, -1))
    return Arrived(count, disorder)


def cpu_seconds(pid: int) -> float:
    """Return the CPU time of a process.

    /proc/PID/task/TID/schedstat counts nanoseconds, while /proc/PID/stat counts in units of 10 ms.
    """
    tasks = Path(f"/proc/{pid}/task").glob("*/schedstat")
    return sum(int(task.read_text().split()[0]) for task in tasks) / 1e9


def compile_c(source: Path, directory: Path) -> Path:
    """Compile a C program, unless the directory already contains it, and return its path."""
    program = directory / source.stem
    if not program.exists():
        compiler = shutil.which("cc") or shutil.which("gcc")
        if compiler is None:
            raise FileNotFoundError("no C compiler found: install gcc")
        subprocess.run([compiler, "-O2", "-Wall", "-Wextra", "-o", program, source], check=True)
    return program


class Sink:
    """A private daemon that receives records. Subclasses start it and read what it received."""

    address: str  # of its unix socket
    enter: tuple[str, ...] = ()  # a prefix for commands that must run in the daemon's namespace

    @property
    def pid(self) -> int:
        raise NotImplementedError

    def stop(self) -> None:
        """Stop the daemon after it has written what it received."""
        raise NotImplementedError

    def seen(self) -> int | None:
        """Return the number of records written so far, or None if it is not known yet."""
        return None

    def arrived(self) -> Arrived:
        """Return what arrived. Call it before stop()."""
        raise NotImplementedError

    def pause(self) -> None:
        """Stop the daemon with SIGSTOP and wait until it has stopped."""
        os.kill(self.pid, signal.SIGSTOP)
        wait_until(lambda: self._state() == "T", 10, "the daemon to stop")

    def resume(self) -> None:
        os.kill(self.pid, signal.SIGCONT)

    def restart(self, gap: float) -> None:
        """Stop the daemon, and start it again after `gap` seconds."""
        raise NotImplementedError

    def _state(self) -> str:
        """Return the letter of the process state in /proc/PID/stat."""
        stat = Path(f"/proc/{self.pid}/stat").read_text()
        return stat.rpartition(") ")[2][0]  # proc(5): the state follows the command name


class RsyslogdSink(Sink):
    def __init__(self, directory: Path, rfc5424: bool = False) -> None:
        self.daemon = (Rsyslogd(directory, configuration=_RFC5424) if rfc5424
                       else Rsyslogd(directory))
        self.address = self.daemon.socket
        self.lines = LineCount(self.daemon.server_log)
        self.daemon.start()

    @property
    def pid(self) -> int:
        return self.daemon.pid

    def stop(self) -> None:
        self.daemon.stop()

    def restart(self, gap: float) -> None:
        self.daemon.stop()
        time.sleep(gap)
        self.daemon.start()

    def seen(self) -> int:
        return self.lines.update()

    def arrived(self) -> Arrived:
        return check("\n".join(self.daemon.server_lines()))


class CSink(Sink):
    """sink.c, which only counts records. It shows the cost of a daemon that does no work."""

    _FIELDS = struct.Struct("=2q")  # received, disorder

    def __init__(self, directory: Path, program: Path) -> None:
        self.address = str(directory / "log")
        counters = directory / "counters"
        counters.write_bytes(bytes(mmap.PAGESIZE))
        with open(counters, "r+b") as file:
            self.counters = mmap.mmap(file.fileno(), mmap.PAGESIZE)
        self.process = subprocess.Popen([program, self.address, counters], stdout=subprocess.PIPE)
        assert self.process.stdout is not None
        if self.process.stdout.readline() != b"listening\n":
            raise RuntimeError("the C sink did not start")

    @property
    def pid(self) -> int:
        return self.process.pid

    def stop(self) -> None:
        self.process.send_signal(signal.SIGCONT)
        self.process.terminate()
        output = self.process.communicate(timeout=30)[0]
        totals = json.loads(output)
        assert (totals["received"], totals["disorder"]) == self.arrived(), totals

    def seen(self) -> int:
        return self.arrived().count

    def arrived(self) -> Arrived:
        return Arrived(*self._FIELDS.unpack_from(self.counters))


class JournaldSink(Sink):
    """systemd-journald with a private /run, which requires root."""

    def __init__(self, directory: Path) -> None:
        self.daemon = Journald(directory)
        self.daemon.start()
        self.address = "/run/systemd/journal/dev-log"
        self.enter = self.daemon.enter

    @property
    def pid(self) -> int:
        return self.daemon.pid

    def stop(self) -> None:
        self.daemon.close()

    def arrived(self) -> Arrived:
        # Read all identifiers, because journald does not parse the header of RFC 5424.
        return check(self.daemon.journalctl("-o", "cat"))
