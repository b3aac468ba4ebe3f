"""A server that forks in C: uWSGI."""
import os
import shutil
import signal
import socket
import subprocess
import sys

import pytest
from support import wait_until

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
    """Start the server, make 50 requests, end it, and return the 51 datagrams."""
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


@pytest.mark.slow
@pytest.mark.usefixtures("with_gil")
def test_uwsgi(application, directory, sink):
    """All records arrive from uWSGI workers that are forked after the application is loaded."""
    web = str(directory / "web")
    program = shutil.which("uwsgi", path=os.path.dirname(sys.executable))
    assert program, "uwsgi is one of the test tools: run `make setup`"
    received = serve([program, "--http-socket", web, "--master", "--processes", "2", "--need-app",
                      "--die-on-term", "--virtualenv", sys.prefix,
                      "--wsgi-file", str(application / "application.py")],
                     application, web, sink)
    check(received)
    assert sink.is_empty()
