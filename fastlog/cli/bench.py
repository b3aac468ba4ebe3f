"""python -m fastlog bench: measure the cost of a logging call and check what arrives."""
from __future__ import annotations

import argparse
import contextlib
import logging
import logging.handlers
import os
import platform
import re
import statistics
import subprocess
import tempfile
import time
from array import array
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

import fastlog
from fastlog._daemons.daemon import wait_until
from fastlog._daemons.receiver import Receiver
from fastlog._daemons.rsyslogd import LineCount, Rsyslogd, find_rsyslogd
from fastlog._spool.printable import printable
from fastlog.cli.arguments import positive
from fastlog.cli.measure import percentile
from fastlog.cli.terminal import as_json

if TYPE_CHECKING:
    from typing import Any

#: The function that is timed: a logger's `info` or a substitute for it.
Info = Callable[[str, int, str], object]
Daemon = Rsyslogd | Receiver

MESSAGE = "call some_func %d from %s"
FORMAT = "%(asctime)s - %(name)s - %(levelname)s - %(message)s"
NUMBER = re.compile(r"call some_func (\d+) from ")

# The handlers take turns in each round, so that fluctuations of the machine affect all of them.
_ROUNDS = 5
_BURST = 2_000  # records, which fit in the ring even if the daemon accepts none
_TIMEOUT = 10.0  # seconds for the daemon to write the records that were logged
_PERCENTS = {"p50": 50.0, "p99": 99.0, "p99.9": 99.9, "max": 100.0}
_STDLIB = "logging.handlers.SysLogHandler"
_PERCENT = "msg % args"

# --- timing, which bench/ also uses ---------------------------------------------------------------


class Times(NamedTuple):
    """The times of each call in ns."""

    response: array[int]  # from the time when the call was due to its end
    service: array[int]   # from the start of the call to its end


def time_open_loop(info: Info, message: str, label: str, count: int, rate: float, *,
                   asleep: bool, first: int = 0) -> Times:
    """Make `count` calls. One is due every 1/rate seconds, however long the earlier ones take.

    The arguments of the message are a number, counted from `first`, and the label.

    If a call starts late because an earlier one was slow, its response time still counts from the
    time when it was due. This is how long a user waits. A closed loop does not measure it
    ("coordinated omission").

    asleep: what the process does until a call is due. True: it sleeps, like a service that waits
        for requests. False: it computes, like a busy service.
    """
    times = Times(array("q", bytes(8 * count)), array("q", bytes(8 * count)))
    clock, sleep = time.perf_counter_ns, time.sleep
    start = clock()
    for i in range(count):
        due = start + int(i * 1e9 / rate)
        while (begin := clock()) < due:
            if asleep:
                sleep((due - begin) / 1e9)
        info(message, first + i, label)
        end = clock()
        times.response[i] = end - due
        times.service[i] = end - begin
    return times


def time_tight(info: Info, message: str, label: str, count: int, first: int = 0) -> int:
    """Make `count` calls without a pause and return the total time in ns."""
    start = time.perf_counter_ns()
    for i in range(first, first + count):
        info(message, i, label)
    return time.perf_counter_ns() - start


def time_percent(message: str, label: str, count: int) -> int:
    """Time `message % args`, which every logging call includes. Return the total time in ns."""
    start = time.perf_counter_ns()
    for i in range(count):
        message % (i, label)
    return time.perf_counter_ns() - start


def machine() -> dict[str, str]:
    """Return the properties of the machine that the results depend on."""
    cpuinfo = Path("/proc/cpuinfo").read_text()
    model = re.search(r"model name\s*:\s*(.*)", cpuinfo)
    release = re.match(r"[\d.]+", platform.release())
    virtual = " of a virtual machine" if "hypervisor" in cpuinfo else ""
    facts = {
        "CPU": f"{model[1] if model else platform.machine()}, {os.cpu_count()} cores{virtual}",
        "kernel": f"{platform.system()} {release[0] if release else platform.release()}",
        "Python": f"{platform.python_implementation()} {platform.python_version()}",
    }
    program = find_rsyslogd()
    if program is not None:
        version = subprocess.run([program, "-v"], capture_output=True, text=True, check=True)
        facts["rsyslogd"] = version.stdout.split()[1]
    return {
        **facts,
        "fastlog": fastlog.__version__,
        "max_dgram_qlen": Path("/proc/sys/net/unix/max_dgram_qlen").read_text().strip(),
        "load average before": f"{os.getloadavg()[0]:.2f}",
    }


# --- the command ---------------------------------------------------------------------------------

def add_parser(commands: Any) -> None:
    parser = commands.add_parser(
        "bench", help="measure the cost of a logging call on this machine",
        description="Compare fastlog with the standard library's SysLogHandler. Both log to a "
                    "private rsyslogd, or to a small receiver if rsyslogd is not installed. The "
                    "command checks that all records arrive. It does not touch the machine's "
                    "syslog. Run it on an otherwise idle machine.")
    parser.add_argument("--rate", type=positive(float), default=10_000, metavar="N",
                        help="records per second in the fixed-rate part (default: %(default)s)")
    parser.add_argument("--seconds", type=positive(float), default=2.0, metavar="S",
                        help="duration of that part for each handler (default: %(default)s)")
    parser.add_argument("--json", action="store_true", help="print JSON instead of a table")
    parser.set_defaults(run=run)


def run(options: argparse.Namespace) -> int:
    """Run the command. Return 0 if every record arrived and in order, else 1."""
    with contextlib.ExitStack() as stack:
        subjects = [make(stack) for make in _SUBJECTS]
        for _ in range(_ROUNDS):
            for subject in subjects:
                subject.run_tight()
            for subject in subjects:
                subject.run_paced(max(1, int(options.rate * options.seconds / _ROUNDS)),
                                  options.rate)
        complete = all([subject.check() for subject in subjects])  # a list: check every subject
        facts = _summarize(subjects, options)
    print(as_json(facts) if options.json else _table(facts))
    return 0 if complete else 1


class _Subject:
    """A handler with a daemon of its own, and its measurements."""

    def __init__(self, name: str, info: Info, daemon: Daemon | None = None,
                 handler: logging.Handler | None = None) -> None:
        self.name, self.info, self.daemon, self.handler = name, info, daemon, handler
        self.tight: list[float] = []  # ns per call, one value per burst
        self.response: array[int] = array("q")
        self.service: array[int] = array("q")
        self.logged = 0
        self.arrived: int | None = None
        self.in_order: bool | None = None
        self.lines = LineCount(daemon.server_log) if daemon else None
        time_tight(info, MESSAGE, "bench", 10)  # connects, and starts the writer thread
        self._wait_for_daemon(10)

    def run_tight(self) -> None:
        if self.name == _PERCENT:
            duration = time_percent(MESSAGE, "bench", _BURST)
        else:
            duration = time_tight(self.info, MESSAGE, "bench", _BURST, self.logged)
        self.tight.append(duration / _BURST)
        self._wait_for_daemon(_BURST)

    def run_paced(self, count: int, rate: float) -> None:
        times = time_open_loop(self.info, MESSAGE, "bench", count, rate, asleep=False,
                               first=self.logged)
        self.response += times.response
        self.service += times.service
        self._wait_for_daemon(count)

    def _wait_for_daemon(self, count: int) -> None:
        """Wait until the daemon has written `count` more records.

        The next subject then has the machine to itself.
        """
        self.logged += count
        lines = self.lines
        if lines is not None and self.handler is not None:
            self.handler.flush()
            with contextlib.suppress(TimeoutError):  # check() finds missing records
                wait_until(lambda: lines.update() >= self.logged, _TIMEOUT, "the daemon")

    def check(self) -> bool:
        """Return whether the daemon's file contains each record once, in order."""
        if self.daemon is None or self.handler is None:
            return True
        self.handler.close()
        numbers = [int(n) for n in NUMBER.findall(self.daemon.server_log.read_text())]
        self.arrived = len(numbers)
        self.in_order = numbers == sorted(set(numbers))
        return self.in_order and self.arrived == self.logged


def _make_percent(stack: contextlib.ExitStack) -> _Subject:
    return _Subject(_PERCENT, lambda message, i, label: message % (i, label))


def _make_null(stack: contextlib.ExitStack) -> _Subject:
    log = logging.Logger("bench", logging.INFO)
    log.addHandler(logging.NullHandler())
    return _Subject("logging.NullHandler", log.info)


def _make(name: str, logger_class: type[logging.Logger],
          handler_class: type[logging.handlers.SysLogHandler],
          stack: contextlib.ExitStack) -> _Subject:
    # A short prefix, because the path of a socket has at most 107 bytes.
    directory = stack.enter_context(tempfile.TemporaryDirectory(prefix="fl-"))
    daemon: Daemon = Rsyslogd(directory) if find_rsyslogd() else Receiver(directory)
    stack.enter_context(daemon)
    handler = handler_class(daemon.socket, facility="local0")
    handler.ident = "ServerLog: "
    handler.setFormatter(logging.Formatter(FORMAT))
    log = logger_class("bench", logging.INFO)
    log.addHandler(handler)
    return _Subject(name, log.info, daemon, handler)


_SUBJECTS: tuple[Callable[[contextlib.ExitStack], _Subject], ...] = (
    _make_percent,
    _make_null,
    partial(_make, _STDLIB, logging.Logger, logging.handlers.SysLogHandler),
    partial(_make, "fastlog.SysLogHandler", logging.Logger, fastlog.SysLogHandler),
    partial(_make, "fastlog.SysLogHandler, fastlog.Logger", fastlog.Logger, fastlog.SysLogHandler),
)


def _summarize(subjects: list[_Subject], options: argparse.Namespace) -> dict[str, Any]:
    stdlib = next(subject for subject in subjects if subject.name == _STDLIB)
    return {
        "machine": machine(), "rate": options.rate, "seconds": options.seconds,
        "handlers": {subject.name: {
            "tight": statistics.median(subject.tight) / 1000,
            **{name: percentile(subject.response, p) / 1000 for name, p in _PERCENTS.items()},
            "service p50": percentile(subject.service, 50) / 1000,
            "stdlib / this, tight": statistics.median(
                other / this for other, this in zip(stdlib.tight, subject.tight, strict=True)),
            "stdlib / this, p50": percentile(stdlib.service, 50) / percentile(subject.service, 50),
            "logged": subject.logged, "arrived": subject.arrived, "in order": subject.in_order,
        } for subject in subjects},
    }


def _table(facts: dict[str, Any]) -> str:
    width = max(map(len, facts["handlers"]))
    columns = ("tight", *_PERCENTS, "stdlib / this, tight", "stdlib / this, p50")
    lines = [
        f"Time per log.info call in µs, in a tight loop and at {facts['rate']:,.0f} records/s.",
        "p50 to max are measured at that rate, from the time when a call was due.",
        "x tight, x p50: time of the standard library's handler divided by the time of this one.",
        "",
        " " * width + "".join(f"{name:>9}" for name in ("tight", *_PERCENTS, "x tight", "x p50"))
        + "  arrived"]
    for name, row in facts["handlers"].items():
        arrived = "" if row["arrived"] is None else (
            f"  {row['arrived']:,} of {row['logged']:,}, "
            + ("in order" if row["in order"] else "OUT OF ORDER"))
        lines.append(f"{name:{width}}" + "".join(f"{row[key]:9.2f}" for key in columns) + arrived)
    properties = ", ".join(f"{key} {value}" for key, value in facts["machine"].items())
    return "\n".join([*lines, "", f"{printable(properties)}."])
