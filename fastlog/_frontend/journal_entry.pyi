from collections.abc import Mapping

from typing_extensions import disjoint_base

from fastlog._frontend.emit import Encoder

OWN_FIELDS: frozenset[str]

def field_name(attribute: object) -> str: ...
def value_bytes(value: object) -> bytes: ...
def field(name: bytes, value: bytes) -> bytes: ...

class Syslog(Encoder): ...

@disjoint_base
class Journal(Encoder):
    def __init__(self, fields: Mapping[str, object]) -> None: ...
