"""Find, report and send orphaned spools, that is, spools of processes that have ended.

Nothing in this file is on the data path of a record.
"""
from __future__ import annotations

import contextlib
import os
import re
import time

from fastlog._engine.spool_reader import recovery_stats
from fastlog._spool.file import Spool
from fastlog._spool.printable import printable

TYPE_CHECKING = False  # importing typing takes as long as importing all of fastlog
if TYPE_CHECKING:
    from collections.abc import Callable

    from fastlog._core import Engine

_ENGINES_MAX = 16        # spools that are sent at the same time


def siblings(base: str | os.PathLike[str]) -> list[str]:
    """Return the paths of the spools of forked children and of renamed spools beside this one."""
    directory, name = os.path.split(os.path.abspath(os.fsdecode(base)))
    # Child: PATH.PID or PATH.PID.N. Renamed because it was not compatible: .PID.CAPACITY appended.
    pattern = re.compile(re.escape(name) + r"(\.\d+){1,4}")
    try:
        names = os.listdir(directory)
    except OSError:
        return []
    return [os.path.join(directory, entry) for entry in sorted(names) if pattern.fullmatch(entry)]


class OrphanedSpools:
    """The orphaned spools beside a handler's spool, each with an engine that sends its records.

    spool: the handler's spool. make_engine: makes an Engine for a Spool. warn: prints a line for
        the user.
    """

    def __init__(self, spool: Spool, make_engine: Callable[[Spool], Engine],
                 warn: Callable[[str], None]) -> None:
        self._process = os.getpid()
        self._destination = spool.destination
        self._make_engine = make_engine
        self._warn = warn
        self._base = spool.base
        self._remaining_paths = siblings(spool.base)[::-1]  # not opened yet, in reverse order
        self._engines: list[tuple[Spool, Engine]] = []
        self._start_next()

    def _start_next(self) -> None:
        """Start engines up to _ENGINES_MAX, as each uses a thread and three descriptors."""
        while len(self._engines) < _ENGINES_MAX:
            try:
                path = self._remaining_paths.pop()
            except IndexError:
                return
            try:
                self._start_one(path)
            except (BlockingIOError, FileNotFoundError):  # in use, or just removed
                continue
            except OSError as error:
                self._warn(explain(path, error))

    def _start_one(self, path: str) -> None:
        """Report the records in a spool, and send them if they have the same destination."""
        spool = Spool.open_existing(path)
        if not spool.capacity:
            spool.remove()
            return
        engine = self._make_engine(spool)
        is_same_destination = spool.destination == self._destination
        contents = describe(engine)
        if contents:
            self._warn(f"{contents} in {path}" + (
                "" if is_same_destination
                else f", for another destination. Run `fastlog recover {path}` to send them"))
        if not recovery_stats(engine)[0]:
            spool.remove()
        elif is_same_destination:
            engine.start()
            self._engines.append((spool, engine))

    def engines(self) -> list[Engine]:
        """Return the engines that send at this moment. In a forked child there are none."""
        return [] if os.getpid() != self._process else [engine for _, engine in self._engines]

    def finish(self, timeout: float) -> bool:
        """Send all records within `timeout` seconds and remove the empty files.

        Return whether all files are empty.
        """
        if os.getpid() != self._process:       # the orphaned spools belong to the parent
            return True
        deadline = time.monotonic() + timeout
        while (first := next(iter(self._engines), None)) is not None:
            if not first[1].flush(max(0.0, deadline - time.monotonic())):
                return False
            self._close_one(first)
            self._start_next()
        return True

    def close(self, timeout: float) -> None:
        """Send records for `timeout` seconds. Leave the rest in the files for other processes."""
        if self.finish(timeout):
            return
        for entry in list(self._engines):
            self._close_one(entry)
        if self._remaining_paths:
            self._warn(f"{len(self._remaining_paths)} more files of earlier processes beside "
                       f"{self._base} were not sent")

    def _close_one(self, entry: tuple[Spool, Engine]) -> None:
        with contextlib.suppress(ValueError):  # another thread has removed it
            self._engines.remove(entry)
        spool, engine = entry
        pending = engine.close(0.0)
        if pending:
            self._warn(f"{pending} records of an earlier process were not delivered; they are "
                       f"kept in {spool.path}")


def explain(path: str, error: OSError) -> str:
    """Return the reason why a file could not be used, with its path. It is printable."""
    reason, shown_path = printable(str(error.strerror)), printable(path)
    return reason if shown_path in reason else f"{shown_path}: {reason}"


def describe(engine: Engine) -> str:
    """Return a description of the records that an engine recovered from its spool.

    The description is empty if the spool was.
    """
    records, unfinished, damaged = recovery_stats(engine)
    parts = []
    if records:
        parts.append(f"{records} records of an earlier process")
    if unfinished:
        parts.append(f"{unfinished} unfinished records (skipped)")
    if damaged:
        parts.append(f"{damaged} damaged bytes (skipped)")
    return ", ".join(parts)
