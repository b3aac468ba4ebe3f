"""Servers and task queues whose processes end without logging's exit function, as real packages."""
import os
import shutil
import signal
import socket
import subprocess
import sys

import pytest

from fastlog._daemons.rsyslogd import wait_until

RECORDS = 10  # of each task, logged right before its process may end

SETUP = f"""
import logging, os
import fastlog

log = logging.getLogger("application")
log.setLevel(logging.INFO)
log.propagate = False
log.addHandler(fastlog.SysLogHandler(os.environ["SINK"]))

def work(number):
    for i in range({RECORDS}):
        log.info("task %d %d", number, i)
"""


@pytest.fixture
def start(tmp_path, sink):
    """Start Python with arguments, and with the modules that the test has written."""
    started = []

    def run(*arguments, **environment):
        with open(tmp_path / "output", "w") as output:
            started.append(subprocess.Popen(
                [sys.executable, *map(str, arguments)], cwd=tmp_path, stdout=output,
                stderr=subprocess.STDOUT,
                env={**os.environ, "SINK": sink.path, **environment,
                     "PYTHONPATH": os.pathsep.join([str(tmp_path),
                                                    os.environ.get("PYTHONPATH", "")])}))
        return started[-1]

    yield run
    for process in started:
        if process.poll() is None:
            process.kill()
            process.wait()
    if started:
        output = (tmp_path / "output").read_text()
        assert "Traceback" not in output, output


def expected(tasks):
    return sorted(b"<14>task %d %d\0" % (number, i)
                  for number in range(tasks) for i in range(RECORDS))


@pytest.mark.usefixtures("with_gil")
def test_celery_with_max_tasks_per_child(start, tmp_path, sink):
    """A child of Celery's pool ends by os._exit() after its last task, and its records arrive."""
    pytest.importorskip("celery")
    (tmp_path / "tasks.py").write_text(SETUP + f"""
import celery
app = celery.Celery("tasks", broker="filesystem://")
folder = {str(tmp_path / "queue")!r}
os.makedirs(folder, exist_ok=True)
app.conf.update(
    broker_transport_options=dict(data_folder_in=folder, data_folder_out=folder,
                                  processed_folder=folder, control_folder=folder),
    worker_hijack_root_logger=False, worker_max_tasks_per_child=1, worker_concurrency=2)
task = app.task(work, name="work")
""")
    start("-c", "import tasks\nfor number in range(6): tasks.task.delay(number)").wait(60)
    worker = start("-m", "celery", "-A", "tasks", "worker", "--without-heartbeat",
                   "--without-gossip", "--without-mingle")
    assert sorted(sink.take(6 * RECORDS)) == expected(6)
    worker.send_signal(signal.SIGTERM)
    worker.wait(30)


WEB = SETUP + """

async def application(scope, receive, send):
    if scope["type"] == "lifespan":
        while True:
            message = await receive()
            if message["type"] == "lifespan.shutdown":
                work(0)
            await send({"type": message["type"] + ".complete"})
            if message["type"] == "lifespan.shutdown":
                return
    await send({"type": "http.response.start", "status": 200, "headers": []})
    await send({"type": "http.response.body", "body": b"."})
"""


def request(path):
    with socket.socket(socket.AF_UNIX) as client:
        client.settimeout(20)
        client.connect(path)
        client.sendall(b"GET / HTTP/1.0\r\nHost: test\r\n\r\n")
        return b"200 OK" in client.recv(1000)


@pytest.mark.parametrize("server, status", [
    (["uvicorn", "web:application", "--uds"], -signal.SIGTERM),
    (["gunicorn", "web:application", "-k", "uvicorn_worker.UvicornWorker", "-b"], 0),
], ids=["uvicorn", "gunicorn"])
def test_uvicorn_ends_by_the_signal_that_it_received(start, tmp_path, directory, sink, server,
                                                     status):
    """uvicorn restores the default action of SIGTERM and raises it; its last records arrive."""
    for module in server[0], "uvicorn_worker":
        pytest.importorskip(module)
    (tmp_path / "web.py").write_text(WEB)
    path = str(directory / "web")
    running = start("-m", *server, path if server[0] == "uvicorn" else f"unix:{path}")
    wait_until(lambda: os.path.exists(path), 30, "the server")
    wait_until(lambda: request(path), 30, "an answer")
    running.send_signal(signal.SIGTERM)
    assert sink.take(RECORDS) == expected(1)
    assert running.wait(30) == status


@pytest.mark.usefixtures("with_gil")
def test_rq_work_horse(start, tmp_path, directory, sink):
    """RQ runs each job in a forked child that ends by os._exit(), and its records arrive."""
    pytest.importorskip("rq")
    program = shutil.which("redis-server")
    if program is None:
        pytest.skip("redis-server is not installed: `make daemons`")
    path = str(directory / "redis")
    (tmp_path / "jobs.py").write_text(SETUP)
    with subprocess.Popen([program, "--port", "0", "--unixsocket", path, "--save", ""],
                          cwd=directory, stdout=subprocess.DEVNULL) as redis:
        try:
            wait_until(lambda: os.path.exists(path), 30, "redis-server")
            worker = start("-c", f"""
import jobs, redis, rq
connection = redis.Redis(unix_socket_path={path!r})
queue = rq.Queue(connection=connection)
for number in range(4):
    queue.enqueue(jobs.work, number)
rq.Worker([queue], connection=connection).work(burst=True)
""")
            assert sorted(sink.take(4 * RECORDS)) == expected(4)
            assert worker.wait(30) == 0
        finally:
            redis.terminate()


def test_python_daemon(start, tmp_path, sink):
    """The processes that daemonizing ends deliver their records, and so does the daemon."""
    pytest.importorskip("daemon")
    (tmp_path / "setup.py").write_text(SETUP)
    process = start("-W", "ignore", "-c", """
import daemon
from setup import work
work(0)
with daemon.DaemonContext():
    work(1)
""")
    assert process.wait(30) == 0
    assert sorted(sink.take(2 * RECORDS)) == expected(2)


@pytest.mark.parametrize("package", ["multiprocessing", "billiard", "multiprocess"])
@pytest.mark.parametrize("end", ["close", "terminate"])
def test_pools(start, tmp_path, sink, package, end):
    """Workers of a pool that is closed or terminated deliver what the last tasks have logged."""
    pytest.importorskip(package)
    (tmp_path / "setup.py").write_text(SETUP)
    process = start("-W", "ignore", "-c", f"""
import {package} as package
from setup import work
pool = package.get_context("fork").Pool(2)
pool.map(work, range(8), chunksize=1)
pool.{end}()
pool.join()
""")
    assert sorted(sink.take(8 * RECORDS)) == expected(8)
    assert process.wait(30) == 0
