"""What is claimed, computed from one run: medians of the rounds' ratios, beside the goal."""
from __future__ import annotations

import statistics
from typing import TYPE_CHECKING, NamedTuple

from results import divide
from tables import STDLIB, markdown_table, spread
from workloads import (
    C_LOOP,
    COST,
    DRAIN,
    DROP_NEW,
    DROP_OLDEST,
    OURS,
    RATES,
    SPOOL,
    STALLED,
    many_name,
    paced_name,
    paced_threads_name,
)

if TYPE_CHECKING:
    from results import Results

LOGGER = "fastlog Logger"


class Claim(NamedTuple):
    """A row of the summary. goal: a bound, as "<= 3"; "": none."""

    what: str
    values: list[float]
    goal: str = ""

    def met(self) -> str:
        if not self.goal or not self.values:
            return ""
        relation, bound = self.goal.split()[:2]
        value, limit = statistics.median(self.values), float(bound)
        holds = {"<=": value <= limit, "<": value < limit, ">=": value >= limit}[relation]
        return "yes" if holds else "no"


def cost_claims(results: Results) -> list[Claim]:
    found = []
    paced = paced_name(10_000, "busy")
    for ours, goals in (LOGGER, ("<= 3", ">= 12", "")), ("fastlog", ("", "", "<= 0.8")):
        p50 = zip(results.values(paced, ours, "service", "p50"),
                  results.values(paced, "NullHandler", "service", "p50"), strict=False)
        found += [
            Claim(f"{ours} / bare `msg % args`, tight",
                  results.values(COST, ours, "times percent"), goals[0]),
            Claim(f"SysLogHandler / {ours}, tight",
                  results.ratios(COST, STDLIB, ours, "costs", "this"), goals[1]),
            Claim(f"{ours} above NullHandler, tight, µs",
                  [ns / 1000 for ns in results.values(COST, ours, "above null")], goals[2]),
            Claim(f"{ours} above NullHandler, p50 of the call, {paced}, µs",
                  [(a - b) / 1000 for a, b in p50], goals[2])]
    return found


def paced_claims(results: Results) -> list[Claim]:
    found = []
    for between in "busy", "asleep":
        name = paced_name(10_000, between)
        for ours in reversed(OURS):
            goals = (">= 30", "<= 1") if (ours, between) == (LOGGER, "busy") else ("", "")
            found += [
                Claim(f"SysLogHandler / {ours}, p50 of the call, {name}",
                      results.ratios(name, STDLIB, ours, "service", "p50"), goals[0]),
                Claim(f"{ours} / NullHandler, p99.9, {name}",
                      results.ratios(name, ours, "NullHandler", "response", "p99.9"), goals[1])]
    return found


def spool_claims(results: Results) -> list[Claim]:
    paced = paced_name(10_000, "busy")
    return [Claim(f"{SPOOL} / {LOGGER}, tight",
                  results.ratios(COST, SPOOL, LOGGER, "costs", "this"), "<= 1.1"),
            Claim(f"{SPOOL} / {LOGGER}, p50 of the call, {paced}",
                  results.ratios(paced, SPOOL, LOGGER, "service", "p50"), "<= 1.1")]


def stall_claims(results: Results) -> list[Claim]:
    """A call waits block_timeout at the most, and 50 ms that the machine may add."""
    return [Claim(f"{subject}, the longest call, {STALLED}, ms",
                  [ns / 1e6 for ns in results.values(STALLED, subject, "service", "max")], goal)
            for subject, goal in ((LOGGER, "<= 250"), (DROP_NEW, "<= 30"), (DROP_OLDEST, "<= 30"))]


def cpu_claims(results: Results) -> list[Claim]:
    return [Claim(f"{ours} / SysLogHandler, CPU a record, {paced_name(rate, 'asleep')}",
                  results.ratios(paced_name(rate, "asleep"), ours, STDLIB, "cpu"), "< 1")
            for ours in reversed(OURS) for rate in RATES]


def throughput_claims(results: Results) -> list[Claim]:
    return [Claim(f"{ours} / {C_LOOP}, records/s, {sink}",
                  results.ratios(f"throughput, {sink}", ours, C_LOOP, "rate"), ">= 0.95")
            for sink in ("rsyslogd", "journald") for ours in (DRAIN, *reversed(OURS))]


def thread_claims(results: Results) -> list[Claim]:
    found = []
    tight = {n: many_name(n) for n in (1, 4)}
    paced = {n: paced_threads_name(n) for n in (1, 4)}

    def ratio(names: dict[int, str], subject: str, *path: str) -> list[float]:
        return divide(results.values(names[4], subject, *path),
                      results.values(names[1], subject, *path))

    for ours in reversed(OURS):
        found += [
            Claim(f"{ours}, 4 threads together / 1 thread, records/s",
                  ratio(tight, ours, "rate"), ">= 1"),
            Claim(f"{ours}, 4 threads / 1 thread, p99.9, tight",
                  ratio(tight, ours, "service", "p99.9"), "<= 5"),
            Claim(f"{ours}, 4 threads / 1 thread, p99.9, 10,000 records/s together",
                  ratio(paced, ours, "service", "p99.9"), "<= 5")]
    return found


def other_claims(results: Results) -> list[Claim]:
    first, *_, last = map(str, results.sizes.memory)
    found = [Claim(f"{ours}, resident memory after {int(last):,} / after {int(first):,} records",
                   divide(results.values("memory", ours, "marks", last),
                          results.values("memory", ours, "marks", first)), "<= 1.02")
             for ours in reversed(OURS)]
    return [*found, Claim("`import fastlog` after `import logging.handlers`, ms",
                          [added for _, added in results.imports], "<= 3")]


def summary_report(results: Results) -> str:
    claims = [claim for group in (cost_claims, paced_claims, spool_claims, stall_claims, cpu_claims,
                                  throughput_claims, thread_claims, other_claims)
              for claim in group(results)]
    rows = [(claim.what, spread(claim.values), claim.goal, claim.met()) for claim in claims]
    return ("# Summary\n\nMedians of the rounds' values or ratios, and their range; each suite is "
            "one run. The other tables have the figures behind them.\n\n"
            + markdown_table(("", "measured", "goal", "met"), rows)
            + f"\n{results.where()}.\n")
