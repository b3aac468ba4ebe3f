"""An assigned address: the next records go there, as with the standard library's handler."""
import logging
import os
import socket

import pytest

import fastlog

TIMEOUT = 30


@pytest.fixture
def listen():
    """Return a function that opens a UDP or TCP server and returns it with its address."""
    servers = []

    def start(kind=socket.SOCK_DGRAM):
        servers.append(socket.socket(socket.AF_INET, kind))
        servers[-1].bind(("127.0.0.1", 0))
        servers[-1].settimeout(TIMEOUT)
        if kind == socket.SOCK_STREAM:
            servers[-1].listen()
        return servers[-1], servers[-1].getsockname()

    yield start
    for server in servers:
        server.close()


def test_next_record_goes_to_the_assigned_path(handler, log, sink, make_sink, directory):
    """Records logged before an assignment arrive at the old socket, and later ones at the new."""
    other = make_sink(directory / "other")
    log.info("before")
    handler.address = directory / "other"
    log.info("after")
    assert sink.take_one() == b"<14>before\0" and other.take_one() == b"<14>after\0"
    assert handler.flush() and sink.is_empty()
    assert handler.address == other.path and handler.stats().reconnects == 1


def test_udp_address_as_with_the_standard_library(listen, make_handler):
    """The next datagram goes to the assigned address with both handlers."""
    for make in logging.handlers.SysLogHandler, make_handler:
        (first, first_address), (second, second_address) = listen(), listen()
        handler = make(first_address)
        log = logging.Logger("x")
        log.addHandler(handler)
        log.info("one")
        handler.address = second_address
        log.info("two")
        assert first.recv(100) == b"<14>one\0" and second.recv(100) == b"<14>two\0"
        assert handler.address == second_address
        handler.close()


def test_from_a_path_to_a_host_and_back(handler, log, sink, listen):
    """An address of the other kind is accepted, and `unixsocket` tells which kind is in use."""
    server, address = listen()
    handler.address = address
    assert not handler.unixsocket
    log.info("udp")
    assert server.recv(100) == b"<14>udp\0"
    handler.address = sink.path
    assert handler.unixsocket
    log.info("unix")
    assert sink.take_one() == b"<14>unix\0"


def test_pending_records_go_to_the_assigned_address(make_handler, logger_for, make_sink, directory):
    """Records that wait for an absent daemon are sent to the address that is assigned instead."""
    other = make_sink(directory / "other")
    handler = make_handler(str(directory / "absent"), block_timeout=0.0)
    log = logger_for(handler)
    log.info("waiting")
    handler.address = other.path
    assert other.take_one() == b"<14>waiting\0"


def test_before_the_first_record_and_after_close(make_handler, logger_for, make_sink, directory):
    """An address that is assigned while there is no writer thread takes effect as well."""
    sinks = [make_sink(directory / name) for name in "abc"]
    handler = make_handler(sinks[0].path)
    log = logger_for(handler)
    handler.address = sinks[1].path
    log.info("one")
    assert sinks[1].take_one() == b"<14>one\0"
    handler.close()
    handler.address = sinks[2].path
    log.info("two")
    assert sinks[2].take_one() == b"<14>two\0" and sinks[0].is_empty()


def test_tcp_connects_to_the_assigned_address(listen, make_handler, logger_for):
    """A stream is closed, and another one is opened to the assigned address."""
    (first, first_address), (second, second_address) = [
        listen(socket.SOCK_STREAM) for _ in range(2)]
    handler = make_handler(first_address, socktype=socket.SOCK_STREAM)
    log = logger_for(handler)
    log.info("one")
    connection, _ = first.accept()
    with connection:
        assert connection.recv(100) == b"<14>one\0"
        handler.address = second_address
        log.info("two")
        assert connection.recv(100) == b""
    connection, _ = second.accept()
    with connection:
        assert connection.recv(100) == b"<14>two\0"


def test_forked_child_uses_the_assigned_address(handler, log, sink, make_sink, directory,
                                                with_gil):
    """A child's own writer connects to the address that the parent assigned before the fork."""
    other = make_sink(directory / "other")
    handler.address = other.path
    child = os.fork()
    if child == 0:
        log.info("child")
        os._exit(0 if handler.flush(TIMEOUT) else 1)
    assert os.waitpid(child, 0)[1] == 0
    assert other.take_one() == b"<14>child\0" and sink.is_empty()


def test_invalid_address_changes_nothing(handler, log, sink):
    """An invalid address raises the constructor's error, and the old address stays in use."""
    for value, error in [("", ValueError), (7, TypeError), (("host", "no port"), ValueError)]:
        with pytest.raises(error, match="address"):
            handler.address = value
    log.info("x")
    assert handler.address == sink.path and sink.take_one() == b"<14>x\0"


def test_address_of_a_handler_with_a_spool(make_handler, sink, spool):
    """The address cannot be assigned with a spool, whose file names the destination."""
    handler = make_handler(sink.path, spool=spool)
    with pytest.raises(AttributeError, match="spool"):
        handler.address = "/dev/log"
    assert handler.address == sink.path


def test_address_of_a_journal_handler(make_journal_handler, make_sink, directory, logger_for):
    """A JournalHandler accepts another path, and no host."""
    first, second = make_sink(directory / "a"), make_sink(directory / "b")
    handler = make_journal_handler(first.path)
    handler.address = second.path
    logger_for(handler).info("x")
    assert b"MESSAGE=x\n" in second.take_one()
    with pytest.raises(TypeError, match="address must be a str"):
        handler.address = ("127.0.0.1", 514)


def test_subclass_that_connects_is_asked_again(sink, make_sink, directory, logger_for,
                                               make_handler):
    """Where a subclass connects, it is called for the assigned address with the next record."""
    class Connecting(fastlog.SysLogHandler):
        def _connect_unixsocket(self, address):
            addresses.append(address)
            super()._connect_unixsocket(address)

    addresses = []
    other = make_sink(directory / "other")
    handler = make_handler(sink.path, cls=Connecting)
    log = logger_for(handler)
    log.info("one")
    assert sink.take_one() == b"<14>one\0"
    handler.address = other.path
    log.info("two")
    assert other.take_one() == b"<14>two\0"
    assert addresses == [sink.path, other.path]
