"""gevent and eventlet: while one greenlet waits for fastlog, the others run.

In most programs here the daemon is a greenlet of the same process. It only reads if waiting lets it
run, so a wait that stops the hub ends with lost records and not with a failed measurement.
"""
import os
import signal
import socket
import subprocess
import sys
import sysconfig
import threading

import pytest
from support import wait_until

pytestmark = pytest.mark.skipif(bool(sysconfig.get_config_var("Py_GIL_DISABLED")),
                                reason="gevent has no wheels for a Python without a GIL")

# The beginning of each program. The modules that it imports later are patched.
START = {
    "gevent": """
from gevent import monkey
monkey.patch_all()
import gevent
from gevent import getcurrent, sleep, spawn

def in_hub(function):
    gevent.get_hub().loop.run_callback(function)

def in_native_thread(function):
    return gevent.get_hub().threadpool.apply(function)

def has_hub():
    from gevent._hub_local import get_hub_if_exists
    return get_hub_if_exists() is not None

Timeout = gevent.Timeout
""",
    "eventlet": """
import eventlet
eventlet.monkey_patch()
from eventlet import Timeout, getcurrent, sleep, spawn

def in_hub(function):
    eventlet.hubs.get_hub().schedule_call_global(0, function)

def in_native_thread(function):
    from eventlet import tpool
    return tpool.execute(function)

def has_hub():
    return hasattr(eventlet.hubs._threadlocal, "hub")
"""}

PROGRAM = '''
import logging, os, socket, sys, time
import fastlog

logging.raiseExceptions = False            # no outage reports on stderr
TEXT = "x" * 100
path = sys.argv[1]
received = []
daemon = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
daemon.bind(path)

def read():
    while True:
        received.append(daemon.recv(1000))

def make_logger(handler, cls=logging.Logger):
    log = cls("program")
    log.addHandler(handler)
    return log

def longest_gap(wait):
    """Return the longest time in seconds for which a wait stops a greenlet that only sleeps."""
    times = []
    def tick():
        while True:
            times.append(time.monotonic())
            sleep(0.005)
    spawn(tick)
    sleep(0.05)
    wait()
    sleep(0.05)
    return max(after - before for before, after in zip(times, times[1:]))
'''


@pytest.fixture(params=["gevent", "eventlet"])
def library(request):
    return request.param


@pytest.fixture
def run(run_python, directory, library):
    """Run a program that is patched first. Return its standard output."""
    def run(code, before="", **options):
        # Both libraries use what Python and the libraries themselves have deprecated.
        return run_python(before + START[library] + PROGRAM + code, directory / "log",
                          options=("-W", "ignore"), **options)

    return run


@pytest.mark.parametrize("logger", ["logging.Logger", "fastlog.Logger"])
def test_full_ring(run, logger):
    """A call that waits for space lets the greenlet that makes it run, and no record is lost."""
    out = run(f"""
handler = fastlog.SysLogHandler(path, capacity=4096, block_timeout=30, close_timeout=30)
log = make_logger(handler, {logger})
spawn(read)
for number in range(500):
    log.info("%d %s", number, TEXT)
assert handler.flush()
while len(received) < 500:
    sleep(0.01)
assert [int(data[4:].split()[0]) for data in received] == list(range(500))
print(handler.stats().dropped)
""")
    assert out == "0\n"


@pytest.mark.parametrize("logger", ["logging.Logger", "fastlog.Logger"])
def test_many_greenlets_wait(run, logger):
    """The records of greenlets that wait for space at the same time arrive, each in its order.

    logging is imported before the process is patched. All greenlets then share the mark by which
    it recognizes a thread that is handling a record.
    """
    out = run(f"""
handler = fastlog.SysLogHandler(path, capacity=4096, block_timeout=30, close_timeout=30)
log = make_logger(handler, {logger})
running = set(range(50))
def work(worker):
    for number in range(20):
        log.info("%d %d %s", worker, number, TEXT)
    running.remove(worker)
for worker in list(running):
    spawn(work, worker)
sleep(0.1)
spawn(read)
while running:
    sleep(0.01)
assert handler.flush()
while len(received) < 1000:
    sleep(0.01)
numbers = {{}}
for data in received:
    worker, number = data[4:].split()[:2]
    numbers.setdefault(worker, []).append(int(number))
assert all(sequence == list(range(20)) for sequence in numbers.values())
print(handler.stats().dropped)
""", before="import logging\n")
    assert out == "0\n"


@pytest.mark.parametrize("call", ["flush", "close"])
def test_flush_and_close(run, call):
    """flush() and close() let the greenlet that receives the pending records run."""
    out = run(f"""
handler = fastlog.SysLogHandler(path)
log = make_logger(handler)
for number in range(100):
    log.info("%d", number)
spawn(read)
handler.{call}(30)
while len(received) < 100:
    sleep(0.01)
print(handler.stats().pending)
""")
    assert out == "0\n"


def test_exit(run):
    """The flush at the exit lets the greenlet that receives the pending records run."""
    out = run("""
handler = fastlog.SysLogHandler(path, close_timeout=30)
log = make_logger(handler)
for number in range(100):
    log.info("%d", number)
spawn(read)
""", before="""
import atexit
# Runs last, after logging.shutdown().
atexit.register(lambda: print(len(received), handler.stats().pending))
""")
    count, pending = map(int, out.split())
    assert pending == 0 and count >= 80        # the rest is in the queue of the socket


@pytest.mark.slow
def test_longest_gap_of_the_hub(run):
    """No wait for a hung daemon stops the hub for long.

    Each wait takes a second. The limit is far above the millisecond after which a waiting greenlet
    lets others run, because a busy machine may not run the process for longer than that.
    """
    out = run("""
handler = fastlog.SysLogHandler(path, capacity=4096, block_timeout=1, close_timeout=0)
other = fastlog.SysLogHandler(path, capacity=4096)
log = make_logger(handler)
for wait in (lambda: [log.info(TEXT) for _ in range(200)], lambda: handler.flush(1),
             lambda: other.close(1)):
    other.emit(logging.makeLogRecord({}))
    start = time.monotonic()
    print(longest_gap(wait))
    assert time.monotonic() - start >= 0.9
assert handler.stats().stalled
""")
    gaps = [float(line) for line in out.split()]
    assert len(gaps) == 3 and max(gaps) < 0.5


GETADDRINFO = """
#include <unistd.h>
int getaddrinfo(void *node, void *service, void *hints, void *result)
{
    for (;;)
        pause();
}
"""


@pytest.mark.slow
def test_close_during_a_name_lookup(run, gcc, tmp_path, monkeypatch):
    """close() leaves a writer that a name server keeps waiting, and does not stop the hub."""
    source, shared = tmp_path / "hang.c", tmp_path / "hang.so"
    source.write_text(GETADDRINFO)
    subprocess.run([gcc, "-shared", "-fPIC", "-o", shared, source], check=True, timeout=60)
    monkeypatch.setenv("LD_PRELOAD", str(shared))
    out = run("""
handler = fastlog.SysLogHandler(("host.invalid", 514), close_timeout=0)
log = make_logger(handler)
log.info("kept")
sleep(0.1)
print(longest_gap(handler.close))
assert handler.stats().pending == 1
start = time.monotonic()
handler.close()                # a new writer has the record, and the old one is still waiting
assert time.monotonic() - start < 0.5
""")
    assert float(out) < 0.5


def test_callback_of_the_hub(run):
    """A callback of the hub never waits for space. The dropped records are counted as "full"."""
    out = run("""
handler = fastlog.SysLogHandler(path, capacity=4096, block_timeout=1000)
log = make_logger(handler)
done = []
def callback():
    for _ in range(200):
        log.info(TEXT)
    done.append(handler.flush(1000))
in_hub(callback)
while not done:
    sleep(0.01)
stats = handler.stats()
assert stats.submitted == 200 and not stats.stalled
print(done[0], list(stats.losses), stats.dropped > 100)
spawn(read)
assert handler.flush(30)
""")
    assert out == "False ['full'] True\n"


def test_native_threads_block(run):
    """A native thread waits as usual, and gets no hub."""
    out = run("""
handler = fastlog.SysLogHandler(path, capacity=4096, block_timeout=30)
log = make_logger(handler)
spawn(read)
def work():
    for _ in range(500):
        log.info(TEXT)
    return handler.flush(30), has_hub()
print(*in_native_thread(work), handler.stats().dropped)
""")
    assert out == "True False 0\n"


def test_close_while_a_native_thread_logs_on(run):
    """A thread that restarts the writer again and again holds up no close(). Nothing is lost."""
    out = run("""
handler = fastlog.SysLogHandler(path, capacity=65536, block_timeout=30)
log = make_logger(handler)
spawn(read)
closing = True
def work():
    count = 0
    while closing:
        log.info(TEXT)
        count += 1
    return count
def close():
    global closing
    start = time.monotonic()
    for _ in range(5):
        handler.close(0.2)
    closing = False
    assert time.monotonic() - start < 4, time.monotonic() - start
spawn(close)
count = in_native_thread(work)
assert handler.flush(30)
sleep(0.2)
print(count == len(received))
handler.close()
""")
    assert out == "True\n"


def test_timeouts_of_the_library(run):
    """A timeout interrupts a wait at once. The record is counted, and later ones are sent."""
    out = run("""
handler = fastlog.SysLogHandler(path, capacity=4096, block_timeout=1000, close_timeout=1000)
log = make_logger(handler)
for wait in (lambda: [log.info(TEXT) for _ in range(200)], handler.flush, handler.close):
    try:
        with Timeout(0.2):
            wait()
    except Timeout:
        print("timeout")
stats = handler.stats()
assert list(stats.losses) == ["interrupted"] and stats.dropped == 1
spawn(read)
log.info("again")
assert handler.flush(30)
while not received or b"again" not in received[-1]:
    sleep(0.01)
""")
    assert out == "timeout\n" * 3


def test_fork_while_a_greenlet_waits(run):
    """A greenlet that waits for space during a fork continues in both processes."""
    out = run("""
handler = fastlog.SysLogHandler(path, capacity=4096, block_timeout=30)
log = make_logger(handler)
done = []
def work():
    for _ in range(100):
        log.info(TEXT)
    done.append(os.getpid())
spawn(work)
sleep(0.1)
child = os.fork()
if child == 0:
    spawn(read)
    log.warning("child")
while not done:
    if child and not received:
        spawn(read)
    sleep(0.01)
assert handler.flush(30) and handler.stats().dropped == 0
if child == 0:
    os._exit(0)
print(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]))
""")
    assert out == "0\n"


@pytest.mark.parametrize("library", ["gevent"], indirect=True)
def test_process_that_is_not_patched(run_python, directory, library):
    """Without a patch, no other greenlet runs during a call."""
    out = run_python(START[library].replace("monkey.patch_all()", "") + PROGRAM + """
handler = fastlog.SysLogHandler(path)
log = make_logger(handler)
for number in range(100):
    log.info("%d", number)
ticks = []
def tick():
    while True:
        ticks.append(1)
        sleep(0)
spawn(tick)
sleep(0)
count = len(ticks)
assert not handler.flush(0.1)
print(len(ticks) - count)
handler.close(0)
""", directory / "log", options=("-W", "ignore"))
    assert out == "0\n"


APPLICATION = """
import logging
import fastlog

log = logging.getLogger("application")
log.setLevel(logging.INFO)
log.addHandler(fastlog.SysLogHandler({path!r}, capacity=4096, block_timeout=30))
log.info("loaded")

def application(environ, start_response):
    for number in range(100):
        log.info("%s %d", environ["PATH_INFO"].strip("/"), number)
    start_response("200 OK", [("Content-Type", "text/plain"), ("Content-Length", "1")])
    return [b"."]
"""


def request(path, number):
    with socket.socket(socket.AF_UNIX) as client:
        client.settimeout(20)
        client.connect(path)
        client.sendall(b"GET /%d HTTP/1.0\r\nHost: test\r\n\r\n" % number)
        assert b"200 OK" in client.recv(1000)


@pytest.mark.slow
def test_gunicorn(directory, tmp_path, sink):
    """All records of a gevent worker of gunicorn arrive, although the master made the handler."""
    (tmp_path / "application.py").write_text(APPLICATION.format(path=sink.path))
    web = str(directory / "web")
    received = []
    reader = threading.Thread(target=lambda: received.extend(sink.take(20 * 100 + 1)))
    reader.start()
    with subprocess.Popen(
            [sys.executable, "-m", "gunicorn", "-k", "gevent", "--preload", "--workers", "1",
             "--bind", f"unix:{web}", "--worker-tmp-dir", directory, "application:application"],
            cwd=tmp_path, env={**os.environ, "PYTHONPATH": str(tmp_path)},
            stdout=subprocess.PIPE, stderr=subprocess.STDOUT) as server:
        try:
            wait_until(lambda: os.path.exists(web), 20, "the server")
            clients = [threading.Thread(target=request, args=(web, number))
                       for number in range(20)]
            for client in clients:
                client.start()
            for client in clients:
                client.join()
        finally:
            server.send_signal(signal.SIGTERM)
            output = server.communicate(timeout=30)[0].decode()
    reader.join()
    assert "Traceback" not in output, output
    assert sorted(received) == sorted([
        b"<14>loaded\0",
        *(b"<14>%d %d\0" % (client, number) for client in range(20) for number in range(100))])
