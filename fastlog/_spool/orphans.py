"""What the spools of earlier processes hold: found beside ours, told of, sent.

Nothing here is on the way of a record.
"""
from __future__ import annotations

import contextlib
import os
import re
import time

from fastlog._engine.spool_reader import recovery_stats
from fastlog._spool.file import Spool

TYPE_CHECKING = False  # importing typing takes as long as all of fastlog
if TYPE_CHECKING:
    from collections.abc import Callable

    from fastlog._core import Engine

_TOGETHER = 16        # files that are sent at a time


def siblings(base: str | os.PathLike[str]) -> list[str]:
    """The spools of forked children beside this one, and those set aside."""
    directory, name = os.path.split(os.path.abspath(os.fsdecode(base)))
    pattern = re.compile(re.escape(name) + r"(\.\d+){1,4}")     # a child's, set aside: 3 or 4
    try:
        names = os.listdir(directory)
    except OSError:
        return []
    return [os.path.join(directory, each) for each in sorted(names) if pattern.fullmatch(each)]


class OrphanedSpools:
    """Spools of processes that are gone, each with an engine that sends what is in it.

    spool: beside which they are. make_engine: called with a Spool. warn: called with a line
        for the user.
    """

    def __init__(self, spool: Spool, make_engine: Callable[[Spool], Engine],
                 warn: Callable[[str], None]) -> None:
        self._process = os.getpid()
        self._destination = spool.destination
        self._make_engine = make_engine
        self._warn = warn
        self._base = spool.base
        self._paths = siblings(spool.base)[::-1]  # that were not looked at yet, the last first
        self._engines: list[tuple[Spool, Engine]] = []
        self._start_next()

    def _start_next(self) -> None:
        """Not with all at once: each takes a thread and three descriptors."""
        while len(self._engines) < _TOGETHER:
            try:
                path = self._paths.pop()
            except IndexError:
                return
            try:
                self._send(path)
            except (BlockingIOError, FileNotFoundError):  # in use, or just removed
                continue
            except OSError as error:
                self._warn(explain(path, error))

    def _send(self, path: str) -> None:
        spool = Spool.open_existing(path)
        if not spool.capacity:
            spool.remove()
            return
        engine = self._make_engine(spool)
        ours = spool.destination == self._destination
        told = describe(engine)
        if told:
            self._warn(f"{told} in {path}" + (
                "" if ours else f", for another destination: `fastlog recover {path}` sends them"))
        if not recovery_stats(engine)[0]:
            spool.remove()
        elif ours:
            engine.start()
            self._engines.append((spool, engine))

    def finish(self, timeout: float) -> bool:
        """Flush, `timeout` seconds in all; what is empty is removed. Whether all is."""
        if os.getpid() != self._process:       # they are the parent's
            return True
        deadline = time.monotonic() + timeout
        while (first := next(iter(self._engines), None)) is not None:
            if not first[1].flush(max(0.0, deadline - time.monotonic())):
                return False
            self._close_one(first)
            self._start_next()
        return True

    def close(self, timeout: float) -> None:
        """Flush, and leave to others what is left."""
        if self.finish(timeout):
            return
        for each in list(self._engines):
            self._close_one(each)
        if self._paths:
            self._warn(f"{len(self._paths)} more files of earlier processes beside {self._base} "
                       "were not sent")

    def _close_one(self, one: tuple[Spool, Engine]) -> None:
        with contextlib.suppress(ValueError):  # another thread was first
            self._engines.remove(one)
        spool, engine = one
        pending = engine.close(0.0)
        if pending:
            self._warn(f"{pending} records of an earlier process were not delivered; they are "
                       f"kept in {spool.path}")


def explain(path: str, error: OSError) -> str:
    """What was wrong with a file."""
    said = str(error.strerror)
    return said if path in said else f"{path}: {said}"


def describe(engine: Engine) -> str:
    """What an engine found in its spool, "" for nothing."""
    records, unfinished, damaged = recovery_stats(engine)
    parts = []
    if records:
        parts.append(f"{records} records of an earlier process")
    if unfinished:
        parts.append(f"{unfinished} that it did not finish, which are left out")
    if damaged:
        parts.append(f"{damaged} bytes of damage, which are left out")
    return ", ".join(parts)
