"""The tables of each workload, in Markdown."""
from __future__ import annotations

import statistics
from typing import TYPE_CHECKING

from worker import PERCENTILES
from workloads import ABSENT, C_LOOP, FLOORS, SETUPS, Workload

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    from results import Results

STDLIB = "SysLogHandler"
NONE = "-"  # was not measured


def markdown_table(header: Iterable[str], rows: Iterable[Iterable[str]]) -> str:
    """The first column to the left, the others to the right."""
    head = list(header)
    lines = [head, ["---", *["---:"] * (len(head) - 1)], *rows]
    return "".join(f"| {' | '.join(line)} |\n" for line in lines)


def spread(values: list[float]) -> str:
    """The median of the rounds, and their range."""
    if not values:
        return NONE
    middle = f"{statistics.median(values):.2f}"
    return middle if len(values) == 1 else f"{middle} ({min(values):.2f}-{max(values):.2f})"


def micro(ns: float | None) -> str:
    return NONE if ns is None else f"{ns / 1000:,.1f}" if ns < 1e7 else f"{ns / 1000:,.0f}"


def suite_report(results: Results, suite: str, workloads: list[Workload]) -> str:
    text = f"# {TITLES[suite]}\n\n{NOTES[suite]}\n"
    for workload in workloads:
        text += f"\n## {workload.name[0].upper()}{workload.name[1:]}\n\n"
        text += TABLES.get(workload.kind, timed_table)(results, workload)
        text += "".join(f"\n{note}\n" for note in notes(results, workload))
    names = dict.fromkeys(name for workload in workloads for name in workload.subjects)
    absent = [name for name in ABSENT if name not in names]
    text += "\nThe rows: " + "; ".join(f"*{name}*: {SETUPS[name]}" for name in names) + ".\n"
    if suite not in ("throughput", "memory"):
        text += "".join(f"\n*{name}* {ABSENT[name]}.\n" for name in absent)
    return f"{text}\n{results.where()}.\n"


def notes(results: Results, workload: Workload) -> list[str]:
    """What went wrong, and how many rounds there were."""
    found = []
    for subject in workload.subjects:
        failures = [row["failed"] for row in results.rows[workload.name][subject]
                    if "failed" in row]
        if failures:
            found.append(f"*{subject}* failed in {len(failures)} rounds: {failures[0]}.")
        disorder = sum(results.values(workload.name, subject, "disorder"))
        if disorder:
            found.append(f"*{subject}*: {disorder:,.0f} records came out of order.")
    rounds = "1 round" if workload.rounds == 1 else f"{workload.rounds} rounds"
    size = f"{workload.seconds:g} s" if workload.seconds else f"{workload.count:,} records"
    return [*found, f"{rounds} of {size}."]


def per_record(results: Results, workload: Workload, subject: str, key: str) -> float | None:
    value = results.median(workload.name, subject, key)
    return None if value is None else value / workload.count


def megabytes(results: Results, workload: Workload, subject: str, key: str) -> str:
    value = results.median(workload.name, subject, key)
    return NONE if value is None else f"{value / 1e6:,.1f}"


def missing(results: Results, workload: Workload, subject: str) -> str:
    return "" if subject in FLOORS else f"{results.missing(workload.name, subject):,.0f}"


def cpu_columns(results: Results, workload: Workload, subject: str) -> list[str]:
    """CPU a record of the process, of the daemon; the former against the standard library's."""
    return [micro(per_record(results, workload, subject, "cpu")),
            spread(results.ratios(workload.name, subject, STDLIB, "cpu")),
            micro(per_record(results, workload, subject, "daemon cpu"))]


def timed_table(results: Results, workload: Workload) -> str:
    """Response times, and what they cost."""
    tight = workload.rate == 0
    # A program that computes until the next record is due uses all of a processor anyway.
    with_cpu = tight or workload.asleep
    head = ["handler", *PERCENTILES, "max", "stdlib / this, p50 of the call"]
    head += ["CPU, process", "this / stdlib", "CPU, daemon"] if with_cpu else []
    head += ["records/s at the sink", "this / stdlib "] if tight else []
    rows = []
    for subject in workload.subjects:
        row = [subject, *times(results, workload, subject),
               spread(results.ratios(workload.name, STDLIB, subject, "service", "p50"))]
        row += cpu_columns(results, workload, subject) if with_cpu else []
        row += rate_columns(results, workload, subject, STDLIB) if tight else []
        rows.append([*row, megabytes(results, workload, subject, "peak"),
                     missing(results, workload, subject)])
    return markdown_table([*head, "memory, MB", "missing"], rows)


def stalled_table(results: Results, workload: Workload) -> str:
    """The longest calls, and whether what is missing at the sink is what the handler says."""
    rows = []
    for subject in workload.subjects:
        def median(*path: str, subject: str = subject) -> float:
            return results.median(workload.name, subject, *path) or 0.0
        rows.append([subject, f"{median('expected'):,.0f}",
                     *(micro(median("service", name)) for name in ("p50", "p99.9", "p99.99")),
                     f"{median('service', 'max') / 1e6:,.1f}",
                     f"{median('dropped'):,.0f}", f"{median('missing'):,.0f}"])
    return markdown_table(["handler", "calls", "p50", "p99.9", "p99.99", "longest, ms",
                           "lost, it says", "missing at the sink"], rows)


def times(results: Results, workload: Workload, subject: str) -> list[str]:
    """Medians of the rounds; beyond p99.9 a round has too few calls: of all rounds together."""
    found = [micro(results.median(workload.name, subject, "response", name))
             for name in ("p50", "p90", "p99", "p99.9")]
    histogram = results.together(workload.name, subject, "response")
    values = results.values(workload.name, subject, "response", "max")
    if histogram is None or not values:
        return [*found, NONE, NONE]
    # The histogram's values are rounded up, to three digits.
    return [*found, micro(min(histogram.get_value_at_percentile(99.99), max(values))),
            micro(max(values))]


def rate_columns(results: Results, workload: Workload, subject: str, base: str) -> list[str]:
    rate = results.median(workload.name, subject, "rate")
    if rate is None or subject in FLOORS:
        return [NONE, NONE]
    return [f"{rate:,.0f}", spread(results.ratios(workload.name, subject, base, "rate"))]


def cost_table(results: Results, workload: Workload) -> str:
    """Of bursts with the floors in turns, in the same process."""
    rows = []
    for subject in workload.subjects:
        above = [ns / 1000 for ns in results.values(workload.name, subject, "above null")]
        rows.append([
            subject,
            *(micro2(results.median(workload.name, subject, "costs", key))
              for key in ("this", "null", "percent")),
            spread(results.values(workload.name, subject, "times percent")), spread(above),
            spread(results.ratios(workload.name, STDLIB, subject, "costs", "this")),
            missing(results, workload, subject)])
    return markdown_table(("handler", "a call", "NullHandler", "bare %", "this / bare %",
                           "above NullHandler", "stdlib / this", "missing"), rows)


def micro2(ns: float | None) -> str:
    return NONE if ns is None else f"{ns / 1000:.2f}"


def throughput_table(results: Results, workload: Workload) -> str:
    rows = [[subject, *rate_columns(results, workload, subject, C_LOOP),
             rate_columns(results, workload, subject, STDLIB)[1],
             *cpu_columns(results, workload, subject), missing(results, workload, subject)]
            for subject in workload.subjects]
    return markdown_table(("", "records/s", "this / C sendto", "this / stdlib", "CPU, process",
                           "this / stdlib ", "CPU, daemon", "missing"), rows)


def memory_table(results: Results, workload: Workload) -> str:
    marks = list(map(str, workload.marks))
    rows = [[subject, megabytes(results, workload, subject, "resident before"),
             *(mark_megabytes(results, workload, subject, mark) for mark in marks),
             missing(results, workload, subject)] for subject in workload.subjects]
    return markdown_table(("resident, MB, after records:", "0",
                           *(f"{int(mark):,}" for mark in marks), "missing"), rows)


def mark_megabytes(results: Results, workload: Workload, subject: str, mark: str) -> str:
    value = results.median(workload.name, subject, "marks", mark)
    return NONE if value is None else f"{value / 1e6:,.2f}"


def imports_report(results: Results) -> str:
    base = [first for first, _ in results.imports]
    added = [second for _, second in results.imports]
    return ("# Time of the import\n\n" + markdown_table(
        ("", "ms"), [("import logging.handlers", spread(base)),
                     ("import fastlog, after it", spread(added))])
        + f"\nMedian and range of {len(added)} processes.\n\n{results.where()}.\n")


TABLES: dict[str, Callable[[Results, Workload], str]] = {
    "run_cost": cost_table, "run_loop": throughput_table, "run_memory": memory_table,
    "run_stalled": stalled_table}

_TIMES = ("Times in µs, from the moment a record was due until its call returned; p50 to p99.9 are "
          "medians of the rounds, p99.99 and max are of all rounds together. CPU in µs a record. "
          "stdlib: *SysLogHandler*.")
TITLES = {
    "cost": "Cost of a logging call in a tight loop",
    "paced": "Records that come at a rate",
    "threads": "Several threads",
    "trouble": "A daemon in trouble",
    "messages": "Short and long messages, with and without the time",
    "sinks": "journald, and a sink that only counts",
    "throughput": "Throughput against a C loop",
    "memory": "Memory over ten million records",
}
NOTES = {
    "cost": "µs a call, in bursts; bare %, a NullHandler and the handler take turns in one "
            "process, the daemon is idle when a burst begins.",
    **dict.fromkeys(("paced", "threads", "trouble", "messages", "sinks"), _TIMES),
    "throughput": "From the first record until the last one has arrived. CPU in µs a record.",
    "memory": "One process logs in a tight loop to the C sink.",
}
