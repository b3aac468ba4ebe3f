"""Command-line arguments that several commands take."""
from __future__ import annotations

import argparse
import socket
from typing import TYPE_CHECKING, TypeVar

from fastlog import _validation
from fastlog._core import FRAMINGS
from fastlog._spool.file import destination

if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Any

Number = TypeVar("Number", int, float)


def positive(kind: type[Number]) -> Callable[[str], Number]:
    """Return an argparse type: a finite number of the given kind above 0."""
    def convert(text: str) -> Number:
        try:
            number = kind(text)
        except ValueError:
            number = kind(0)
        if not 0 < number < float("inf"):
            raise argparse.ArgumentTypeError(f"{text!r} is not a positive number")
        return number

    return convert


def parse_address(text: str) -> dict[str, Any]:
    """Parse the value of --address: a socket's path, udp:HOST:PORT or tcp:HOST:PORT.

    Return it in the form of destination() in _spool/file.py.
    """
    protocol, _, rest = text.partition(":")
    if protocol not in ("udp", "tcp"):
        return destination([_validation.socket_path(text)], "", 0, 0)
    host, _, port = rest.rpartition(":")
    if not port.isdecimal():
        raise ValueError(f"--address must be {protocol}:HOST:PORT, not {text!r}")
    host, port_number = _validation.host_and_port((host, int(port)))
    if protocol == "udp":
        return destination([], host, port_number, socket.SOCK_DGRAM)
    return destination([], host, port_number, socket.SOCK_STREAM,
                       FRAMINGS["octet-counting"])
