from typing import NamedTuple

class Stats(NamedTuple):
    submitted: int
    accepted: int
    sent: int
    dropped: int
    discarded: int
    pending: int
    pending_bytes: int
    high_watermark: int
    capacity: int
    truncated: int
    reconnects: int
    send_errors: int
    last_errno: int
    wakeups: int
    stalled: bool
    losses: dict[str, dict[str, int]]

REASONS: tuple[str, ...]
SEVERITIES: tuple[str, ...]

def named_losses(counts: list[int]) -> dict[str, dict[str, int]]: ...
