"""JSON and error messages of the commands, in which nothing can control a terminal."""
from __future__ import annotations

import argparse
import json
from typing import TYPE_CHECKING

from fastlog._spool.printable import printable

if TYPE_CHECKING:
    from typing import NoReturn


def as_json(value: object) -> str:
    """Return JSON in ASCII without control characters except the line feeds of the layout."""
    return json.dumps(value, indent=1).replace("\x7f", "\\u007f")


class ArgumentParser(argparse.ArgumentParser):
    """A parser whose error messages show the arguments without control characters."""

    def error(self, message: str) -> NoReturn:
        super().error(printable(message))
