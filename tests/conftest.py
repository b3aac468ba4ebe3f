"""What the tests share: sinks, loggers, daemons, and Python in a subprocess."""
from __future__ import annotations

import contextlib
import logging
import os
import shutil
import signal
import socket
import subprocess
import sys
import sysconfig
import tempfile
from pathlib import Path
from typing import NamedTuple

import pytest
from support.daemons import Rsyslogd
from support.journald import Journald, find_journald

import fastlog
from fastlog._daemons.rsyslogd import find_rsyslogd

TIMEOUT = 30  # seconds; how long a test waits for something that must come


@pytest.fixture(scope="session", autouse=True)
def outside_source_tree(tmp_path_factory):
    """Not the source tree: processes that are started here would import that, and not be built."""
    before = os.getcwd()
    os.chdir(tmp_path_factory.mktemp("outside_source_tree"))
    yield
    os.chdir(before)


@pytest.fixture(scope="session", autouse=True)
def interruptible():
    """In the background of a shell SIGINT is ignored, which programs that tests start inherit."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    os.environ.pop("PYTHONUNBUFFERED", None)       # this, too, hides what users see
    yield
    signal.signal(signal.SIGINT, before)


@pytest.fixture
def directory():
    """A new directory with a short path: a socket's address holds 107 bytes."""
    with tempfile.TemporaryDirectory(prefix="fl-") as path:
        yield Path(path)


FILLER = b"MESSAGE=filler\n"     # harmless to a journald, too


def fill_datagram_queue(path):
    """Have the queue of a socket full, as that of a daemon which hangs. Returns what it took."""
    count, before = 0, -1
    while count != before:     # a sender's own buffer may be full first: then another one goes on
        before = count
        with (socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as sender,
              contextlib.suppress(BlockingIOError)):
            sender.setblocking(False)
            sender.connect(str(path))
            while True:
                sender.send(FILLER)
                count += 1
    return count


@pytest.fixture
def fill_queue():
    return fill_datagram_queue


class Sink:
    """A unix socket that plays the daemon: receives when asked to, and counts nothing itself."""

    def __init__(self, path, kind=socket.SOCK_DGRAM):
        self.path = str(path)
        self.kind = kind
        self.connection = None
        self.buffer = memoryview(bytearray(1 << 23))  # one for all, which is much faster
        self.bind()

    def bind(self):
        self.socket = socket.socket(socket.AF_UNIX, self.kind)
        self.socket.settimeout(TIMEOUT)
        self.socket.bind(self.path)
        if self.kind == socket.SOCK_STREAM:
            self.socket.listen()

    def hang(self, room=0):
        """Have a full queue, whatever its length; then room for so many datagrams in it."""
        count = fill_datagram_queue(self.path)
        for _ in range(room):
            self.socket.recv(100)
        return count - room

    def take(self, count=1):
        """The next `count` datagrams, without those of hang()."""
        taken = []
        while len(taken) < count:
            datagram = bytes(self.buffer[:self.socket.recv_into(self.buffer)])
            if datagram != FILLER:
                taken.append(datagram)
        return taken

    def take_one(self):
        return self.take()[0]

    def take_bytes(self, size):
        """The next `size` bytes of a stream."""
        if self.connection is None:
            self.connection, _ = self.socket.accept()
            self.connection.settimeout(TIMEOUT)
        chunks = b""
        while len(chunks) < size:
            chunk = self.connection.recv(min(65536, size - len(chunks)))
            assert chunk, "the stream ended early"
            chunks += chunk
        return chunks

    def is_empty(self):
        """Whether nothing is there to be read right now."""
        self.socket.setblocking(False)
        try:
            self.socket.recv(1, socket.MSG_PEEK)
            return False
        except BlockingIOError:
            return True
        finally:
            self.socket.settimeout(TIMEOUT)

    def close(self):
        """Go away as a daemon does that ends: the path is gone, too."""
        # The listener first, or a client could connect anew in between.
        for open_socket in (self.socket, self.connection):
            if open_socket is not None:
                open_socket.close()
        self.connection = None
        if not self.path.startswith("\0") and os.path.exists(self.path):
            os.unlink(self.path)


@pytest.fixture
def make_sink(directory):
    sinks = []

    def make(path=None, kind=socket.SOCK_DGRAM):
        sinks.append(Sink(path or directory / "log", kind))
        return sinks[-1]

    yield make
    for sink in sinks:
        sink.close()


@pytest.fixture
def sink(make_sink):
    return make_sink()


@pytest.fixture
def make_handler():
    """Makes fastlog.SysLogHandlers that are closed after the test."""
    handlers = []

    def make(*args, cls=fastlog.SysLogHandler, **options):
        handlers.append(cls(*args, **options))
        return handlers[-1]

    yield make
    raise_exceptions, logging.raiseExceptions = logging.raiseExceptions, False
    for handler in handlers:
        handler.close(0.0)
    logging.raiseExceptions = raise_exceptions


@pytest.fixture
def make_journal_handler(make_handler):
    """Makes JournalHandlers, likewise; `test-journal` is their ident."""
    def make(address, **options):
        return make_handler(address, cls=fastlog.JournalHandler,
                            **{"ident": "test-journal", **options})

    return make


@pytest.fixture
def handler(make_handler, sink):
    return make_handler(sink.path)


def make_logger(*handlers, level=logging.DEBUG):
    """A logger of its own, known to no other test."""
    logger = logging.Logger("test", level)
    for handler in handlers:
        logger.addHandler(handler)
    return logger


@pytest.fixture
def log(handler):
    """A logger in front of `handler`."""
    return make_logger(handler)


@pytest.fixture
def logger_for():
    return make_logger


@pytest.fixture
def with_gil():
    """For tests that fork while other threads run. Without a GIL the child may find locks of
    Python's own taken for ever: with 3.13.5 the standard library's handlers hang there, too.
    """
    if sysconfig.get_config_var("Py_GIL_DISABLED"):
        pytest.skip("this Python has no GIL")


@pytest.fixture
def nested_calls():
    """For tests that log while a record is handled, in the same thread."""
    if hasattr(logging.Logger, "_is_disabled"):
        pytest.skip("this version of Python drops such records")


@pytest.fixture
def require():
    """Fail in CI and for root, skip elsewhere: a program that the test needs is missing."""
    def skip(package):
        if os.environ.get("CI") or os.geteuid() == 0:
            pytest.fail(f"{package} is not installed, and here it must be: run `make setup`")
        pytest.skip(f"{package} is not installed; as root, `make setup` installs it")

    return skip


@pytest.fixture
def start_rsyslogd(directory, require):
    """Makes private, running rsyslogds."""
    if find_rsyslogd() is None:
        require("rsyslogd")
    daemons = []

    def start(**options):
        daemons.append(Rsyslogd(directory, **options))
        daemons[-1].start()
        return daemons[-1]

    yield start
    for daemon in daemons:
        daemon.stop()


@pytest.fixture
def rsyslogd(start_rsyslogd):
    return start_rsyslogd()


@pytest.fixture
def journald(directory, require):
    """A private systemd-journald, not started yet."""
    if find_journald() is None:
        require("systemd-journald")
    try:
        daemon = Journald(directory)
    except PermissionError as error:
        if os.environ.get("CI"):
            raise
        pytest.skip(f"journald cannot have a /run of its own here: {error}")
    yield daemon
    daemon.close()


@pytest.fixture
def run_python(tmp_path):
    """Runs code in a new interpreter; it must succeed and say nothing on stderr."""

    def run(code, *args, stderr="", returncode=0, options=()):
        done = subprocess.run(
            [sys.executable, "-W", "error", *options, "-c", code, *map(str, args)],
            capture_output=True, text=True, timeout=2 * TIMEOUT, cwd=tmp_path)
        if isinstance(stderr, str):
            assert done.stderr == stderr
        else:
            assert stderr.search(done.stderr), done.stderr
        assert done.returncode == returncode, done
        return done.stdout

    return run


@pytest.fixture
def spool(directory):
    return directory / "spool"


# A process that logs to a socket where nobody reads, and then ends in one way or another.
LEAVES = """
import logging, os, signal, sys, fastlog
logging.raiseExceptions = False  # nobody listens, and that is told
handler = fastlog.SysLogHandler({address!r}, spool=sys.argv[1], **{options!r})
log = logging.Logger("x")
log.addHandler(handler)
for text in sys.argv[2:]:
    log.info(text)
{end}
"""


@pytest.fixture
def make_orphaned_spool(run_python, directory, spool):
    """Leaves a spool with records that were not sent. By default the process kills itself."""
    def run(*texts, path=spool, address=str(directory / "log"), before="",
            end="os.kill(os.getpid(), signal.SIGKILL)", returncode=-9, **options):
        code = LEAVES.format(address=address, end=end, options={"capacity": 1 << 16, **options})
        run_python(before + code, path, *texts, returncode=returncode)
    return run


class Recovery(NamedTuple):
    returncode: int
    stdout: str
    stderr: str
    received: list[bytes]


@pytest.fixture
def recover():
    """Runs the command; what it sends is read meanwhile, as a sink's queue takes only a few."""
    def run(*arguments, sink=None, count=0, environment=(), **options):
        command = [sys.executable, "-m", "fastlog", "recover", *map(str, arguments)]
        with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
                              env={**os.environ, **dict(environment)}, **options) as process:
            received = sink.take(count) if sink else []
            stdout, stderr = process.communicate(timeout=2 * TIMEOUT)
        return Recovery(process.returncode, stdout, stderr, received)
    return run


def find_writers():
    """The ids of this process's threads named fastlog-writer."""
    threads = []
    for task in Path("/proc/self/task").iterdir():
        try:
            if (task / "comm").read_text() == "fastlog-writer\n":
                threads.append(task.name)
        except (FileNotFoundError, ProcessLookupError):  # ended meanwhile
            pass
    return threads


def read_status(thread, field):
    """A field of proc(5)'s status file of one of this process's threads."""
    for line in Path(f"/proc/self/task/{thread}/status").read_text().splitlines():
        name, _, value = line.partition(":")
        if name == field:
            return value.strip()
    raise LookupError(field)


@pytest.fixture
def threads():
    """Tells about the writer threads of this process."""

    class Threads:
        find = staticmethod(find_writers)
        status = staticmethod(read_status)

        @staticmethod
        def is_waiting(thread):
            return read_status(thread, "State").startswith("S")

    return Threads


@pytest.fixture(scope="session")
def repository():
    """The source tree that these tests are part of."""
    return Path(__file__).parent.parent


@pytest.fixture(scope="session")
def gcc():
    program = shutil.which("gcc")
    assert program, "gcc is needed to build the package and these tests"
    return program


@pytest.fixture(scope="session")
def build_native(repository):
    """Builds tests/native/NAME.pyx in a directory, from a copy of the package's native sources."""

    def build(directory, name, gcc, flags=(), edit=None):
        """Returns the module's path. `edit` is (file, old, new), one place exactly."""
        package = directory / "fastlog"
        package.mkdir()
        for pattern in ("*.pxd", "*.h", "__init__.py"):
            for source in (repository / "fastlog").rglob(pattern):
                copy = package / source.relative_to(repository / "fastlog")
                copy.parent.mkdir(exist_ok=True)
                shutil.copy(source, copy)
        if edit:
            file, old, new = edit
            text = (package / file).read_text()
            assert text.count(old) == 1, f"{old!r} is {text.count(old)} times in {file}"
            (package / file).write_text(text.replace(old, new))
        shutil.copy(repository / "tests" / "native" / f"{name}.pyx", directory)
        for command in (
                [sys.executable, "-m", "cython", "-3", f"{name}.pyx"],
                [gcc, *flags, "-std=gnu11", "-O1", "-g", "-fPIC", "-shared", "-pthread",
                 "-Ifastlog", "-I" + sysconfig.get_path("include"), f"{name}.c",
                 "-o", f"{name}.so"]):
            subprocess.run(command, cwd=directory, check=True)
        return directory / f"{name}.so"

    return build
