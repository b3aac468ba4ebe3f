"""python -m fastlog demo: log at full speed through a real rsyslogd and show what arrived."""
from __future__ import annotations

import logging
import logging.config
import logging.handlers
import sys
import tempfile
import threading
import time
from typing import TYPE_CHECKING

import fastlog
from fastlog._daemons.receiver import Receiver
from fastlog._daemons.rsyslogd import LineCount, Rsyslogd, find_rsyslogd
from fastlog._spool.printable import printable
from fastlog.cli.arguments import positive
from fastlog.cli.measure import percentile, time_paced

if TYPE_CHECKING:
    import argparse
    from collections.abc import Callable
    from pathlib import Path
    from typing import Any

_PACED_RATE = 10_000  # records per second
# The handlers take turns, so that fluctuations of the machine affect both. Segments per handler.
_SEGMENTS = 5
_STALL_TIMEOUT = 10.0  # seconds without a new record after which the demo gives up


def add_parser(commands: Any) -> None:
    parser = commands.add_parser(
        "demo", help="log at full speed through rsyslogd and show what arrived",
        description="Start a private rsyslogd, or a small receiver if rsyslogd is not installed. "
                    "Log to it from several threads and check the file that it writes. The "
                    "command does not touch the machine's syslog.")
    parser.add_argument("--records", type=positive(int), default=200_000, metavar="N",
                        help="total number of records to log (default: %(default)s)")
    parser.add_argument("--threads", type=positive(int), default=4, metavar="N",
                        help="number of threads that log (default: %(default)s)")
    parser.set_defaults(run=run)


def run(options: argparse.Namespace) -> int:
    """Run the command. Return 0 if every record arrived and in order, else 1."""
    with tempfile.TemporaryDirectory(prefix="fastlog-") as directory, _start(directory) as daemon:
        complete = _log_and_show(daemon, options.threads, options.records)
        _compare(daemon, min(options.records, 20_000))
    return 0 if complete else 1


def _start(directory: str) -> Rsyslogd | Receiver:
    program = find_rsyslogd()
    if program is None:
        print("rsyslogd is not installed. A small receiver takes its place.")
        return Receiver(directory)
    print(f"Logging to a private {printable(program)}, which writes facility local0 with\n"
          "tag ServerLog to a separate file.")
    return Rsyslogd(directory)


def _configure(name: str, class_name: str, address: str) -> logging.Logger:
    """Return a logger that is configured by dictConfig, as in most programs."""
    logging.config.dictConfig({
        "version": 1,
        "disable_existing_loggers": False,
        "handlers": {name: {"class": class_name, "address": address, "facility": "local0"}},
        "loggers": {name: {"handlers": [name], "level": "INFO", "propagate": False}},
    })
    logger = logging.getLogger(name)
    handler = logger.handlers[0]
    assert isinstance(handler, logging.handlers.SysLogHandler)
    handler.ident = "ServerLog: "
    return logger


def _log_and_show(daemon: Rsyslogd | Receiver, threads: int, records: int) -> bool:
    logger = _configure("demo", "fastlog.SysLogHandler", daemon.socket)
    handler = logger.handlers[0]
    assert isinstance(handler, fastlog.SysLogHandler)
    shares = [records // threads + (n < records % threads) for n in range(threads)]

    def log_share(thread: int) -> None:
        for i in range(shares[thread]):
            logger.info("thread %d record %d", thread, i)

    arrived = LineCount(daemon.server_log)
    start = time.perf_counter()
    workers = [threading.Thread(target=log_share, args=(n,)) for n in range(threads)]
    for worker in workers:
        worker.start()
    _show_progress(lambda: handler.stats().submitted, arrived, records)
    for worker in workers:
        worker.join()
    duration = time.perf_counter() - start
    handler.close()

    lines = daemon.server_log.read_text().splitlines()
    problem = _check(lines, shares)
    print(f"{len(lines):,} of {records:,} records from {threads} threads are in the file")
    print(f"    after {duration:.2f} s ({records / duration:,.0f} records/s)")
    print(f"    problem: {problem}" if problem else "    order within each thread: correct")
    stats = handler.stats()
    print("Counters of the handler:")
    print(f"    submitted {stats.submitted:,} = accepted {stats.accepted:,} "
          f"+ dropped {stats.dropped:,}")
    print(f"    accepted {stats.accepted:,} = sent {stats.sent:,} + discarded {stats.discarded:,} "
          f"+ pending {stats.pending:,}")
    print(f"    wakeups {stats.wakeups:,}")
    print("Last lines of the file:")
    for line in lines[-3:]:
        print(f"    {printable(line)}")
    return problem is None


def _show_progress(submitted: Callable[[], int], arrived: LineCount, records: int) -> None:
    """Show how many records were logged and arrived, until all have arrived or none arrives.

    Without a terminal, only wait.
    """
    interactive = sys.stdout.isatty()
    count, deadline = -1, time.monotonic() + _STALL_TIMEOUT
    while count < records and time.monotonic() < deadline:
        time.sleep(0.1 if interactive else 0.01)
        previous, count = count, arrived.update()
        if count > previous:
            deadline = time.monotonic() + _STALL_TIMEOUT
        if interactive:
            bar = "#" * (40 * count // records)
            print(f"\r[{bar:<40}] logged {submitted():>9,}  arrived {count:>9,}", end="",
                  flush=True)
    if interactive:
        print()


def _check(lines: list[str], shares: list[int]) -> str | None:
    """Return a description of the first problem in the lines.

    shares: the number of records that each thread logged.

    None means that all records of each thread arrived, in order.
    """
    next_record = [0] * len(shares)
    for line in lines:
        words = line.split()
        thread, record = int(words[1]), int(words[3])
        if record != next_record[thread]:
            return f"thread {thread} has record {record} instead of {next_record[thread]}"
        next_record[thread] += 1
    if next_record != shares:
        return f"{sum(shares) - sum(next_record)} records are missing"
    return None


def _compare(daemon: Rsyslogd | Receiver, count: int) -> None:
    """Measure the standard library's handler and fastlog's in turns, and print a line for each."""
    names = ("logging.handlers.SysLogHandler", "fastlog.SysLogHandler")
    loggers = {name: _configure(name, name, daemon.socket) for name in names}
    calls: dict[str, Callable[[int], object]] = {
        name: lambda i, log=logger: log.info("call some_func %d from %s", i, "demo")  # type: ignore[misc]
        for name, logger in loggers.items()}
    durations: dict[str, list[int]] = {name: [] for name in names}
    seconds = dict.fromkeys(names, 0.0)
    for _ in range(_SEGMENTS):
        for name in names:
            share = max(1, count // _SEGMENTS)
            durations[name] += time_paced(calls[name], share, _PACED_RATE, asleep=False)
            seconds[name] += _time_tight(calls[name], share, daemon.server_log)
    print(f"Time per call in µs at {_PACED_RATE:,} records/s. Throughput of a tight loop in\n"
          "records/s, measured until all records are in the file:")
    print(f"  {'':31}{'p50':>8}{'p99':>8}{'p99.9':>9}{'max':>9}{'records/s':>11}")
    for name in names:
        columns = [percentile(durations[name], p) / 1000 for p in (50, 99, 99.9, 100)]
        print(f"  {name:31}" + "".join(f"{value:{width}.1f}" for value, width
                                       in zip(columns, (8, 8, 9, 9), strict=True))
              + f"{len(durations[name]) / seconds[name]:11,.0f}")
        loggers[name].handlers[0].close()


def _time_tight(call: Callable[[int], object], count: int, file: Path) -> float:
    """Return the seconds from the first of `count` calls until the file contains all lines."""
    _wait_until_idle(file)
    arrived = LineCount(file)
    expected = arrived.update() + count
    start = time.perf_counter()
    for i in range(count):
        call(i)
    while arrived.update() < expected and time.perf_counter() - start < 30:
        time.sleep(0.001)
    return time.perf_counter() - start


def _wait_until_idle(file: Path) -> None:
    """Wait until the file has stopped growing."""
    size = -1
    while size != (size := file.stat().st_size):
        time.sleep(0.1)
