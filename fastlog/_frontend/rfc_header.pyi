from collections.abc import Mapping
from typing import final

from fastlog._frontend.log_record import Encoder

def sanitize(text: object, longest: int) -> str: ...
def structured_data(elements: Mapping[str, Mapping[str, object]]) -> str: ...

@final
class Header(Encoder):
    def __init__(
        self,
        protocol: str,
        hostname: str,
        app_name: str,
        procid: str | None,
        msgid: str,
        data: str,
    ) -> None: ...
