"""What the records of a chaos run are: everything about one follows from its number."""
from __future__ import annotations

import logging
import mmap
import random
import re
import zlib
from pathlib import Path
from typing import NamedTuple

#: With their priorities. No WARNING: so what is lost of that severity are notices of losses.
LEVELS = {logging.DEBUG: 15, logging.INFO: 14, logging.ERROR: 11, logging.CRITICAL: 10}
NOTICE_SEVERITY = "warning"
MARK = b" [... cut by fastlog]"

_WIRE = re.compile(rb"<(\d+)>(\S+) (?:(\d+) (\d+) |fastlog: (\d+) messages lost )", re.DOTALL)
_LONGEST = 3000  # characters

_random = random.Random(0)
_PLAIN = "".join(_random.choices("abc %{}<>#äß€漢😀", k=1 << 14))
#: For daemons that hand every byte on.
_ODD = "".join(_random.choices("abc %{}<>äß€漢😀\0\n\t\x7f", k=1 << 14))


def level_and_text(process: str, thread: int, number: int, plain: bool) -> tuple[int, str]:
    """Of one record. plain: without control characters."""
    drawn = zlib.crc32(f"{process} {thread} {number}".encode())
    longest = _LONGEST if drawn % 16 == 0 else 120
    table = _PLAIN if plain else _ODD
    start = (drawn >> 4) % (len(table) - _LONGEST)
    text = table[start:start + (drawn >> 8) % longest]
    return list(LEVELS)[(drawn >> 20) % len(LEVELS)], text + "."


class Received(NamedTuple):
    """A datagram: a record, or a notice that tells of `lost` ones."""

    process: str
    thread: int
    number: int
    lost: int
    is_whole: bool


def parse(data: bytes, plain: bool) -> Received:
    """Raises ValueError if these are not the bytes of any record."""
    found = _WIRE.match(data)
    if found is None:
        raise ValueError(f"nobody logged this: {data[:200]!r}")
    process = found[2].decode()
    if found[5] is not None:
        return Received(process, -1, -1, int(found[5]), True)
    thread, number = int(found[3]), int(found[4])
    level, text = level_and_text(process, thread, number, plain)
    expected = text.encode()
    body = data[found.end():].removesuffix(b"\0")
    shortened = body.endswith(MARK) and expected.startswith(body.removesuffix(MARK))
    if int(found[1]) != LEVELS[level] or not (body == expected or shortened):
        raise ValueError(f"{process} {thread} {number} came changed: {data[:200]!r}")
    return Received(process, thread, number, 0, body == expected)


UNUSED, CALLED, ACCEPTED, DROPPED = range(4)


class Ledger:
    """What became of each logging call of a process: a byte each, in a file that outlives it."""

    def __init__(self, path: Path, threads: int, records: int) -> None:
        self.threads = threads
        self.records = records
        with open(path, "a+b") as file:
            file.truncate(threads * records)
            self._bytes = mmap.mmap(file.fileno(), threads * records)

    def get(self, thread: int, number: int) -> int:
        return self._bytes[thread * self.records + number]

    def set(self, thread: int, number: int, state: int) -> None:
        self._bytes[thread * self.records + number] = state

    def all(self, *states: int) -> list[tuple[int, int]]:
        """(thread, number) of the records in one of these states, in order."""
        return [divmod(place, self.records) for place, state in enumerate(self._bytes[:])
                if state in states]
