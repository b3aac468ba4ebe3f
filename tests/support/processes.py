"""Python programs and commands that run in a process of their own."""
from __future__ import annotations

import os
import subprocess
import sys
from typing import NamedTuple

from support import TIMEOUT

# A process that logs to a socket that nobody reads, and then ends in the way that `end` says.
ORPHANED_SPOOL_PROGRAM = """
import logging, os, signal, sys, fastlog
logging.raiseExceptions = False  # no outage reports on stderr
handler = fastlog.SysLogHandler({address!r}, spool=sys.argv[1], **{options!r})
log = logging.Logger("x")
log.addHandler(handler)
for text in sys.argv[2:]:
    log.info(text)
{end}
"""


def run_python(directory, code, *args, stderr="", returncode=0, options=()):
    """Run code in a new interpreter, with warnings as errors, and return its standard output.

    directory: the working directory of the process.
    stderr: the text that the process must write there, or a compiled pattern that must match.
    returncode: the exit status that the process must have.
    options: further options of the interpreter.
    """
    done = subprocess.run(
        [sys.executable, "-W", "error", *options, "-c", code, *map(str, args)],
        capture_output=True, text=True, timeout=2 * TIMEOUT, cwd=directory)
    if isinstance(stderr, str):
        assert done.stderr == stderr
    else:
        assert stderr.search(done.stderr), done.stderr
    assert done.returncode == returncode, done
    return done.stdout


class Recovery(NamedTuple):
    """The outcome of a run of `fastlog recover`."""

    returncode: int
    stdout: str
    stderr: str
    received: list[bytes]


def run_recover(*arguments, sink=None, count=0, environment=(), **options):
    """Run `fastlog recover` and return its outcome.

    sink: where `count` records are read while the command runs, because a socket's queue only
        holds a few.
    options: of subprocess.Popen.
    """
    command = [sys.executable, "-m", "fastlog", "recover", *map(str, arguments)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
                          env={**os.environ, **dict(environment)}, **options) as process:
        received = sink.take(count) if sink else []
        stdout, stderr = process.communicate(timeout=2 * TIMEOUT)
    return Recovery(process.returncode, stdout, stderr, received)
