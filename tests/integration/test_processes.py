"""Forks, multiprocessing and the ways a process ends. Every record must arrive once."""
import re
import signal
import socket
import subprocess
import sys
import threading

import pytest

PROGRAM = """
import atexit, logging, os, signal, sys, threading, time
import fastlog
log = logging.getLogger("program")
log.setLevel(logging.DEBUG)
log.addHandler(handler := fastlog.SysLogHandler(sys.argv[1], close_timeout=30))
"""


class Collector(threading.Thread):
    """Receives datagrams until a test states how many must arrive."""

    def __init__(self, sink):
        super().__init__()
        self.sink = sink
        self.lines = []
        self.arrived = threading.Condition()
        self.start()

    def run(self):
        while (datagram := self.sink.take_one()) != b"<14>end of test\0":
            with self.arrived:
                self.lines.append(datagram[4:-1].decode())
                self.arrived.notify()

    def expect(self, count):
        """Wait for `count` lines and return them. More lines are an error."""
        with self.arrived:
            assert self.arrived.wait_for(lambda: len(self.lines) >= count, 30), len(self.lines)
        self.stop()
        assert len(self.lines) == count
        return self.lines

    def stop(self):
        with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as client:
            client.connect(self.sink.path)
            client.send(b"<14>end of test\0")
        self.join()


@pytest.fixture
def collector(sink):
    running = Collector(sink)
    yield running
    if running.is_alive():
        running.stop()


def by_source(lines):
    """Return the numbers that each source logged, in the order of the lines."""
    numbers = {}
    for line in lines:
        source, number = line.split()
        numbers.setdefault(source, []).append(int(number))
    return numbers


@pytest.mark.usefixtures("with_gil")
def test_fork_under_logging_threads(run_python, sink, collector):
    """The records of all children and of the parent arrive once and in order.

    The parent forks while its threads log.
    """
    out = run_python(PROGRAM + """
done = threading.Event()
counts = [0, 0]
def work(n):
    while not done.is_set():
        log.info("thread%d %d", n, counts[n])
        counts[n] += 1
        time.sleep(0.0005)  # limits the rate
threads = [threading.Thread(target=work, args=(n,)) for n in range(2)]
for thread in threads: thread.start()
for child in range(15):
    if not (pid := os.fork()):
        for i in range(100): log.info("child%d %d", child, i)
        os._exit(0 if handler.flush() else 1)
    assert os.waitpid(pid, 0)[1] == 0
done.set()
for thread in threads: thread.join()
print(*counts)
""", sink.path, options=["-W", "ignore:This process:DeprecationWarning"])
    counts = [int(word) for word in out.split()]
    numbers = by_source(collector.expect(sum(counts) + 100 * 15))
    assert numbers == {**{f"thread{n}": list(range(counts[n])) for n in range(2)},
                       **{f"child{n}": list(range(100)) for n in range(15)}}


def test_fork_in_c(run_python, sink, collector):
    """All records arrive if C code forks with fork(2), which Python does not notice.

    The writer runs during the fork, but no other Python thread does. A thread that waits for the
    GIL at that moment could hold the mutex of the GIL in the child for ever (CPython's
    ceval_gil.c, take_gil).
    """
    run_python(PROGRAM + """
import ctypes
fork = ctypes.PyDLL(None).fork
for child in range(15):
    for i in range(100): log.info("parent %d", 100 * child + i)
    if not (pid := fork()):
        for i in range(100): log.info("child%d %d", child, i)
        os._exit(0 if handler.flush() else 1)
    assert os.waitpid(pid, 0)[1] == 0
""", sink.path)
    assert by_source(collector.expect(2 * 100 * 15)) == {
        "parent": list(range(1500)), **{f"child{n}": list(range(100)) for n in range(15)}}


MULTIPROCESSING = """
import logging, logging.handlers, multiprocessing, os, sys
import fastlog

def set_up(path):
    log = logging.getLogger("program")
    log.setLevel(logging.DEBUG)
    log.addHandler(fastlog.SysLogHandler(path))
    return log

def work(name, path):
    log = logging.getLogger("program")
    if not log.handlers: set_up(path)
    for i in range(100): log.info("%s %d", name, i)

def pooled(name):
    work(name, sys.argv[1])

if __name__ == "__main__":
    log = set_up(sys.argv[1])
    log.info("parent 0")
    context = multiprocessing.get_context(sys.argv[2])
    children = [context.Process(target=work, args=(f"child{n}", sys.argv[1])) for n in range(4)]
    for child in children: child.start()
    for child in children: child.join()
    assert not any(child.exitcode for child in children)
    log.info("parent 1")
    if sys.argv[3:]:
        from concurrent.futures import ProcessPoolExecutor
        with ProcessPoolExecutor(2, mp_context=context) as pool:
            list(pool.map(pooled, [f"pooled{n}" for n in range(4)]))
"""


@pytest.mark.parametrize("method", ["fork", "spawn", "forkserver"])
def test_multiprocessing(sink, collector, tmp_path, method):
    """The records of four processes and a pool arrive, although these end by os._exit."""
    script = tmp_path / "program.py"
    script.write_text(MULTIPROCESSING)
    done = subprocess.run([sys.executable, str(script), sink.path, method, "pool"],
                          capture_output=True, text=True, timeout=60)
    assert (done.stderr, done.returncode) == ("", 0)
    numbers = by_source(collector.expect(2 + 8 * 100))
    assert numbers == {"parent": [0, 1], **{f"child{n}": list(range(100)) for n in range(4)},
                       **{f"pooled{n}": list(range(100)) for n in range(4)}}


@pytest.mark.parametrize("ending, stderr, status", [
    ("", "", 0),
    ("sys.exit(3)", "", 3),
    ("threading.Thread(target=sys.exit).start()", "", 0),
    ("raise ValueError('unhandled')", re.compile("ValueError: unhandled"), 1),
    ("signal.raise_signal(signal.SIGINT)", re.compile("KeyboardInterrupt"), -signal.SIGINT),
    ("logging.shutdown()", "", 0),
    ("handler.close()", "", 0),
    ("del handler; log.handlers.clear()", "", 0),
], ids=["end", "sys.exit", "thread", "exception", "SIGINT", "shutdown", "close", "dropped"])
def test_ways_to_end(run_python, sink, collector, ending, stderr, status):
    """All records arrive, however the process ends."""
    run_python(PROGRAM + "for i in range(1000): log.info('record %d', i)\n" + ending, sink.path,
               stderr=stderr, returncode=status)
    assert by_source(collector.expect(1000)) == {"record": list(range(1000))}


def test_records_during_the_exit(run_python, sink, collector):
    """Records from exit functions and from __del__ arrive.

    The exit functions run before and after that of logging.
    """
    run_python("""
import atexit
atexit.register(lambda: log.info("last 2"))  # runs after that of logging
""" + PROGRAM + """
class Late:
    def __del__(self): log.info("last 3")
late = Late()
atexit.register(lambda: log.info("last 1"))
log.info("last 0")
""", sink.path)
    assert by_source(collector.expect(4)) == {"last": [0, 1, 2, 3]}


def test_handler_made_during_the_exit(run_python, sink, collector):
    """A handler that is made during the exit delivers its records.

    At that time Python 3.12 starts no threads, but the writer is not a Python thread.
    """
    run_python("""
import atexit, logging, sys
import fastlog
def late():
    log = logging.getLogger("program")
    log.addHandler(fastlog.SysLogHandler(sys.argv[1]))
    log.warning("last 0")
    logging.shutdown()
    log.warning("last 1")
atexit.register(late)
""", sink.path)
    assert collector.expect(2) == ["last 0", "last 1"]


def test_process_id_is_the_childs(run_python, sink, collector):
    """The records of a forked child contain its process id if the format includes it."""
    out = run_python(PROGRAM + """
handler.setFormatter(logging.Formatter("pid %(process)d"))
log.info("x")
if child := os.fork():
    os.waitpid(child, 0)
    print(os.getpid(), child)
else:
    log.info("x")
""", sink.path, options=["-W", "ignore:This process:DeprecationWarning"])
    # The child's record may be sent first.
    assert sorted(collector.expect(2)) == sorted(f"pid {pid}" for pid in out.split())


def test_procid_is_the_childs(run_python, make_sink):
    """The PROCID of RFC 5424 is the process id of the forked child."""
    sink = make_sink()
    output = run_python("""
import logging, os, sys, fastlog
log = logging.getLogger()
log.addHandler(fastlog.SysLogHandler(sys.argv[1], protocol="rfc5424", app_name="a"))
log.warning("parent")
pid = os.fork()
if pid == 0:
    log.warning("child")
    logging.shutdown()
    os._exit(0)
os.waitpid(pid, 0)
print(os.getpid(), pid)
""", sink.path)
    assert ({int(received.split()[4]): received.split()[-1] for received in sink.take(2)}
            == dict(zip(map(int, output.split()), (b"parent\0", b"child\0"), strict=True)))


def test_daemon_threads_at_the_end(run_python, sink, collector):
    """A daemon thread that logs while the interpreter ends causes no hang and no output."""
    out = run_python(PROGRAM + """
def work():
    i = 0
    while True:
        log.info("record %d", i)
        i += 1
        time.sleep(0.0001)  # limits the rate
threading.Thread(target=work, daemon=True).start()
while handler.stats().submitted < 100: time.sleep(0.001)
print("main ends", flush=True)
""", sink.path)
    assert out == "main ends\n"
    collector.stop()
    numbers = by_source(collector.lines)["record"]
    assert numbers == list(range(len(numbers))) and numbers


def test_subprocess_inherits_nothing(run_python, sink, collector):
    """A subprocess inherits none of the descriptors of a handler."""
    run_python(PROGRAM + """
import subprocess
log.info("record 0")
handler.flush()
listed = subprocess.run(["ls", "-l", "/proc/self/fd"], capture_output=True, text=True,
                        close_fds=False).stdout
assert "eventfd" not in listed and "memfd" not in listed and "socket" not in listed, listed
log.info("record 1")
""", sink.path)
    assert by_source(collector.expect(2)) == {"record": [0, 1]}


@pytest.mark.usefixtures("nested_calls")
def test_logging_in_a_signal_handler(run_python, sink, collector):
    """Signal handlers that interrupt logging calls can log without deadlock or loss."""
    out = run_python(PROGRAM + """
import itertools
numbers = itertools.count()
hits = 0
def on_alarm(signum, frame):
    global hits
    hits = next(numbers)
    log.info("signal %d", hits)
signal.signal(signal.SIGALRM, on_alarm)
signal.setitimer(signal.ITIMER_REAL, 0.001, 0.001)
i = 0
while hits < 100:
    log.info("main %d", i)
    i += 1
signal.setitimer(signal.ITIMER_REAL, 0)
print(i, next(numbers))
""", sink.path)
    count, hits = map(int, out.split())
    numbers = by_source(collector.expect(count + hits))
    assert numbers["main"] == list(range(count))
    assert sorted(numbers["signal"]) == list(range(hits))  # a handler may interrupt another


def test_asyncio(run_python, sink, collector):
    """The records of all tasks arrive in asyncio's debug mode."""
    run_python(PROGRAM + """
import asyncio
async def work(n):
    for i in range(100):
        log.info("task%d %d", n, i)
        await asyncio.sleep(0)
async def main(): await asyncio.gather(*(work(n) for n in range(5)))
asyncio.run(main())
""", sink.path, options=["-X", "dev"])
    assert by_source(collector.expect(500)) == {f"task{n}": list(range(100)) for n in range(5)}


def test_child_of_multiprocessing_reports_its_losses(run_python, directory):
    """A child of multiprocessing reports its losses, including those during a last outage."""
    run_python("""
import logging, multiprocessing, socket, sys, fastlog
logging.raiseExceptions = False
handler = fastlog.SysLogHandler(sys.argv[1], capacity=4096, overflow="drop_new")

def child():
    log = logging.Logger("x")
    log.addHandler(handler)
    while handler.stats().dropped < 5:
        log.info("x" * 100)
    full.set()

full = multiprocessing.get_context("fork").Event()
process = multiprocessing.get_context("fork").Process(target=child)
with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as sink:
    sink.bind(sys.argv[1])
    sink.settimeout(10)
    process.start()
    assert full.wait(10)
    while b"fastlog: 5 messages lost (full: 5 info)" not in sink.recv(500):
        pass
process.join()
""", directory / "log")
