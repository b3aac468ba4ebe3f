from collections.abc import Mapping
from logging import LogRecord

from typing_extensions import disjoint_base

def make_valid(text: object, longest: int) -> str: ...
def structured_data(elements: Mapping[str, Mapping[str, object]]) -> str: ...

@disjoint_base
class Header:
    def __init__(
        self,
        protocol: str,
        hostname: str,
        app_name: str,
        procid: str | None,
        msgid: str,
        data: str,
    ) -> None: ...
    def __call__(self, created: float, record: LogRecord | None = None) -> str: ...
