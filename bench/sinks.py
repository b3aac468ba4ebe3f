"""The daemons that records are sent to, each private, and what arrived there."""
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

from fastlog._daemons.rsyslogd import (
    LineCount,
    Rsyslogd,
    find_rsyslogd as find_rsyslogd,
    wait_until,
)

sys.path.append(str(Path(__file__).parents[1] / "tests"))
from support.journald import Journald, find_journald as find_journald

# A record's number, and the number of the thread that logged it.
RECORD = re.compile(r"call some_func (\d+) from w(\d+)")

# The one of fastlog._daemons.rsyslogd, for records of RFC 5424: imuxsock's own parser knows only
# what the C library's syslog(3) sends.
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
    """What a sink has: records, and those of them that came after a later one or twice."""

    count: int
    disorder: int


def check(text: str) -> Arrived:
    """Count the records in a sink's text and look at the order of each thread's."""
    count = disorder = 0
    last: dict[str, int] = {}
    for number, thread in RECORD.findall(text):
        count += 1
        disorder += int(number) <= last.get(thread, -1)
        last[thread] = max(int(number), last.get(thread, -1))
    return Arrived(count, disorder)


def cpu_seconds(pid: int) -> float:
    """CPU time of a process, to the nanosecond: schedstat, where stat counts in 10 ms."""
    tasks = Path(f"/proc/{pid}/task").glob("*/schedstat")
    return sum(int(task.read_text().split()[0]) for task in tasks) / 1e9


def compile_c(source: Path, directory: Path) -> Path:
    program = directory / source.stem
    if not program.exists():
        compiler = shutil.which("cc") or shutil.which("gcc")
        if compiler is None:
            raise FileNotFoundError("no C compiler")
        subprocess.run([compiler, "-O2", "-Wall", "-Wextra", "-o", program, source], check=True)
    return program


class Sink:
    """A daemon under `directory`. Subclasses say how it runs and what it has."""

    address: str
    enter: tuple[str, ...] = ()  # what a command needs in front to see the daemon

    @property
    def pid(self) -> int:
        raise NotImplementedError

    def stop(self) -> None:
        """Let it write what it has taken in, and end."""
        raise NotImplementedError

    def seen(self) -> int | None:
        """The records that it has written by now; None: it cannot tell while it runs."""
        return None

    def arrived(self) -> Arrived:
        """Asked before stop()."""
        raise NotImplementedError

    def pause(self) -> None:
        os.kill(self.pid, signal.SIGSTOP)
        wait_until(lambda: self._state() == "T", 10, "the daemon to stop")

    def resume(self) -> None:
        os.kill(self.pid, signal.SIGCONT)

    def restart(self, gap: float) -> None:
        raise NotImplementedError

    def _state(self) -> str:
        stat = Path(f"/proc/{self.pid}/stat").read_text()
        return stat.rpartition(") ")[2][0]  # proc(5): the state follows the command's name


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
    """sink.c, which counts and keeps nothing: what a daemon costs that does no work."""

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
        told = json.loads(output)
        assert (told["received"], told["disorder"]) == self.arrived(), told

    def seen(self) -> int:
        return self.arrived().count

    def arrived(self) -> Arrived:
        return Arrived(*self._FIELDS.unpack_from(self.counters))


class JournaldSink(Sink):
    """systemd-journald with a /run of its own. Needs root."""

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
        # Under any identifier: journald takes RFC 5424's header for text.
        return check(self.daemon.journalctl("-o", "cat"))
