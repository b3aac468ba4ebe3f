"""Send one record through a real handler and look for it where the daemon writes."""
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
_TIMEOUT = 3.0           # seconds to send the record, and as many to find it
_SEARCH_INTERVAL = 0.01  # seconds
_REFUSAL_TIMEOUT = 0.2   # seconds for a host to report that no process listens on a port
_GROWTH_MAX = 1 << 24    # bytes to read of the growth of a file

# Places to search for the record.
_JOURNAL = "the journal"
_SYSTEM_LOGS = ""      # the readable files in /var/log, if it is unknown where the daemon writes


class Sent(NamedTuple):
    delivered: bool
    last_errno: int


def check_round_trip(address: Any, options: dict[str, Any], files: Iterable[str],
                     has_journal: bool) -> Finding:
    """Send a record and look for it.

    address, options: arguments of SysLogHandler.
    files: the files that the daemon may write to.
    has_journal: whether journald receives the record.
    """
    token = uuid.uuid4().hex
    files = [path for path in files if _file_size(path) is not None]
    sizes = {path: size for path in dict.fromkeys([*files, *_system_logs()])
             if (size := _file_size(path)) is not None}
    start = time.monotonic()
    sent = _send_record(address, options, f"test record {token}")
    if not sent.delivered:
        reason = os.strerror(sent.last_errno) if sent.last_errno else "the daemon accepts nothing"
        return Finding("problem", "round-trip", "fastlog.SysLogHandler could not send a record "
                       f"within {_TIMEOUT:g} s: {reason}.",
                       "Check the daemon. Until it accepts records, a program stores them in the "
                       "ring and loses those that do not fit.")
    journalctl = shutil.which("journalctl") if has_journal else None
    searches = _make_searches(token, files, sizes, journalctl)
    places = _run_searches(searches)
    duration = time.monotonic() - start
    missing = [name for name in searches if name not in places and name != _SYSTEM_LOGS]
    unreadable = [path for path in files if not _is_readable(path)]
    if unreadable:   # the record may be in one of these, so its absence from others means nothing
        missing = [name for name in missing if name == _JOURNAL]
    if journalctl and os.geteuid() != 0 and _JOURNAL in missing:
        missing.remove(_JOURNAL)   # journalctl(1): ordinary users see only their own records
        unreadable.append(_JOURNAL)
    return _report([places[name] for name in searches if name in places], missing, unreadable,
                   duration)


def _report(places: list[str], missing: list[str], unreadable: list[str],
            duration: float) -> Finding:
    """Return the finding.

    places: where the record was found. missing: where it was not found. unreadable: what this
        user may not read. duration: seconds until it was found.
    """
    text = "A record from fastlog.SysLogHandler was "
    if places:
        text += f"found in {' and '.join(places)} after {duration * 1000:.0f} ms"
    else:
        text += "sent"
    if missing:
        return Finding("warning", "round-trip",
                       f"{text}, but it was not in {' or '.join(missing)} within {_TIMEOUT:g} s.",
                       "Check whether the daemon hangs, limits the rate, or has no rule that "
                       "writes records of this facility (--facility) there.")
    if places:
        return Finding("ok", "round-trip", f"{text}.")
    if unreadable:
        return Finding("note", "round-trip", f"{text}. It is unknown whether it arrived, because "
                       f"this user may not read {_join_paths(unreadable)}.",
                       "Run fastlog doctor as root.")
    return Finding("note", "round-trip", f"{text}. It cannot be read back, because it is unknown "
                   "where the daemon writes. No file in /var/log contains the record.",
                   "Look for fastlog-doctor where the daemon writes or sends records.")


def _join_paths(paths: list[str]) -> str:
    return ", ".join(paths[:4]) + (f" and {len(paths) - 4} more" if len(paths) > 4 else "")


def _send_record(address: Any, options: dict[str, Any], text: str) -> Sent:
    raise_exceptions = logging.raiseExceptions
    logging.raiseExceptions = False   # the finding reports an outage, not a line on stderr
    try:
        handler = fastlog.SysLogHandler(address, ident=f"{_IDENT}: ", **options)
        logger = logging.Logger(_IDENT)
        logger.addHandler(handler)
        logger.info(text)
        delivered = handler.flush(_TIMEOUT)
        if delivered and isinstance(address, tuple) and handler.socktype == socket.SOCK_DGRAM:
            # udp(7): if no process listens, the next send reports it.
            time.sleep(_REFUSAL_TIMEOUT)
            logger.info(text)
            delivered = handler.flush(_TIMEOUT) and not handler.stats().send_errors
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


def _file_size(path: str) -> int | None:
    """Return the size of a file, or 0 if it does not exist yet or is not visible.

    Return None if it is not a regular file, to which the daemon appends lines.
    """
    try:
        status = os.stat(path)
    except OSError:
        return 0
    return status.st_size if stat.S_ISREG(status.st_mode) else None


def _is_readable(path: str) -> bool:
    """Return whether this user may read a file. A file that does not exist yet is readable."""
    try:
        os.stat(path)
    except FileNotFoundError:
        return True
    except OSError:
        return False
    return os.access(path, os.R_OK)


def _make_searches(token: str, files: list[str], sizes: dict[str, int],
                   journalctl: str | None) -> dict[str, Callable[[], str]]:
    """Return a search function for each place to search, by its name.

    A search function returns where exactly the record is, or an empty string.

    sizes: the sizes of the files before the record was sent.
    """

    def search_files(paths: list[str]) -> str:
        return next((path for path in paths
                     if _contains_after(path, sizes[path], token.encode())), "")

    searches: dict[str, Callable[[], str]] = {}
    readable = [path for path in files if _is_readable(path)]
    if readable:
        searches[_join_paths(readable)] = lambda: search_files(readable)
    if journalctl:
        searches[_JOURNAL] = lambda: _JOURNAL if token in _read_journal(journalctl) else ""
    if not searches:
        searches[_SYSTEM_LOGS] = lambda: search_files(
            [path for path in sizes if _is_readable(path)])
    return searches


def _run_searches(searches: dict[str, Callable[[], str]]) -> dict[str, str]:
    """Search until every search has found the record, or for _TIMEOUT seconds.

    Return the places where it was found, by the name of the search.
    """
    places: dict[str, str] = {}
    deadline = time.monotonic() + _TIMEOUT
    while True:
        for name, search in searches.items():
            if name not in places and (place := search()):
                places[name] = place
        if len(places) == len(searches) or time.monotonic() > deadline:
            return places
        time.sleep(_SEARCH_INTERVAL)


def _contains_after(path: str, offset: int, token: bytes) -> bool:
    """Return whether a file contains the token after an offset."""
    try:
        if os.path.getsize(path) == offset:
            return False
        with open(path, "rb") as file:
            file.seek(offset)
            return token in file.read(_GROWTH_MAX)
    except OSError:  # the file does not exist yet, or was rotated
        return False


def _read_journal(journalctl: str) -> str:
    """Return the last messages of the doctor in the journal."""
    try:
        return subprocess.run(
            [journalctl, "--quiet", "--no-pager", "--output=cat", "--lines=20",
             f"--identifier={_IDENT}"],
            capture_output=True, text=True, errors="replace", timeout=_TIMEOUT).stdout
    except (OSError, subprocess.TimeoutExpired):
        return ""
