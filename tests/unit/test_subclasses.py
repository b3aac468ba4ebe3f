"""Subclasses as programs out there have them, and the ways in which frameworks make handlers."""
import collections
import logging
import logging.config
import os
import socket
import sys
import threading

import pytest

import fastlog
from fastlog._daemons.daemon import wait_until


class Unblocking(fastlog.SysLogHandler):
    """After AWX: another way to connect, and errors to another place."""

    append_nul = False

    def __init__(self, *args, **options):
        self.connects = 0
        self.errors = []
        super().__init__(*args, **options)

    def _connect_unixsocket(self, address):
        self.connects += 1
        super()._connect_unixsocket(address)
        self.socket.setblocking(False)

    def handleError(self, record):
        self.errors.append((record.getMessage(), sys.exc_info()[1]))


def test_overridden_connect(make_handler, sink, logger_for):
    """Its own sockets are used: at the start and, made by the next record, after an outage."""
    handler = make_handler(sink.path, cls=Unblocking)
    log = logger_for(handler)
    assert handler.connects == 1 and handler.socket.getpeername() == sink.path
    log.info("one")
    assert sink.take_one() == b"<14>one"
    sink.close()
    for i in range(3):
        log.info("down %d", i)
        handler.flush(0.05)
    # The next record makes a new one, once the writer has seen that this one is dead.
    wait_until(handler._engine.wants_socket, 20, "the loss of the connection")
    sink.bind()
    log.info("back")
    assert sink.take(4) == [b"<14>down 0", b"<14>down 1", b"<14>down 2", b"<14>back"]
    assert handler.connects > 1 and handler.errors == []


def test_overridden_connect_without_a_daemon(make_handler, make_sink, directory, logger_for):
    handler = make_handler(directory / "log", cls=Unblocking)
    log = logger_for(handler)
    log.info("early")
    sink = make_sink(directory / "log")
    log.info("late")
    assert sink.take(2) == [b"<14>early", b"<14>late"]


def test_overridden_handle_error_gets_each_dropped_record(make_handler, sink, logger_for):
    """So that a program can put what is lost elsewhere; the exception says why."""
    handler = make_handler(sink.path, cls=Unblocking, capacity=4096, overflow="drop_new")
    log = logger_for(handler)
    sink.hang()
    for i in range(100):
        log.info("%d %s", i, "x" * 100)
    stats = handler.stats()
    assert stats.dropped == len(handler.errors) > 0
    assert all(isinstance(error, BlockingIOError) for _, error in handler.errors)
    received = sink.take(stats.accepted)
    assert len(received) + len(handler.errors) == 100


def test_overridden_create_socket(make_handler, make_sink, directory, logger_for):
    """A subclass that connects to somewhere else altogether."""
    elsewhere = make_sink(directory / "elsewhere")

    class Elsewhere(fastlog.SysLogHandler):
        def createSocket(self):
            self.socket = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
            self.socket.connect(elsewhere.path)

    logger_for(make_handler(directory / "log", cls=Elsewhere)).info("x")
    assert elsewhere.take_one() == b"<14>x\0"


def test_overridden_create_lock(make_handler, sink, logger_for):
    """After OpenStack Swift: a lock of its own kind, and none is needed to log."""

    class PipeLocked(fastlog.SysLogHandler):
        def createLock(self):
            self.lock = threading.Lock()

    class Unlocked(fastlog.SysLogHandler):
        def createLock(self):
            self.lock = None

    for cls in (PipeLocked, Unlocked):
        handler = make_handler(sink.path, cls=cls)
        logger_for(handler).info("x")
        assert sink.take_one() == b"<14>x\0"
        handler.close()


def test_wrapped_emit_that_raises_and_requeues(make_handler, sink, logger_for):
    """After TrueNAS: errors are raised to the wrapper, which keeps the record for later."""

    class Requeueing(fastlog.SysLogHandler):
        def __init__(self, *args, **options):
            self.waiting = collections.deque()
            super().__init__(*args, **options)

        def emit(self, record):
            self.waiting.append(record)
            while self.waiting:
                try:
                    super().emit(self.waiting[0])
                except Exception:
                    return
                self.waiting.popleft()

        def handleError(self, record):
            raise

    handler = make_handler(sink.path, cls=Requeueing, capacity=4096, overflow="drop_new")
    log = logger_for(handler)
    for i in range(100):
        log.info("%d %s", i, "x" * 100)
    assert handler.waiting
    received = sink.take(100 - len(handler.waiting))
    log.info("100")
    while handler.waiting:
        received += sink.take(1)
        log.info("more")
    numbers = [int(r[4:-1].split()[0]) for r in received if r[4:6] not in (b"mo", b"fa")]
    assert numbers == list(range(len(numbers)))


def test_gunicorn_construction(make_handler, sink, listen_udp, logger_for):
    """By keyword, with a socket's path or with host and port."""
    for address in (sink.path, listen_udp.getsockname()):
        handler = make_handler(address=address, facility=fastlog.SysLogHandler.facility_names[
            "user"], socktype=socket.SOCK_DGRAM)
        handler.setFormatter(logging.Formatter("gunicorn.app: %(message)s"))
        logger_for(handler).info("x")
    assert sink.take_one() == b"<14>gunicorn.app: x\0"
    assert listen_udp.recv(100) == b"<14>gunicorn.app: x\0"


@pytest.fixture
def listen_udp():
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sink:
        sink.bind(("127.0.0.1", 0))
        sink.settimeout(30)
        yield sink


@pytest.mark.parametrize("configuration", [
    {  # as Django's LOGGING
        "filters": {"all": {"()": logging.Filter}},
        "formatters": {"simple": {"format": "{levelname} {message}", "style": "{"}},
        "handlers": {"syslog": {"level": "INFO", "class": "fastlog.SysLogHandler",
                                "filters": ["all"], "formatter": "simple", "address": "ADDRESS"}},
        "loggers": {"framework": {"handlers": ["syslog"], "level": "INFO", "propagate": False}},
    },
    {  # as uvicorn's log_config
        "formatters": {"simple": {"()": "logging.Formatter",
                                  "fmt": "%(levelname)s %(message)s"}},
        "handlers": {"syslog": {"formatter": "simple", "class": "fastlog.SysLogHandler",
                                "address": "ADDRESS"}},
        "loggers": {"framework": {"handlers": ["syslog"], "level": "INFO", "propagate": False}},
    },
], ids=["django", "uvicorn"])
def test_dict_config_of_frameworks(sink, configuration):
    configuration["handlers"]["syslog"]["address"] = sink.path
    logging.config.dictConfig({"version": 1, "disable_existing_loggers": False, **configuration})
    logger = logging.getLogger("framework")
    logger.info("started")
    assert sink.take_one() == b"<14>INFO started\0"
    logger.handlers.pop().close()


def test_relative_path_survives_chdir(make_handler, make_sink, directory, logger_for, monkeypatch):
    """A daemon that changes to / after it has set up logging."""
    sink = make_sink()
    monkeypatch.chdir(directory)
    handler = make_handler("log")
    monkeypatch.chdir("/")
    logger_for(handler).info("x")
    assert handler.address == "log" and sink.take_one() == b"<14>x\0"


def test_pickle_and_copy(handler):
    """A clear error, where the standard library complains about a lock."""
    import copy
    import pickle
    for way in (pickle.dumps, copy.copy, copy.deepcopy):
        with pytest.raises(TypeError, match="SysLogHandler cannot be pickled"):
            way(handler)


def test_addresses_of_own_sockets_are_closed(make_handler, sink):
    before = len(os.listdir("/proc/self/fd"))
    handler = make_handler(sink.path, cls=Unblocking)
    handler.close()
    assert handler.socket is None
    del handler
    assert len(os.listdir("/proc/self/fd")) <= before + 1  # the ring's wake-up descriptor
