"""fastlog.Stats, and how it is read from an engine.

Not a typing.NamedTuple: importing typing would take longer than importing all of fastlog.
"""
from __future__ import annotations

from collections import namedtuple

from fastlog._core import LOSS_REASONS
from fastlog._engine.reports import counters

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Sequence

    from fastlog._core import Engine

#: RFC 5424 section 6.2.1, by number. The names are those of SysLogHandler.priority_names.
SEVERITIES = ("emerg", "alert", "crit", "err", "warning", "notice", "info", "debug")

Stats = namedtuple("Stats", [
    "submitted", "accepted", "sent", "dropped", "discarded", "pending", "pending_bytes",
    "high_watermark", "capacity", "truncated", "reconnects", "send_errors", "last_errno",
    "wakeups", "stalled", "losses"])
Stats.__module__ = "fastlog"
Stats.__doc__ = """\
The counters of one handler since it was created, or in a forked child since the fork.

Records found in its spool count as accepted.

`submitted == accepted + dropped` and `accepted == sent + discarded + pending`, at every moment.
"""
for _field, _doc in {
    "submitted": "Records that a logging call tried to put into the ring.",
    "accepted": "Records that were put into the ring.",
    "sent": "Records handed to the kernel.",
    "dropped": "Records refused because there was no space.",
    "discarded": "Accepted records that were given up: evicted for newer ones, or unsendable.",
    "pending": "Records in the ring at this moment.",
    "pending_bytes": "Bytes of the ring in use, record headers included.",
    "high_watermark": "The most bytes of the ring ever in use.",
    "capacity": "Size of the ring in bytes.",
    "truncated": "Records that were sent truncated.",
    "reconnects": "Connections made after the first.",
    "send_errors": "Failed connects and sends. Waiting for a slow daemon is not an error.",
    "last_errno": "The errno of the last failed connect or send, or 0.",
    "wakeups": "Wakeups of the writer by logging threads.",
    "stalled": "Whether the daemon accepts nothing, so that records without space are dropped.",
    "losses": "Dropped and discarded records: {reason: {severity: count}}. Reasons for dropped "
              "records: full, stalled, interrupted. Reasons for discarded records: evicted, "
              "unsendable.",
}.items():
    getattr(Stats, _field).__doc__ = _doc


def read_stats(engine: Engine) -> Stats:
    """Return the counters of an engine."""
    fields = counters(engine)
    fields["losses"] = losses_by_reason(fields["losses"])
    return Stats(**fields)


def losses_by_reason(counts: Sequence[int]) -> dict[str, dict[str, int]]:
    """Return the counts of reports.counters() by reason, then by severity, without zeros."""
    losses: dict[str, dict[str, int]] = {}
    for reason, number in LOSS_REASONS.items():
        begin = number * len(SEVERITIES)
        by_severity = {severity: count for severity, count
                       in zip(SEVERITIES, counts[begin:begin + len(SEVERITIES)], strict=True)
                       if count}
        if by_severity:
            losses[reason] = by_severity
    return losses
