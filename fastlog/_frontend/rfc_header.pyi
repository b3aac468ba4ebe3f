from collections.abc import Mapping

from typing_extensions import disjoint_base

from fastlog._frontend.encoder import Encoder

def sanitize(text: object, longest: int) -> str: ...
def structured_data(elements: Mapping[str, Mapping[str, object]]) -> str: ...

@disjoint_base
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
