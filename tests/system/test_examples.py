"""The programs in examples/ run as documented, and their records arrive once and in order."""
import ast
import http.client
import os
import re
import signal
import socket
import struct
import subprocess
import sys
import threading
from pathlib import Path

import pytest
from support import wait_until

EXAMPLES = Path(__file__).parents[2] / "examples"
ORDER = rb"<134>shop: shop\.orders: INFO: order (\d+) paid\0"  # 134: local0.info


class Reader(threading.Thread):
    """Receives datagrams and stores them as (id of the sending process, datagram)."""

    def __init__(self, sink):
        super().__init__()
        self.sink = sink
        self.received = []
        sink.socket.settimeout(None)
        sink.socket.setsockopt(socket.SOL_SOCKET, socket.SO_PASSCRED, 1)
        self.start()

    def run(self):
        while True:
            data, [(_, _, credentials)], _, _ = self.sink.socket.recvmsg(
                65536, socket.CMSG_SPACE(struct.calcsize("3i")))
            if data == b"the end":
                break
            self.received.append((struct.unpack("3i", credentials)[0], data))

    def finish(self):
        """Stop reading and return everything that was sent before."""
        if not self.is_alive():
            return self.received
        with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as last:
            last.connect(self.sink.path)
            last.send(b"the end")
        self.join()
        return self.received


@pytest.fixture
def reader(sink):
    reader = Reader(sink)
    yield reader
    reader.finish()


@pytest.fixture
def start(reader):
    """Starts programs in examples/. Those that still run after the test are killed."""
    processes = []

    def start(*command, **variables):
        environment = {**os.environ, "SYSLOG_SOCKET": reader.sink.path,
                       "PYTHONDONTWRITEBYTECODE": "1", "PYTHONUNBUFFERED": "1", **variables}
        processes.append(subprocess.Popen(
            [sys.executable, *map(str, command)], cwd=EXAMPLES, env=environment, text=True,
            stdout=subprocess.PIPE, stderr=subprocess.STDOUT, start_new_session=True))
        return processes[-1]

    yield start
    for process in processes:
        if process.poll() is None:
            os.killpg(process.pid, signal.SIGKILL)
            process.communicate()


def stop(process, number=signal.SIGTERM):
    """End a process as an init system does, and return its output, without a traceback."""
    process.send_signal(number)
    output, _ = process.communicate(timeout=30)
    assert "Traceback" not in output, output
    return output


def only(received, pattern):
    """Return (process, number) of each record that matches a pattern."""
    matches = ((process, re.fullmatch(pattern, data)) for process, data in received)
    return [(process, int(match[1])) for process, match in matches if match]


def check_orders(received, count=100, pattern=ORDER):
    """Check that the orders 0 to `count` - 1 arrived once each, and in order within each process.

    Return the ids of the processes.
    """
    orders = only(received, pattern)
    assert sorted(number for _, number in orders) == list(range(count))
    processes = {process for process, _ in orders}
    for process_id in processes:
        numbers = [number for process, number in orders if process == process_id]
        assert numbers == sorted(numbers)
    return processes


def get(connection, target):
    """Make a request, which must be answered with status 200."""
    connection.request("GET", target)
    response = connection.getresponse()
    assert response.status == 200 and response.read()
    connection.close()


class UnixConnection(http.client.HTTPConnection):
    """A connection to a server that listens on a unix socket."""

    def __init__(self, path):
        super().__init__("localhost", timeout=20)
        self.path = path

    def connect(self):
        self.sock = socket.socket(socket.AF_UNIX)
        self.sock.settimeout(self.timeout)
        self.sock.connect(self.path)


def listens(path):
    with socket.socket(socket.AF_UNIX) as probe:
        return probe.connect_ex(path) == 0


def make_requests(path, server):
    """Wait until the server listens, and make 100 requests."""
    wait_until(lambda: server.poll() is not None or listens(path), 20, "the server")
    assert server.poll() is None, server.communicate()[0]
    for number in range(100):
        get(UnixConnection(path), f"/pay/{number}")


def test_every_example_is_run():
    """Each example documents how to run it, and a test in this module runs it."""
    tests = Path(__file__).read_text()
    for path in EXAMPLES.glob("*.py"):
        docstring = ast.get_docstring(ast.parse(path.read_text()))
        assert "Run: " in docstring or "SYSLOG_SOCKET" in docstring, path.name
        assert f'"{path.name}"' in tests or f'"{path.stem}' in tests, path.name


@pytest.mark.parametrize("name", ["dict_config.py", "file_config.py"])
def test_configured_from_outside(start, reader, name):
    """The records of a program that is configured by a dict or a file arrive."""
    program = start("-W", "error", name)
    assert program.communicate(timeout=30)[0] == ""
    received = reader.finish()
    check_orders(received)
    if name == "dict_config.py":
        _, last = received[100]
        assert re.fullmatch(rb"<131>shop: shop\.orders: ERROR: order 100 failed\n"
                            rb"Traceback .*\nValueError: [^\n]+\0", last, re.DOTALL)
    assert len(received) == 100 + (name == "dict_config.py")


def test_asyncio(start, reader):
    """Four coroutines share the orders, which are logged in the order in which they are served."""
    program = start("-W", "error", "asyncio_app.py")
    assert program.communicate(timeout=30)[0] == ""
    received = reader.finish()
    check_orders(received, pattern=rb"<134>shop: shop\.orders: till \d: order (\d+) paid\0")
    assert len(received) == 100


@pytest.mark.parametrize("method", ["fork", "spawn", "forkserver"])
def test_multiprocessing(start, reader, method):
    """The records of all child processes arrive, whatever the start method."""
    program = start("multiprocessing_app.py", method)
    assert program.communicate(timeout=50)[0] == ""
    received = reader.finish()
    processes = check_orders(received)
    assert program.pid not in processes
    assert len(received) == 101
    assert (program.pid, b"<134>shop: shop.orders: INFO: all paid\0") in received


def test_structlog(start, reader):
    """structlog's events arrive as JSON."""
    program = start("-W", "error", "structlog_app.py")
    assert program.communicate(timeout=30)[0] == ""
    received = reader.finish()
    check_orders(received, pattern=(
        rb'<134>shop: @cee: \{"till": 3, "order": (\d+), "event": "paid", '
        rb'"logger": "shop.orders", "level": "info"\}\0'))
    assert len(received) == 100


def test_loguru(start, reader):
    """loguru's messages arrive."""
    program = start("-W", "error", "loguru_app.py")
    assert program.communicate(timeout=30)[0] == ""
    received = reader.finish()
    check_orders(received, pattern=rb"<134>shop: INFO: order (\d+) paid\0")
    assert len(received) == 100


def test_gunicorn(start, reader, directory):
    """gunicorn's records arrive although the handler is made before the workers are forked."""
    web = str(directory / "web")
    server = start("-m", "gunicorn", "-c", "gunicorn_conf.py", "--bind", f"unix:{web}",
                   "--worker-tmp-dir", directory, "gunicorn_app:application")
    make_requests(web, server)
    booted = rb"<134>shop: gunicorn\.error: INFO: Booting worker.*: (\d+)\0"
    wait_until(lambda: len(only(list(reader.received), booted)) == 2, 20, "both workers")
    assert stop(server) == ""
    received = reader.finish()
    assert server.pid not in check_orders(received)
    check_orders(received, pattern=rb'<134>shop: gunicorn\.access: INFO: .*"GET /pay/(\d+) .*\0')
    rest = [(process, data) for process, data in received
            if b"/pay/" not in data and b"order " not in data]
    assert (server.pid, b"<134>shop: shop.orders: INFO: application loaded\0") in rest
    assert len(only(rest, booted)) == 2
    assert len(rest) == len(set(rest))


def test_fastapi(start, reader, directory):
    """The records of uvicorn's workers arrive. Each worker is spawned and makes its own handler."""
    web = str(directory / "web")
    server = start("-m", "uvicorn", "fastapi_app:app", "--workers", "2", "--uds", web)
    make_requests(web, server)
    started = b"<134>shop: uvicorn.error: INFO: Application startup complete.\0"
    wait_until(lambda: [data for _, data in list(reader.received)].count(started) == 2, 20,
               "both workers")
    stop(server)
    received = reader.finish()
    assert server.pid not in check_orders(received)
    check_orders(received, pattern=rb'<134>shop: uvicorn\.access: INFO: .*"GET /pay/(\d+) .*\0')


def test_django(start, reader):
    """The records of Django's development server arrive."""
    server = start("django_app.py", "runserver", "--noreload", "127.0.0.1:0")
    for line in server.stdout:
        if match := re.search(r"http://127\.0\.0\.1:(\d+)/", line):
            break
    for number in range(100):
        get(http.client.HTTPConnection("127.0.0.1", int(match[1]), timeout=20), f"/pay/{number}")
    stop(server, signal.SIGINT)
    received = reader.finish()
    assert check_orders(received) == {server.pid}
    check_orders(received, pattern=rb'<134>shop: django\.server: INFO: "GET /pay/(\d+) .*\0')


@pytest.mark.slow
@pytest.mark.timeout(120)
def test_celery(start, reader, tmp_path):
    """Each record of Celery's forked pool arrives, in order within a child process.

    The broker does not preserve the order of the tasks.
    """
    queue = str(tmp_path / "queue")
    worker = start("-m", "celery", "-A", "celery_app", "worker", "--concurrency", "2",
                   "--without-gossip", "--without-mingle", SHOP_QUEUE=queue)
    caller = start("celery_app.py", SHOP_QUEUE=queue)
    assert caller.communicate(timeout=50)[0] == ""
    done = rb"<134>shop: celery\.app\.trace: INFO: Task shop\.pay\[.*\] succeeded in .*s: (\d+)\0"
    wait_until(lambda: len(only(list(reader.received), done)) == 100, 50, "the tasks")
    stop(worker)
    received = reader.finish()
    paid, succeeded = only(received, ORDER), only(received, done)
    assert sorted(number for _, number in paid) == list(range(100))
    assert worker.pid not in dict(paid)
    for child in dict(paid):
        assert ([number for process, number in paid if process == child]
                == [number for process, number in succeeded if process == child])
        kinds = [data.split(b": ")[1] for process, data in received if process == child]
        assert kinds == [b"shop.orders", b"celery.app.trace"] * (len(kinds) // 2)
