"""The Markdown tables of each suite."""
from __future__ import annotations

import statistics
from typing import TYPE_CHECKING

from worker import PERCENTILES
from workloads import BASELINES, C_LOOP, JOURNAL_ONLY, SETUPS, Workload

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    from results import Results

STDLIB = "SysLogHandler"
NOT_MEASURED = "-"


def markdown_table(header: Iterable[str], rows: Iterable[Iterable[str]]) -> str:
    """Return a table whose first column is aligned left and whose others are aligned right."""
    columns = list(header)
    lines = [columns, ["---", *["---:"] * (len(columns) - 1)], *rows]
    return "".join(f"| {' | '.join(line)} |\n" for line in lines)


def median_and_range(values: list[float]) -> str:
    """Return the median of the rounds and, in parentheses, their range."""
    if not values:
        return NOT_MEASURED
    median = f"{statistics.median(values):.2f}"
    return median if len(values) == 1 else f"{median} ({min(values):.2f}-{max(values):.2f})"


def to_us(ns: float | None) -> str:
    return NOT_MEASURED if ns is None else f"{ns / 1000:,.1f}" if ns < 1e7 else f"{ns / 1000:,.0f}"


def suite_report(results: Results, suite: str, workloads: list[Workload]) -> str:
    text = f"# {TITLES[suite]}\n\n{NOTES[suite]}\n"
    for workload in workloads:
        text += f"\n## {workload.name[0].upper()}{workload.name[1:]}\n\n"
        text += TABLES.get(workload.runner, timed_table)(results, workload)
        text += "".join(f"\n{note}\n" for note in workload_notes(results, workload))
    names = dict.fromkeys(name for workload in workloads for name in workload.subjects)
    text += "\nRows:\n\n" + "".join(f"- *{name}*: {SETUPS[name]}.\n" for name in names)
    absent = [f"*{name}*" for name in JOURNAL_ONLY if name not in names]
    if absent and suite not in ("throughput", "memory"):
        text += (f"\nOnly the journald tables include {', '.join(absent[:-1])} and {absent[-1]}, "
                 "which use journald's native protocol.\n")
    return f"{text}\n{results.machine_text()}.\n"


def workload_notes(results: Results, workload: Workload) -> list[str]:
    """Return notes on failures and disorder, and on the number of rounds and their size."""
    notes = []
    for subject in workload.subjects:
        failures = [row["failed"] for row in results.rows[workload.name][subject]
                    if "failed" in row]
        if failures:
            failed_rounds = "1 round" if len(failures) == 1 else f"{len(failures)} rounds"
            notes.append(f"*{subject}* failed in {failed_rounds}: {failures[0]}.")
        disorder = sum(results.values(workload.name, subject, "disorder"))
        if disorder:
            notes.append(f"*{subject}*: {disorder:,.0f} records arrived out of order.")
    rounds = "1 round" if workload.rounds == 1 else f"{workload.rounds} rounds"
    size = f"{workload.seconds:g} s" if workload.seconds else f"{workload.count:,} records"
    return [*notes, f"{rounds} of {size}."]


def per_record(results: Results, workload: Workload, subject: str, key: str) -> float | None:
    value = results.median(workload.name, subject, key)
    return None if value is None else value / workload.count


def megabytes(results: Results, workload: Workload, subject: str, key: str) -> str:
    value = results.median(workload.name, subject, key)
    return NOT_MEASURED if value is None else f"{value / 1e6:,.1f}"


def missing_count(results: Results, workload: Workload, subject: str) -> str:
    return "" if subject in BASELINES else f"{results.missing(workload.name, subject):,.0f}"


def cpu_columns(results: Results, workload: Workload, subject: str) -> list[str]:
    """Return CPU time per record: the process's, its ratio to SysLogHandler's, the daemon's."""
    return [to_us(per_record(results, workload, subject, "cpu")),
            median_and_range(results.ratios(workload.name, subject, STDLIB, "cpu")),
            to_us(per_record(results, workload, subject, "daemon cpu"))]


def timed_table(results: Results, workload: Workload) -> str:
    """Return the response times with, depending on the workload, CPU times and throughput."""
    tight = workload.rate == 0
    # A program that computes until the next record is due uses a whole processor anyway.
    with_cpu = tight or workload.asleep
    header = ["handler", *PERCENTILES, "max", "stdlib / this, p50 of the call"]
    header += ["CPU, process", "this / stdlib", "CPU, daemon"] if with_cpu else []
    header += ["records/s at the sink", "this / stdlib "] if tight else []
    rows = []
    for subject in workload.subjects:
        row = [subject, *time_columns(results, workload, subject),
               median_and_range(results.ratios(workload.name, STDLIB, subject, "service", "p50"))]
        row += cpu_columns(results, workload, subject) if with_cpu else []
        row += rate_columns(results, workload, subject, STDLIB) if tight else []
        rows.append([*row, megabytes(results, workload, subject, "peak"),
                     missing_count(results, workload, subject)])
    return markdown_table([*header, "memory, MB", "missing"], rows)


def stalled_table(results: Results, workload: Workload) -> str:
    """Compare the longest calls, and the losses that handlers report with those at the sink."""
    rows = []
    for subject in workload.subjects:
        def median(*path: str, subject: str = subject) -> float:
            return results.median(workload.name, subject, *path) or 0.0
        rows.append([subject, f"{median('expected'):,.0f}",
                     *(to_us(median("service", name)) for name in ("p50", "p99.9", "p99.99")),
                     f"{median('service', 'max') / 1e6:,.1f}",
                     f"{median('dropped'):,.0f}", f"{median('missing'):,.0f}"])
    return markdown_table(["handler", "calls", "p50", "p99.9", "p99.99", "longest, ms",
                           "reported lost", "missing at the sink"], rows)


def time_columns(results: Results, workload: Workload, subject: str) -> list[str]:
    """Return the columns of response times.

    They are medians of the rounds up to p99.9. A round has too few calls for p99.99 and the
    maximum, which are computed over all rounds together.
    """
    columns = [to_us(results.median(workload.name, subject, "response", name))
               for name in ("p50", "p90", "p99", "p99.9")]
    histogram = results.merged_histogram(workload.name, subject, "response")
    maxima = results.values(workload.name, subject, "response", "max")
    if histogram is None or not maxima:
        return [*columns, NOT_MEASURED, NOT_MEASURED]
    # The histogram's values are rounded up to three digits.
    return [*columns, to_us(min(histogram.get_value_at_percentile(99.99), max(maxima))),
            to_us(max(maxima))]


def rate_columns(results: Results, workload: Workload, subject: str, base: str) -> list[str]:
    rate = results.median(workload.name, subject, "rate")
    if rate is None or subject in BASELINES:
        return [NOT_MEASURED, NOT_MEASURED]
    return [f"{rate:,.0f}", median_and_range(results.ratios(workload.name, subject, base, "rate"))]


def cost_table(results: Results, workload: Workload) -> str:
    """Compare the bursts of the subject and of the baselines, measured in the same process."""
    rows = []
    for subject in workload.subjects:
        above = [ns / 1000 for ns in results.values(workload.name, subject, "above null")]
        rows.append([
            subject,
            *(to_us_2_digits(results.median(workload.name, subject, "costs", key))
              for key in ("this", "null", "percent")),
            median_and_range(results.values(workload.name, subject, "times percent")),
            median_and_range(above),
            median_and_range(results.ratios(workload.name, STDLIB, subject, "costs", "this")),
            missing_count(results, workload, subject)])
    return markdown_table(("handler", "this handler", "NullHandler", "bare %", "this / bare %",
                           "above NullHandler", "stdlib / this", "missing"), rows)


def to_us_2_digits(ns: float | None) -> str:
    return NOT_MEASURED if ns is None else f"{ns / 1000:.2f}"


def throughput_table(results: Results, workload: Workload) -> str:
    rows = [[subject, *rate_columns(results, workload, subject, C_LOOP),
             rate_columns(results, workload, subject, STDLIB)[1],
             *cpu_columns(results, workload, subject), missing_count(results, workload, subject)]
            for subject in workload.subjects]
    return markdown_table(("", "records/s", "this / C sendto", "this / stdlib", "CPU, process",
                           "this / stdlib ", "CPU, daemon", "missing"), rows)


def memory_table(results: Results, workload: Workload) -> str:
    marks = list(map(str, workload.marks))
    rows = [[subject, megabytes(results, workload, subject, "resident before"),
             *(mark_megabytes(results, workload, subject, mark) for mark in marks),
             missing_count(results, workload, subject)] for subject in workload.subjects]
    return markdown_table(("resident, MB, after records:", "0",
                           *(f"{int(mark):,}" for mark in marks), "missing"), rows)


def mark_megabytes(results: Results, workload: Workload, subject: str, mark: str) -> str:
    value = results.median(workload.name, subject, "marks", mark)
    return NOT_MEASURED if value is None else f"{value / 1e6:,.2f}"


def imports_report(results: Results) -> str:
    logging_ms = [logging_time for logging_time, _ in results.imports]
    fastlog_ms = [fastlog_time for _, fastlog_time in results.imports]
    return ("# Import time\n\n" + markdown_table(
        ("", "ms"), [("import logging.handlers", median_and_range(logging_ms)),
                     ("import fastlog, after it", median_and_range(fastlog_ms))])
        + f"\nMedian and range over {len(fastlog_ms)} processes.\n\n"
          f"{results.machine_text()}.\n")


TABLES: dict[str, Callable[[Results, Workload], str]] = {
    "run_cost": cost_table, "run_untimed_loop": throughput_table, "run_memory": memory_table,
    "run_stalled": stalled_table}

_TIMES = ("Times are in µs, from the moment a record was due until its call returned. p50 to p99.9 "
          "are medians of the rounds. p99.99 and max cover all rounds together. CPU is in µs per "
          "record. *stdlib* is SysLogHandler.")
TITLES = {
    "cost": "Cost of a logging call in a tight loop",
    "paced": "Records at a fixed rate",
    "threads": "Multiple threads",
    "trouble": "A stalled or restarted daemon",
    "messages": "Short and long messages, with and without asctime",
    "sinks": "journald and a sink that only counts",
    "throughput": "Throughput compared with a C loop",
    "memory": "Memory use over ten million records",
}
NOTES = {
    "cost": "µs per call, measured in bursts. Bursts of bare %, a NullHandler and this handler "
            "take turns in one process. The daemon is idle when a burst begins.",
    **dict.fromkeys(("paced", "threads", "trouble", "messages", "sinks"), _TIMES),
    "throughput": "Measured from the first record until the last one has arrived. CPU is in µs per "
                  "record.",
    "memory": "One process logs to the C sink in a tight loop.",
}
