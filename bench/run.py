"""Run the benchmarks. bench/README.md explains what they measure and how."""
from __future__ import annotations

import argparse
import contextlib
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

import charts
from measurement import Measurement
from results import Results
from sinks import find_journald, find_rsyslogd
from summary import summary_report
from tables import imports_report, suite_report
from workloads import FULL, QUICK, SUITES, Workload, all_workloads

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

BENCH = Path(__file__).parent
IMPORT = """\
from time import perf_counter
start = perf_counter(); import logging.handlers
logging_end = perf_counter(); import fastlog
end = perf_counter(); print((logging_end - start) * 1e3, (end - logging_end) * 1e3)"""


def parse(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--quick", action="store_true",
                        help="only check that the benchmarks run (the figures mean nothing)")
    parser.add_argument("--suite", action="append", choices=SUITES, default=[],
                        help="run only this suite (can be given more than once)")
    parser.add_argument("--results", type=Path,
                        help="directory for the results (default: bench/results, none if --quick)")
    return parser.parse_args(arguments)


def main(arguments: Sequence[str] | None = None) -> int:
    """Return 1 if fastlog failed, lost records or changed their order, and 2 without rsyslogd."""
    options = parse(arguments)
    if find_rsyslogd() is None:
        print("rsyslogd is not installed")
        return 2
    journald = find_journald() is not None and os.geteuid() == 0
    if not journald:
        print("skipping journald, which requires systemd-journald and root")
    sizes = QUICK if options.quick else FULL
    suites = options.suite or list(SUITES)
    results = Results(sizes)
    problems: list[str] = []
    with directory_for(options) as directory, tempfile.TemporaryDirectory() as programs:
        for suite in suites:
            workloads = [workload for workload in all_workloads(sizes) if workload.suite == suite
                         and (journald or workload.sink != "journald")]
            started = time.monotonic()
            if suite == "imports":
                results.imports = [time_import() for _ in range(sizes.imports)]
            for workload, subject, round_index in schedule(workloads):
                row = measure(Measurement(workload, subject, sizes, Path(programs)))
                results.add(workload.name, subject, row)
                show_progress(f"{suite} {round_index + 1}: {workload.name}: {subject}")
                problems += find_problems(workload, subject, row)
            write_suite(results, suite, workloads, directory)
            show_progress(f"{suite}: {time.monotonic() - started:.0f} s\n")
        if set(suites) == set(SUITES):
            charts.draw_all(results, directory)
        for path in sorted(directory.glob("*.json")):  # add the suites that this run omitted
            results.read(path)
        write_summary(results, directory)
    print(*problems, sep="\n")
    return 1 if problems else 0


@contextlib.contextmanager
def directory_for(options: argparse.Namespace) -> Iterator[Path]:
    if options.quick and options.results is None:
        with tempfile.TemporaryDirectory() as name:
            yield Path(name)
    else:
        directory: Path = options.results or BENCH / "results"
        directory.mkdir(parents=True, exist_ok=True)
        yield directory


def schedule(workloads: list[Workload]) -> Iterator[tuple[Workload, str, int]]:
    """Yield each workload, subject and round, round by round.

    Within a round the subjects of a workload take turns. Each round begins with another subject.
    """
    for round_index in range(max((workload.rounds for workload in workloads), default=0)):
        for workload in workloads:
            if round_index < workload.rounds:
                first = round_index % len(workload.subjects)
                for subject in workload.subjects[first:] + workload.subjects[:first]:
                    yield workload, subject, round_index


def measure(measurement: Measurement) -> dict[str, Any]:
    try:
        return measurement.run()
    except (OSError, RuntimeError, subprocess.SubprocessError, AssertionError) as error:
        return {"failed": f"{type(error).__name__}: {error}"}


def find_problems(workload: Workload, subject: str, row: dict[str, Any]) -> list[str]:
    """Return messages if fastlog failed, lost records or changed their order.

    Other subjects may do so.
    """
    if not subject.startswith("fastlog"):
        return []
    # When a daemon exits, the records in its socket's queue may be lost.
    lossless = workload.fault != "restart"
    # run_stalled fills the ring on purpose. As many records must be missing at the sink as the
    # handler counts as lost.
    lost = row.get("dropped", 0) if workload.runner == "run_stalled" else 0
    problems = {"failed": row.get("failed"),
                "missing": row.get("missing", 0) - lost if lossless else 0,
                "disorder": row.get("disorder")}
    return [f"{workload.name}: {subject}: {name}: {value}"
            for name, value in problems.items() if value]


def time_import() -> tuple[float, float]:
    """Return the ms that importing logging.handlers, and then fastlog, takes in a new process."""
    process = subprocess.run(
        [sys.executable, "-P" if sys.version_info >= (3, 11) else "-I", "-c", IMPORT],
        capture_output=True, text=True, check=True)
    logging_ms, fastlog_ms = process.stdout.split()
    return float(logging_ms), float(fastlog_ms)


def write_suite(results: Results, suite: str, workloads: list[Workload], directory: Path) -> None:
    report = suite_report(results, suite, workloads) if workloads else imports_report(results)
    (directory / f"{suite}.md").write_text(report)
    results.write(directory / f"{suite}.json", [workload.name for workload in workloads])
    print(report, flush=True)


def write_summary(results: Results, directory: Path) -> None:
    report = summary_report(results)
    (directory / "summary.md").write_text(report)
    print(report, flush=True)


def show_progress(text: str) -> None:
    """Overwrite the progress line, if stderr is a terminal."""
    if sys.stderr.isatty():
        print(f"\r\033[K{text[:100]}", end="", file=sys.stderr, flush=True)


if __name__ == "__main__":
    sys.exit(main())
