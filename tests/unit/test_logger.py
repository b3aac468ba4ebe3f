"""fastlog.Logger: when it creates a LogRecord, the record's content, install() and uninstall()."""
import copy
import gc
import inspect
import io
import logging
import pickle
import sys
import threading
import time

import pytest
from support import wait_until

import fastlog
from fastlog import loggers


@pytest.fixture
def log(handler):
    logger = fastlog.Logger("test", logging.DEBUG)
    logger.addHandler(handler)
    return logger


class RecordDetector:
    """An argument that checks, when it is formatted, whether a LogRecord holds it."""

    def __init__(self):
        self.saw_record = None

    def __str__(self):
        self.saw_record = any(vars(candidate).get("args") == (self,)
                              for candidate in gc.get_objects()
                              if type(candidate) is logging.LogRecord)
        return "seen"


def creates_record(log, level=logging.INFO, **options):
    """Return whether a logging call creates a LogRecord, or None if it formats no message."""
    detector = RecordDetector()
    log.log(level, "witness %s", detector, **options)
    return detector.saw_record


# --- with and without a LogRecord --------------------------------------------------------------

@pytest.mark.parametrize("text", [
    None, "%(asctime)s %(name)s %(levelname)s %(message)s",
    "%(pathname)s:%(lineno)d %(funcName)s %(threadName)s %(process)d %(message)s"])
def test_call_creates_no_log_record(log, handler, sink, text):
    """A call creates no LogRecord if a fastlog handler with a plain formatter is the only one."""
    handler.setFormatter(logging.Formatter(text))
    assert creates_record(log) is False
    assert creates_record(log, stacklevel=2) is False
    assert sink.take_one().endswith(b"witness seen\0")


def test_call_creates_a_log_record_if_needed(log, handler):
    """A call creates a LogRecord for filters, other handlers, exc_info, extra and some fields."""
    assert creates_record(log, exc_info=True) and creates_record(log, extra={"a": 1})
    for change, undo in (
            (lambda: log.addFilter(bool), log.filters.clear),
            (lambda: handler.addFilter(bool), handler.filters.clear),
            (lambda: log.addHandler(logging.StreamHandler(io.StringIO())), log.handlers.pop),
            (lambda: handler.setFormatter(logging.Formatter("%(taskName)s %(message)s")),
             lambda: handler.setFormatter(None)),
            (lambda: handler.setFormatter(logging.Formatter("%(processName)s %(message)s")),
             lambda: handler.setFormatter(None))):
        change()
        assert creates_record(log)
        undo()
        assert not creates_record(log)


def test_disabled_call_does_nothing(log, sink):
    """A call below the logger's level does not format its message."""
    log.setLevel(logging.ERROR)
    assert creates_record(log) is None
    assert log.isEnabledFor(logging.INFO) is False
    assert sink.is_empty()


# --- content of the record ---------------------------------------------------------------------

def test_time_fields_are_consistent(log, handler, sink):
    """created, msecs and asctime are consistent in the way LogRecord computes them."""
    handler.urgent_level = logging.INFO
    handler.setFormatter(logging.Formatter("{created!r} {msecs!r} {asctime}", style="{"))
    formatter = logging.Formatter("%(asctime)s")
    for _ in range(500):
        before = time.time()
        log.info("now")
        created, msecs, asctime = sink.take_one()[4:-1].decode().split(" ", 2)
        created, msecs = float(created), float(msecs)
        assert before <= created <= time.time()
        fraction = (created - int(created)) * 1000
        if sys.version_info < (3, 13):  # Later versions compute it from integer nanoseconds.
            assert msecs == int(fraction) + 0.0
        assert msecs == int(msecs) and -0.001 < fraction - msecs < 1.001
        record = logging.makeLogRecord({"created": created, "msecs": msecs})
        assert asctime == formatter.format(record)


def test_record_equals_the_stdlib_record(log):
    """A LogRecord has the attributes, types and attribute order of the standard library's.

    Some formatters output all attributes in their order.
    """
    records = []

    class RecordCollector(logging.Handler):
        def emit(self, record):
            records.append(record)

    stdlib_logger = logging.Logger("test", logging.DEBUG)
    for logger in (stdlib_logger, log):
        logger.handlers = [RecordCollector()]
    error = ValueError("v")
    for options in ({}, {"exc_info": error}, {"extra": {"a": 1, "b": 2}}, {"stacklevel": 2}):
        for logger in (stdlib_logger, log):
            logger.warning("msg %s %s", 1, "x", **options)
        expected, actual = records[-2:]
        assert type(actual) is logging.LogRecord
        assert list(vars(actual)) == list(vars(expected))
        for name, expected_value in vars(expected).items():
            value = getattr(actual, name)
            assert type(value) is type(expected_value), name
            if name == "msecs":
                assert value in range(1000)
            elif name in ("created", "relativeCreated"):
                tolerance = 5 if name == "created" else 5000  # relativeCreated is in milliseconds.
                assert expected_value <= value < expected_value + tolerance
            else:
                assert value == expected_value, name
        assert actual.created - actual.relativeCreated / 1000 == pytest.approx(
            expected.created - expected.relativeCreated / 1000, abs=0.01)


def test_dropped_records_are_passed_to_handle_error(make_handler, directory):
    """An overridden handleError gets the LogRecord of each record that a full ring drops."""
    dropped = []

    class Handler(fastlog.SysLogHandler):
        def handleError(self, record):
            dropped.append(record.getMessage())

    handler = make_handler(directory / "nobody", cls=Handler, capacity=4096, overflow="drop_new")
    log = fastlog.Logger("test")
    log.addHandler(handler)
    for i in range(1000):
        log.info("number %d of many", i)
    assert len(dropped) == handler.stats().dropped > 0
    assert dropped[-1] == "number 999 of many"


def test_urgent_records_wake_the_writer(make_handler, sink, threads):
    """An urgent record wakes a writer whose next poll is due in days."""
    handler = make_handler(sink.path, linger=1e6)
    log = fastlog.Logger("test")
    log.addHandler(handler)
    log.info("one")
    [thread] = threads.find()
    wait_until(lambda: handler.stats().sent == 1 and threads.is_waiting(thread), 20, "linger")
    log.info("held back")
    log.error("urgent")
    assert sink.take(3) == [b"<14>one\0", b"<14>held back\0", b"<11>urgent\0"]


def test_configuration_changes_while_threads_log(make_handler, sink):
    """Each record arrives once and intact while another thread changes the configuration."""
    handler = make_handler(sink.path)
    handler.setFormatter(logging.Formatter("%(levelname)s:%(message)s"))
    log = fastlog.Logger("test", logging.DEBUG)
    log.addHandler(handler)
    count, threads = 1000, 4
    done = threading.Event()
    received = []

    def produce(number):
        for i in range(count):
            log.info("%d %d %s", number, i, "x")

    def change():
        while not done.wait(0.0005):  # Without a pause, the producers would rarely get the GIL.
            handler.setFormatter(logging.Formatter("%(name)s %(levelname)s:%(message)s"))
            log.name = "name" + str(time.perf_counter_ns())
            handler.formatter._style._fmt = "%(levelname)s:%(message)s"
            handler.priority_map = dict(handler.priority_map)
            log.handlers[:] = [handler]

    def read():
        received.extend(sink.take(count * threads))

    workers = [threading.Thread(target=produce, args=(n,)) for n in range(threads)]
    helpers = [threading.Thread(target=change), threading.Thread(target=read)]
    for thread in workers + helpers:
        thread.start()
    for thread in workers:
        thread.join()
    handler.flush(30)
    done.set()
    for thread in helpers:
        thread.join()
    by_thread = [[] for _ in range(threads)]
    for line in received:
        prefix, _, text = line.partition(b"INFO:")
        assert prefix.startswith(b"<14>") and text.endswith(b" x\0"), line
        number, i, _ = text.split()
        by_thread[int(number)].append(int(i))
    assert by_thread == [list(range(count))] * threads


# --- the class and its methods -----------------------------------------------------------------

def test_methods_have_signatures_and_docstrings():
    """The native methods have the standard library's signatures and a docstring."""
    for name in ("debug", "info", "warning", "error", "critical"):
        assert str(inspect.signature(getattr(fastlog.Logger, name))) == (
            "(self, /, msg, *args, **kwargs)")
        assert getattr(fastlog.Logger, name).__doc__
    assert str(inspect.signature(fastlog.Logger("x").log)) == "(level, msg, *args, **kwargs)"


def test_methods_reject_other_loggers():
    """A native method called with a standard logger raises a TypeError."""
    with pytest.raises(TypeError):
        fastlog.Logger.info(logging.Logger("stock"), "x")


def test_attributes_are_those_of_the_stdlib_logger(log, sink):
    """A logger has the standard library's attributes and one private attribute more."""
    log.info("x")
    assert set(vars(log)) - set(vars(logging.Logger("x"))) <= {"manager", "_fastlog_plan"}
    del log.disabled
    with pytest.raises(AttributeError):
        log.info("without `disabled` the standard library fails, too")


# --- install -----------------------------------------------------------------------------------

@pytest.fixture
def install():
    """Return fastlog.install. Afterwards, uninstall and remove the loggers created meanwhile."""
    original_names = set(logging.root.manager.loggerDict)
    yield fastlog.install
    fastlog.uninstall()
    for name in set(logging.root.manager.loggerDict) - original_names:
        del logging.root.manager.loggerDict[name]


def test_install_changes_all_loggers(install, make_handler, sink):
    """install() changes existing loggers, later loggers and the root, and uninstall() undoes it."""
    early = logging.getLogger("early.child")
    early.setLevel(logging.INFO)
    early.addHandler(make_handler(sink.path))
    early.propagate = False
    early.info("stock")
    install()
    assert type(early) is fastlog.Logger and type(logging.getLogger("late")) is fastlog.Logger
    assert isinstance(logging.root, logging.RootLogger) and isinstance(logging.root, fastlog.Logger)
    assert repr(logging.root) == "<RootLogger root (WARNING)>"
    assert logging.getLoggerClass() is fastlog.Logger
    assert creates_record(early) is False
    fastlog.uninstall()
    assert type(early) is logging.Logger and type(logging.root) is logging.RootLogger
    assert logging.getLoggerClass() is logging.Logger
    early.info("stock again")
    assert sink.take(3)[::2] == [b"<14>stock\0", b"<14>stock again\0"]


def test_install_and_uninstall_are_idempotent(install):
    """A second install() or uninstall() has no effect."""
    install()
    install()
    assert type(logging.root) is loggers.RootLogger
    fastlog.uninstall()
    fastlog.uninstall()
    assert type(logging.root) is logging.RootLogger


def test_handler_on_the_root_logger(run_python, sink):
    """Loggers create no LogRecord if dictConfig puts a single handler on the root logger."""
    run_python("""
import gc, logging.config, sys
import fastlog
fastlog.install()
logging.config.dictConfig({
    "version": 1,
    "formatters": {"plain": {"format": "%(name)s %(funcName)s %(message)s"}},
    "handlers": {"syslog": {"class": "fastlog.SysLogHandler", "address": sys.argv[1],
                            "formatter": "plain"}},
    "root": {"handlers": ["syslog"], "level": "INFO"}})

class RecordDetector:
    def __str__(self):
        return str(any(type(candidate) is logging.LogRecord for candidate in gc.get_objects()))

def main():
    logging.getLogger("package.module").info("record: %s", RecordDetector())
    logging.warning("from the module, record: %s", RecordDetector())

main()
""", sink.path)
    assert sink.take(2) == [b"<14>package.module main record: False\0",
                            b"<12>root main from the module, record: False\0"]


def test_install_respects_another_logger_class(install):
    """install() keeps a configured subclass of fastlog.Logger and refuses any other class."""
    class Other(logging.Logger):
        pass

    class Subclass(fastlog.Logger):
        pass

    logging.setLoggerClass(Other)
    try:
        with pytest.raises(RuntimeError, match=r"Other.*inherit from fastlog\.Logger"):
            fastlog.install()
        assert type(logging.root) is logging.RootLogger
        logging.setLoggerClass(Subclass)
        fastlog.install()
        assert logging.getLoggerClass() is Subclass and type(logging.root) is loggers.RootLogger
        assert type(logging.getLogger("ours")) is Subclass
    finally:
        fastlog.uninstall()
        assert logging.getLoggerClass() is Subclass
        logging.setLoggerClass(logging.Logger)


def test_ancestor_of_another_class_is_not_cached(install, make_handler, sink):
    """Changes to an ancestor of another logger class are seen by the next call.

    Such a logger does not notify its descendants, so the dispatch plan is not cached.
    """
    class Other(logging.Logger):
        pass

    install()
    manager = logging.root.manager
    parent = manager.loggerDict["other"] = Other("other", logging.INFO)
    parent.parent, parent.manager = logging.root, manager
    child = logging.getLogger("other.child")
    child.info("nobody")
    handler = make_handler(sink.path)
    parent.addHandler(handler)
    child.info("one")
    parent.handlers = [handler, handler]
    child.info("two")
    parent.propagate = False
    vars(parent)["handlers"] = []
    child.info("nobody")
    assert sink.take(3) == [b"<14>one\0", b"<14>two\0", b"<14>two\0"]


def test_loggers_can_be_pickled_and_copied(install):
    """Pickling or copying an installed logger returns the same logger."""
    install()
    log = logging.getLogger("pickled.logger")
    assert pickle.loads(pickle.dumps(log)) is log
    assert copy.copy(log) is log and copy.deepcopy(log) is log
    assert pickle.loads(pickle.dumps(logging.root)) is logging.root
