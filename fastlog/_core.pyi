from collections.abc import Sequence

from typing_extensions import Self, disjoint_base

from fastlog._spool.file import Spool
from fastlog._stats import Stats

@disjoint_base
class Engine:
    def __new__(
        cls,
        paths: Sequence[bytes],
        *,
        host: bytes = b"",
        service: bytes = b"",
        socktype: int = 0,
        connect_timeout: float = 0.0,
        adopting: bool = False,
        framing: int = 0,
        capacity: int,
        overflow: int = 0,
        block_timeout: float = 0.2,
        linger: float = 0.0,
        max_size: int = 0,
        split: bool = False,
        spool: Spool | None = None,
    ) -> Self: ...
    def submit(
        self,
        priority: int,
        message: str,
        prefix: str | None = None,
        append_nul: bool = False,
        urgent: bool = False,
    ) -> bool: ...
    def poll_outage(self) -> tuple[bool, int, int] | None: ...
    def collect_losses(
        self, during_outage: bool
    ) -> tuple[dict[str, dict[str, int]], float, float] | None: ...
    def recovered(self) -> tuple[int, int, int]: ...
    def start(self) -> None: ...
    def records(self) -> list[bytes]: ...
    def release_first(self) -> None: ...
    def spool_path(self) -> str: ...
    def set_synchronous(self) -> None: ...
    def wants_socket(self) -> bool: ...
    def adopt(self, fd: int) -> None: ...
    def flush(self, timeout: float) -> bool: ...
    def close(self, timeout: float) -> int: ...
    def stats(self) -> Stats: ...
