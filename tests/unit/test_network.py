"""UDP and TCP over IPv4 and IPv6: the bytes sent, framing and outages."""
import errno
import logging
import socket
import time

import pytest
from support import wait_until

LOOPBACKS = [("127.0.0.1", socket.AF_INET), ("::1", socket.AF_INET6)]
TIMEOUT = 30


@pytest.fixture
def listen():
    """Return a function that opens UDP sockets and listening TCP sockets on a loopback address."""
    sockets = []

    def start(host, family, kind, port=0):
        sockets.append(socket.socket(family, kind))
        sockets[-1].setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        sockets[-1].bind((host, port))
        sockets[-1].settimeout(TIMEOUT)
        if kind == socket.SOCK_STREAM:
            sockets[-1].listen()
        return sockets[-1], (host, sockets[-1].getsockname()[1])

    yield start
    for open_socket in sockets:
        open_socket.close()


def accept(listener):
    connection, _ = listener.accept()
    connection.settimeout(TIMEOUT)
    return connection


def read(connection, size):
    data = b""
    while len(data) < size:
        chunk = connection.recv(size - len(data))
        assert chunk, data
        data += chunk
    return data


@pytest.mark.parametrize("host, family", LOOPBACKS)
def test_udp_sends_one_datagram_per_record(listen, make_handler, logger_for, host, family):
    """Each record is sent as one UDP datagram with the standard library's bytes."""
    sink, address = listen(host, family, socket.SOCK_DGRAM)
    handler = make_handler(address, ident="tag: ")
    assert handler.socktype == socket.SOCK_DGRAM and not handler.unixsocket
    log = logger_for(handler)
    for i in range(20):
        log.info("record %d", i)
    assert [sink.recv(1000) for _ in range(20)] == [b"<14>tag: record %d\0" % i
                                                    for i in range(20)]


@pytest.mark.parametrize("host, family", LOOPBACKS)
@pytest.mark.parametrize("framing, wire", [
    (None, b"<14>one\0<14>two#012lines#000\0"),
    ("octet-counting", b"7 <14>one14 <14>two\nlines\0"),
    ("newline", b"<14>one\n<14>two#012lines#000\n")])
def test_tcp_frames_records(listen, make_handler, logger_for, host, family, framing, wire):
    """TCP uses the standard library's NUL by default, or a framing of RFC 6587.

    A record that contains the delimiter does not end early.
    """
    listener, address = listen(host, family, socket.SOCK_STREAM)
    log = logger_for(make_handler(address, socktype=socket.SOCK_STREAM, framing=framing))
    log.info("one")
    log.info("two\nlines\0")
    with accept(listener) as connection:
        assert read(connection, len(wire)) == wire


def test_framing_keeps_an_explicit_nul(listen, make_handler, logger_for):
    """With append_nul=True, a framed record ends with a NUL."""
    listener, address = listen("127.0.0.1", socket.AF_INET, socket.SOCK_STREAM)
    log = logger_for(make_handler(address, socktype=socket.SOCK_STREAM, ident="a\nb: ",
                                  framing="octet-counting", append_nul=True))
    log.info("x")
    with accept(listener) as connection:
        assert read(connection, 14) == b"11 <14>a\nb: x\0"


def test_host_name_is_resolved(listen, make_handler, logger_for):
    """The handler reaches a server on "localhost" regardless of which address the server uses."""
    sink, (_, port) = listen("127.0.0.1", socket.AF_INET, socket.SOCK_DGRAM)
    handler = make_handler(("localhost", port))
    log = logger_for(handler)
    for i in range(10):
        log.info("%d", i)
        assert handler.flush(20)
    # The first datagram to an address without a listener is lost without an error.
    assert int(sink.recv(100)[4:-1]) in (0, 1)


def test_records_wait_while_the_host_name_does_not_resolve(make_handler, logger_for, capfd):
    """An unknown host name causes no error and no delay, and the record stays pending."""
    handler = make_handler(("no-such-host.invalid", 514))
    log = logger_for(handler)
    start = time.monotonic()
    log.info("x")
    assert time.monotonic() - start < 1
    wait_until(lambda: handler.stats().send_errors > 0, 20, "the look-up")
    assert handler.stats().pending == 1


def test_udp_server_restart(listen, make_handler, logger_for):
    """Records logged while no server listens wait, and arrive in order when one does."""
    sink, address = listen("127.0.0.1", socket.AF_INET, socket.SOCK_DGRAM)
    handler = make_handler(address)
    log = logger_for(handler)
    log.info("before")
    assert sink.recv(100) == b"<14>before\0"
    sink.close()
    for i in range(5):
        log.info("down %d", i)
        assert not handler.flush(0.05)
    stats = handler.stats()
    assert (stats.sent, stats.pending, stats.last_errno) == (1, 5, errno.ECONNREFUSED)
    sink, _ = listen(*address[:1], socket.AF_INET, socket.SOCK_DGRAM, address[1])
    log.info("after")
    for i in range(5):
        assert sink.recv(100) == b"<14>down %d\0" % i
    assert sink.recv(100) == b"<14>after\0"
    assert handler.flush(20)
    assert handler.stats().sent == 7


def test_udp_without_a_server_is_an_outage(listen, make_handler, logger_for, capfd):
    """A refused datagram is reported on stderr, as an absent daemon is."""
    sink, address = listen("127.0.0.1", socket.AF_INET, socket.SOCK_DGRAM)
    sink.close()
    handler = make_handler(address)
    log = logger_for(handler)
    log.info("x")
    wait_until(lambda: handler.stats().send_errors > 2, 20, "the refusals")
    log.info("y")
    assert "cannot be reached (Connection refused); records wait" in capfd.readouterr().err
    assert handler.stats().pending == 2


def test_udp_evicts_while_no_server_listens(listen, make_handler, logger_for):
    """With drop_oldest, the record of the probe may be evicted. The sums hold."""
    sink, address = listen("127.0.0.1", socket.AF_INET, socket.SOCK_DGRAM)
    sink.close()
    handler = make_handler(address, overflow="drop_oldest", capacity=4096)
    log = logger_for(handler)
    for i in range(500):
        log.info("%d", i)
    wait_until(lambda: handler.stats().send_errors > 2, 20, "the refusals")
    for i in range(500, 1000):
        log.info("%d", i)
    sink, _ = listen(*address[:1], socket.AF_INET, socket.SOCK_DGRAM, address[1])
    last = b""
    while last != b"<14>999\0":
        last = sink.recv(100)
    wait_until(lambda: handler.stats().pending == 0, 20, "the last probe")
    stats = handler.stats()
    assert stats.accepted == stats.sent + stats.discarded and stats.discarded


@pytest.mark.parametrize("end", ["peer", "handler"])
def test_tcp_peer_that_sends(listen, make_handler, logger_for, end):
    """Bytes from the peer neither hide the end of the stream nor reset it."""
    listener, address = listen("127.0.0.1", socket.AF_INET, socket.SOCK_STREAM)
    handler = make_handler(address, socktype=socket.SOCK_STREAM)
    log = logger_for(handler)
    log.info("one")
    connection = accept(listener)
    connection.sendall(b"220 ready\r\n" * 1000)
    if end == "peer":
        assert read(connection, 8) == b"<14>one\0"
        connection.close()
        log.info("two")
        connection = accept(listener)
        assert read(connection, 8) == b"<14>two\0"
        assert handler.stats().reconnects == 1
    else:
        log.info("two")
        handler.close()
        assert read(connection, 16) == b"<14>one\0<14>two\0"
        assert connection.recv(1) == b""
    connection.close()


def test_tcp_server_restart(listen, make_handler, logger_for):
    """Records logged while no server listens arrive once and in order on the next connection."""
    listener, address = listen("127.0.0.1", socket.AF_INET, socket.SOCK_STREAM)
    handler = make_handler(address, socktype=socket.SOCK_STREAM)
    log = logger_for(handler)
    log.info("before")
    connection = accept(listener)
    assert read(connection, 11) == b"<14>before\0"
    listener.close()
    connection.close()
    for i in range(100):
        log.info("down %d", i)
    assert handler.flush(0.1) is False
    listener, _ = listen("127.0.0.1", socket.AF_INET, socket.SOCK_STREAM, address[1])
    wire = b"".join(b"<14>down %d\0" % i for i in range(100))
    with accept(listener) as connection:
        assert read(connection, len(wire)) == wire
        assert handler.flush()
    assert handler.stats().reconnects == 1


def test_tcp_resends_an_interrupted_record(listen, make_handler, logger_for):
    """A record larger than all buffers is sent in parts, and again after a broken connection."""
    listener, address = listen("127.0.0.1", socket.AF_INET, socket.SOCK_STREAM)
    handler = make_handler(address, socktype=socket.SOCK_STREAM, capacity=1 << 25,
                           framing="octet-counting")
    log = logger_for(handler)
    text = "x" * 12_000_000
    wire = b"12000004 <14>" + text.encode()
    log.info(text)
    connection = accept(listener)
    read(connection, 100_000)
    assert handler.stats().sent == 0
    connection.close()
    with accept(listener) as connection:
        assert read(connection, len(wire)) == wire
        log.info("behind")
        assert read(connection, 13) == b"10 <14>behind"


def test_tcp_connect_timeout(make_handler, logger_for, listen):
    """A connect that gets no answer fails with ETIMEDOUT after `timeout`."""
    listener, address = listen("127.0.0.1", socket.AF_INET, socket.SOCK_STREAM)
    listener.listen(0)
    clients = []  # These fill the backlog, so that further handshakes get no answer.
    for _ in range(4):
        clients.append(socket.socket())
        clients[-1].setblocking(False)
        clients[-1].connect_ex(address)
    handler = make_handler(address, socktype=socket.SOCK_STREAM, timeout=0.1)
    logger_for(handler).info("x")
    wait_until(lambda: handler.stats().last_errno == errno.ETIMEDOUT, 20, "the timeout")
    for client in clients:
        client.close()


def test_udp_truncates_to_the_largest_datagram(listen, make_handler, logger_for):
    """A record over UDP and IPv4 is truncated to 65,507 bytes, the largest datagram."""
    sink, address = listen("127.0.0.1", socket.AF_INET, socket.SOCK_DGRAM)
    handler = make_handler(address)
    logger_for(handler).info("x" * 100_000)
    assert len(sink.recv(1 << 17)) == 65_507
    assert handler.flush() and handler.stats().truncated == 1


@pytest.mark.parametrize("host, family", LOOPBACKS)
def test_same_bytes_as_the_standard_library(listen, make_handler, host, family):
    """The handler sends the standard library's bytes over UDP and over TCP."""
    for kind in (socket.SOCK_DGRAM, socket.SOCK_STREAM):
        received = []
        for cls in (None, logging.handlers.SysLogHandler):
            sink, address = listen(host, family, kind)
            handler = make_handler(address, socktype=kind) if cls is None else cls(
                address, socktype=kind)
            handler.handle(logging.makeLogRecord({"msg": "h\u00e4", "levelname": "ERROR"}))
            handler.flush()
            with accept(sink) if kind == socket.SOCK_STREAM else sink.dup() as connection:
                received.append(connection.recv(100))
            handler.close()
        assert received[0] == received[1] == b"<11>h\xc3\xa4\0"
