"""Time single calls at a fixed rate."""
from __future__ import annotations

import time
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence


def time_paced(call: Callable[[int], object], count: int, rate: float, *,
               asleep: bool) -> list[int]:
    """Make `count` calls, one every 1/rate seconds, and return their durations in ns.

    asleep: what the process does until a call is due. True: it sleeps, like a service that waits
        for requests. Each call then starts with cold caches on a processor that was idle. False:
        it computes, like a busy service.
    In both cases the daemon is idle when a call starts, so the call of a handler that sends
    includes the cost of waking the daemon.
    """
    durations = []
    start = time.perf_counter()
    for i in range(count):
        due = start + i / rate
        while (remaining := due - time.perf_counter()) > 0:
            if asleep:
                time.sleep(remaining)
        begin = time.perf_counter_ns()
        call(i)
        durations.append(time.perf_counter_ns() - begin)
    return durations


def percentile(durations: Sequence[int], percent: float) -> int:
    """Return the nearest-rank percentile: `percent` % of the durations do not exceed it."""
    ordered = sorted(durations)
    rank = max(1, -(-len(ordered) * percent // 100))
    return ordered[int(rank) - 1]
