"""The records of a chaos run. Everything about a record follows from its number."""
from __future__ import annotations

import logging
import mmap
import random
import re
import zlib
from pathlib import Path
from typing import NamedTuple

#: Levels and their priorities. Records have no level WARNING, so that all losses of that severity
#: are loss reports.
LEVELS = {logging.DEBUG: 15, logging.INFO: 14, logging.ERROR: 11, logging.CRITICAL: 10}
REPORT_SEVERITY = "warning"
MARK = b" [... cut by fastlog]"

_WIRE = re.compile(rb"<(\d+)>(\S+) (?:(\d+) (\d+) |fastlog: (\d+) messages lost )", re.DOTALL)
_LENGTH_MAX = 3000  # characters

_random = random.Random(0)
_PLAIN = "".join(_random.choices("abc %{}<>#äß€漢😀", k=1 << 14))
#: For daemons that pass every byte on.
_ODD = "".join(_random.choices("abc %{}<>äß€漢😀\0\n\t\x7f", k=1 << 14))


def level_and_text(process: str, thread: int, number: int, plain: bool) -> tuple[int, str]:
    """Return the level and the text of a record.

    plain: whether the text must be free of control characters.
    """
    drawn = zlib.crc32(f"{process} {thread} {number}".encode())
    length_max = _LENGTH_MAX if drawn % 16 == 0 else 120
    table = _PLAIN if plain else _ODD
    start = (drawn >> 4) % (len(table) - _LENGTH_MAX)
    text = table[start:start + (drawn >> 8) % length_max]
    return list(LEVELS)[(drawn >> 20) % len(LEVELS)], text + "."


class Received(NamedTuple):
    """A datagram. It contains a record, or a report that `lost` records were lost."""

    process: str
    thread: int
    number: int
    lost: int
    is_whole: bool


def parse(data: bytes, plain: bool) -> Received:
    """Return the contents of a datagram. Raise ValueError if no record has these bytes."""
    match = _WIRE.match(data)
    if match is None:
        raise ValueError(f"no process logged this: {data[:200]!r}")
    process = match[2].decode()
    if match[5] is not None:
        return Received(process, -1, -1, int(match[5]), True)
    thread, number = int(match[3]), int(match[4])
    level, text = level_and_text(process, thread, number, plain)
    expected = text.encode().replace(b"\0", b"#000")     # as SysLogHandler escapes it
    body = data[match.end():].removesuffix(b"\0")
    is_truncated = body.endswith(MARK) and expected.startswith(body.removesuffix(MARK))
    if int(match[1]) != LEVELS[level] or not (body == expected or is_truncated):
        raise ValueError(f"{process} {thread} {number} arrived changed: {data[:200]!r}")
    return Received(process, thread, number, 0, body == expected)


UNUSED, CALLED, ACCEPTED, DROPPED = range(4)


class Ledger:
    """The outcome of each logging call of a process, one byte per call.

    It is stored in a file, which survives the process.
    """

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
        """Return (thread, number) of the records in one of these states, in order."""
        return [divmod(index, self.records) for index, state in enumerate(self._bytes[:])
                if state in states]
