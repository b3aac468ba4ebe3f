"""What was once wrong: a small case of each, so that it does not come back."""
import os
import re
import signal
import socket
import subprocess
import sys
import threading

import pytest

from fastlog import _spool

CAPACITY = 1 << 16


@pytest.fixture
def spool(directory):
    return directory / "spool"


# --- the spool -----------------------------------------------------------------------------------

def test_threads_of_a_child_log_first_at_the_same_time(run_python, directory, spool):
    """All of them have one ring, one file and one writer."""
    run_python("""
import logging, os, sys, threading, fastlog
logging.raiseExceptions = False  # nobody listens, and that is told
handler = fastlog.SysLogHandler(sys.argv[1], spool=sys.argv[2], capacity=1 << 16)
log = logging.Logger("x")
log.addHandler(handler)

def write():
    barrier.wait()
    for i in range(20):
        log.info("%d", i)

for _ in range(5):
    pid = os.fork()
    if pid == 0:
        barrier = threading.Barrier(8)
        threads = [threading.Thread(target=write) for _ in range(8)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        names = [name for name in os.listdir(os.path.dirname(sys.argv[2]))
                 if str(os.getpid()) in name]
        assert len(names) == 1, names
        os._exit(handler.stats().accepted)
    assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 160
""", directory / "log", spool)


def test_fork_while_another_thread_opens_a_spool(run_python, directory, spool):
    """The child must not wait for a lock whose holder it does not have."""
    run_python("""
import logging, os, sys, threading, fastlog
from fastlog import _spool
logging.raiseExceptions = False
handler = fastlog.SysLogHandler(sys.argv[1], spool=sys.argv[2], capacity=1 << 16)
log = logging.Logger("x")
log.addHandler(handler)
held, done = threading.Event(), threading.Event()

def hold():
    with _spool._lock:
        held.set()
        done.wait()

thread = threading.Thread(target=hold)
thread.start()
held.wait()
pid = os.fork()
if pid == 0:
    log.info("child")
    os._exit(handler.stats().accepted)
assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 1
done.set()
thread.join()
""", directory / "log", spool)


def test_child_without_a_spool_and_without_stderr(run_python, directory, spool, sink):
    """What it cannot say must not cost it its records."""
    run_python("""
import logging, os, shutil, sys, fastlog
handler = fastlog.SysLogHandler(sys.argv[1], spool=sys.argv[2], capacity=1 << 16)
log = logging.Logger("x")
log.addHandler(handler)
shutil.rmtree(os.path.dirname(sys.argv[2]))
pid = os.fork()
if pid == 0:
    sys.stderr.close()
    log.info("child")
    os._exit(0 if handler.flush() and handler.stats().sent == 1 else 1)
assert os.waitpid(pid, 0)[1] == 0
""", sink.path, make_directory(directory) / "spool")
    assert sink.take_one() == b"<14>child\0"


def make_directory(directory):
    (directory / "sub").mkdir()
    return directory / "sub"


def test_damaged_file_stops_no_child(run_python, directory, spool, sink):
    """What lies at PATH.PID from a process that had the same id makes no sense: go on in memory."""
    run_python("""
import logging, os, shutil, sys, fastlog
handler = fastlog.SysLogHandler(sys.argv[1], spool=sys.argv[2], capacity=1 << 16)
log = logging.Logger("x")
log.addHandler(handler)
pid = os.fork()
if pid == 0:
    own = f"{sys.argv[2]}.{os.getpid()}"
    shutil.copy(sys.argv[2], own)
    with open(own, "r+b") as file:
        file.seek(512)
        file.write(b"\\3" * 8)
    log.info("child")
    os._exit(0 if handler.flush() and handler.stats().sent == 1 else 1)
assert os.waitpid(pid, 0)[1] == 0
""", sink.path, spool)
    assert sink.take_one() == b"<14>child\0"


def test_record_that_comes_while_the_spool_is_left(make_handler, make_sink, directory, spool,
                                                   logger_for, monkeypatch):
    """close() removes the file without the GIL: what another thread logs then is not lost."""
    handler = make_handler(directory / "log", spool=spool, capacity=CAPACITY)
    log = logger_for(handler)
    remove = _spool.Spool.remove

    def log_and_remove(self):
        log.info("meanwhile")
        remove(self)

    monkeypatch.setattr(_spool.Spool, "remove", log_and_remove)
    handler.close()
    assert handler.stats().pending == 1
    sink = make_sink()
    log.info("later")
    assert sink.take(2) == [b"<14>meanwhile\0", b"<14>later\0"]
    assert handler.flush() and handler.stats().sent == 2


# --- the crash drain -----------------------------------------------------------------------------

NOBODY = """
import ctypes, faulthandler, logging, os, signal, sys, threading, time, fastlog
logging.raiseExceptions = False  # nobody listens, and that is told
handler = fastlog.SysLogHandler(sys.argv[1])
log = logging.Logger("x")
log.addHandler(handler)
log.info("x")
main = threading.main_thread().ident
"""


def test_another_signal_during_the_drain(run_python, directory):
    """In the same thread: the first one goes on, it does not wait for itself."""
    run_python(NOBODY + """
fastlog.enable_crash_drain(1.0)
if os.fork() == 0:
    # The parent is in the drain once it blocks the signal.
    def blocked():
        with open(f"/proc/{parent}/task/{parent}/status") as status:
            return int(status.read().partition("SigBlk:")[2].split()[0], 16)
    parent = os.getppid()
    os.kill(parent, signal.SIGTERM)
    while not blocked() >> (signal.SIGTERM - 1) & 1:
        time.sleep(0.001)
    os.kill(parent, signal.SIGABRT)
    os._exit(0)
time.sleep(60)
""", directory / "nobody", returncode=-signal.SIGTERM)


def test_faulthandler_between_two_calls(run_python, directory):
    """Each of the three runs; then the process ends by the signal, and not by a stack overflow."""
    run_python("""
import faulthandler, os, fastlog
fastlog.enable_crash_drain()
faulthandler.enable()
fastlog.enable_crash_drain(1.0)
os.abort()
""", returncode=-signal.SIGABRT, stderr=re.compile(r"\AFatal Python error: Aborted"))


def test_fork_during_a_drain(run_python, directory):
    """The child is not in that drain: it can close its handlers, and crash itself."""
    done = run_python(NOBODY + """
fastlog.enable_crash_drain(1000.0)
signals, pid = {signal.SIGTERM}, 0
signal.pthread_sigmask(signal.SIG_BLOCK, signals)

def crash():
    signal.pthread_sigmask(signal.SIG_UNBLOCK, signals)
    time.sleep(60)

thread = threading.Thread(target=crash, daemon=True)
thread.start()
parent = os.getpid()
os.kill(parent, signal.SIGTERM)

def blocked():
    with open(f"/proc/self/task/{thread.native_id}/status") as status:
        return int(status.read().partition("SigBlk:")[2].split()[0], 16)

while not blocked() >> (signal.SIGSEGV - 1) & 1:
    pass
if os.fork() == 0:
    fastlog.enable_crash_drain(0.1)
    handler.close(0.0)
    del handler, log.handlers[:]
    os.kill(os.getpid(), signal.SIGSEGV)
while True:
    pid, status = os.waitpid(-1, os.WNOHANG)
    if pid:
        os.write(1, b"%d" % os.waitstatus_to_exitcode(status))
        os._exit(0)
""", directory / "nobody")
    assert done == str(-signal.SIGSEGV)


def test_drain_does_not_wait_for_what_is_logged_meanwhile(run_python, sink):
    """Threads that go on logging do not keep the process from its end."""
    drain = threading.Thread(target=read_slowly, args=(sink,))
    drain.start()
    try:
        run_python(NOBODY + """
fastlog.enable_crash_drain(1000.0)

def write():
    while True:
        log.info("x")

for _ in range(2):
    threading.Thread(target=write, daemon=True).start()
while handler.stats().pending < 100:     # so many that there is always one
    pass
parent = os.getpid()
if os.fork() == 0:
    os.kill(parent, signal.SIGTERM)
    os._exit(0)
time.sleep(60)      # without the GIL
""", sink.path, returncode=-signal.SIGTERM)
    finally:
        with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as end:
            end.sendto(b"end", sink.path)
        drain.join()


def read_slowly(sink):
    """Slower than two threads log, so that the ring is never empty."""
    pause = threading.Event()
    while sink.take_one() != b"end":
        pause.wait(0.001)


# --- what is in a spool's file -------------------------------------------------------------------

LEAVE = """
import logging, os, signal, sys, fastlog
logging.raiseExceptions = False  # nobody listens, and that is told
path, address, capacity, *texts = sys.argv[1:]
handler = fastlog.SysLogHandler(address, spool=path, capacity=int(capacity))
log = logging.Logger("x")
log.addHandler(handler)
for text in texts:
    log.info(text)
os.kill(os.getpid(), signal.SIGKILL)
"""


@pytest.fixture
def leave(run_python):
    """Leaves a spool with records that were not sent."""
    def run(spool, address, *texts, capacity=CAPACITY):
        run_python(LEAVE, spool, address, capacity, *texts, returncode=-signal.SIGKILL)
    return run


def recover(*arguments, environment=(), **options):
    return subprocess.run([sys.executable, "-m", "fastlog", "recover", *arguments],
                          capture_output=True, timeout=60,
                          env={**os.environ, **dict(environment)}, **options)


def test_set_aside_twice(leave, make_sink, spool, directory):
    """Under the same process id, as in a container: the second does not replace the first."""
    code = LEAVE.replace("import logging", "import os; os.getpid = lambda: 1\nimport logging")
    code = code.replace("os.kill(os.getpid(), ", "signal.raise_signal(")
    for capacity, text in ((4096, "a"), (8192, "b"), (4096, "c"), (8192, "d")):
        subprocess.run([sys.executable, "-c", code, spool, directory / "log", str(capacity), text],
                       timeout=60, check=False)
    sink = make_sink()
    done = recover(spool)
    assert done.returncode == 0, done
    assert sorted(sink.take(4)) == [b"<14>a\0", b"<14>b\0", b"<14>c\0", b"<14>d\0"]
    assert os.listdir(directory) == ["log"]


def test_childs_file_that_was_set_aside_is_found(leave, make_sink, spool, directory):
    """A process with the same id but another capacity moved it out of its way."""
    leave(f"{spool}.77", directory / "log", "a", capacity=4096)
    leave(f"{spool}.77", directory / "log", "b", capacity=8192)
    sink = make_sink()
    done = recover(spool)
    assert done.returncode == 0, done
    assert sorted(sink.take(2)) == [b"<14>a\0", b"<14>b\0"]
    assert os.listdir(directory) == ["log"]


def test_recover_knows_the_last_destination(leave, make_sink, spool, directory):
    """Not the one of the process that made the file."""
    leave(spool, directory / "before", "a")
    leave(spool, directory / "now", "b")
    sink = make_sink(directory / "now")
    assert recover(spool).returncode == 0
    assert sink.take(2) == [b"<14>a\0", b"<14>b\0"]


def test_recover_a_relative_address_from_elsewhere(leave, make_sink, spool, directory, tmp_path):
    leave(spool, os.path.relpath(directory / "log", tmp_path), "a")
    sink = make_sink()
    assert recover(spool, cwd="/").returncode == 0
    assert sink.take_one() == b"<14>a\0"


def test_recover_what_cannot_be_printed(leave, make_sink, directory):
    """A path that is no UTF-8, and text that stdout's encoding does not have."""
    spool = os.fsdecode(os.fsencode(directory) + b"/\xff")
    leave(spool, directory / "log", "\u20ac")
    utf8 = {"PYTHONIOENCODING": "utf-8"}
    done = recover(spool, "--dry-run", environment=utf8)
    assert (done.returncode, done.stderr) == (0, b"") and b"\\udcff" in done.stdout
    done = recover(spool, "--dry-run", environment={"PYTHONIOENCODING": "ascii"})
    assert (done.returncode, done.stderr) == (0, b"") and b"<14>\\u20ac" in done.stdout
    sink = make_sink()
    assert recover(spool, environment=utf8).returncode == 0
    assert sink.take_one() == "<14>\u20ac\0".encode()


def test_recover_with_all_names(leave, make_sink, spool, directory):
    """`recover PATH*`: a file that was found beside another is not missed when its turn comes."""
    leave(spool, directory / "log", "a")
    leave(f"{spool}.77", directory / "log", "b")
    sink = make_sink()
    done = recover(spool, f"{spool}.77")
    assert (done.returncode, done.stderr) == (0, b"")
    assert sink.take(2) == [b"<14>a\0", b"<14>b\0"]


def test_flush_has_one_timeout_for_all_files(leave, make_handler, spool, directory, monkeypatch):
    """With many files of children, and nobody who takes records, an exit would never end."""
    for number in range(3):
        leave(f"{spool}.{number}", directory / "log", "x")
    given = []

    def finish(self, timeout):
        given.append(timeout)
        return finish_all(self, timeout)

    finish_all = _spool.Leftovers.finish
    monkeypatch.setattr(_spool.Leftovers, "finish", finish)
    handler = make_handler(directory / "log", spool=spool, capacity=CAPACITY)
    handler._engine.submit(14, "x")
    assert not handler.flush(0.05)
    assert given == [0.0]


def test_killed_once_the_file_has_its_size(leave, make_handler, make_sink, spool, directory,
                                             monkeypatch, logger_for):
    """The header is in it before: a spool like others, also for a handler of another capacity."""
    class Killed(BaseException):
        pass

    def kill(*arguments):
        fallocate(*arguments)
        raise Killed

    fallocate = os.posix_fallocate

    with monkeypatch.context() as patch:
        patch.setattr(os, "posix_fallocate", kill)
        with pytest.raises(Killed):
            make_handler(directory / "log", spool=spool, capacity=8192)
    sink = make_sink()
    handler = make_handler(sink.path, spool=spool, capacity=CAPACITY)
    logger_for(handler).info("x")
    assert sink.take_one() == b"<14>x\0"
    assert handler.flush() and sorted(os.listdir(directory)) == ["log", "spool"]


def test_refused_file_is_not_in_use(make_handler, directory, spool, leave):
    """Whoever keeps the exception can put the file right, and try again."""
    leave(spool, directory / "log", "a")
    whole = spool.read_bytes()
    with open(spool, "r+b") as file:
        file.seek(512)
        file.write(b"\3" * 8)
    with pytest.raises(OSError, match="positions make no sense"):
        make_handler(directory / "log", spool=spool, capacity=CAPACITY)
    try:
        make_handler(directory / "log", spool=spool, capacity=CAPACITY)
    except OSError as error:
        spool.write_bytes(whole)
        handler = make_handler(directory / "log", spool=spool, capacity=CAPACITY)
        assert handler.stats().accepted == 1 and error
