"""Nothing that a record, a path or a process name holds reaches a terminal as it is."""
import json
import logging
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from fastlog._daemons.rsyslogd import find_rsyslogd
from fastlog._spool.printable import printable

TIMEOUT = 60

# A window title, a color in C0 and in C1, DEL, another line, the separators, bidirectional text.
HOSTILE = "\x1b]0;t\x07\x1b[31m\x9b31m\x7f\r\n  <14>forged\u2028\u2029\u202e\u2066\u200f\x85\x0b"
SHOWN = (r"\x1b]0;t\x07\x1b[31m\x9b31m\x7f\x0d\x0a  <14>forged\u2028\u2029\u202e\u2066\u200f"
         r"\x85\x0b")
UNSAFE = re.compile("[\0-\x09\x0b-\x1f\x7f-\x9f\u061c\u200e\u200f\u2028-\u202e\u2066-\u2069"
                    "\ud800-\udfff]")


def run(*arguments, **environment):
    """Run a command. Return its status, stdout and stderr, neither of which is unsafe."""
    done = subprocess.run([sys.executable, "-m", "fastlog", *map(str, arguments)],
                          capture_output=True, timeout=TIMEOUT,
                          env={**os.environ, "PYTHONUTF8": "1", **environment})
    outputs = [done.stdout.decode("utf-8", "surrogateescape"),
               done.stderr.decode("utf-8", "surrogateescape")]
    for output in outputs:
        assert not UNSAFE.search(output), ascii(output)
        assert not re.search("^ {0,2}<14>forged", output, re.MULTILINE), output
    return done.returncode, *outputs


@pytest.fixture
def hostile(directory):
    """A path with everything that a terminal could interpret, and a byte that is not UTF-8."""
    return directory / f"a{HOSTILE.replace('/', '')}\udcff"


@pytest.mark.parametrize("text", ["plain", "Grüße, 世界 🙂 \\x1b", "a b\u00a0c\u200d"])
def test_printable_text_stays_as_it_is(text):
    """Text of any language is shown as it is, and so is a backslash."""
    assert printable(text) == text


def test_escapes_name_the_character():
    r"""Controls are shown as \x1b or \u202e, and undecodable bytes as their surrogates."""
    assert printable(HOSTILE) == SHOWN
    assert printable("\t\udcff\u200e\u061c") == r"\x09\udcff\u200e\u061c"


def test_recover(make_orphaned_spool, make_sink, directory, hostile):
    """Recover shows each record in a line, and paths and errors without control characters."""
    make_orphaned_spool(HOSTILE, HOSTILE, path=hostile)
    status, output, _ = run("recover", "--dry-run", hostile)
    assert status == 0 and output.count("\n") == 3 and output.count(f"  <14>{SHOWN}\n") == 2
    assert run("recover", "--timeout", "0", hostile)[0] == 1
    assert run("recover", "--address", f"udp:{HOSTILE}:x", hostile)[0] == 2
    assert run("recover", "--address", HOSTILE * 9, hostile)[0] == 2
    sink = make_sink()
    status, output, _ = run("recover", "--address", sink.path, hostile)
    assert status == 0 and "2 records sent, the file was removed" in output
    assert not hostile.exists()


@pytest.mark.parametrize("create, message", [
    (lambda path: None, "No such file"),
    (lambda path: path.mkdir(), "is not a regular file"),
    (lambda path: path.write_bytes(b"x"), "is a file of another kind"),
    (lambda path: path.symlink_to("nowhere"), "is a symbolic link"),
    (lambda path: path.touch(0o644), "can be opened by other users"),
], ids=["absent", "directory", "other", "link", "mode"])
def test_recover_explains(hostile, create, message):
    """Each reason to refuse a file is one line."""
    create(hostile)
    if hostile.is_file() and message == "is a file of another kind":
        hostile.chmod(0o600)
    status, output, error = run("recover", hostile)
    assert (status, output) == (1, "") and message in error and error.count("\n") == 1


def test_recover_shows_a_hostile_destination(make_orphaned_spool, spool):
    """The destination in the file is as foreign as its records."""
    make_orphaned_spool("a")
    data = bytearray(spool.read_bytes())
    text = json.dumps({"paths": [], "host": HOSTILE, "port": "x", "socktype": 0, "framing": 0})
    data[24:28] = len(text).to_bytes(4, sys.byteorder)
    data[28:512] = text.encode().ljust(484, b"\0")
    spool.write_bytes(data)
    assert run("recover", "--dry-run", spool)[0] == 1


LISTEN = """
import socket, sys
open("/proc/self/comm", "wb").write(b"\\x1b[31m\\n\\xc2\\x9bx\\x7f")
s = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
s.bind(sys.argv[1])
print("ready", flush=True)
sys.stdin.read()
"""


@pytest.mark.parametrize("options", [["--no-send"], ["--no-send", "--json"]])
def test_doctor(directory, options):
    """The doctor shows a socket and the process that listens there without control characters."""
    path = os.fsencode(directory) + b"/\x1b[31m\r\x0b\x7f\xff\xe2\x80\xae"
    with subprocess.Popen([sys.executable, "-c", LISTEN, path], stdin=subprocess.PIPE,
                          stdout=subprocess.PIPE) as process:
        assert process.stdout.readline() == b"ready\n"
        status, output, _ = run("doctor", "--address", os.fsdecode(path), *options)
        process.stdin.close()
    assert status == 0 and f"(pid {process.pid})" in output
    if "--json" in options:
        finding = next(finding for finding in json.loads(output)["findings"]
                       if finding["check"] == "socket")
        assert os.fsdecode(path) in finding["found"] and "\x1b[31m\n\x9bx\x7f (" in finding["found"]
    else:
        assert r"\x1b[31m\x0a\x9bx\x7f (pid" in " ".join(output.split())


@pytest.mark.parametrize("arguments", [
    ["--address", HOSTILE], ["--address", f"udp:{HOSTILE}:514"], ["--facility", HOSTILE],
    ["--address", f"tcp:{HOSTILE}:514"], ["--address", "udp:x:" + HOSTILE],
], ids=["path", "udp", "facility", "tcp", "port"])
def test_doctor_explains(arguments):
    """A destination or a facility that does not exist is shown without control characters."""
    for options in [], ["--json"]:
        assert run("doctor", "--no-send", *arguments, *options)[0] in (1, 2)


@pytest.mark.parametrize("arguments", [
    [HOSTILE], ["demo", HOSTILE], ["demo", "--records", HOSTILE], ["bench", "--rate", HOSTILE],
    ["recover", "x", f"--{HOSTILE.replace(' ', '')}"], ["recover", "x", "--timeout", HOSTILE],
    ["doctor", f"--{HOSTILE}", "--json"],
], ids=["command", "demo", "records", "rate", "recover", "timeout", "doctor"])
def test_invalid_arguments(arguments):
    """Errors of the command line show it without control characters."""
    assert run(*arguments)[0] == 2


def make_program(directory, script):
    """Make a program named rsyslogd in a directory with a hostile name. Return a PATH with it."""
    folder = directory / "b\x1b[31m\x7f\u202e"
    folder.mkdir()
    (folder / "rsyslogd").write_text(f"#!/bin/sh\n{script}\n")
    (folder / "rsyslogd").chmod(0o755)
    return f"{folder}:{os.environ['PATH']}"


@pytest.mark.parametrize("command", ["demo", "bench"])
def test_daemon_that_does_not_start(directory, command):
    """The output of a daemon that has ended is shown without control characters."""
    path = make_program(directory, r"printf '\033[31m\n  <14>forged\177\302\233'; exit 1")
    status, _, error = run(command, PATH=path)
    assert status == 1 and r"rsyslogd ended: \x1b[31m\x0a  <14>forged\x7f\x9b" in error


def test_demo_and_bench(directory, require):
    """The path of the daemon, and the version that it prints, are shown the same way."""
    require("rsyslogd", find_rsyslogd())
    path = make_program(directory, r"""
if [ "$1" = -v ]; then printf 'rsyslogd \033[31m\177\302\233 more'; exit; fi
exec """ + shutil.which("rsyslogd", path="/usr/sbin:/sbin:/usr/local/sbin") + ' "$@"')
    status, output, _ = run("demo", "--records", "100", PATH=path)
    assert status == 0 and r"/b\x1b[31m\x7f\u202e/rsyslogd, which" in output
    for options in [], ["--json"]:
        status, output, _ = run("bench", "--rate", "1000", "--seconds", "0.02", *options, PATH=path)
        assert status == 0 and ("[31m" in output)


def test_lines_of_the_handler(make_handler, hostile, directory, spool, capsys):
    """Lines of a handler on stderr show its address and its spool the same way."""
    address = Path(f"{directory}/{HOSTILE[:40]}")
    for _ in range(2):
        handler = make_handler(address, spool=hostile, capacity=1 << 16, close_timeout=0)
        handler.handle(logging.makeLogRecord({"msg": "x", "levelname": "INFO"}))
        handler.close()
    errors = capsys.readouterr().err
    assert not UNSAFE.search(errors), ascii(errors)
    assert "records were not delivered" in errors and "records of an earlier process" in errors
    assert all(line.startswith("fastlog: ") for line in errors.splitlines())
    hostile.chmod(0o644)
    with pytest.raises(OSError) as caught:
        make_handler(address, spool=hostile, capacity=1 << 16)
    assert not UNSAFE.search(str(caught.value))

