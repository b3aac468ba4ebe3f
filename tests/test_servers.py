"""Real servers in front: gunicorn with --preload, uWSGI, and systemd-journald as the daemon."""
import os
import shutil
import signal
import socket
import subprocess
import sys

import pytest

from fastlog.cli.rsyslogd import wait_until

APPLICATION = """
import logging, os
import fastlog

log = logging.getLogger("application")
log.setLevel(logging.INFO)
log.addHandler(fastlog.SysLogHandler({path!r}))
log.info("master 0")

def application(environ, start_response):
    log.info("worker %s", environ["PATH_INFO"].strip("/"))
    start_response("200 OK", [("Content-Type", "text/plain"), ("Content-Length", "1")])
    return [b"."]
"""


@pytest.fixture
def application(tmp_path, sink):
    (tmp_path / "application.py").write_text(APPLICATION.format(path=sink.path))
    return tmp_path


def request(path, number):
    with socket.socket(socket.AF_UNIX) as client:
        client.settimeout(20)
        client.connect(path)
        client.sendall(b"GET /%d HTTP/1.0\r\nHost: test\r\n\r\n" % number)
        assert b"200 OK" in client.recv(1000)


def serve(command, directory, web, sink):
    """Start the server, make 50 requests, end it. Returns the datagrams, which must be 51."""
    environment = {**os.environ, "PYTHONPATH": str(directory)}
    with subprocess.Popen(command, cwd=directory, env=environment, stdout=subprocess.PIPE,
                          stderr=subprocess.STDOUT) as server:
        try:
            wait_until(lambda: os.path.exists(web), 20, "the server")
            received = sink.take()
            for number in range(50):
                request(web, number)
                received += sink.take()
        finally:
            server.send_signal(signal.SIGTERM)
            output = server.communicate(timeout=30)[0].decode()
    assert "Traceback" not in output, output
    return received


def check(received):
    assert received == [b"<14>master 0\0", *(b"<14>worker %d\0" % n for n in range(50))]


def test_gunicorn_with_preload(application, directory, sink):
    """The handler is made before the fork; the workers' records arrive, once each."""
    web = str(directory / "web")
    received = serve([sys.executable, "-m", "gunicorn", "--preload", "--workers", "2",
                      "--bind", f"unix:{web}", "--worker-tmp-dir", str(directory),
                      "application:application"], application, web, sink)
    check(received)
    assert sink.is_empty()


def test_uwsgi(application, directory, sink):
    """uWSGI forks its workers in C, from a master that has loaded the application."""
    web = str(directory / "web")
    program = shutil.which("uwsgi", path=os.path.dirname(sys.executable))
    assert program, "uwsgi belongs to the test tools: `make setup`"
    received = serve([program, "--http-socket", web, "--master", "--processes", "2", "--need-app",
                      "--die-on-term", "--virtualenv", sys.prefix,
                      "--wsgi-file", str(application / "application.py")],
                     application, web, sink)
    check(received)
    assert sink.is_empty()


JOURNALD = """
import atexit, logging, os, signal, subprocess, sys, time
import fastlog
from fastlog.cli.rsyslogd import wait_until

# Directories of its own, in a mount namespace of its own: the machine's journal is not touched.
for path in ("/run", "/var/log"):
    subprocess.run(["mount", "-t", "tmpfs", "tmpfs", path], check=True)
os.makedirs("/run/systemd/journal")
os.makedirs("/run/log/journal")
if not os.path.exists("/etc/machine-id") or not os.path.getsize("/etc/machine-id"):
    subprocess.run(["systemd-machine-id-setup"], check=True)
address = "/run/systemd/journal/dev-log"

def start():
    daemon = subprocess.Popen([sys.argv[1]], stdout=subprocess.DEVNULL,
                              stderr=subprocess.DEVNULL)
    atexit.register(daemon.kill)
    wait_until(lambda: os.path.exists(address), 20, "journald")
    return daemon

def read():
    done = subprocess.run(["journalctl", "-t", "ServerLog", "-o", "cat", "--no-pager"],
                          capture_output=True, text=True)
    return done.stdout.splitlines()

handler = fastlog.SysLogHandler(address, facility="local0", ident="ServerLog: ")
log = logging.Logger("test")
log.addHandler(handler)
log.info("record 0")  # absent: it waits
wait_until(lambda: handler.stats().send_errors > 0, 20, "a failed connect")
logging.raiseExceptions = False
daemon = start()
for i in range(1, 1000): log.info("record %d", i)
assert handler.flush(20)
wait_until(lambda: len(read()) >= 1000, 20, "1,000 records in the journal")
daemon.send_signal(signal.SIGSTOP)
for i in range(1000, 1500): log.info("record %d", i)
assert handler.flush(0.1) is False
daemon.send_signal(signal.SIGCONT)
assert handler.flush(20)
wait_until(lambda: len(read()) >= 1500, 20, "1,500 records in the journal")
daemon.kill()
daemon.wait()
os.unlink(address)
for i in range(1500, 2000): log.info("record %d", i)
assert handler.flush(0.1) is False
daemon = start()
assert handler.flush(20)
log.error("record 2000")
wait_until(lambda: len(read()) >= 2001, 20, "2,001 records in the journal")
assert read() == [f"record {i}" for i in range(2001)], "order"
handler.close()
daemon.terminate()
daemon.wait()
print("ok")
"""


def test_journald(run_command):
    """A real systemd-journald: absent at first, stopped, killed, started again: all arrive."""
    program = shutil.which("systemd-journald", path="/lib/systemd:/usr/lib/systemd")
    missing = None if program else "systemd-journald is not installed"
    if missing is None and os.geteuid() != 0:
        missing = "only root may give journald a /run of its own"
    if missing:
        if os.environ.get("CI") or os.geteuid() == 0:
            pytest.fail(f"{missing}, and here it must be: run `make setup`")
        pytest.skip(missing)
    done = run_command(["unshare", "--mount", sys.executable, "-c", JOURNALD, program])
    assert (done.stderr, done.stdout) == ("", "ok\n")


@pytest.fixture
def run_command(tmp_path):
    return lambda command: subprocess.run(command, capture_output=True, text=True, timeout=50,
                                          cwd=tmp_path)
