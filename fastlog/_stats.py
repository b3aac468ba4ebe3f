"""fastlog.Stats. Not typing.NamedTuple: importing typing would cost more than all of fastlog."""
from collections import namedtuple

Stats = namedtuple("Stats", [
    "submitted", "accepted", "sent", "dropped", "discarded", "pending", "pending_bytes",
    "high_watermark", "capacity", "truncated", "reconnects", "send_errors", "last_errno",
    "wakeups", "stalled"])
Stats.__module__ = "fastlog"
Stats.__doc__ = """\
The counters of one handler since it was made (in a forked child: since the fork).

`submitted == accepted + dropped` and `accepted == sent + discarded + pending`, whenever read.
"""
for _field, _doc in {
    "submitted": "Records that reached the handler.",
    "accepted": "Records that found room in the ring.",
    "sent": "Records handed to the kernel.",
    "dropped": "Records refused because there was no room.",
    "discarded": "Records the kernel would not take in any length.",
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
}.items():
    getattr(Stats, _field).__doc__ = _doc
