"""The summary, which compares claims about speed with their goals."""
from __future__ import annotations

import statistics
from typing import TYPE_CHECKING, NamedTuple

from results import divide
from tables import STDLIB, markdown_table, median_and_range
from workloads import (
    C_LOOP,
    COST,
    DRAIN,
    DROP_NEW,
    DROP_OLDEST,
    FASTLOG,
    RATES,
    SPOOL,
    STALLED,
    long_tight_name,
    paced_name,
    paced_threads_name,
)

if TYPE_CHECKING:
    from results import Results

LOGGER = "fastlog Logger"


class Claim(NamedTuple):
    """A row of the summary."""

    text: str
    values: list[float]  # one per round
    goal: str = ""  # a bound on their median, such as "<= 3", or "" for none

    def met(self) -> str:
        if not self.goal or not self.values:
            return ""
        relation, bound = self.goal.split()[:2]
        value, limit = statistics.median(self.values), float(bound)
        is_met = {"<=": value <= limit, "<": value < limit, ">=": value >= limit}[relation]
        return "yes" if is_met else "no"


def cost_claims(results: Results) -> list[Claim]:
    claims = []
    paced = paced_name(10_000, "busy")
    for subject, goals in (LOGGER, ("<= 3", ">= 12", "")), ("fastlog", ("", "", "<= 0.8")):
        p50 = zip(results.values(paced, subject, "service", "p50"),
                  results.values(paced, "NullHandler", "service", "p50"), strict=False)
        claims += [
            Claim(f"{subject} / bare `msg % args`, tight",
                  results.values(COST, subject, "times percent"), goals[0]),
            Claim(f"SysLogHandler / {subject}, tight",
                  results.ratios(COST, STDLIB, subject, "costs", "this"), goals[1]),
            Claim(f"{subject} above NullHandler, tight, µs",
                  [ns / 1000 for ns in results.values(COST, subject, "above null")], goals[2]),
            Claim(f"{subject} above NullHandler, p50 of the call, {paced}, µs",
                  [(this - null) / 1000 for this, null in p50], goals[2])]
    return claims


def paced_claims(results: Results) -> list[Claim]:
    claims = []
    for between in "busy", "asleep":
        name = paced_name(10_000, between)
        for subject in reversed(FASTLOG):
            goals = (">= 30", "<= 1") if (subject, between) == (LOGGER, "busy") else ("", "")
            claims += [
                Claim(f"SysLogHandler / {subject}, p50 of the call, {name}",
                      results.ratios(name, STDLIB, subject, "service", "p50"), goals[0]),
                Claim(f"{subject} / NullHandler, p99.9, {name}",
                      results.ratios(name, subject, "NullHandler", "response", "p99.9"), goals[1])]
    return claims


def spool_claims(results: Results) -> list[Claim]:
    paced = paced_name(10_000, "busy")
    return [Claim(f"{SPOOL} / {LOGGER}, tight",
                  results.ratios(COST, SPOOL, LOGGER, "costs", "this"), "<= 1.1"),
            Claim(f"{SPOOL} / {LOGGER}, p50 of the call, {paced}",
                  results.ratios(paced, SPOOL, LOGGER, "service", "p50"), "<= 1.1")]


def stall_claims(results: Results) -> list[Claim]:
    """Check the longest call, which may take block_timeout and 50 ms for the machine's delays."""
    return [Claim(f"{subject}, the longest call, {STALLED}, ms",
                  [ns / 1e6 for ns in results.values(STALLED, subject, "service", "max")], goal)
            for subject, goal in ((LOGGER, "<= 250"), (DROP_NEW, "<= 30"), (DROP_OLDEST, "<= 30"))]


def cpu_claims(results: Results) -> list[Claim]:
    return [Claim(f"{subject} / SysLogHandler, CPU a record, {paced_name(rate, 'asleep')}",
                  results.ratios(paced_name(rate, "asleep"), subject, STDLIB, "cpu"), "< 1")
            for subject in reversed(FASTLOG) for rate in RATES]


def throughput_claims(results: Results) -> list[Claim]:
    return [Claim(f"{subject} / {C_LOOP}, records/s, {sink}",
                  results.ratios(f"throughput, {sink}", subject, C_LOOP, "rate"), ">= 0.95")
            for sink in ("rsyslogd", "journald") for subject in (DRAIN, *reversed(FASTLOG))]


def thread_claims(results: Results) -> list[Claim]:
    claims = []
    long_tight = {n: long_tight_name(n) for n in (1, 4)}
    paced = {n: paced_threads_name(n) for n in (1, 4)}

    def ratio(names: dict[int, str], subject: str, *path: str) -> list[float]:
        return divide(results.values(names[4], subject, *path),
                      results.values(names[1], subject, *path))

    for subject in reversed(FASTLOG):
        claims += [
            Claim(f"{subject}, 4 threads together / 1 thread, records/s",
                  ratio(long_tight, subject, "rate"), ">= 1"),
            Claim(f"{subject}, 4 threads / 1 thread, p99.9, tight",
                  ratio(long_tight, subject, "service", "p99.9"), "<= 5"),
            Claim(f"{subject}, 4 threads / 1 thread, p99.9, 10,000 records/s together",
                  ratio(paced, subject, "service", "p99.9"), "<= 5")]
    return claims


def other_claims(results: Results) -> list[Claim]:
    first, *_, last = map(str, results.sizes.memory)
    memory = f"resident memory after {int(last):,} / after {int(first):,} records"
    claims = [Claim(f"{subject}, {memory}",
                    divide(results.values("memory", subject, "marks", last),
                           results.values("memory", subject, "marks", first)), "<= 1.02")
              for subject in reversed(FASTLOG)]
    return [*claims, Claim("`import fastlog` after `import logging.handlers`, ms",
                           [fastlog_ms for _, fastlog_ms in results.imports], "<= 3")]


def summary_report(results: Results) -> str:
    claims = [claim for group in (cost_claims, paced_claims, spool_claims, stall_claims, cpu_claims,
                                  throughput_claims, thread_claims, other_claims)
              for claim in group(results)]
    rows = [(claim.text, median_and_range(claim.values), claim.goal, claim.met())
            for claim in claims]
    return ("# Summary\n\nMeasured values are medians of the rounds' values or ratios, with their "
            "range in parentheses. Each suite is one run. The other tables contain the underlying "
            "figures.\n\n"
            + markdown_table(("", "measured", "goal", "met"), rows)
            + f"\n{results.machine_text()}.\n")
