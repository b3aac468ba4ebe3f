"""The spool: records that outlive their process, and files that are not what they should be."""
import errno
import mmap
import os
import random
import socket
import stat
import struct
import subprocess
import sys
from typing import NamedTuple

import pytest

import fastlog

PAGE = mmap.PAGESIZE
CAPACITY = 1 << 16

# A process that logs N records to a socket where nobody reads, and then kills itself.
DIES = """
import logging, os, signal, sys, fastlog
logging.raiseExceptions = False  # nobody listens, and that is told
address, spool, count = sys.argv[1], sys.argv[2], int(sys.argv[3])
handler = fastlog.SysLogHandler(address, spool=spool, capacity=1 << 16)
log = logging.Logger("x")
log.addHandler(handler)
for i in range(count):
    log.info("%d", i)
"""
KILL = "os.kill(os.getpid(), signal.SIGKILL)"


@pytest.fixture
def spool(directory):
    return directory / "spool"


@pytest.fixture
def die(run_python, directory, spool):
    """Leaves a spool with records that were not sent, as nobody listens."""
    def run(count=100, end=KILL, returncode=-9, before=""):
        run_python(before + DIES + end, directory / "log", spool, count, returncode=returncode)
    return run


class Recovery(NamedTuple):
    returncode: int
    stdout: str
    stderr: str
    received: list[bytes]


def recover(*arguments, sink=None, count=0):
    """Run the command; what it sends is read meanwhile, as a sink's queue takes only a few."""
    command = [sys.executable, "-m", "fastlog", "recover", *map(str, arguments)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE,
                          text=True) as process:
        received = sink.take(count) if sink else []
        stdout, stderr = process.communicate(timeout=60)
    return Recovery(process.returncode, stdout, stderr, received)


def numbered(datagrams):
    return [int(each[4:-1]) for each in datagrams]


# --- what comes back -----------------------------------------------------------------------------

@pytest.mark.parametrize("end, returncode", [
    (KILL, -9), ("os._exit(3)", 3), ("os.kill(os.getpid(), signal.SIGSEGV)", -11)])
def test_next_handler_sends_what_the_last_one_left(die, make_handler, make_sink, spool, capsys,
                                                   logger_for, end, returncode):
    """The records of the dead process come first, in order, once; then the new ones."""
    die(100, end, returncode)
    assert stat.S_IMODE(spool.stat().st_mode) == 0o600
    sink = make_sink()
    handler = make_handler(sink.path, spool=spool, capacity=CAPACITY)
    assert f"100 records of an earlier process in {spool}" in capsys.readouterr().err
    logger_for(handler).info("100")
    assert numbered(sink.take(101)) == list(range(101))
    assert handler.flush() and sink.is_empty()
    stats = handler.stats()
    assert stats.submitted == stats.accepted == stats.sent == 101 and stats.pending == 0
    handler.close()
    assert not spool.exists()  # nothing is in it
    assert make_handler(sink.path, spool=spool, capacity=CAPACITY).stats().accepted == 0


def test_recover_command(die, make_sink, spool, directory):
    """A dry run shows and changes nothing; the real one sends, in order, and removes the file."""
    die(50)
    before = spool.read_bytes()
    done = recover(spool, "--dry-run")
    assert done.returncode == 0 and done.stderr == ""
    lines = done.stdout.splitlines()
    assert lines[0] == f"{spool}: 50 records of an earlier process"
    assert lines[1:] == [f"  <14>{i}" for i in range(50)]
    assert spool.read_bytes() == before

    done = recover(spool, "--timeout", "0.1")  # where the process would have sent them: nobody
    assert done.returncode == 1 and "50 could not be" in done.stderr
    sink = make_sink(directory / "elsewhere")
    done = recover(spool, "--address", sink.path, sink=sink, count=50)
    assert done.returncode == 0 and "50 records sent" in done.stdout
    assert numbered(done.received) == list(range(50)) and sink.is_empty()
    assert not spool.exists()


def test_recover_knows_where_the_records_were_to_go(die, make_sink, spool):
    die(20)
    sink = make_sink()
    done = recover(spool, sink=sink, count=20)
    assert done.returncode == 0 and numbered(done.received) == list(range(20))


def test_recover_over_tcp(die, spool):
    die(20)
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port = listener.getsockname()[1]
        done = recover(spool, "--address", f"tcp:127.0.0.1:{port}")
        assert done.returncode == 0, done
        connection, _ = listener.accept()
        with connection:
            wire = connection.makefile("rb").read()
    assert wire == b"".join(b"<14>%d\0" % i for i in range(20))


@pytest.mark.parametrize("arguments, status, said", [
    (["/nowhere/spool"], 1, "No such file"),
    (["x", "--address", "udp:nowhere"], 2, "--address must be udp:HOST:PORT"),
    (["x", "--address", "y" * 200], 2, "address must be at most"),
    (["x", "--timeout", "-1"], 2, "--timeout must be between"),
    ([], 2, "PATH"),
])
def test_recover_says_what_is_wrong(arguments, status, said):
    done = recover(*arguments)
    assert done.returncode == status and said in done.stderr and "Traceback" not in done.stderr


def test_forked_children_have_spools_of_their_own(run_python, directory, spool, make_sink):
    """Parent and children are killed: recovery finds all of their records, each once."""
    run_python("""
import logging, os, signal, sys, fastlog
logging.raiseExceptions = False  # nobody listens, and that is told
handler = fastlog.SysLogHandler(sys.argv[1], spool=sys.argv[2], capacity=1 << 16)
log = logging.Logger("x")
log.addHandler(handler)
log.info("parent 0")
for child in "ab":
    pid = os.fork()
    if pid == 0:
        for i in range(10):
            log.info("%s %d", child, i)
        os.kill(os.getpid(), signal.SIGKILL)
    os.waitpid(pid, 0)
log.info("parent 1")
os.kill(os.getpid(), signal.SIGKILL)
""", directory / "log", spool, returncode=-9)
    assert len(list(directory.glob("spool.*"))) == 2
    sink = make_sink()
    done = recover(spool, sink=sink, count=22)
    assert done.returncode == 0, done
    by_process = {}
    for datagram in done.received:
        name, number = datagram[4:-1].decode().split()
        by_process.setdefault(name, []).append(int(number))
    assert by_process == {"parent": [0, 1], "a": list(range(10)), "b": list(range(10))}
    assert sink.is_empty() and list(directory.glob("spool*")) == []


def test_handler_sends_what_children_left(run_python, make_handler, make_sink, directory, spool,
                                          capsys):
    """The next handler with the path empties the children's spools, too, and removes them."""
    run_python("""
import logging, os, sys, fastlog
logging.raiseExceptions = False
handler = fastlog.SysLogHandler(sys.argv[1], spool=sys.argv[2], capacity=1 << 16)
if os.fork() == 0:
    log = logging.Logger("x")
    log.addHandler(handler)
    log.info("0")
    os._exit(0)
os.wait()
os._exit(0)
""", directory / "log", spool)
    sink = make_sink()
    handler = make_handler(sink.path, spool=spool, capacity=CAPACITY)
    assert sink.take_one() == b"<14>0\0"
    assert handler.flush()
    assert "1 records of an earlier process" in capsys.readouterr().err
    assert sorted(os.listdir(directory)) == ["log", "spool"]


def test_children_that_end_well_leave_no_file(run_python, directory, spool, make_sink):
    """A child of multiprocessing delivers, and removes its spool."""
    sink = make_sink()
    run_python("""
import logging, multiprocessing, os, sys, fastlog
handler = fastlog.SysLogHandler(sys.argv[1], spool=sys.argv[2], capacity=1 << 16)
log = logging.getLogger()
log.addHandler(handler)
process = multiprocessing.get_context("fork").Process(target=log.warning, args=("child",))
process.start()
process.join()
""", sink.path, spool)
    assert sink.take_one() == b"<12>child\0"
    assert os.listdir(directory) == ["log"]


def test_other_capacity(die, make_handler, make_sink, spool, capsys):
    """A handler with another capacity sends the old records and has a new file."""
    die(30)
    sink = make_sink()
    handler = make_handler(sink.path, spool=spool, capacity=2 * CAPACITY)
    assert numbered(sink.take(30)) == list(range(30))
    assert handler.flush() and handler.stats().capacity == 2 * CAPACITY
    assert sorted(each.name for each in spool.parent.iterdir()) == ["log", "spool"]
    assert spool.stat().st_size == PAGE + 2 * CAPACITY


def test_close_leaves_the_file_to_the_next(make_handler, make_sink, directory, spool, logger_for,
                                           capsys):
    """A close that gave up says where the records are; the next handler in the same process
    sends them. The closed one still works, without its spool."""
    handler = make_handler(directory / "log", spool=spool, capacity=CAPACITY)
    log = logger_for(handler)
    for i in range(5):
        log.info("%d", i)
    handler.close(0.0)
    assert (f"5 records were not delivered to {directory / 'log'}; they are kept in {spool}"
            in capsys.readouterr().err)
    sink = make_sink()
    second = make_handler(sink.path, spool=spool, capacity=CAPACITY)
    assert numbered(sink.take(5)) == list(range(5))
    log.info("5")
    assert sink.take_one() == b"<14>5\0"
    assert handler.flush() and handler.stats().sent == 1 and handler.stats().pending == 5
    assert second.flush() and second.stats().sent == 5
    second.close()
    assert not spool.exists()


def test_unfinished_record_is_left_out(die, make_sink, spool):
    """A record that its producer did not commit, and one that has no word yet, are skipped."""
    die(3)
    with open(spool, "r+b") as file:
        file.seek(PAGE)
        first = struct.unpack("Q", file.read(8))[0]
        file.seek(PAGE)
        file.write(struct.pack("Q", first & ~(1 << 63)))      # not committed
        file.seek(PAGE + 16)
        file.write(bytes(16))                                 # the second: claimed, no more
    done = recover(spool, "--dry-run")
    assert done.stdout.splitlines() == [
        f"{spool}: 1 records of an earlier process, 1 that it did not finish, which are left out",
        "  <14>2"]
    sink = make_sink()
    assert recover(spool).returncode == 0
    assert sink.take_one() == b"<14>2\0" and sink.is_empty()


# --- files that are not what they should be ------------------------------------------------------

def refused(make_handler, spool, number, why, **options):
    with pytest.raises(OSError) as caught:
        make_handler("/dev/log", spool=spool, **{"capacity": CAPACITY, **options})
    assert caught.value.errno == number and why in str(caught.value), caught.value
    assert str(spool) in str(caught.value)


def test_two_processes_cannot_share_one(make_handler, directory, spool):
    code = ("import sys, fastlog; h = fastlog.SysLogHandler(sys.argv[1], spool=sys.argv[2]); "
            "print(1, flush=True); sys.stdin.read()")
    with subprocess.Popen([sys.executable, "-c", code, directory / "log", spool],
                          stdin=subprocess.PIPE, stdout=subprocess.PIPE) as other:
        assert other.stdout.readline() == b"1\n"
        refused(make_handler, spool, errno.EAGAIN, f"in use by process {other.pid}")
        done = recover(spool)
        assert done.returncode == 1 and f"in use by process {other.pid}" in done.stderr
        other.stdin.close()
    make_handler(directory / "log", spool=spool)


def test_two_handlers_cannot_share_one(make_handler, directory, spool, run_python):
    """And the refusal does not give up the first one's lock."""
    make_handler(directory / "log", spool=spool, capacity=CAPACITY)
    refused(make_handler, spool, errno.EAGAIN, "in use by another handler of this process")
    done = recover(spool)
    assert done.returncode == 1 and f"in use by process {os.getpid()}" in done.stderr


def test_forked_child_does_not_hold_the_parents_lock(run_python, directory, spool, make_handler):
    """A child that outlives its parent must not keep the next process from the parent's spool."""
    code = """
import os, sys, fastlog
handler = fastlog.SysLogHandler(sys.argv[1], spool=sys.argv[2], capacity=1 << 16)
if os.fork() == 0:
    sys.stdin.read()
    os._exit(0)
os._exit(0)
"""
    with subprocess.Popen([sys.executable, "-c", code, directory / "log", spool],
                          stdin=subprocess.PIPE) as parent:
        parent.wait(30)
        make_handler(directory / "log", spool=spool, capacity=CAPACITY)
        parent.stdin.close()


def test_symbolic_link(make_handler, directory, spool):
    (directory / "target").write_bytes(b"precious")
    spool.symlink_to(directory / "target")
    refused(make_handler, spool, errno.ELOOP, "symbolic link")
    assert (directory / "target").read_bytes() == b"precious"


@pytest.mark.parametrize("make, why", [
    (lambda path: path.mkdir(), "is not a regular file"),
    (lambda path: os.mkfifo(path), "is not a regular file"),
    (lambda path: path.write_bytes(b"precious" * 100), "is another file, which is left as it is"),
    (lambda path: path.write_bytes(b"x"), "is another file, which is left as it is"),
    (lambda path: path.write_bytes(random.Random(0).randbytes(PAGE + CAPACITY)), "is another file"),
], ids=["directory", "fifo", "text", "short", "random"])
def test_something_else_is_there(make_handler, spool, make, why):
    make(spool)
    if spool.is_file():
        spool.chmod(0o600)
        before = spool.read_bytes()
    refused(make_handler, spool, errno.EINVAL, why)
    assert not spool.is_file() or spool.read_bytes() == before


def test_others_can_read_it(make_handler, directory, spool):
    make_handler(directory / "log", spool=spool, capacity=CAPACITY)
    other = spool.with_name("other")
    other.write_bytes(spool.read_bytes())
    other.chmod(0o644)
    refused(make_handler, other, errno.EPERM, "mode 0644, should be 0600")


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can give a file away")
def test_another_users(make_handler, directory, die, spool):
    """Not even root takes another user's records."""
    die(3)
    os.chown(spool, 65534, -1)
    refused(make_handler, spool, errno.EPERM, "belongs to user 65534")
    done = recover(spool)
    assert done.returncode == 1 and "belongs to user 65534" in done.stderr


@pytest.mark.parametrize("version", [0, 2, 99])
def test_another_format(die, make_handler, spool, version):
    """Upgrades and downgrades of the format are refused, and lose nothing."""
    die(3)
    with open(spool, "r+b") as file:
        file.seek(8)
        file.write(struct.pack("I", version))
    before = spool.read_bytes()
    refused(make_handler, spool, errno.EINVAL, f"has format {version}, and this version of "
                                               "fastlog knows 1")
    assert spool.read_bytes() == before


def test_disk_full(make_handler, directory, run_python):
    """An error at construction, and no half-made file."""
    if os.geteuid() != 0:
        pytest.skip("only root can mount a file system that is too small")
    run_python("""
import errno, os, sys, fastlog
os.unshare(os.CLONE_NEWNS) if hasattr(os, "unshare") else None
import ctypes
libc = ctypes.CDLL(None, use_errno=True)
assert libc.unshare(0x00020000) == 0
assert libc.mount(b"none", b"/", None, 1 << 18 | 1 << 14, None) == 0
assert libc.mount(b"tmpfs", sys.argv[1].encode(), b"tmpfs", 0, b"size=100k") == 0
path = sys.argv[1] + "/spool"
try:
    fastlog.SysLogHandler("/dev/log", spool=path)
except OSError as error:
    assert error.errno == errno.ENOSPC and path in str(error), error
    assert "cannot be made with" in str(error)
else:
    raise AssertionError("no error")
assert os.listdir(sys.argv[1]) == []
fastlog.SysLogHandler("/dev/log", spool=path, capacity=1 << 16).close()
assert libc.mount(b"tmpfs", sys.argv[1].encode(), None, 1 << 5 | 1, None) == 0  # read-only
try:
    fastlog.SysLogHandler("/dev/log", spool=sys.argv[1] + "/other")
except OSError as error:
    assert error.errno == errno.EROFS, error
else:
    raise AssertionError("no error")
""", directory)


def test_directory_that_may_not_be_written(run_python, directory):
    if os.geteuid() != 0:
        pytest.skip("as root, which then drops its rights")
    directory.chmod(0o755)
    run_python("""
import errno, os, sys, fastlog, fastlog._spool
os.setuid(65534)
try:
    fastlog.SysLogHandler("/dev/log", spool=sys.argv[1] + "/spool")
except OSError as error:
    assert error.errno == errno.EACCES, error
else:
    raise AssertionError("no error")
""", directory)


def test_truncated_file(die, make_sink, make_handler, spool, capsys):
    """What is left of a file that was cut off is recovered; the rest is told as lost."""
    die(100)
    os.truncate(spool, PAGE + 16 * 40)
    before = spool.read_bytes()
    assert recover(spool, "--dry-run").returncode == 1
    assert spool.read_bytes() == before
    sink = make_sink()
    handler = make_handler(sink.path, spool=spool, capacity=CAPACITY)
    assert numbered(sink.take(40)) == list(range(40))
    assert handler.flush() and sink.is_empty()


@pytest.mark.parametrize("bad", [3, object(), True])
def test_wrong_type(make_handler, bad):
    with pytest.raises(TypeError, match="spool must be"):
        make_handler("/dev/log", spool=bad)


def test_not_with_sockets_of_ones_own(make_handler, spool):
    class Own(fastlog.SysLogHandler):
        def createSocket(self):
            pass

    with pytest.raises(ValueError, match="spool cannot be had with createSocket"):
        make_handler("/dev/log", cls=Own, spool=spool)
