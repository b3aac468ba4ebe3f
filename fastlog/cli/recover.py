"""python -m fastlog recover: send the records that terminated processes left in their spools."""
from __future__ import annotations

import errno
import io
import os
import re
import sys
import time
from typing import TYPE_CHECKING

from fastlog import _validation
from fastlog._core import FRAMINGS, Engine
from fastlog._engine.spool_reader import read_records, recovery_stats, release_first
from fastlog._spool.file import Spool, is_stream
from fastlog._spool.orphans import describe, explain, siblings
from fastlog._spool.printable import printable
from fastlog._stats import read_stats
from fastlog.cli.arguments import parse_address

if TYPE_CHECKING:
    import argparse
    from collections.abc import Iterator
    from typing import Any

_OCTET_COUNTING = FRAMINGS["octet-counting"]
_JOURNAL_ENTRY = FRAMINGS["journal-entry"]
_FRAMING_NAMES = {number: name for name, number in FRAMINGS.items()}
#: The names of syslog's sockets. A daemon that listens there would treat journal entries as text.
_SYSLOG_NAMES = {os.path.basename(path) for path in _validation.DEFAULT_PATHS}
#: The priority of a message that has none: RFC 3164 section 4.3.3.
_DEFAULT_PRIORITY = 13


def add_parser(commands: Any) -> None:
    parser = commands.add_parser(
        "recover", help="send the records that terminated processes left in their spools",
        description="Send the records in each spool, and in the spools of forked children beside "
                    "it, in order. Then remove the files in which no records remain. A spool that "
                    "is in use is not touched. The exit status is 0 if all records were sent, 1 "
                    "if any remain, and 2 if an argument is invalid.")
    parser.add_argument("paths", nargs="+", metavar="PATH",
                        help="path of a spool, as passed to spool=")
    parser.add_argument("--address", metavar="A",
                        help="destination: a socket's path, udp:HOST:PORT or tcp:HOST:PORT "
                             "(default: the original destination). Over TCP, records that were "
                             "written for datagrams are sent with octet counting (RFC 6587)")
    parser.add_argument("--timeout", type=float, default=30.0, metavar="S",
                        help="time limit for each spool in seconds (default: %(default)s)")
    parser.add_argument("--dry-run", action="store_true",
                        help="print the records, but do not send or change anything")
    parser.set_defaults(run=run)


def run(options: argparse.Namespace) -> int:
    """Run the command. Return 0 if no records remain, 1 if any do, 2 for an invalid argument."""
    try:
        destination = parse_address(options.address) if options.address else None
        timeout = _validation.seconds("--timeout", options.timeout)
    except (TypeError, ValueError) as error:
        print(f"fastlog recover: {printable(str(error))}", file=sys.stderr)
        return 2
    # A path or a record may contain characters that stdout cannot encode.
    if isinstance(sys.stdout, io.TextIOWrapper):
        sys.stdout.reconfigure(errors="backslashreplace")
    complete = True
    for path in _find_spools(options.paths):
        try:
            is_done = (print_records(path) if options.dry_run
                       else recover(path, destination, timeout))
        except OSError as error:
            if options.dry_run and isinstance(error, BrokenPipeError):
                raise                         # the reader of stdout has closed the pipe
            print(explain(path, error), file=sys.stderr)
            is_done = False
        complete = complete and is_done
    return 0 if complete else 1


def _find_spools(bases: list[str]) -> Iterator[str]:
    """Yield each path and the spools beside it, each file once.

    `recover PATH*` also names the files that are found beside PATH.
    """
    visited = set()
    for base in bases:
        paths = siblings(base)
        if os.path.lexists(base) or not paths:
            paths.insert(0, base)
        for path in paths:
            if os.path.abspath(path) not in visited:
                visited.add(os.path.abspath(path))
                yield path


def make_engine(destination: dict[str, Any], capacity: int, spool: Spool | None = None) -> Engine:
    """Return an engine that sends to a destination, which may be from a damaged file.

    Raises OSError if the destination is invalid.
    """
    try:
        paths = [_validation.socket_path(path) for path in destination["paths"]]
        host, port = "", 0
        if not paths:
            host, port = _validation.host_and_port((destination["host"], destination["port"]))
        elif len(paths) > len(_validation.DEFAULT_PATHS):
            raise ValueError(f"it has {len(paths)} paths")
        if destination["framing"] not in _FRAMING_NAMES:
            raise ValueError(f"it has framing {destination['framing']!r}")
        options = _validation.EngineOptions(
            paths, host, port, socktype=_validation.socktype(destination["socktype"] or None),
            framing=_FRAMING_NAMES[destination["framing"]], capacity=capacity)
        return Engine(options, spool)
    except (KeyError, TypeError, ValueError) as error:
        raise OSError(errno.EINVAL, f"the destination in the file is invalid: {error}",
                      spool and spool.path) from error


def print_records(path: str) -> bool:
    """Print the records in a spool without changing the file. Return True."""
    spool = Spool.open_existing(path, read_only=True)
    shown_path = printable(path)
    if not spool.capacity:
        print(f"{shown_path}: nothing to send")
        return True
    engine = make_engine(spool.destination, spool.capacity, spool)
    print(f"{shown_path}: {describe(engine) or 'nothing to send'}")
    for record in read_records(engine):
        text = record.decode("utf-8", "backslashreplace").rstrip("\0\n")
        print(f"  {printable(text)}")
    return True


def recover(path: str, destination: dict[str, Any] | None, timeout: float) -> bool:
    """Send the records in a spool. Return whether none remain.

    destination: None for the one that the file names.
    """
    spool = Spool.open_existing(path)
    shown_path = printable(path)
    if not spool.capacity:
        print(f"{shown_path}: nothing to send")
        spool.remove()
        return True
    if destination and spool.destination.get("framing") == _JOURNAL_ENTRY:
        paths = destination["paths"]
        if not paths or os.path.basename(paths[0]) in _SYSLOG_NAMES:
            raise OSError(errno.EINVAL, "the file contains journal entries, which can only be sent "
                                        "to a socket of journald")
        destination = {**destination, "framing": _JOURNAL_ENTRY}
    engine = make_engine(destination or spool.destination, spool.capacity, spool)
    print(f"{shown_path}: {describe(engine) or 'nothing to send'}")
    error = 0
    if not recovery_stats(engine)[0]:
        spool.remove()
    elif destination and needs_rewriting(spool.destination, destination):
        has_length = spool.destination.get("framing") == _OCTET_COUNTING
        error = send_rewritten(engine, has_length, destination, timeout)
    else:
        engine.start()
        engine.flush(timeout)
    engine.close(0.0)
    stats = read_stats(engine)
    error = error or stats.last_errno
    if stats.pending:
        reason = f" ({os.strerror(error)})" if error else ""
        print(f"{shown_path}: {stats.sent} records sent, {stats.pending} could not be sent{reason} "
              "and remain in the file", file=sys.stderr)
        return False
    if stats.sent:
        print(f"{shown_path}: {stats.sent} records sent, the file was removed")
    return True


# --- records that were written for another kind of destination -----------------------------------

def needs_rewriting(source: dict[str, Any], destination: dict[str, Any]) -> bool:
    """Return whether records for `source` must be rewritten for a destination of parse_address().

    Records for a stream can be sent to any other stream. A syslog datagram has no framing.
    """
    if is_stream(destination):
        return not is_stream(source)
    return bool(source.get("framing", 0) != destination["framing"])


def send_rewritten(engine: Engine, has_length: bool, destination: dict[str, Any],
                   timeout: float) -> int:
    """Send the records of an engine one by one through another engine. Return an errno or 0.

    has_length: whether each record starts with its length.
    """
    sender = make_engine(destination, read_stats(engine).capacity)
    deadline = time.monotonic() + timeout
    for record in read_records(engine):
        priority, text = parse_record(record, has_length)
        # As by default, records for a unix socket end with a NUL. It may be a stream socket.
        sender.submit(priority, text, append_nul=bool(destination["paths"]))
        if not sender.flush(max(0.0, deadline - time.monotonic())):
            break
        release_first(engine)
    sender.close(0.0)
    return read_stats(sender).last_errno


def parse_record(record: bytes, has_length: bool) -> tuple[int, str]:
    """Return the priority and the message of a record, without framing."""
    if has_length:
        record = record.partition(b" ")[2]
    elif record.endswith((b"\0", b"\n")):
        record = record[:-1]
    text = record.decode("utf-8", "backslashreplace")
    match = re.match("<([0-9]{1,9})>", text)
    if match is None:
        return _DEFAULT_PRIORITY, text
    return int(match[1]), text[match.end():]
