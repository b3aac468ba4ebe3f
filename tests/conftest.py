"""The fixtures that the tests share, and the markers that follow from a test's place and fixtures.

The classes and functions behind the fixtures are in tests/support.
"""
from __future__ import annotations

import functools
import logging
import os
import shutil
import signal
import socket
import sysconfig
import tempfile
from pathlib import Path

import pytest
from support.daemons import Rsyslogd
from support.journald import Journald, find_journald
from support.loggers import make_logger
from support.native import build_native as build_native_module
from support.processes import ORPHANED_SPOOL_PROGRAM, run_python as run_python_in, run_recover
from support.sink import Sink, fill_datagram_queue
from support.threads import WriterThreads

import fastlog
from fastlog._daemons.rsyslogd import find_rsyslogd

UNIT_TESTS = Path(__file__).parent / "unit"

# The markers of tests that use a fixture.
MARKERS = {
    "start_rsyslogd": (pytest.mark.daemon,),
    "journald": (pytest.mark.daemon, pytest.mark.root),
    "as_root": (pytest.mark.root,),
}


def pytest_collection_modifyitems(items):
    """Set the markers `unit`, `daemon` and `root`."""
    for item in items:
        if UNIT_TESTS in item.path.parents:
            item.add_marker(pytest.mark.unit)
        for fixture in MARKERS.keys() & set(item.fixturenames):
            for marker in MARKERS[fixture]:
                item.add_marker(marker)


# --- the environment of the tests -----------------------------------------------------------------

@pytest.fixture(scope="session", autouse=True)
def outside_source_tree(tmp_path_factory):
    """Leave the source tree, so that the processes of tests import the package under test.

    In the source tree they would import its sources, which are not built.
    """
    previous = os.getcwd()
    os.chdir(tmp_path_factory.mktemp("outside_source_tree"))
    yield
    os.chdir(previous)


@pytest.fixture(scope="session", autouse=True)
def interruptible():
    """Undo settings of the environment that the programs of tests would inherit.

    A shell starts background jobs with SIGINT ignored, and PYTHONUNBUFFERED hides what users see.
    """
    previous = signal.signal(signal.SIGINT, signal.default_int_handler)
    os.environ.pop("PYTHONUNBUFFERED", None)
    yield
    signal.signal(signal.SIGINT, previous)


@pytest.fixture
def directory():
    """A new directory with a short path, because a socket's address is at most 107 bytes long."""
    with tempfile.TemporaryDirectory(prefix="fl-") as path:
        yield Path(path)


@pytest.fixture(scope="session")
def repository():
    """The source tree that these tests belong to."""
    return Path(__file__).parent.parent


# --- conditions -----------------------------------------------------------------------------------

@pytest.fixture
def with_gil():
    """Skip tests that fork while other threads run, on a Python without a GIL.

    There the child may inherit locked locks of Python's own, which nobody releases. With 3.13.5
    the standard library's handlers hang, too.
    """
    if sysconfig.get_config_var("Py_GIL_DISABLED"):
        pytest.skip("this Python has no GIL")


@pytest.fixture
def nested_calls():
    """Skip tests that log in the same thread while a record is handled, on a Python without that.
    """
    if hasattr(logging.Logger, "_is_disabled"):
        pytest.skip("this version of Python drops such records")


@pytest.fixture
def require():
    """Return the path of a program, or end the test if the path is None.

    A missing program is a failure in CI and for root, and otherwise a reason to skip the test.
    """
    def check(name, path):
        if path is not None:
            return path
        if os.environ.get("CI") or os.geteuid() == 0:
            pytest.fail(f"{name} is not installed, which CI and root require: run `make setup`")
        pytest.skip(f"{name} is not installed; as root, `make setup` installs it")

    return check


@pytest.fixture(scope="session")
def gcc():
    program = shutil.which("gcc")
    assert program, "gcc is needed to build the package and these tests"
    return program


# --- sinks, handlers and loggers ------------------------------------------------------------------

@pytest.fixture
def fill_queue():
    return fill_datagram_queue


@pytest.fixture
def make_sink(directory):
    """Makes sinks that are closed after the test."""
    sinks = []

    def make(path=None, kind=socket.SOCK_DGRAM):
        sinks.append(Sink(path or directory / "log", kind))
        return sinks[-1]

    yield make
    for sink in sinks:
        sink.close()


@pytest.fixture
def sink(make_sink):
    return make_sink()


@pytest.fixture
def make_handler():
    """Makes fastlog.SysLogHandlers that are closed after the test."""
    handlers = []

    def make(*args, cls=fastlog.SysLogHandler, **options):
        handlers.append(cls(*args, **options))
        return handlers[-1]

    yield make
    raise_exceptions, logging.raiseExceptions = logging.raiseExceptions, False
    for handler in handlers:
        handler.close(0.0)
    logging.raiseExceptions = raise_exceptions


@pytest.fixture
def make_journal_handler(make_handler):
    """Makes JournalHandlers that are closed after the test. Their ident is `test-journal`."""
    def make(address, **options):
        return make_handler(address, cls=fastlog.JournalHandler,
                            **{"ident": "test-journal", **options})

    return make


@pytest.fixture
def handler(make_handler, sink):
    return make_handler(sink.path)


@pytest.fixture
def log(handler):
    """A logger that logs to `handler`."""
    return make_logger(handler)


@pytest.fixture
def logger_for():
    return make_logger


@pytest.fixture
def threads():
    """Finds the writer threads of this process and reads their state."""
    return WriterThreads


# --- daemons --------------------------------------------------------------------------------------

@pytest.fixture
def start_rsyslogd(directory, require):
    """Starts private rsyslogds that are stopped after the test."""
    require("rsyslogd", find_rsyslogd())
    daemons = []

    def start(**options):
        daemons.append(Rsyslogd(directory, **options))
        daemons[-1].start()
        return daemons[-1]

    yield start
    for daemon in daemons:
        daemon.stop()


@pytest.fixture
def rsyslogd(start_rsyslogd):
    return start_rsyslogd()


@pytest.fixture
def journald(directory, require):
    """A private systemd-journald. The test starts it."""
    require("systemd-journald", find_journald())
    try:
        daemon = Journald(directory)
    except PermissionError as error:
        if os.environ.get("CI"):
            raise
        pytest.skip(f"journald cannot have a private /run here: {error}")
    yield daemon
    daemon.close()


# --- processes and spools -------------------------------------------------------------------------

@pytest.fixture
def run_python(tmp_path):
    """Runs code in a new interpreter. See support.processes.run_python."""
    return functools.partial(run_python_in, tmp_path)


@pytest.fixture
def spool(directory):
    """The path of a spool that does not exist yet."""
    return directory / "spool"


@pytest.fixture
def make_orphaned_spool(run_python, directory, spool):
    """Makes a spool that contains unsent records. By default its process kills itself."""
    def run(*texts, path=spool, address=str(directory / "log"), before="",
            end="os.kill(os.getpid(), signal.SIGKILL)", returncode=-9, **options):
        code = ORPHANED_SPOOL_PROGRAM.format(address=address, end=end,
                                             options={"capacity": 1 << 16, **options})
        run_python(before + code, path, *texts, returncode=returncode)

    return run


@pytest.fixture
def recover():
    """Runs `fastlog recover`. See support.processes.run_recover."""
    return run_recover


@pytest.fixture(scope="session")
def build_native(repository):
    """Builds a native test module. See support.native.build_native."""
    return functools.partial(build_native_module, repository)
