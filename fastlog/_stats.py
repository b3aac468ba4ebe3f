"""fastlog.Stats. Not typing.NamedTuple: importing typing would cost more than all of fastlog."""
from __future__ import annotations

from collections import namedtuple

Stats = namedtuple("Stats", [
    "submitted", "accepted", "sent", "dropped", "discarded", "pending", "pending_bytes",
    "high_watermark", "capacity", "truncated", "reconnects", "send_errors", "last_errno",
    "wakeups", "stalled", "losses"])
Stats.__module__ = "fastlog"
Stats.__doc__ = """\
The counters of one handler since it was made (in a forked child: since the fork).

Records that it found in its spool count as accepted.

`submitted == accepted + dropped` and `accepted == sent + discarded + pending`, whenever read.
"""
for _field, _doc in {
    "submitted": "Records that were to go into the ring.",
    "accepted": "Records that found room in the ring.",
    "sent": "Records handed to the kernel.",
    "dropped": "Records refused because there was no room.",
    "discarded": "Records that were accepted and given up: evicted for newer ones, or unsendable.",
    "pending": "Records in the ring now.",
    "pending_bytes": "Bytes of the ring taken now, record headers included.",
    "high_watermark": "The most bytes of the ring ever taken.",
    "capacity": "Bytes of the ring.",
    "truncated": "Records that were sent shortened.",
    "reconnects": "Connections made after the first.",
    "send_errors": "Failed connects and sends; waiting for a slow daemon is none.",
    "last_errno": "The errno of the last of them; 0: none yet.",
    "wakeups": "Wake-up calls that logging threads made.",
    "stalled": "Whether the daemon takes nothing, so that records without room are dropped.",
    "losses": "Dropped and discarded records: {reason: {severity: count}}. Reasons of dropped "
              "ones: full, stalled, interrupted; of discarded ones: evicted, unsendable.",
}.items():
    getattr(Stats, _field).__doc__ = _doc

#: In the order of Loss in _backend/counters.pxd.
REASONS = ("full", "stalled", "interrupted", "evicted", "unsendable")

#: RFC 5424 section 6.2.1, by number; named as in SysLogHandler.priority_names.
SEVERITIES = ("emerg", "alert", "crit", "err", "warning", "notice", "info", "debug")


def named_losses(counts: list[int]) -> dict[str, dict[str, int]]:
    """`counts` by reason, then by severity; without those that are 0."""
    found: dict[str, dict[str, int]] = {}
    for number, count in enumerate(counts):
        if count:
            reason, severity = divmod(number, len(SEVERITIES))
            found.setdefault(REASONS[reason], {})[SEVERITIES[severity]] = count
    return found
