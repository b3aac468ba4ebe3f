"""Records a second from the program to the lines in rsyslogd's file, against a C loop of sendto."""
from __future__ import annotations

import logging
import subprocess
from typing import TYPE_CHECKING

import pytest
from harness import Results, Sizes, call_loop, check_sink, make_handler, make_logger, markdown_table

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from pytest_benchmark.fixture import BenchmarkFixture

    from fastlog.cli.rsyslogd import Rsyslogd

    # What is timed, and the handler it uses.
    Prepared = tuple[Callable[[], object], logging.Handler | None]

NAME = "throughput"
ROUNDS = "sinks"
# The standard library waits for the daemon as long as it takes: so shall this, and lose nothing.
PATIENT = {"block_timeout": 60.0, "close_timeout": 60.0}


def prepare_c_loop(daemon: Rsyslogd, count: int, sendto_loop: Path) -> Prepared:
    command = [sendto_loop, daemon.socket, str(count)]
    return lambda: subprocess.run(command, check=True), None


def prepare_drain(daemon: Rsyslogd, count: int, sendto_loop: Path) -> Prepared:
    """All records lie in the ring when the clock starts: the writer alone."""
    handler = make_handler("fastlog", daemon.socket, capacity=1 << 26, **PATIENT)
    daemon.pause()
    call_loop(make_logger(handler), 0, count)

    def drain() -> None:
        daemon.resume()
        handler.flush()
    return drain, handler


def prepare_logger(kind: str, options: dict[str, float]) -> Callable[..., Prepared]:
    def prepare(daemon: Rsyslogd, count: int, sendto_loop: Path) -> Prepared:
        handler = make_handler(kind, daemon.socket, **options)
        log = make_logger(handler)

        def loop() -> None:
            call_loop(log, 0, count)
            handler.flush()
        return loop, handler
    return prepare


def prepare_handle(daemon: Rsyslogd, count: int, sendto_loop: Path) -> Prepared:
    """The stock Logger's own cost left out: one record, given new arguments each time."""
    handler = make_handler("fastlog", daemon.socket, **PATIENT)
    record = logging.LogRecord("bench", logging.INFO, __file__, 1, "call some_func %d from %s",
                               (), None)

    def loop() -> None:
        for i in range(count):
            record.args = (i, "w")
            handler.handle(record)
        handler.flush()
    return loop, handler


WAYS: dict[str, Callable[..., Prepared]] = {
    "C sendto": prepare_c_loop,
    "fastlog drain": prepare_drain,
    "fastlog handle": prepare_handle,
    "fastlog Logger": prepare_logger("fastlog", PATIENT),
    "stdlib Logger": prepare_logger("stdlib", {}),
}
CASES = list(WAYS)


@pytest.mark.parametrize("case", WAYS)
def test_throughput(benchmark: BenchmarkFixture, daemon: Rsyslogd, sendto_loop: Path,
                    results: Results, sizes: Sizes, repeat: int, case: str) -> None:
    """From the first record to the last line in the file."""
    run, handler = WAYS[case](daemon, sizes.records, sendto_loop)

    def whole() -> None:
        run()
        daemon.wait_for_lines(sizes.records)

    benchmark.pedantic(whole, rounds=1)
    check_sink(daemon, handler, sizes.records)
    if handler is not None:
        handler.close()
    rate = sizes.records / benchmark.stats.stats.median
    benchmark.extra_info["records_per_second"] = rate
    results.add(case, rate=rate)


def report(results: Results) -> str:
    rows = [(case, f"{results.median(case, 'rate'):,.0f}", results.ratio(case, "C sendto", "rate"),
             results.ratio(case, "stdlib Logger", "rate")) for case in CASES]
    return "# Throughput to the daemon's file\n\n" + markdown_table(
        ("", "records/s", "this / C sendto", "this / stdlib Logger"), rows)
