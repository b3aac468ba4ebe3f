"""One record sent by a real handler, and looked for where the daemon writes."""
from __future__ import annotations

import logging
import os
import shutil
import socket
import stat
import subprocess
import time
import uuid
from typing import TYPE_CHECKING, Any, NamedTuple

import fastlog
from fastlog.cli.doctor.findings import Finding

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator

_IDENT = "fastlog-doctor"
_PATIENCE = 3.0       # seconds for the hand-over, and for the record to show up
_LOOK_AGAIN = 0.01
_REFUSAL = 0.2        # seconds in which a host answers that nobody listens on a port
_ELSEWHERE = ""       # the name of the search through what the daemon may write to
_GROWTH_MAX = 1 << 24  # bytes read of what a file grew by


class Sent(NamedTuple):
    delivered: bool
    last_errno: int


def check_round_trip(where: Any, options: dict[str, Any], files: Iterable[str],
                     journal: bool) -> Finding:
    """where, options: SysLogHandler's arguments.

    files: that the daemon may write to. journal: whether journald listens.
    """
    token = uuid.uuid4().hex
    files = [path for path in files if _size(path) is not None]
    watched = {path: size for path in dict.fromkeys([*files, *_system_logs()])
               if (size := _size(path)) is not None}
    began = time.monotonic()
    sent = _send(where, options, f"test record {token}")
    if not sent.delivered:
        why = os.strerror(sent.last_errno) if sent.last_errno else "the daemon takes nothing"
        return Finding("problem", "round-trip", "A record of fastlog.SysLogHandler could not be "
                       f"handed over within {_PATIENCE:g} s: {why}.",
                       "Check the daemon; meanwhile a program keeps its records in the ring, "
                       "and loses what does not fit.")
    program = shutil.which("journalctl") if journal else None
    searches = _searches(token, files, watched, program)
    found = _search(searches)
    took = (time.monotonic() - began) * 1000
    missing = [name for name in searches if name not in found and name != _ELSEWHERE]
    closed = [path for path in files if not _is_readable(path)]
    if closed:   # then that it is in none of the others tells nothing
        missing = [name for name in missing if name == "the journal"]
    if program and os.geteuid() != 0 and "the journal" in missing:
        missing.remove("the journal")   # journalctl(1): a user sees what is the user's own
        closed.append("the journal")
    return _tell([found[name] for name in searches if name in found], missing, closed, took)


def _tell(found: list[str], missing: list[str], closed: list[str], took: float) -> Finding:
    sent = "A record of fastlog.SysLogHandler was"
    if found:
        sent += f" in {' and '.join(found)} after {took:.0f} ms"
    else:
        sent += " handed over"
    if missing:
        return Finding("warning", "round-trip",
                       f"{sent}, but within {_PATIENCE:g} s not in {' or '.join(missing)}.",
                       "Check whether the daemon hangs, limits the rate, or has no rule for this "
                       "facility (--facility) that writes there.")
    if found:
        return Finding("ok", "round-trip", f"{sent}.")
    if closed:
        return Finding("note", "round-trip", f"{sent}; whether it arrived is not known, as this "
                       f"user may not read {_listing(closed)}.", "Run fastlog doctor as root.")
    return Finding("note", "round-trip", f"{sent}; it cannot be read back, as it is not known "
                   "where the daemon writes: not to a file in /var/log.",
                   "Look for fastlog-doctor where it writes or sends to.")


def _listing(paths: list[str]) -> str:
    return ", ".join(paths[:4]) + (f" and {len(paths) - 4} more" if len(paths) > 4 else "")


def _send(where: Any, options: dict[str, Any], text: str) -> Sent:
    raise_exceptions = logging.raiseExceptions
    logging.raiseExceptions = False   # an outage is told in the finding, not on stderr
    try:
        handler = fastlog.SysLogHandler(where, ident=f"{_IDENT}: ", **options)
        logger = logging.Logger(_IDENT)
        logger.addHandler(handler)
        logger.info(text)
        delivered = handler.flush(_PATIENCE)
        if delivered and isinstance(where, tuple) and handler.socktype == socket.SOCK_DGRAM:
            # udp(7): that nobody listens is told to the next send.
            time.sleep(_REFUSAL)
            logger.info(text)
            delivered = handler.flush(_PATIENCE) and not handler.stats().send_errors
        last_errno = handler.stats().last_errno
        handler.close(0.0)
    finally:
        logging.raiseExceptions = raise_exceptions
    return Sent(delivered, last_errno)


def _system_logs() -> Iterator[str]:
    try:
        for entry in os.scandir("/var/log"):
            if entry.is_file(follow_symlinks=False):
                yield entry.path
    except OSError:
        pass


def _size(path: str) -> int | None:
    """0: not made yet, or out of sight; None: not a file that lines are appended to."""
    try:
        status = os.stat(path)
    except OSError:
        return 0
    return status.st_size if stat.S_ISREG(status.st_mode) else None


def _is_readable(path: str) -> bool:
    """What is not there yet counts as readable."""
    try:
        os.stat(path)
    except FileNotFoundError:
        return True
    except OSError:
        return False
    return os.access(path, os.R_OK)


def _searches(token: str, files: list[str], watched: dict[str, int],
              program: str | None) -> dict[str, Callable[[], str]]:
    """By the name of a place: what tells where exactly the record is there; "": it is not."""

    def in_files(paths: list[str]) -> str:
        return next((path for path in paths if _grew_by(path, watched[path], token.encode())), "")

    searches: dict[str, Callable[[], str]] = {}
    known = [path for path in files if _is_readable(path)]
    if known:
        searches[_listing(known)] = lambda: in_files(known)
    if program:
        searches["the journal"] = lambda: "the journal" if token in _journal(program) else ""
    if not searches:
        searches[_ELSEWHERE] = lambda: in_files([path for path in watched if _is_readable(path)])
    return searches


def _search(searches: dict[str, Callable[[], str]]) -> dict[str, str]:
    """Go on until it was found in all, or time is over."""
    found: dict[str, str] = {}
    deadline = time.monotonic() + _PATIENCE
    while True:
        for name, search in searches.items():
            if name not in found and (place := search()):
                found[name] = place
        if len(found) == len(searches) or time.monotonic() > deadline:
            return found
        time.sleep(_LOOK_AGAIN)


def _grew_by(path: str, offset: int, token: bytes) -> bool:
    try:
        if os.path.getsize(path) == offset:
            return False
        with open(path, "rb") as file:
            file.seek(offset)
            return token in file.read(_GROWTH_MAX)
    except OSError:  # not made yet, or rotated away
        return False


def _journal(program: str) -> str:
    try:
        return subprocess.run(
            [program, "--quiet", "--no-pager", "--output=cat", "--lines=20",
             f"--identifier={_IDENT}"],
            capture_output=True, text=True, errors="replace", timeout=_PATIENCE).stdout
    except (OSError, subprocess.TimeoutExpired):
        return ""
