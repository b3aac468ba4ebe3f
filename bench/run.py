"""Run the benchmarks: `python bench/run.py`. bench/README.md says what is measured, and how."""
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
from workloads import FULL, OURS, QUICK, SUITES, Workload, all_workloads

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

BENCH = Path(__file__).parent
IMPORT = """\
from time import perf_counter
a = perf_counter(); import logging.handlers
b = perf_counter(); import fastlog
c = perf_counter(); print((b - a) * 1e3, (c - b) * 1e3)"""


def parse(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--quick", action="store_true",
                        help="see that the benchmarks run; their figures mean nothing")
    parser.add_argument("--suite", action="append", choices=SUITES, default=[],
                        help="only this; can be given more than once")
    parser.add_argument("--results", type=Path,
                        help="directory to write to (default: bench/results; --quick: nowhere)")
    return parser.parse_args(arguments)


def main(arguments: Sequence[str] | None = None) -> int:
    """Returns 1 if fastlog failed, or lost or disordered a record."""
    options = parse(arguments)
    if find_rsyslogd() is None:
        print("rsyslogd is not installed")
        return 2
    journald = find_journald() is not None and os.geteuid() == 0
    if not journald:
        print("without journald, which needs systemd and root")
    sizes = QUICK if options.quick else FULL
    suites = options.suite or list(SUITES)
    results = Results(sizes)
    problems: list[str] = []
    with directory_for(options) as directory, tempfile.TemporaryDirectory() as programs:
        for suite in suites:
            workloads = [each for each in all_workloads(sizes)
                         if each.suite == suite and (journald or each.sink != "journald")]
            started = time.monotonic()
            if suite == "imports":
                results.imports = [time_import() for _ in range(sizes.imports)]
            for workload, subject, number in turns(workloads):
                row = measure(Measurement(workload, subject, sizes, Path(programs)))
                results.add(workload.name, subject, row)
                say(f"{suite} {number + 1}: {workload.name}: {subject}")
                problems += find_problems(workload, subject, row)
            write(results, suite, workloads, directory)
            say(f"{suite}: {time.monotonic() - started:.0f} s\n")
        if set(suites) == set(SUITES):
            charts.draw_all(results, directory)
        for path in sorted(directory.glob("*.json")):      # of the suites that were not run now
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


def turns(workloads: list[Workload]) -> Iterator[tuple[Workload, str, int]]:
    """Round by round, in each workload handler by handler; another begins in each round."""
    for number in range(max((workload.rounds for workload in workloads), default=0)):
        for workload in workloads:
            if number < workload.rounds:
                first = number % len(workload.subjects)
                for subject in workload.subjects[first:] + workload.subjects[:first]:
                    yield workload, subject, number


def measure(measurement: Measurement) -> dict[str, Any]:
    try:
        return measurement.run()
    except (OSError, RuntimeError, subprocess.SubprocessError, AssertionError) as error:
        return {"failed": f"{type(error).__name__}: {error}"}


def find_problems(workload: Workload, subject: str, row: dict[str, Any]) -> list[str]:
    """What must not be: others may lose records, we may not."""
    if not subject.startswith(OURS[0]):
        return []
    # A daemon that ends may take with it what lay in its socket's queue.
    lossless = workload.trouble != "restart"
    # Where the ring is filled on purpose, what is missing must be what the handler says is lost.
    lost = row.get("dropped", 0) if workload.kind == "run_stalled" else 0
    found = {"failed": row.get("failed"),
             "missing": row.get("missing", 0) - lost if lossless else 0,
             "disorder": row.get("disorder")}
    return [f"{workload.name}: {subject}: {key}: {value}" for key, value in found.items() if value]


def time_import() -> tuple[float, float]:
    """The ms of `import logging.handlers`, and then of `import fastlog`, in a new process."""
    done = subprocess.run([sys.executable, "-P" if sys.version_info >= (3, 11) else "-I", "-c",
                           IMPORT], capture_output=True, text=True, check=True)
    first, second = done.stdout.split()
    return float(first), float(second)


def write(results: Results, suite: str, workloads: list[Workload], directory: Path) -> None:
    report = suite_report(results, suite, workloads) if workloads else imports_report(results)
    (directory / f"{suite}.md").write_text(report)
    results.write(directory / f"{suite}.json", [workload.name for workload in workloads])
    print(report, flush=True)


def write_summary(results: Results, directory: Path) -> None:
    report = summary_report(results)
    (directory / "summary.md").write_text(report)
    print(report, flush=True)


def say(text: str) -> None:
    """Progress, on one line where somebody looks."""
    if sys.stderr.isatty():
        print(f"\r\033[K{text[:100]}", end="", file=sys.stderr, flush=True)


if __name__ == "__main__":
    sys.exit(main())
