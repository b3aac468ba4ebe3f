"""Names of hosts: many addresses, addresses that change, and name servers that fail."""
import contextlib
import os
import socket
import subprocess
import sys
import time

import pytest

TIMEOUT = 30

PROGRAM = """
import logging, os, socket, sys, time, fastlog
port = int(sys.argv[1])

def set_addresses(*addresses):
    temporary = os.environ["TEST_ADDRESSES"] + ".new"
    with open(temporary, "w") as file:
        file.write("\\n".join(addresses))
    os.rename(temporary, os.environ["TEST_ADDRESSES"])

def look_ups():
    try:
        return os.path.getsize(os.environ["TEST_LOOKUPS"])
    except FileNotFoundError:
        return 0

def make(name="logs.example", **options):
    handler = fastlog.SysLogHandler((name, port), **options)
    log = logging.Logger("x")
    log.addHandler(handler)
    return handler, log
"""


@pytest.fixture(scope="session")
def resolver(repository, tmp_path_factory, gcc):
    """The library that replaces the resolver of a program."""
    library = tmp_path_factory.mktemp("resolver") / "resolver.so"
    subprocess.run([gcc, "-Wall", "-shared", "-fPIC", "-o", library,
                    repository / "tests" / "native" / "resolver.c"], check=True)
    return library


@pytest.fixture
def run_program(resolver, tmp_path):
    """Return a function that runs code behind PROGRAM with the test's resolver."""
    def run(code, port):
        done = subprocess.run(
            [sys.executable, "-W", "error", "-c", PROGRAM + code, str(port)],
            env={**os.environ, "LD_PRELOAD": str(resolver),
                 "TEST_ADDRESSES": str(tmp_path / "addresses"),
                 "TEST_LOOKUPS": str(tmp_path / "look-ups")},
            capture_output=True, text=True, timeout=2 * TIMEOUT, cwd=tmp_path)
        assert done.returncode == 0 and done.stderr == "", done
        return done.stdout
    return run


@pytest.fixture
def open_udp():
    """Return a function that opens UDP sockets with the same port on several addresses."""
    with contextlib.ExitStack() as stack:
        def start(*addresses):
            port, sockets = 0, []
            for address in addresses:
                sockets.append(stack.enter_context(
                    socket.socket(socket.AF_INET, socket.SOCK_DGRAM)))
                sockets[-1].bind((address, port))
                sockets[-1].settimeout(TIMEOUT)
                port = sockets[-1].getsockname()[1]
            return port, sockets
        yield start


@pytest.mark.parametrize("count", [12, 200])
def test_only_the_last_of_many_addresses_listens(run_program, count):
    """All addresses of a name are tried, one after the other without a pause."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        server.settimeout(TIMEOUT)
        start = time.monotonic()
        run_program(f"""
set_addresses(*("127.0.1.%d" % i for i in range(1, {count})), "127.0.0.1")
handler, log = make(socktype=socket.SOCK_STREAM)
log.error("hello")
assert handler.flush(30), handler.stats()
""", server.getsockname()[1])
        connection, _ = server.accept()
        with connection:
            assert connection.recv(100) == b"<11>hello\0"
        assert time.monotonic() - start < 10


def test_udp_follows_a_host_that_moves(run_program, open_udp):
    """A UDP handler sends to the new address of a name soon after it has changed."""
    port, (old, new) = open_udp("127.0.0.2", "127.0.0.3")
    run_program("""
set_addresses("127.0.0.2")
handler, log = make()
log.error("first")
assert handler.flush(30)
set_addresses("127.0.0.3")
end = time.monotonic() + 30
while handler.stats().reconnects == 0 and time.monotonic() < end:
    log.error("later")
    assert handler.flush(30)
    time.sleep(0.05)
assert handler.stats().reconnects == 1 and handler.stats().send_errors == 0
""", port)
    assert old.recv(100) == b"<11>first\0" and new.recv(100) == b"<11>later\0"


def test_udp_stays_with_an_address_that_the_host_still_has(run_program, open_udp):
    """Another order of the addresses, or more of them, does not cause a new connection."""
    port, (kept, other) = open_udp("127.0.0.2", "127.0.0.3")
    run_program("""
set_addresses("127.0.0.2")
handler, log = make()
log.error("x")
assert handler.flush(30)
set_addresses("127.0.0.3", "127.0.0.2")
before = look_ups()
end = time.monotonic() + 30
while look_ups() < before + 2 and time.monotonic() < end:
    log.error("x")
    assert handler.flush(30)
    time.sleep(0.05)
assert look_ups() == before + 2 and handler.stats().reconnects == 0
""", port)
    assert kept.recv(100) == b"<11>x\0"
    other.setblocking(False)
    with pytest.raises(BlockingIOError):
        other.recv(100)


def test_udp_survives_a_name_server_that_fails(run_program, open_udp):
    """When the name is not found any more, records go on to the last known address."""
    port, (sink,) = open_udp("127.0.0.2")
    run_program("""
set_addresses("127.0.0.2")
handler, log = make()
log.error("x")
assert handler.flush(30)
set_addresses()
before = look_ups()
end = time.monotonic() + 30
while look_ups() < before + 2 and time.monotonic() < end:
    log.error("x")
    assert handler.flush(30)
    time.sleep(0.05)
stats = handler.stats()
assert stats.sent == stats.accepted and stats.send_errors == 0 == stats.reconnects, stats
""", port)
    assert sink.recv(100) == b"<11>x\0"


def test_tcp_reconnects_while_the_name_server_fails(run_program):
    """A TCP server that restarts is found at its last known address without a name server."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]
    run_program("""
set_addresses("127.0.0.1")
with socket.create_server(("127.0.0.1", port)) as server:
    server.settimeout(30)
    handler, log = make(socktype=socket.SOCK_STREAM)
    log.error("first")
    connection, _ = server.accept()
    with connection: assert connection.recv(100) == b"<11>first\\0"
    set_addresses()
    again_from = time.monotonic() + 1        # a name is looked up at most once a second
    while time.monotonic() < again_from: time.sleep(0.05)
    log.error("second")
    connection, _ = server.accept()
    with connection: assert connection.recv(100) == b"<11>second\\0"
assert look_ups() == 2
handler.close()
""", port)


@pytest.mark.parametrize("host, calls", [("127.0.0.1", 1), ("logs.example", 0)])
def test_construction_looks_no_name_up(run_program, open_udp, host, calls):
    """The constructor resolves a numeric host, which asks no name server, and never a name."""
    port, _ = open_udp("127.0.0.1")
    run_program(f"""
set_addresses("127.0.0.1")
handler, log = make({host!r})
assert look_ups() == {calls}
""", port)
