"""A spool is in use exactly as long as its process uses it, whatever else the process does."""
import contextlib
import os
import struct
import subprocess
import sys

import pytest

from fastlog._spool import file as _spool, owner

CAPACITY = 1 << 16
OWNER_OFFSET = 1024         # docs/crash-safety.md, "Spool file format"
OWNER = struct.Struct("=QQQQ16sQQ")
TIMEOUT = 30

START = """
import logging, os, sys, fastlog
logging.raiseExceptions = False
path, spool = sys.argv[1:3]
handler = fastlog.SysLogHandler(path, spool=spool, capacity=1 << 16, close_timeout=0)
log = logging.Logger("x")
log.addHandler(handler)
log.info("pending")
"""
WAIT = """
print("ready", flush=True)
sys.stdin.read()
"""


@contextlib.contextmanager
def running(code, *arguments):
    """A process with a spool. It has run the code and waits until the block is left."""
    with subprocess.Popen([sys.executable, "-c", START + code, *map(str, arguments)],
                          stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
        try:
            assert process.stdout.readline() == "ready\n"
            yield process
        finally:
            process.kill()


@pytest.mark.parametrize("action", [
    "open(spool, 'rb').close()",
    "os.close(os.dup(handler._engine and os.open(spool, os.O_RDONLY)))",
    "import shutil; shutil.copy(spool, spool + '-backup')",
    "import mmap; file = open(spool, 'r+b'); mmap.mmap(file.fileno(), 0).close(); file.close()",
], ids=["open", "dup", "copy", "mmap"])
def test_program_opens_its_own_spool(directory, spool, make_handler, recover, action):
    """A program that opens and closes its spool's file keeps the spool.

    The kernel releases the lock then, and neither recover nor another handler may use the file.
    """
    with running(action + WAIT, directory / "log", spool) as process:
        before = spool.read_bytes()
        for arguments in (spool,), (spool, "--dry-run"):
            recovery = recover(*arguments)
            assert recovery.returncode == 1
            assert f"{spool} is in use by process {process.pid};" in recovery.stderr
        with pytest.raises(BlockingIOError, match=f"in use by process {process.pid}"):
            make_handler(directory / "log", spool=spool, capacity=CAPACITY)
        assert spool.read_bytes() == before
    assert "1 records" in recover(spool, "--dry-run").stdout


def test_spool_without_a_lock_is_renamed(directory, spool, recover):
    """A spool that was renamed while it is in use is in use at its new path, too."""
    action = "open(spool, 'rb').close(); os.rename(spool, spool + '-moved')"
    with running(action + WAIT, directory / "log", spool) as process:
        recovery = recover(f"{spool}-moved")
        assert recovery.returncode == 1 and f"by process {process.pid};" in recovery.stderr


def test_process_that_was_killed_and_not_waited_for(directory, spool, recover, make_sink):
    """A process that has ended uses no spool, even before its parent has waited for it."""
    with running(WAIT, directory / "log", spool) as process:
        process.kill()
        os.waitid(os.P_PID, process.pid, os.WEXITED | os.WNOWAIT)
        assert recover(spool, sink=make_sink(), count=1).received == [b"<14>pending\0"]


def test_program_that_another_one_replaces(directory, spool, recover, make_sink):
    """A program that exec has replaced uses no spool, although the process lives on."""
    action = """
os.execv(sys.executable, [sys.executable, "-c", "import sys" + sys.argv[3]])
"""
    with running(action, directory / "log", spool, WAIT):
        assert recover(spool, sink=make_sink(), count=1).received == [b"<14>pending\0"]


def test_program_that_replaces_itself(directory, spool):
    """A program that starts anew by exec opens its own spool again."""
    action = """
if len(sys.argv) < 4:
    os.execv(sys.executable, sys.orig_argv + ["again"])
"""
    with running(action + WAIT, directory / "log", spool):
        assert spool.exists()


@pytest.mark.parametrize("action", [
    "handler.close()",
    "open(spool, 'rb').close(); handler.close()",
    "del log.handlers[:], handler",
], ids=["close", "after the lock is lost", "collected"])
def test_process_that_has_closed_its_handler(directory, spool, recover, make_sink, action):
    """A closed handler uses no spool, although its process lives on."""
    with running(action + WAIT, directory / "log", spool):
        recovery = recover(spool, sink=make_sink(), count=1)
        assert recovery.received == [b"<14>pending\0"] and recovery.returncode == 0


def write_owner(path, *values):
    with open(path, "r+b") as file:
        file.seek(OWNER_OFFSET)
        file.write(OWNER.pack(*values))


@pytest.mark.parametrize("changes, in_use", [
    ({}, True),
    ({0: 0}, False),
    ({1: 1}, False),
    ({2: 1}, False),
    ({3: 1 << 20}, False),
    ({3: 0}, True),
    ({4: bytes(16)}, False),
    ({6: 1}, False),
], ids=["same", "nobody", "PID namespace", "start time", "program", "unknown program", "boot",
        "copy"])
def test_owner_is_told_from_later_processes(make_orphaned_spool, recover, spool, changes, in_use):
    """A live process is the owner if its start time, its program and the boot are the same.

    An owner in a PID namespace that cannot be seen only has the lock.
    """
    make_orphaned_spool("a")
    status = spool.stat()
    values = list(OWNER.unpack(owner.current((status.st_dev, status.st_ino))))
    for index, value in changes.items():
        values[index] = value
    write_owner(spool, *values)
    recovery = recover(spool, "--dry-run")
    assert ("in use by process" in recovery.stderr) == in_use
    assert recovery.returncode == int(in_use)


def test_refused_recovery_changes_nothing(make_orphaned_spool, recover, spool):
    """A spool whose records cannot be sent is, byte for byte, the same as before."""
    make_orphaned_spool("a")
    before = spool.read_bytes()
    assert recover(spool, "--timeout", "0").returncode == 1
    assert spool.read_bytes() == before


def test_closing_leaves_descriptors_of_the_program_alone(directory, spool):
    """Spool.close() does not touch a file that took the number of the spool's descriptor."""
    opened = _spool.Spool(spool, CAPACITY, _spool.destination(["/dev/log"], "", 0, 0))
    descriptor = opened.open()
    other = os.open(directory / "other", os.O_RDWR | os.O_CREAT)
    os.dup2(other, descriptor)
    opened.close(descriptor)
    assert os.fstat(descriptor).st_size == 0
    os.close(descriptor)
    os.close(other)
    again = _spool.Spool.open_existing(str(spool))
    assert again.capacity == CAPACITY
