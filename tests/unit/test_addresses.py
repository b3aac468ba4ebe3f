"""Addresses: each form reaches its destination, and text in no known form is refused."""
import io
import os
import pathlib
import socket

import pytest

import fastlog


def test_url_of_a_unix_socket(make_handler, sink, logger_for):
    """A unix URL means the same as the path in it."""
    handler = make_handler(f"unix://{sink.path}")
    logger_for(handler).info("x")
    assert sink.take_one() == b"<14>x\0"
    assert handler.address == sink.path and handler.unixsocket


@pytest.mark.parametrize("address", [
    "udp://127.0.0.1:{}", "UDP://127.0.0.1:{}", ("127.0.0.1", "{}"), ["127.0.0.1", "{}"]], ids=str)
def test_udp_address(make_handler, logger_for, address):
    """A udp URL, a tuple and a list send datagrams, and the port may be text."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as receiver:
        receiver.bind(("127.0.0.1", 0))
        receiver.settimeout(20)
        port = receiver.getsockname()[1]
        address = (address.format(port) if isinstance(address, str)
                   else type(address)(text.format(port) for text in address))
        handler = make_handler(address)
        logger_for(handler).info("x")
        assert receiver.recv(100) == b"<14>x\0"
    assert handler.address == ("127.0.0.1", port)
    assert handler.socktype == socket.SOCK_DGRAM and not handler.unixsocket


@pytest.mark.parametrize("address, socktype", [
    ("tcp://{}:{}", None), ("tcp://{}:{}", "tcp"), (("{}", "{}"), socket.SOCK_STREAM),
    (("{}", "{}"), "Stream"), (("{}", "{}"), "TCP"), (("{}", "{}"), "SOCK_STREAM")], ids=str)
@pytest.mark.parametrize("family, host", [(socket.AF_INET, "127.0.0.1"),
                                          (socket.AF_INET6, "[::1]")])
def test_tcp_address(make_handler, logger_for, address, socktype, family, host):
    """A tcp URL and a tuple with a stream socket type connect, to IPv6 addresses in brackets too.

    The port may be text.
    """
    bound = host.strip("[]")
    try:
        server = socket.create_server((bound, 0), family=family)
    except OSError:
        pytest.skip(f"this machine has no {bound}")
    with server:
        server.settimeout(20)
        port = server.getsockname()[1]
        address = (address.format(host, port) if isinstance(address, str)
                   else (host, str(port)))
        handler = make_handler(address, socktype=socktype)
        logger_for(handler).info("x")
        connection, _ = server.accept()
        with connection:
            connection.settimeout(20)
            assert connection.recv(100) == b"<14>x\0"
    assert handler.address == (bound, port) and handler.socktype == socket.SOCK_STREAM


@pytest.mark.parametrize("address, expected", [
    ("udp://loghost", ("loghost", 514)), ("tcp://loghost", ("loghost", 601)),
    ("tcp://[::1]", ("::1", 601)), ("udp://[fe80::1%lo]:5514", ("fe80::1%lo", 5514)),
    (("[::1]", 514), ("::1", 514)), (("::1", "0514"), ("::1", 514)),
    (("b\u00fccher.example", 514), ("b\u00fccher.example", 514))])
def test_network_addresses(make_handler, address, expected):
    """URLs have the registered ports as defaults, and brackets around an address are removed."""
    assert make_handler(address).address == expected


def test_name_of_a_service_as_port(make_handler, monkeypatch):
    """The port may be the name of a service, as the standard library accepts it."""
    monkeypatch.setattr(socket, "getservbyname", {"syslog": 514}.__getitem__)
    assert make_handler(("localhost", "syslog")).address == ("localhost", 514)


@pytest.mark.parametrize("address", [
    "", " ", "localhost", "log", "loghost.example.org", "h:514", "localhost:514", "[::1]:514",
    "::1", "127.0.0.1", "${SYSLOG}", "$SYSLOG", "%(address)s", "{{ address }}", "None", "dev\\log",
    "${RUN}/log", "$RUN/log", "~/log", "%(dir)s/log", "{dir}/log", "host:514/log", "@/run/log",
    " /dev/log", "/dev/log\n", "unix:/dev/log", "file:///dev/log", "unix://dev/log", "unix://",
    "syslog://host:514", "http://host/", "udp:host:514", "udp://", "udp:///dev/log", "udp://:514",
    "tcp://host:", "tcp://host:x", "tcp://host:601/", "tcp://user@host:601", "tcp://h:601?a=b",
    "tcp://::1:601", "udp://a b", "udp://${HOST}:514", "udp://host:${PORT}"])
def test_text_that_is_not_an_address(address):
    """Text that is neither recognizably a path nor a known URL is refused.

    A host name, or a variable that was not expanded, must not become the name of a file.
    """
    with pytest.raises(ValueError, match="address must") as caught:
        fastlog.SysLogHandler(address)
    if not address.startswith(("udp://$", "udp:///")):
        assert all(form in str(caught.value) for form in ("path", "udp://", "tcp://", "unix://"))


@pytest.mark.parametrize("host", [
    "${HOST}", "a b", "udp://h", "h/x", "[::1", "h:514", "1::2::3", "user@h", "[h]", "h\n", "{h}"])
def test_host_that_is_not_a_name(host):
    """A host that cannot be the name or the address of one is refused."""
    with pytest.raises(ValueError, match="address must have a valid host name"):
        fastlog.SysLogHandler((host, 514))


@pytest.mark.parametrize("port", ["", "0", "65536", "-1", " 514", "514 ", "5_14", "0x10", "\u0665",
                                  "${PORT}", "no-such-service", "51.4"])
def test_port_that_is_not_a_number(port):
    """A port as text must be from 1 to 65535 or the name of a service."""
    with pytest.raises(ValueError, match="address must have a port from 1 to 65535"):
        fastlog.SysLogHandler(("host", port))


@pytest.mark.parametrize("address", ["tls://host:6514", "TLS://host"])
def test_tls_is_refused(address):
    """The scheme tls is refused with an error that names TLS."""
    with pytest.raises(ValueError, match="TLS is not supported"):
        fastlog.SysLogHandler(address)


@pytest.mark.parametrize("address, socktype", [
    ("udp://host", socket.SOCK_STREAM), ("udp://host", "tcp"), ("tcp://host", socket.SOCK_DGRAM),
    ("tcp://host:601", "datagram")])
def test_contradicting_socktype(address, socktype):
    """A socket type that contradicts the URL is refused."""
    with pytest.raises(ValueError, match=r"socktype .* contradicts the address"):
        fastlog.SysLogHandler(address, socktype=socktype)


@pytest.mark.parametrize("address", ["./log", "run/log", "../x/log", ".run/log"])
def test_relative_paths_with_a_slash(make_handler, tmp_path, monkeypatch, address):
    """A relative path with a slash is a path."""
    monkeypatch.chdir(tmp_path)
    assert make_handler(address).address == address


def test_path_object_is_always_a_path(make_handler, tmp_path, monkeypatch):
    """A path-like object is a path, even if it is a plain word."""
    monkeypatch.chdir(tmp_path)
    assert make_handler(pathlib.Path("log")).address == "log"
    assert make_handler(pathlib.Path("~/x y")).address == "~/x y"


@pytest.mark.parametrize("make", [
    lambda path: path.mkdir(), lambda path: path.touch(), lambda path: os.mkfifo(path),
    lambda path: path.symlink_to("/dev/null"), lambda path: path.symlink_to(path.parent)],
    ids=["directory", "file", "fifo", "link to a device", "link to a directory"])
@pytest.mark.parametrize("cls", [fastlog.SysLogHandler, fastlog.JournalHandler])
def test_path_that_is_not_a_socket(directory, make, cls):
    """A path at which something else than a socket exists is refused."""
    path = directory / "log"
    make(path)
    for address in path, str(path), f"unix://{path}":
        with pytest.raises(ValueError, match="address must be the path of a socket"):
            cls(address)


def test_paths_that_may_become_sockets(make_handler, directory):
    """A missing path, a missing directory and a link to a missing path are accepted."""
    (directory / "link").symlink_to(directory / "missing")
    (directory / "loop").symlink_to(directory / "loop")
    for path in "link", "missing", "no/such/directory", "loop":
        make_handler(str(directory / path))


def test_journal_addresses(make_journal_handler, sink, logger_for):
    """JournalHandler accepts a unix URL, and refuses addresses of hosts."""
    logger_for(make_journal_handler(f"unix://{sink.path}")).info("x")
    assert sink.take_one().startswith(b"MESSAGE=x\n")
    for address in "udp://host", "tcp://host":
        with pytest.raises(ValueError, match="address must be the path of a unix socket"):
            fastlog.JournalHandler(address)
    with pytest.raises(ValueError, match="address must be an absolute path"):
        fastlog.JournalHandler("localhost")


@pytest.mark.parametrize("name", ["udp", "UDP", "dgram", "Datagram", "SOCK_DGRAM"])
def test_names_of_datagram_sockets(make_handler, name):
    """A configuration file can name the datagram socket type."""
    assert make_handler("/nowhere", socktype=name).socktype == socket.SOCK_DGRAM


def test_raw_socktype(make_handler, sink, logger_for):
    """SOCK_RAW means a datagram socket on a unix socket, as the kernel takes it there."""
    handler = make_handler(sink.path, socktype=socket.SOCK_RAW)
    logger_for(handler).info("x")
    assert sink.take_one() == b"<14>x\0" and handler.socktype == socket.SOCK_DGRAM


@pytest.mark.parametrize("address, socktype", [
    (("host", 514), socket.SOCK_RAW), ("/nowhere", socket.SOCK_SEQPACKET),
    ("/nowhere", socket.SOCK_RDM), ("/nowhere", 99)])
def test_other_socket_types_are_unsupported(address, socktype):
    """Another socket type raises an error that is an OSError as well as a ValueError.

    Programs that try several types expect an OSError.
    """
    with pytest.raises(io.UnsupportedOperation, match="socktype must be") as caught:
        fastlog.SysLogHandler(address, socktype=socktype)
    assert isinstance(caught.value, OSError) and isinstance(caught.value, ValueError)


def test_coloredlogs(sink, monkeypatch, logger_for):
    """coloredlogs connects to syslog by trying one socket type after the other."""
    syslog = pytest.importorskip("coloredlogs.syslog")
    monkeypatch.setattr("logging.handlers.SysLogHandler", fastlog.SysLogHandler)
    handler = syslog.connect_to_syslog(address=sink.path)
    logger_for(handler).info("x")
    assert sink.take_one() == b"<14>x\0"
    handler.close()
