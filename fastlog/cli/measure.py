"""Timing calls: evenly paced, one by one."""
from __future__ import annotations

import time
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence


def time_paced(call: Callable[[int], object], count: int, rate: float) -> list[int]:
    """The durations in ns of `count` calls, one each 1/rate seconds.

    Between the calls the process sleeps, as a service does that waits for
    requests: the daemon gets to sleep, too, and waking it is part of the price.
    """
    durations = []
    start = time.perf_counter()
    for i in range(count):
        ahead = start + i / rate - time.perf_counter()
        if ahead > 0:
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
