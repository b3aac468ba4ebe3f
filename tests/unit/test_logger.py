"""fastlog.Logger: when it makes a LogRecord, and what that holds; install() and uninstall()."""
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

import fastlog
from fastlog import loggers
from fastlog._daemons.rsyslogd import wait_until


@pytest.fixture
def log(handler):
    logger = fastlog.Logger("test", logging.DEBUG)
    logger.addHandler(handler)
    return logger


class Witness:
    """An argument that looks, when it is merged, whether a LogRecord exists."""

    def __init__(self):
        self.saw_record = None

    def __str__(self):
        self.saw_record = any(vars(each).get("args") == (self,) for each in gc.get_objects()
                              if type(each) is logging.LogRecord)
        return "seen"


def makes_record(log, level=logging.INFO, **options):
    witness = Witness()
    log.log(level, "witness %s", witness, **options)
    return witness.saw_record


# --- with and without a LogRecord --------------------------------------------------------------

@pytest.mark.parametrize("text", [
    None, "%(asctime)s %(name)s %(levelname)s %(message)s",
    "%(pathname)s:%(lineno)d %(funcName)s %(threadName)s %(process)d %(message)s"])
def test_no_record_in_front_of_a_handler_of_ours(log, handler, sink, text):
    handler.setFormatter(logging.Formatter(text))
    assert makes_record(log) is False
    assert makes_record(log, stacklevel=2) is False
    assert sink.take_one().endswith(b"witness seen\0")


def test_record_where_somebody_needs_it(log, handler):
    assert makes_record(log, exc_info=True) and makes_record(log, extra={"a": 1})
    for change, undo in (
            (lambda: log.addFilter(bool), log.filters.clear),
            (lambda: handler.addFilter(bool), handler.filters.clear),
            (lambda: log.addHandler(logging.StreamHandler(io.StringIO())), log.handlers.pop),
            (lambda: handler.setFormatter(logging.Formatter("%(taskName)s %(message)s")),
             lambda: handler.setFormatter(None)),
            (lambda: handler.setFormatter(logging.Formatter("%(processName)s %(message)s")),
             lambda: handler.setFormatter(None))):
        change()
        assert makes_record(log)
        undo()
        assert not makes_record(log)


def test_nothing_is_done_below_the_level(log, sink):
    log.setLevel(logging.ERROR)
    assert makes_record(log) is None
    assert log.isEnabledFor(logging.INFO) is False
    assert sink.is_empty()


# --- what is in it -----------------------------------------------------------------------------

def test_time(log, handler, sink):
    """created, msecs and asctime belong together, as LogRecord computes them."""
    handler.urgent_level = logging.INFO
    handler.setFormatter(logging.Formatter("{created!r} {msecs!r} {asctime}", style="{"))
    stock = logging.Formatter("%(asctime)s")
    for _ in range(500):
        before = time.time()
        log.info("now")
        created, msecs, asctime = sink.take_one()[4:-1].decode().split(" ", 2)
        created, msecs = float(created), float(msecs)
        assert before <= created <= time.time()
        fraction = (created - int(created)) * 1000
        if sys.version_info < (3, 13):  # from there on it is computed in integers of ns
            assert msecs == int(fraction) + 0.0
        assert msecs == int(msecs) and -0.001 < fraction - msecs < 1.001
        record = logging.makeLogRecord({"created": created, "msecs": msecs})
        assert asctime == stock.format(record)


def test_record_equals_the_stock_one(log):
    """All attributes, their types and their order, which some formatters show."""
    records = []

    class Keep(logging.Handler):
        def emit(self, record):
            records.append(record)

    stock = logging.Logger("test", logging.DEBUG)
    for logger in (stock, log):
        logger.handlers = [Keep()]
    error = ValueError("v")
    for options in ({}, {"exc_info": error}, {"extra": {"a": 1, "b": 2}}, {"stacklevel": 2}):
        for logger in (stock, log):
            logger.warning("msg %s %s", 1, "x", **options)
        expected, got = records[-2:]
        assert type(got) is logging.LogRecord
        assert list(vars(got)) == list(vars(expected))
        for name, value in vars(expected).items():
            found = getattr(got, name)
            assert type(found) is type(value), name
            if name == "msecs":
                assert found in range(1000)
            elif name in ("created", "relativeCreated"):
                assert value <= found < value + (5 if name == "created" else 5000)  # 5 s
            else:
                assert found == value, name
        assert got.created - got.relativeCreated / 1000 == pytest.approx(
            expected.created - expected.relativeCreated / 1000, abs=0.01)


def test_dropped_records_reach_handle_error(make_handler, directory):
    """With a handleError of its own, as everywhere: it gets the LogRecord."""
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
    """Behind a writer that looks again only in days."""
    handler = make_handler(sink.path, linger=1e6)
    log = fastlog.Logger("test")
    log.addHandler(handler)
    log.info("one")
    [thread] = threads.find()
    wait_until(lambda: handler.stats().sent == 1 and threads.is_waiting(thread), 20, "linger")
    log.info("held back")
    log.error("urgent")
    assert sink.take(3) == [b"<14>one\0", b"<14>held back\0", b"<11>urgent\0"]


def test_threads_and_changes(make_handler, sink):
    """Threads log while another changes all that a call meets: each record arrives once, whole."""
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
        while not done.wait(0.0005):  # else the others would get the GIL rarely
            handler.setFormatter(logging.Formatter("%(name)s %(levelname)s:%(message)s"))
            log.name = "name" + str(time.perf_counter_ns())
            handler.formatter._style._fmt = "%(levelname)s:%(message)s"
            handler.priority_map = dict(handler.priority_map)
            log.handlers[:] = [handler]

    def read():
        received.extend(sink.take(count * threads))

    workers = [threading.Thread(target=produce, args=(n,)) for n in range(threads)]
    others = [threading.Thread(target=change), threading.Thread(target=read)]
    for thread in workers + others:
        thread.start()
    for thread in workers:
        thread.join()
    handler.flush(30)
    done.set()
    for thread in others:
        thread.join()
    by_thread = [[] for _ in range(threads)]
    for line in received:
        head, _, text = line.partition(b"INFO:")
        assert head.startswith(b"<14>") and text.endswith(b" x\0"), line
        number, i, _ = text.split()
        by_thread[int(number)].append(int(i))
    assert by_thread == [list(range(count))] * threads


# --- as an object ------------------------------------------------------------------------------

def test_signatures_and_documentation():
    for name in ("debug", "info", "warning", "error", "critical"):
        assert str(inspect.signature(getattr(fastlog.Logger, name))) == (
            "(self, /, msg, *args, **kwargs)")
        assert getattr(fastlog.Logger, name).__doc__
    assert str(inspect.signature(fastlog.Logger("x").log)) == "(level, msg, *args, **kwargs)"


def test_only_loggers_have_its_methods():
    with pytest.raises(TypeError):
        fastlog.Logger.info(logging.Logger("stock"), "x")


def test_attributes_are_those_of_the_stock_logger(log, sink):
    log.info("x")
    assert set(vars(log)) - set(vars(logging.Logger("x"))) <= {"manager", "_fastlog_plan"}
    del log.disabled
    with pytest.raises(AttributeError):
        log.info("without `disabled` the standard library fails, too")


# --- install -----------------------------------------------------------------------------------

@pytest.fixture
def installed():
    names = set(logging.root.manager.loggerDict)
    yield fastlog.install
    fastlog.uninstall()
    for name in set(logging.root.manager.loggerDict) - names:
        del logging.root.manager.loggerDict[name]


def test_install(installed, make_handler, sink):
    """Loggers that exist, those that come, and the root."""
    early = logging.getLogger("early.child")
    early.setLevel(logging.INFO)
    early.addHandler(make_handler(sink.path))
    early.propagate = False
    early.info("stock")
    installed()
    assert type(early) is fastlog.Logger and type(logging.getLogger("late")) is fastlog.Logger
    assert isinstance(logging.root, logging.RootLogger) and isinstance(logging.root, fastlog.Logger)
    assert repr(logging.root) == "<RootLogger root (WARNING)>"
    assert logging.getLoggerClass() is fastlog.Logger
    assert makes_record(early) is False
    fastlog.uninstall()
    assert type(early) is logging.Logger and type(logging.root) is logging.RootLogger
    assert logging.getLoggerClass() is logging.Logger
    early.info("stock again")
    assert sink.take(3)[::2] == [b"<14>stock\0", b"<14>stock again\0"]


def test_install_twice_and_uninstall_twice(installed):
    installed()
    installed()
    assert type(logging.root) is loggers.RootLogger
    fastlog.uninstall()
    fastlog.uninstall()
    assert type(logging.root) is logging.RootLogger


def test_handlers_on_the_root(run_python, sink):
    """As most programs have it: all in one dictConfig."""
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

class Witness:
    def __str__(self):
        return str(any(type(each) is logging.LogRecord for each in gc.get_objects()))

def main():
    logging.getLogger("package.module").info("record: %s", Witness())
    logging.warning("from the module, record: %s", Witness())

main()
""", sink.path)
    assert sink.take(2) == [b"<14>package.module main record: False\0",
                            b"<12>root main from the module, record: False\0"]


def test_install_respects_another_logger_class(installed):
    class Other(logging.Logger):
        pass

    class Ours(fastlog.Logger):
        pass

    logging.setLoggerClass(Other)
    try:
        with pytest.raises(RuntimeError, match=r"Other.*inherit from fastlog\.Logger"):
            fastlog.install()
        assert type(logging.root) is logging.RootLogger
        logging.setLoggerClass(Ours)
        fastlog.install()
        assert logging.getLoggerClass() is Ours and type(logging.root) is loggers.RootLogger
        assert type(logging.getLogger("ours")) is Ours
    finally:
        fastlog.uninstall()
        assert logging.getLoggerClass() is Ours
        logging.setLoggerClass(logging.Logger)


def test_loggers_of_other_classes_stay(installed, make_handler, sink):
    """A route over a logger that does not tell its changes is looked up by each call."""
    class Other(logging.Logger):
        pass

    installed()
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


def test_pickle_and_copy(installed):
    installed()
    log = logging.getLogger("pickled.logger")
    assert pickle.loads(pickle.dumps(log)) is log
    assert copy.copy(log) is log and copy.deepcopy(log) is log
    assert pickle.loads(pickle.dumps(logging.root)) is logging.root
