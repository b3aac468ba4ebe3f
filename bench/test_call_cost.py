"""What a logging call costs the thread that makes it, and the program and the daemon around it."""
from __future__ import annotations

import logging
import time
from typing import TYPE_CHECKING

import pytest
from harness import (
    Results,
    Sizes,
    call_loop,
    check_sink,
    cpu_seconds,
    make_handler,
    make_logger,
    markdown_table,
)
from hdrh.histogram import HdrHistogram

from fastlog.cli.measure import time_paced

if TYPE_CHECKING:
    from collections.abc import Callable

    from pytest_benchmark.fixture import BenchmarkFixture

    from fastlog.cli.rsyslogd import Rsyslogd

NAME = "call_cost"
ROUNDS = "repeats"
HANDLERS = ("null", "stdlib", "fastlog")
PACES = (1_000, 10_000)
BETWEEN = {"busy": False, "asleep": True}  # what the program does between two records
CASES = [*(f"tight {case}" for case in HANDLERS),
         *(f"{pace} {between} {case}" for pace in PACES for between in BETWEEN
           for case in HANDLERS)]

PERCENTILES = {"p50": 50.0, "p90": 90.0, "p99": 99.0, "p99.9": 99.9}


@pytest.mark.parametrize("case", HANDLERS)
def test_tight(benchmark: BenchmarkFixture, daemon: Rsyslogd, results: Results, sizes: Sizes,
               repeat: int, case: str) -> None:
    """Bursts without a pause that fit fastlog's ring; each starts with an idle daemon."""
    handler = make_handler(case, daemon.socket)
    log = make_logger(handler)
    logged = 0

    def settle() -> tuple[tuple[logging.Logger, int, int], dict[str, object]]:
        nonlocal logged
        settled(daemon, handler, logged)
        logged += sizes.burst
        return (log, logged - sizes.burst, sizes.burst), {}

    benchmark.pedantic(call_loop, setup=settle, rounds=sizes.bursts, warmup_rounds=1)
    settled(daemon, handler, logged)
    if case != "null":
        check_sink(daemon, handler, logged)
    handler.close()
    ns = benchmark.stats.stats.median / sizes.burst * 1e9
    benchmark.extra_info["ns_per_call"] = ns
    results.add(f"tight {case}", mean=ns)


def settled(daemon: Rsyslogd, handler: logging.Handler, count: int) -> None:
    handler.flush()
    if not isinstance(handler, logging.NullHandler):
        daemon.wait_for_lines(count)


class Subject:
    """A handler under a clock, with a daemon of its own, and what was measured of it."""

    def __init__(self, case: str, start_daemon: Callable[[], Rsyslogd]) -> None:
        self.daemon = None if case == "null" else start_daemon()
        self.handler = make_handler(case, self.daemon.socket if self.daemon else "")
        self.log = make_logger(self.handler)
        self.times: list[int] = []
        self.cpu = self.daemon_cpu = 0.0
        self.logged = 10
        call_loop(self.log, 0, self.logged)  # connect, start the thread
        self.settle()

    def settle(self) -> None:
        self.handler.flush()
        if self.daemon:
            self.daemon.wait_for_lines(self.logged)

    def run(self, count: int, pace: int, asleep: bool) -> None:
        log, first = self.log, self.logged
        daemon_before = cpu_seconds(self.daemon.pid) if self.daemon else 0.0
        before = time.process_time()
        self.times += time_paced(lambda i: log.info("call some_func %d from %s", first + i, "w"),
                                 count, pace, asleep=asleep)
        self.handler.flush()
        self.cpu += time.process_time() - before
        self.logged += count
        self.settle()
        if self.daemon:
            self.daemon_cpu += cpu_seconds(self.daemon.pid) - daemon_before


@pytest.mark.parametrize("between", BETWEEN)
@pytest.mark.parametrize("pace", PACES)
def test_paced(start_daemon: Callable[[], Rsyslogd], results: Results, sizes: Sizes, repeat: int,
               pace: int, between: str) -> None:
    """A record at each tick of a clock, and an idle daemon each time; the handlers in turns.

    The turns are short because a virtual machine's speed changes by the second.
    """
    subjects = {case: Subject(case, start_daemon) for case in HANDLERS}
    turns = int(sizes.seconds * 10)
    for _ in range(turns):
        for subject in subjects.values():
            subject.run(pace // 10, pace, BETWEEN[between])
    for case, subject in subjects.items():
        if subject.daemon:
            check_sink(subject.daemon, subject.handler, subject.logged)
        subject.handler.close()
        count = len(subject.times)
        results.add(f"{pace} {between} {case}", **distribution(subject.times),
                    mean=sum(subject.times) / count, cpu=subject.cpu / count * 1e9,
                    daemon_cpu=subject.daemon_cpu / count * 1e9)


def new_histogram() -> HdrHistogram:
    return HdrHistogram(1, 100 * 10**9, 3)  # ns; three digits of precision


def distribution(times: list[int]) -> dict[str, float | str]:
    """The percentiles of one segment, and all of it, to be added to other segments' later."""
    histogram = new_histogram()
    for ns in times:
        histogram.record_value(ns)
    found = {name: histogram.get_value_at_percentile(p) for name, p in PERCENTILES.items()}
    return {**found, "max": max(times), "histogram": histogram.encode().decode()}


def report(results: Results) -> str:
    text = "# Cost of a logging call\n\n## Tight loop\n\n" + markdown_table(
        ("handler", "µs a call", "stdlib / this"),
        [(case, micro(results.median(f"tight {case}", "mean")),
          results.ratio("tight stdlib", f"tight {case}", "mean")) for case in HANDLERS])
    for pace in PACES:
        for between in BETWEEN:
            text += (f"\n## {pace:,} records/s, {between} in between\n\nTime of a call in µs:\n\n"
                     + latency_table(results, f"{pace} {between}"))
        text += "\nCPU in µs a record:\n\n" + cpu_table(results, f"{pace} asleep")
    return text


def latency_table(results: Results, pace: str) -> str:
    medians = ("mean", *PERCENTILES)
    rows = []
    for case in HANDLERS:
        key = f"{pace} {case}"
        together = new_histogram()
        for histogram in results.values(key, "histogram"):
            together.decode_and_add(histogram)
        rows.append((case, *(micro(results.median(key, name)) for name in medians),
                     micro(together.get_value_at_percentile(99.99)),
                     micro(max(results.values(key, "max")))))
    ratios = [results.ratio(f"{pace} stdlib", f"{pace} fastlog", name) for name in medians]
    rows.append(("stdlib / fastlog", *ratios, "", ""))
    return markdown_table(("handler", *medians, "p99.99 of all", "max of all"), rows)


def cpu_table(results: Results, pace: str) -> str:
    rows = []
    for case in HANDLERS:
        key = f"{pace} {case}"
        rows.append((case, micro(results.median(key, "cpu")),
                     results.ratio(key, f"{pace} stdlib", "cpu"),
                     micro(results.median(key, "daemon_cpu"))))
    return markdown_table(("handler", "the program, writer thread included", "this / stdlib",
                           "rsyslogd"), rows)


def micro(ns: float) -> str:
    return f"{ns / 1000:.1f}"
