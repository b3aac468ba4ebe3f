"""python -m fastlog recover: send what processes left in their spools."""
from __future__ import annotations

import errno
import io
import os
import socket
import sys
from typing import TYPE_CHECKING

from fastlog import _options
from fastlog._core import Engine
from fastlog._spool import Spool, describe, destination, siblings

if TYPE_CHECKING:
    import argparse
    from typing import Any


def add_parser(commands: Any) -> None:
    parser = commands.add_parser(
        "recover", help="send what ended processes left in their spools",
        description="Sends the records in each spool, and in those of forked children beside it, "
                    "in order, and removes the files that are then empty. A spool that is in use "
                    "is left alone. Exit status: 0 if all was sent, else 1.")
    parser.add_argument("paths", nargs="+", metavar="PATH", help="as given to spool=")
    parser.add_argument("--address", metavar="A",
                        help="where to send: a socket's path, or udp:HOST:PORT or tcp:HOST:PORT; "
                             "default: where the process would have")
    parser.add_argument("--timeout", type=float, default=30.0, metavar="S",
                        help="seconds for each spool (default: %(default)s)")
    parser.add_argument("--dry-run", action="store_true",
                        help="send and change nothing; print the records")
    parser.set_defaults(run=run)


def run(options: argparse.Namespace) -> int:
    """Returns 0 if nothing is left, else 1."""
    try:
        where = parse_address(options.address) if options.address else None
        timeout = _options.seconds("--timeout", options.timeout)
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
                print(f"{path}: {error.strerror}", file=sys.stderr)
                done = False
            complete = complete and done
    return 0 if complete else 1


def parse_address(text: str) -> dict[str, Any]:
    """As it stands in a spool's header: see _spool.destination()."""
    kind, _, rest = text.partition(":")
    if kind not in ("udp", "tcp"):
        return destination([_options.socket_path(text)], "", 0, 0)
    host, _, port = rest.rpartition(":")
    if not port.isdecimal():
        raise ValueError(f"--address must be {kind}:HOST:PORT, not {text!r}")
    host, number = _options.host_and_port((host, int(port)))
    return destination([], host, number,
                       socket.SOCK_DGRAM if kind == "udp" else socket.SOCK_STREAM)


def make_engine(spool: Spool, where: dict[str, Any]) -> Engine:
    """Raises OSError if the destination makes no sense."""
    try:
        return Engine([_options.connectable(path) for path in where["paths"]],
                      host=_options.encoded_host(where["host"]),
                      service=str(where["port"]).encode(),
                      socktype=_options.socktype(where["socktype"] or None) or 0,
                      capacity=spool.capacity, spool=spool)
    except (KeyError, TypeError, ValueError) as error:
        raise OSError(errno.EINVAL, f"the destination in it makes no sense: {error}") from error


def look(path: str) -> bool:
    """Print what would be sent; nothing is changed."""
    spool = Spool.existing(path, only_look=True)
    engine = make_engine(spool, spool.destination)
    print(f"{path}: {describe(engine) or 'nothing to send'}")
    for record in engine.records():
        print("  " + record.decode("utf-8", "backslashreplace").rstrip("\0\n"))
    return True


def recover(path: str, where: dict[str, Any] | None, timeout: float) -> bool:
    """Send what is in a spool; returns whether nothing is left."""
    spool = Spool.existing(path)
    engine = make_engine(spool, where or spool.destination)
    print(f"{path}: {describe(engine) or 'nothing to send'}")
    if engine.recovered()[0]:
        engine.start()
        engine.flush(timeout)
    else:
        spool.remove()
    pending = engine.close(0.0)
    stats = engine.stats()
    if pending:
        why = f" ({os.strerror(stats.last_errno)})" if stats.last_errno else ""
        print(f"{path}: {stats.sent} records sent, {pending} could not be{why}: they stay there",
              file=sys.stderr)
        return False
    if stats.sent:
        print(f"{path}: {stats.sent} records sent, the file is removed")
    return True
