"""Subclasses as found in real programs, and the ways in which frameworks create handlers."""
import collections
import logging
import logging.config
import os
import socket
import sys
import threading

import pytest
from support import wait_until

import fastlog


class NonBlocking(fastlog.SysLogHandler):
    """Overrides the connect and collects errors, in the manner of AWX."""

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


def test_overridden_connect_is_used(make_handler, sink, logger_for):
    """An overridden connect creates the first socket and, after an outage, the next one."""
    handler = make_handler(sink.path, cls=NonBlocking)
    log = logger_for(handler)
    assert handler.connects == 1 and handler.socket.getpeername() == sink.path
    log.info("one")
    assert sink.take_one() == b"<14>one"
    sink.close()
    for i in range(3):
        log.info("down %d", i)
        handler.flush(0.05)
    # The next record creates a new socket once the writer has detected that this one is dead.
    wait_until(handler._engine.wants_socket, 20, "the loss of the connection")
    sink.bind()
    log.info("back")
    assert sink.take(4) == [b"<14>down 0", b"<14>down 1", b"<14>down 2", b"<14>back"]
    assert handler.connects > 1 and handler.errors == []


def test_overridden_connect_without_a_daemon(make_handler, make_sink, directory, logger_for):
    """Records wait for the daemon if an overridden connect fails at construction."""
    handler = make_handler(directory / "log", cls=NonBlocking)
    log = logger_for(handler)
    log.info("early")
    sink = make_sink(directory / "log")
    log.info("late")
    assert sink.take(2) == [b"<14>early", b"<14>late"]


def test_overridden_handle_error_gets_each_dropped_record(make_handler, sink, logger_for):
    """An overridden handleError gets each dropped record, with a BlockingIOError as the reason."""
    handler = make_handler(sink.path, cls=NonBlocking, capacity=4096, overflow="drop_new")
    log = logger_for(handler)
    sink.hang()
    for i in range(100):
        log.info("%d %s", i, "x" * 100)
    stats = handler.stats()
    assert stats.dropped == len(handler.errors) > 0
    assert all(isinstance(error, BlockingIOError) for _, error in handler.errors)
    received = sink.take(stats.accepted)
    assert len(received) + len(handler.errors) == 100


def test_overridden_create_socket_is_used(make_handler, make_sink, directory, logger_for):
    """A subclass's createSocket may connect to a destination other than the address."""
    other_sink = make_sink(directory / "elsewhere")

    class Redirected(fastlog.SysLogHandler):
        def createSocket(self):
            self.socket = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
            self.socket.connect(other_sink.path)

    logger_for(make_handler(directory / "log", cls=Redirected)).info("x")
    assert other_sink.take_one() == b"<14>x\0"


def test_overridden_create_lock_is_accepted(make_handler, sink, logger_for):
    """A subclass's createLock may set another kind of lock, as in OpenStack Swift, or none."""

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


def test_emit_may_requeue_records_after_errors(make_handler, sink, logger_for):
    """A subclass may raise from handleError and requeue the record in emit, as TrueNAS does."""

    class Requeueing(fastlog.SysLogHandler):
        def __init__(self, *args, **options):
            self.queue = collections.deque()
            super().__init__(*args, **options)

        def emit(self, record):
            self.queue.append(record)
            while self.queue:
                try:
                    super().emit(self.queue[0])
                except Exception:
                    return
                self.queue.popleft()

        def handleError(self, record):
            raise

    handler = make_handler(sink.path, cls=Requeueing, capacity=4096, overflow="drop_new")
    log = logger_for(handler)
    for i in range(100):
        log.info("%d %s", i, "x" * 100)
    assert handler.queue
    received = sink.take(100 - len(handler.queue))
    log.info("100")
    while handler.queue:
        received += sink.take(1)
        log.info("more")
    numbers = [int(datagram[4:-1].split()[0]) for datagram in received
               if datagram[4:6] not in (b"mo", b"fa")]
    assert numbers == list(range(len(numbers)))


def test_gunicorn_construction(make_handler, sink, udp_sink, logger_for):
    """The handler accepts gunicorn's keyword arguments with a path or with host and port."""
    for address in (sink.path, udp_sink.getsockname()):
        handler = make_handler(address=address, facility=fastlog.SysLogHandler.facility_names[
            "user"], socktype=socket.SOCK_DGRAM)
        handler.setFormatter(logging.Formatter("gunicorn.app: %(message)s"))
        logger_for(handler).info("x")
    assert sink.take_one() == b"<14>gunicorn.app: x\0"
    assert udp_sink.recv(100) == b"<14>gunicorn.app: x\0"


@pytest.fixture
def udp_sink():
    """Return a UDP socket on a loopback address."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as udp_socket:
        udp_socket.bind(("127.0.0.1", 0))
        udp_socket.settimeout(30)
        yield udp_socket


@pytest.mark.parametrize("configuration", [
    {  # in the form of Django's LOGGING
        "filters": {"all": {"()": logging.Filter}},
        "formatters": {"simple": {"format": "{levelname} {message}", "style": "{"}},
        "handlers": {"syslog": {"level": "INFO", "class": "fastlog.SysLogHandler",
                                "filters": ["all"], "formatter": "simple", "address": "ADDRESS"}},
        "loggers": {"framework": {"handlers": ["syslog"], "level": "INFO", "propagate": False}},
    },
    {  # in the form of uvicorn's log_config
        "formatters": {"simple": {"()": "logging.Formatter",
                                  "fmt": "%(levelname)s %(message)s"}},
        "handlers": {"syslog": {"formatter": "simple", "class": "fastlog.SysLogHandler",
                                "address": "ADDRESS"}},
        "loggers": {"framework": {"handlers": ["syslog"], "level": "INFO", "propagate": False}},
    },
], ids=["django", "uvicorn"])
def test_dict_config_of_frameworks(sink, configuration):
    """The logging configurations of Django and uvicorn create the handler."""
    configuration["handlers"]["syslog"]["address"] = sink.path
    logging.config.dictConfig({"version": 1, "disable_existing_loggers": False, **configuration})
    logger = logging.getLogger("framework")
    logger.info("started")
    assert sink.take_one() == b"<14>INFO started\0"
    logger.handlers.pop().close()


def test_relative_path_survives_chdir(make_handler, make_sink, directory, logger_for, monkeypatch):
    """A relative path stays valid when a daemon changes to / after it has configured logging."""
    sink = make_sink()
    monkeypatch.chdir(directory)
    handler = make_handler("./log")
    monkeypatch.chdir("/")
    logger_for(handler).info("x")
    assert handler.address == "./log" and sink.take_one() == b"<14>x\0"


@pytest.mark.parametrize("use", ["emit", "flush", "stats"])
def test_forgotten_init_is_named(use):
    """The error of a subclass whose __init__ does not call the handler's names the reason."""

    class Forgetful(fastlog.SysLogHandler):
        def __init__(self):
            logging.Handler.__init__(self)

        def handleError(self, record):
            raise

    with pytest.raises(AttributeError, match=r"Forgetful.__init__\(\) did not call super"):
        arguments = [logging.makeLogRecord({"msg": "x"})] if use == "emit" else []
        getattr(Forgetful(), use)(*arguments)


def test_pickling_and_copying_are_refused(handler):
    """Pickling or copying a handler raises a TypeError that names the class."""
    import copy
    import pickle
    for function in (pickle.dumps, copy.copy, copy.deepcopy):
        with pytest.raises(TypeError, match="SysLogHandler cannot be pickled"):
            function(handler)


def test_sockets_of_a_subclass_are_closed(make_handler, sink):
    """close() also closes a socket that a subclass created."""
    initial_count = len(os.listdir("/proc/self/fd"))
    handler = make_handler(sink.path, cls=NonBlocking)
    handler.close()
    assert handler.socket is None
    del handler
    assert len(os.listdir("/proc/self/fd")) == initial_count
