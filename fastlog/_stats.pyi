from collections.abc import Sequence
from typing import NamedTuple

from fastlog._core import Engine

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

SEVERITIES: tuple[str, ...]

def read_stats(engine: Engine) -> Stats: ...
def losses_by_reason(counts: Sequence[int]) -> dict[str, dict[str, int]]: ...
