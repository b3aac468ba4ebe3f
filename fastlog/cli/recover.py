"""python -m fastlog recover: send what processes left in their spools."""
from __future__ import annotations

import errno
import io
import os
import re
import socket
import sys
import time
from typing import TYPE_CHECKING

from fastlog import _validation
from fastlog._core import FRAMINGS, Engine
from fastlog._engine.spool_reader import read_records, recovery_stats, release_first
from fastlog._spool.file import Spool, destination, is_stream
from fastlog._spool.orphans import describe, explain, siblings
from fastlog._stats import read_stats

if TYPE_CHECKING:
    import argparse
    from typing import Any

OCTET_COUNTING = FRAMINGS["octet-counting"]
ENTRY = FRAMINGS["journal-entry"]
FRAMING_NAMES = {number: name for name, number in FRAMINGS.items()}
#: Of syslog's sockets, where entries of the journal would be taken for text.
SYSLOG_NAMES = {os.path.basename(path) for path in _validation.DEFAULT_PATHS}
#: Of a message that has none: RFC 3164 section 4.3.3.
NO_PRIORITY = 13


def add_parser(commands: Any) -> None:
    parser = commands.add_parser(
        "recover", help="send what ended processes left in their spools",
        description="Sends the records in each spool, and in those of forked children beside it, "
                    "in order, and removes the files that are then empty. A spool that is in use "
                    "is left alone. Exit status: 0 if all was sent, else 1.")
    parser.add_argument("paths", nargs="+", metavar="PATH", help="as given to spool=")
    parser.add_argument("--address", metavar="A",
                        help="where to send: a socket's path, or udp:HOST:PORT or tcp:HOST:PORT; "
                             "default: where the process would have. Over TCP, what was not "
                             "written for a stream gets octet counting (RFC 6587)")
    parser.add_argument("--timeout", type=float, default=30.0, metavar="S",
                        help="seconds for each spool (default: %(default)s)")
    parser.add_argument("--dry-run", action="store_true",
                        help="send and change nothing; print the records")
    parser.set_defaults(run=run)


def run(options: argparse.Namespace) -> int:
    """Returns 0 if nothing is left, else 1."""
    try:
        where = parse_address(options.address) if options.address else None
        timeout = _validation.seconds("--timeout", options.timeout)
    except (TypeError, ValueError) as error:
        print(f"fastlog recover: {error}", file=sys.stderr)
        return 2
    # Of a path that is no text, and of records: whatever stdout cannot print.
    if isinstance(sys.stdout, io.TextIOWrapper):
        sys.stdout.reconfigure(errors="backslashreplace")
    complete = True
    seen = set()
    for base in options.paths:
        found = siblings(base)
        if os.path.lexists(base) or not found:
            found.insert(0, base)
        for path in found:
            if os.path.abspath(path) in seen:     # PATH* names the files beside PATH, too
                continue
            seen.add(os.path.abspath(path))
            try:
                done = (look(path) if options.dry_run
                        else recover(path, where, timeout))
            except OSError as error:
                if options.dry_run and isinstance(error, BrokenPipeError):
                    raise                         # nobody reads what would be shown
                print(explain(path, error), file=sys.stderr)
                done = False
            complete = complete and done
    return 0 if complete else 1


def parse_address(text: str) -> dict[str, Any]:
    """As it stands in a spool's header: see _spool.destination()."""
    kind, _, rest = text.partition(":")
    if kind not in ("udp", "tcp"):
        return destination([_validation.socket_path(text)], "", 0, 0)
    host, _, port = rest.rpartition(":")
    if not port.isdecimal():
        raise ValueError(f"--address must be {kind}:HOST:PORT, not {text!r}")
    host, number = _validation.host_and_port((host, int(port)))
    if kind == "udp":
        return destination([], host, number, socket.SOCK_DGRAM)
    return destination([], host, number, socket.SOCK_STREAM, OCTET_COUNTING)


def make_engine(where: dict[str, Any], capacity: int, spool: Spool | None = None) -> Engine:
    """Raises OSError if the destination, which may be a damaged file's, makes no sense."""
    try:
        paths = [_validation.socket_path(path) for path in where["paths"]]
        host, port = "", 0
        if not paths:
            host, port = _validation.host_and_port((where["host"], where["port"]))
        elif len(paths) > len(_validation.DEFAULT_PATHS):
            raise ValueError(f"it has {len(paths)} paths")
        if where["framing"] not in FRAMING_NAMES:
            raise ValueError(f"framing {where['framing']!r}")
        options = _validation.EngineOptions(
            paths, host, port, socktype=_validation.socktype(where["socktype"] or None),
            framing=FRAMING_NAMES[where["framing"]], capacity=capacity)
        return Engine(options, spool)
    except (KeyError, TypeError, ValueError) as error:
        raise OSError(errno.EINVAL, f"the destination in it makes no sense: {error}",
                      spool and spool.path) from error


def look(path: str) -> bool:
    """Print what would be sent; nothing is changed."""
    spool = Spool.open_existing(path, read_only=True)
    if not spool.capacity:
        print(f"{path}: nothing to send")
        return True
    engine = make_engine(spool.destination, spool.capacity, spool)
    print(f"{path}: {describe(engine) or 'nothing to send'}")
    for record in read_records(engine):
        print("  " + record.decode("utf-8", "backslashreplace").rstrip("\0\n"))
    return True


def recover(path: str, where: dict[str, Any] | None, timeout: float) -> bool:
    """Send what is in a spool; returns whether nothing is left."""
    spool = Spool.open_existing(path)
    if not spool.capacity:
        print(f"{path}: nothing to send")
        spool.remove()
        return True
    if where and spool.destination.get("framing") == ENTRY:
        if not where["paths"] or os.path.basename(where["paths"][0]) in SYSLOG_NAMES:
            raise OSError(errno.EINVAL, "it has entries of the journal: they can only be sent to a "
                                        "journald's socket")
        where = {**where, "framing": ENTRY}
    engine = make_engine(where or spool.destination, spool.capacity, spool)
    print(f"{path}: {describe(engine) or 'nothing to send'}")
    error = 0
    if not recovery_stats(engine)[0]:
        spool.remove()
    elif where and needs_rewriting(spool.destination, where):
        counted = spool.destination.get("framing") == OCTET_COUNTING
        error = send_rewritten(engine, counted, where, timeout)
    else:
        engine.start()
        engine.flush(timeout)
    engine.close(0.0)
    stats = read_stats(engine)
    error = error or stats.last_errno
    if stats.pending:
        why = f" ({os.strerror(error)})" if error else ""
        print(f"{path}: {stats.sent} records sent, {stats.pending} could not be{why}: they stay "
              "there", file=sys.stderr)
        return False
    if stats.sent:
        print(f"{path}: {stats.sent} records sent, the file is removed")
    return True


# --- records that were written for another kind of destination -----------------------------------

def needs_rewriting(source: dict[str, Any], where: dict[str, Any]) -> bool:
    """Whether records for `source` cannot be sent to `where`, one of parse_address(), as they are.

    What was for a stream can go to any other; a datagram of syslog has nothing around it.
    """
    if is_stream(where):
        return not is_stream(source)
    return bool(source.get("framing", 0) != where["framing"])


def send_rewritten(engine: Engine, counted: bool, where: dict[str, Any], timeout: float) -> int:
    """Send the records of an engine, one by one, by another. Returns an errno or 0.

    counted: whether a length is in front of each.
    """
    other = make_engine(where, read_stats(engine).capacity)
    deadline = time.monotonic() + timeout
    for record in read_records(engine):
        priority, text = parse_record(record, counted)
        # Unix sockets get a NUL, as by default they do: a stream may listen there.
        other.submit(priority, text, append_nul=bool(where["paths"]))
        if not other.flush(max(0.0, deadline - time.monotonic())):
            break
        release_first(engine)
    other.close(0.0)
    return read_stats(other).last_errno


def parse_record(record: bytes, counted: bool) -> tuple[int, str]:
    """Priority and message, without what was put around them."""
    if counted:
        record = record.partition(b" ")[2]
    elif record.endswith((b"\0", b"\n")):
        record = record[:-1]
    text = record.decode("utf-8", "backslashreplace")
    found = re.match("<([0-9]{1,9})>", text)
    if found is None:
        return NO_PRIORITY, text
    return int(found[1]), text[found.end():]
