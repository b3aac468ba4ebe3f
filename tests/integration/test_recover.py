"""The command `fastlog recover` sends the records of orphaned spools in order."""
import json
import os
import socket
import struct
import subprocess
import sys

import pytest


def records(*texts):
    return [f"<14>{text}\0".encode() for text in texts]


def test_command(make_orphaned_spool, recover, make_sink, spool, directory):
    """A dry run only prints the records. A real run sends them in order and removes the file."""
    make_orphaned_spool(*range(50))
    before = spool.read_bytes()
    done = recover(spool, "--dry-run")
    assert done.returncode == 0 and done.stderr == ""
    lines = done.stdout.splitlines()
    assert lines[0] == f"{spool}: 50 records of an earlier process"
    assert lines[1:] == [f"  <14>{i}" for i in range(50)]
    assert spool.read_bytes() == before

    done = recover(spool, "--timeout", "0.1")  # to the address of the process, where no daemon runs
    assert done.returncode == 1 and "50 could not be" in done.stderr
    sink = make_sink(directory / "elsewhere")
    done = recover(spool, "--address", sink.path, sink=sink, count=50)
    assert done.returncode == 0 and "50 records sent" in done.stdout
    assert done.received == records(*range(50)) and sink.is_empty()
    assert not spool.exists()


@pytest.mark.parametrize("arguments, status, words", [
    (["/nowhere/spool"], 1, "No such file"),
    (["x", "--address", "udp:nowhere"], 2, "--address must be udp:HOST:PORT"),
    (["x", "--address", "y" * 200], 2, "address must be at most"),
    (["x", "--timeout", "-1"], 2, "--timeout must be between"),
    ([], 2, "PATH"),
])
def test_error_messages(recover, arguments, status, words):
    """A wrong path or option is reported on stderr without a traceback."""
    done = recover(*arguments)
    assert done.returncode == status and words in done.stderr and "Traceback" not in done.stderr


def test_killed_during_recovery(make_orphaned_spool, make_sink, spool):
    """The next run continues where a killed one ended. A batch may arrive twice, in order."""
    make_orphaned_spool(*range(300))
    sink = make_sink()
    following = 0
    for is_killed in (True, True, True, False):
        with subprocess.Popen([sys.executable, "-m", "fastlog", "recover", spool],
                              stdout=subprocess.DEVNULL) as process:
            received = sink.take(50)
            if is_killed:
                process.kill()
            while not is_killed and received[-1] != b"<14>299\0":
                received += sink.take()
        while not sink.is_empty():
            received += sink.take()
        numbers = [int(datagram[4:-1]) for datagram in received]
        assert following - 16 <= numbers[0] <= following
        assert numbers == list(range(numbers[0], numbers[0] + len(numbers)))
        following = numbers[-1] + 1
    assert following == 300 and not spool.exists()


def test_last_destination(make_orphaned_spool, recover, make_sink, spool, directory):
    """The records are sent to the destination of the last process that used the file."""
    make_orphaned_spool("a", address=str(directory / "before"))
    make_orphaned_spool("b", address=str(directory / "now"))
    sink = make_sink(directory / "now")
    assert recover(spool).returncode == 0
    assert sink.take(2) == records("a", "b")


def test_relative_address(make_orphaned_spool, recover, make_sink, spool, directory, tmp_path):
    """A relative address is resolved in the directory of the process that made the spool."""
    make_orphaned_spool("a", address=os.path.relpath(directory / "log", tmp_path))
    sink = make_sink()
    assert recover(spool, cwd="/").returncode == 0
    assert sink.take(1) == records("a")


def test_unprintable_text(make_orphaned_spool, recover, make_sink, directory):
    """A path that is not UTF-8, and text outside the encoding of stdout, are escaped."""
    spool = os.fsdecode(os.fsencode(directory) + b"/\xff")
    make_orphaned_spool("\u20ac", path=spool)
    utf8 = {"PYTHONIOENCODING": "utf-8"}
    done = recover(spool, "--dry-run", environment=utf8)
    assert (done.returncode, done.stderr) == (0, "") and "\\udcff" in done.stdout
    done = recover(spool, "--dry-run", environment={"PYTHONIOENCODING": "ascii"})
    assert (done.returncode, done.stderr) == (0, "") and "<14>\\u20ac" in done.stdout
    sink = make_sink()
    assert recover(spool, environment=utf8).returncode == 0
    assert sink.take(1) == records("\u20ac")


def test_several_paths(make_orphaned_spool, recover, make_sink, spool):
    """`recover PATH*` does not fail for a file that was already recovered with another path."""
    make_orphaned_spool("a")
    make_orphaned_spool("b", path=f"{spool}.77")
    sink = make_sink()
    done = recover(spool, f"{spool}.77")
    assert (done.returncode, done.stderr) == (0, "")
    assert sink.take(2) == records("a", "b")


def test_renamed_twice(make_orphaned_spool, recover, make_sink, spool, directory):
    """A second spool that is renamed does not replace the first one.

    Both have the same process id, as in containers.
    """
    for capacity, text in ((4096, "a"), (8192, "b"), (4096, "c"), (8192, "d")):
        make_orphaned_spool(text, capacity=capacity, before="import os; os.getpid = lambda: 1",
                            end="signal.raise_signal(signal.SIGKILL)")
    sink = make_sink()
    done = recover(spool)
    assert done.returncode == 0, done
    assert sorted(sink.take(4)) == records("a", "b", "c", "d")
    assert os.listdir(directory) == ["log"]


def test_renamed_file_of_a_child(make_orphaned_spool, recover, make_sink, spool, directory):
    """Recovery finds a child's file that a process with its id but another capacity renamed."""
    make_orphaned_spool("a", path=f"{spool}.77", capacity=4096)
    make_orphaned_spool("b", path=f"{spool}.77", capacity=8192)
    sink = make_sink()
    done = recover(spool)
    assert done.returncode == 0, done
    assert sorted(sink.take(2)) == records("a", "b")
    assert os.listdir(directory) == ["log"]


# --- records for another kind of destination ------------------------------------------------------

DATAGRAMS = {}
STREAM = {"socktype": 1}
COUNTED = {"socktype": 1, "framing": "octet-counting"}
NEWLINE = {"socktype": 1, "framing": "newline"}


def recover_over_tcp(recover, spool):
    with socket.create_server(("127.0.0.1", 0)) as listener:
        done = recover(spool, "--address", f"tcp:127.0.0.1:{listener.getsockname()[1]}")
        assert (done.returncode, done.stderr) == (0, ""), done
        connection, _ = listener.accept()
        with connection:
            return connection.makefile("rb").read()


@pytest.mark.parametrize("options, wire", [
    (DATAGRAMS, b"11 <14>a\n<14>b5 <14>c"),
    (STREAM, b"<14>a#012<14>b\0<14>c\0"),
    (COUNTED, b"11 <14>a\n<14>b5 <14>c"),
    (NEWLINE, b"<14>a#012<14>b\n<14>c\n"),
], ids=["datagrams", "stream", "octet-counting", "newline"])
def test_over_tcp(make_orphaned_spool, recover, spool, options, wire):
    """Two records stay two, whatever they contain, and whatever destination they were made for."""
    make_orphaned_spool("a\n<14>b", "c", **options)
    assert recover_over_tcp(recover, spool) == wire
    assert not spool.exists()


@pytest.mark.parametrize("options, received", [
    (DATAGRAMS, [b"<14>a\nb\0", b"<14>c\0"]),
    (STREAM, [b"<14>a#012b\0", b"<14>c\0"]),
    (COUNTED, [b"<14>a\nb", b"<14>c"]),
    (NEWLINE, [b"<14>a#012b", b"<14>c"]),
], ids=["datagrams", "stream", "octet-counting", "newline"])
def test_over_udp(make_orphaned_spool, recover, spool, options, received):
    """Each record is sent over UDP as one datagram, whatever destination it was made for."""
    make_orphaned_spool("a\nb", "c", **options)
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sink:
        sink.bind(("127.0.0.1", 0))
        sink.settimeout(30)
        done = recover(spool, "--address", f"udp:127.0.0.1:{sink.getsockname()[1]}")
        assert (done.returncode, done.stderr) == (0, ""), done
        assert [sink.recv(100), sink.recv(100)] == received


@pytest.mark.parametrize("options", [DATAGRAMS, STREAM, COUNTED, NEWLINE],
                         ids=["datagrams", "stream", "octet-counting", "newline"])
@pytest.mark.parametrize("kind", [socket.SOCK_DGRAM, socket.SOCK_STREAM], ids=["dgram", "stream"])
def test_to_a_unix_socket(make_orphaned_spool, recover, make_sink, directory, spool, options, kind):
    """Each record is a datagram, or ends with a NUL on a stream, because any daemon may listen."""
    make_orphaned_spool("a", "c", **options)
    sink = make_sink(directory / "elsewhere", kind)
    done = recover(spool, "--address", sink.path)
    assert (done.returncode, done.stderr) == (0, ""), done
    if kind == socket.SOCK_STREAM:
        assert sink.take_bytes(12) == b"<14>a\0<14>c\0"
    else:
        assert sink.take(2) == records("a", "c")


@pytest.mark.slow
def test_rewritten_as_far_as_possible(make_orphaned_spool, recover, make_sink, directory, spool):
    """Records that could not be sent stay in the spool unchanged."""
    make_orphaned_spool(*range(100), **COUNTED)
    sink = make_sink()
    sink.hang(room=11)
    done = recover(spool, "--address", sink.path, "--timeout", "2")
    assert done.returncode == 1 and "could not be" in done.stderr
    sent = int(done.stderr.partition(" records sent")[0].rpartition(" ")[2])
    assert sink.take(sent) == records(*range(sent)) and sent == 11
    # The record that waited when the timeout expired was not sent.
    assert sink.is_empty()
    done = recover(spool, "--address", sink.path, sink=sink, count=100 - sent)
    assert done.returncode == 0 and done.received == records(*range(sent, 100))
    assert not spool.exists()


def test_rewritten_without_a_priority(make_orphaned_spool, recover, make_sink, spool):
    """A complete record without a priority gets the default of RFC 3164."""
    make_orphaned_spool("text", **COUNTED)
    content = spool.read_bytes()
    spool.write_bytes(content.replace(b"8 <14>text", b"8 x14>text"))
    sink = make_sink()
    assert recover(spool, "--address", sink.path).returncode == 0
    assert sink.take_one() == b"<13>x14>text\0"


def test_next_handler_uses_another_format(make_orphaned_spool, recover, make_handler, make_sink,
                                          spool, capsys):
    """A handler does not send records in a format that its destination would not understand."""
    make_orphaned_spool("a\nb")
    sink = make_sink()
    handler = make_handler(sink.path, spool=spool, capacity=1 << 16, socktype=socket.SOCK_STREAM)
    report = capsys.readouterr().err
    renamed, = spool.parent.glob("spool.*")
    assert report == (f"fastlog: 1 records of an earlier process in {renamed}, for another "
                      f"destination. Run `fastlog recover {renamed}` to send them\n")
    assert handler.flush()
    assert recover(renamed).returncode == 0 and sink.take(1) == records("a\nb")
    assert not renamed.exists()


@pytest.mark.parametrize("name", ["journal", "elsewhere"])
def test_entries_of_the_journal(run_python, recover, make_sink, directory, spool, name):
    """Entries of any length are sent to journald's native socket, and only there."""
    run_python("""
import logging, os, sys, fastlog
logging.raiseExceptions = False  # no outage reports on stderr
log = logging.Logger("x")
log.addHandler(fastlog.JournalHandler(sys.argv[1], ident="x", spool=sys.argv[2], capacity=1 << 21))
log.info("x" * 400_000)
os._exit(0)
""", directory / "journal", spool)
    before = spool.read_bytes()
    for address in "udp:127.0.0.1:9", "tcp:127.0.0.1:9", make_sink(directory / "dev-log").path:
        done = recover(spool, "--address", address)
        assert done.returncode == 1 and "can only be sent to a socket of journald" in done.stderr
    assert spool.read_bytes() == before
    sink = make_sink(directory / name)
    address = ["--address", sink.path] if name == "elsewhere" else []
    assert recover(spool, *address).returncode == 0
    _, (file,), _, _ = socket.recv_fds(sink.socket, 1, 1)  # too long for a datagram
    with open(file, "rb") as entry:
        assert b"MESSAGE=" + b"x" * 400_000 + b"\n" in entry.read()


def test_syslog_handler_after_a_journal_handler(run_python, make_handler, make_sink, directory,
                                                spool, capsys):
    """A SysLogHandler with the same spool does not send the journal's entries to syslog."""
    run_python("""
import logging, os, sys, fastlog
logging.raiseExceptions = False  # no outage reports on stderr
log = logging.Logger("x")
log.addHandler(fastlog.JournalHandler(sys.argv[1], spool=sys.argv[2], capacity=1 << 16))
log.info("entry")
os._exit(0)
""", directory / "log", spool)
    sink = make_sink()
    handler = make_handler(sink.path, spool=spool, capacity=1 << 16)
    assert "for another destination" in capsys.readouterr().err
    handler.close()
    assert sink.is_empty()


# --- damaged headers ------------------------------------------------------------------------------

@pytest.mark.parametrize("damage", [
    {"paths": [], "host": "h" * 400, "port": 514},
    {"paths": [], "host": "localhost", "port": 10 ** 60},
    {"paths": [], "host": "", "port": 0},
    {"paths": ["/a"] * 20},
    {"paths": ["/" + "a" * 300]},
    {"paths": 5},
    {"framing": 4},
    {"framing": []},
    {"socktype": "x"},
], ids=["host", "port", "no host", "20 paths", "path", "paths", "framing", "framing's type",
        "socktype"])
def test_damaged_destination(make_orphaned_spool, recover, make_sink, spool, directory, damage):
    """A damaged destination is reported and harmless. With --address, the records are sent."""
    make_orphaned_spool("a")
    with open(spool, "r+b") as file:
        size, = struct.unpack("=24xI", file.read(28))
        destination = json.dumps({**json.loads(file.read(size)), **damage}).encode()
        file.seek(24)
        file.write(struct.pack("=I", len(destination)) + destination)
    for arguments in ["--dry-run"], []:
        done = recover(spool, *arguments)
        assert done.returncode == 1 and "the destination in the file is invalid" in done.stderr
    sink = make_sink(directory / "elsewhere")
    assert recover(spool, "--address", sink.path).returncode == 0
    assert sink.take(1) == records("a")


def test_empty_file(recover, spool):
    """Recovery removes an empty file, which a process leaves if it is killed at its start."""
    spool.touch(0o600)
    done = recover(spool, "--dry-run")
    assert done == (0, f"{spool}: nothing to send\n", "", []) and spool.exists()
    assert recover(spool) == (0, f"{spool}: nothing to send\n", "", []) and not spool.exists()


def test_closed_output(make_orphaned_spool, spool):
    """`fastlog recover … | head` ends without a traceback."""
    make_orphaned_spool(*["x" * 1000] * 800, capacity=1 << 20)  # more than a pipe holds
    with subprocess.Popen([sys.executable, "-m", "fastlog", "recover", "--dry-run", spool],
                          stdout=subprocess.PIPE, stderr=subprocess.PIPE) as command:
        assert command.stdout.readline()
        command.stdout.close()
        assert command.stderr.read() == b""
    assert command.returncode == 1
