"""Run the fastlog commands: python -m fastlog."""
from __future__ import annotations

import os
import signal
import sys
import traceback
from typing import TYPE_CHECKING

import fastlog
from fastlog._spool.printable import printable
from fastlog.cli import bench, demo, recover
from fastlog.cli.doctor import command as doctor
from fastlog.cli.terminal import ArgumentParser

if TYPE_CHECKING:
    from collections.abc import Sequence


def main(arguments: Sequence[str] | None = None) -> int:
    """Run a command and return the exit status."""
    parser = ArgumentParser(
        prog="fastlog", description="Logging to syslog that never waits for the daemon.")
    parser.add_argument("--version", action="version", version=f"fastlog {fastlog.__version__}")
    commands = parser.add_subparsers(title="commands", required=True, metavar="COMMAND")
    demo.add_parser(commands)
    bench.add_parser(commands)
    doctor.add_parser(commands)
    recover.add_parser(commands)
    options = parser.parse_args(arguments)
    try:
        status: int = options.run(options)
        sys.stdout.flush()
    except BrokenPipeError:       # the reader has closed the pipe, as in `fastlog doctor | head`
        # The interpreter flushes stdout again at exit: Python's documentation of SIGPIPE.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 1
    except KeyboardInterrupt:
        return 128 + signal.SIGINT
    except Exception as error:
        # As the interpreter prints it, but the text may be from a daemon or contain a path.
        traceback.print_tb(error.__traceback__)
        print(printable(f"{type(error).__name__}: {error}"), file=sys.stderr)
        return 1
    return status


if __name__ == "__main__":
    sys.exit(main())
