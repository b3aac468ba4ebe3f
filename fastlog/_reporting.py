"""What a handler reports about outages and losses: lines on stderr, and records in the log."""
from __future__ import annotations

import contextlib
import logging
import os
import sys
import time

from fastlog._engine.reports import (
    collect_losses,
    connect_outcomes as connect_outcomes,
    poll_outage as poll_outage,
)
from fastlog._spool.printable import printable
from fastlog._stats import losses_by_reason, read_stats as read_stats

TYPE_CHECKING = False  # importing typing takes as long as all of fastlog
if TYPE_CHECKING:
    from fastlog._core import Engine


def warn_stderr(text: str) -> None:
    """Write a line to stderr, unless logging.raiseExceptions is off or stderr is closed."""
    if logging.raiseExceptions and sys.stderr is not None:
        with contextlib.suppress(OSError, ValueError):
            sys.stderr.write(f"fastlog: {printable(text)}\n")
            if hasattr(sys.stderr, "flush"):
                sys.stderr.flush()    # os._exit() may follow


def describe_outage(address: object, ended: bool, lost: int, error: int) -> str:
    """Return the line for an outage that began or ended, as poll_outage() returns it."""
    if ended:
        return f"{address} accepts records again" + (f"; {lost} were lost" if lost else "")
    if lost:
        return f"{address} accepts no records and the ring is full: records are being lost"
    return f"{address} cannot be reached ({os.strerror(error)}); records wait in the ring"


def loss_report(engine: Engine, during_outage: bool) -> logging.LogRecord | None:
    """Return a record that reports the losses since the last one, or None if there were none.

    Unless `during_outage`, losses are reported only once the outage has ended. The total of all
    losses is included if it differs: an earlier report may have been lost, too.
    """
    collected = collect_losses(engine, during_outage)
    if collected is None:
        return None
    counts, first, last = collected
    details = "; ".join(
        f"{reason}: " + ", ".join(f"{count} {severity}" for severity, count in losses.items())
        for reason, losses in losses_by_reason(counts).items())
    stats = read_stats(engine)
    total = stats.dropped + stats.discarded
    return logging.LogRecord(
        "fastlog", logging.WARNING, __file__, 0,
        "fastlog: %d messages lost (%s), from %s to %s%s",
        (sum(counts), details, _local_time(first), _local_time(last),
         f"; {total} in all" if total != sum(counts) else ""), None, "loss_report")


def _local_time(seconds: float) -> str:
    """Format a time as in RFC 3339, to the millisecond."""
    whole = int(seconds)
    zone = time.strftime("%z", time.localtime(whole))
    return (time.strftime("%Y-%m-%dT%H:%M:%S", time.localtime(whole))
            + f".{int((seconds - whole) * 1000):03d}{zone[:3]}:{zone[3:]}")
