"""What the benchmarks share: the handlers compared, the machine, the results written."""
from __future__ import annotations

import json
import logging
import logging.handlers
import os
import platform
import re
import statistics
import subprocess
from collections import defaultdict
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

import fastlog
from fastlog.cli.rsyslogd import find_rsyslogd

if TYPE_CHECKING:
    from collections.abc import Iterable
    from typing import Any

    from fastlog.cli.rsyslogd import Rsyslogd


class Sizes(NamedTuple):
    """How much is measured."""

    repeats: int    # rounds of A B C, A B C, … of the cost of a call
    sinks: int      # rounds of the throughput, which varies more from one to the next
    bursts: int     # tight bursts in a round
    burst: int      # records in a burst; must leave fastlog's ring half empty
    seconds: float  # of paced records of each handler, in turns of 0.1 s
    records: int    # records of a throughput measurement


FULL = Sizes(repeats=7, sinks=15, bursts=10, burst=5_000, seconds=2.0, records=100_000)
QUICK = Sizes(repeats=2, sinks=2, bursts=2, burst=1_000, seconds=0.2, records=5_000)


# --- the handlers and what they are given to do ------------------------------------------------

def make_handler(kind: str, socket: str, **options: object) -> logging.Handler:
    """A handler for the private daemon at `socket`. kind: "null", "stdlib" or "fastlog"."""
    if kind == "null":
        return logging.NullHandler()
    module = {"stdlib": logging.handlers, "fastlog": fastlog}[kind]
    handler = module.SysLogHandler(socket, facility="local0", **options)
    handler.ident = "ServerLog: "
    return handler


def make_logger(handler: logging.Handler) -> logging.Logger:
    log = logging.Logger("bench", logging.INFO)
    log.addHandler(handler)
    return log


def call_loop(log: logging.Logger, start: int, count: int) -> None:
    for i in range(start, start + count):
        log.info("call some_func %d from %s", i, "w")


# --- the sink ----------------------------------------------------------------------------------

def check_sink(daemon: Rsyslogd, handler: logging.Handler | None, count: int) -> None:
    """The daemon's file has every record once, in order, and fastlog's counters agree."""
    daemon.wait_for_lines(count)
    lines = daemon.server_lines()
    for i, line in enumerate(lines):
        if line != f"call some_func {i} from w":
            raise AssertionError(f"line {i} is {line!r}")
    assert len(lines) == count
    if isinstance(handler, fastlog.SysLogHandler):
        stats = handler.stats()
        assert stats.submitted == stats.accepted == stats.sent == count, stats
        assert stats.dropped == stats.discarded == stats.pending == stats.truncated == 0, stats


def cpu_seconds(pid: int) -> float:
    """CPU time of a process, to the nanosecond: schedstat, where stat counts in 10 ms."""
    tasks = Path(f"/proc/{pid}/task").glob("*/schedstat")
    return sum(int(task.read_text().split()[0]) for task in tasks) / 1e9


# --- results -----------------------------------------------------------------------------------

def machine() -> dict[str, str]:
    """What the figures depend on."""
    cpuinfo = Path("/proc/cpuinfo").read_text()
    model = re.search(r"model name\s*:\s*(.*)", cpuinfo)
    release = re.match(r"[\d.]+", platform.release())
    virtual = " of a virtual machine" if "hypervisor" in cpuinfo else ""
    rsyslogd = subprocess.run([str(find_rsyslogd()), "-v"], capture_output=True, text=True,
                              check=True).stdout
    return {
        "CPU": f"{model[1] if model else platform.machine()}, {os.cpu_count()} cores{virtual}",
        "kernel": f"{platform.system()} {release[0] if release else platform.release()}",
        "Python": f"{platform.python_implementation()} {platform.python_version()}",
        "rsyslogd": rsyslogd.split()[1],
        "fastlog": fastlog.__version__,
        "max_dgram_qlen": Path("/proc/sys/net/unix/max_dgram_qlen").read_text().strip(),
        "load average before": f"{os.getloadavg()[0]:.2f}",
    }


class Results:
    """The values of one suite: for each case one row a round, in the order of the rounds."""

    def __init__(self, sizes: Sizes, repeats: int) -> None:
        self.sizes = sizes
        self.repeats = repeats
        self.machine = machine()
        self.rows: dict[str, list[dict[str, Any]]] = defaultdict(list)

    def add(self, case: str, **values: float | str) -> None:
        self.rows[case].append(values)

    def has(self, cases: Iterable[str]) -> bool:
        """Whether all rounds of these cases were run, and none failed."""
        return all(len(self.rows[case]) == self.repeats for case in cases)

    def values(self, case: str, key: str) -> list[Any]:
        return [row[key] for row in self.rows[case]]

    def median(self, case: str, key: str) -> float:
        return statistics.median(self.values(case, key))

    def ratios(self, case: str, base: str, key: str) -> list[float]:
        """case / base, each of the same round."""
        return [a / b for a, b in zip(self.values(case, key), self.values(base, key), strict=True)]

    def ratio(self, case: str, base: str, key: str) -> str:
        """The median of the rounds' ratios, and their range."""
        found = self.ratios(case, base, key)
        return f"{statistics.median(found):.2f} ({min(found):.2f}-{max(found):.2f})"

    def write(self, directory: Path, name: str, report: str) -> str:
        """Write NAME.json and NAME.md; returns the latter."""
        directory.mkdir(parents=True, exist_ok=True)
        facts = {"machine": self.machine, "sizes": self.sizes._asdict(), "rows": self.rows}
        (directory / f"{name}.json").write_text(json.dumps(facts, indent=1) + "\n")
        where = ", ".join(f"{key} {value}" for key, value in self.machine.items())
        text = f"{report}\n{self.repeats} rounds; {where}.\n"
        (directory / f"{name}.md").write_text(text)
        return text


def markdown_table(header: Iterable[str], rows: Iterable[Iterable[str]]) -> str:
    """The first column to the left, the others to the right."""
    head = list(header)
    lines = [head, ["---", *["---:"] * (len(head) - 1)], *rows]
    return "".join(f"| {' | '.join(line)} |\n" for line in lines)
