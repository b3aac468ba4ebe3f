"""Timing calls: evenly paced, one by one."""
from __future__ import annotations

import time
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence


def time_paced(call: Callable[[int], object], count: int, rate: float, *,
               asleep: bool) -> list[int]:
    """The durations in ns of `count` calls, one each 1/rate seconds.

    asleep: what the process does in between. True: it sleeps, as a service
        that waits for requests; each call then begins with cold caches, on
        a processor that was idle. False: it is busy, as a service at work.
    Either way the daemon is idle when the call comes: waking it is part of the
    price of a handler that sends.
    """
    durations = []
    start = time.perf_counter()
    for i in range(count):
        due = start + i / rate
        while (ahead := due - time.perf_counter()) > 0:
            if asleep:
                time.sleep(ahead)
        before = time.perf_counter_ns()
        call(i)
        durations.append(time.perf_counter_ns() - before)
    return durations


def percentile(durations: Sequence[int], percent: float) -> int:
    """The smallest duration that `percent` % of all do not exceed (nearest rank)."""
    ordered = sorted(durations)
    rank = max(1, -(-len(ordered) * percent // 100))
    return ordered[int(rank) - 1]
