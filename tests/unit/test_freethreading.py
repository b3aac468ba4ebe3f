"""Threads that log while others change what they log with.

On a free-threaded CPython without a GIL; elsewhere with one, which is handed on as often as can be.
"""
import logging
import logging.handlers
import re
import socket
import subprocess
import sys
import sysconfig
import threading
from collections import defaultdict
from datetime import datetime

import pytest

import fastlog

THREADS = 8
RECORDS = 2000                # of each thread
BOTH = pytest.mark.parametrize("cls", [logging.Logger, fastlog.Logger], ids=["stock", "fast"])


@pytest.fixture(autouse=True)
def hasty():
    """The GIL, if there is one, goes to another thread every 10 µs."""
    before = sys.getswitchinterval()
    sys.setswitchinterval(1e-5)
    yield
    sys.setswitchinterval(before)


class Reader:
    """A thread that takes what comes to a sink."""

    def __init__(self, sink):
        self.sink = sink
        self.found = []
        self.thread = threading.Thread(target=self.run)
        self.thread.start()

    def run(self):
        while (record := self.sink.take_one()) != b"end":
            self.found.append(record)

    def records(self, *handlers):
        """All that came of what these handlers have, which is then delivered; the reader ends."""
        delivered = [handler.flush(timeout=20) for handler in handlers]
        with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as end:
            end.connect(self.sink.path)
            end.send(b"end")
        self.thread.join(30)
        assert all(delivered)
        return self.found


def run_together(work, *others):
    """work(number) in THREADS threads; meanwhile the others, again and again."""
    failures = []
    begin = threading.Barrier(THREADS + len(others))
    over = threading.Event()

    def guarded(function, *arguments):
        begin.wait(30)
        try:
            function(*arguments)
        except BaseException as error:
            failures.append(error)

    def repeat(function):
        while not over.is_set():
            function()

    workers = [threading.Thread(target=guarded, args=(work, i)) for i in range(THREADS)]
    changers = [threading.Thread(target=guarded, args=(repeat, each)) for each in others]
    for thread in workers + changers:
        thread.start()
    for thread in workers:
        thread.join(50)
    over.set()
    for thread in changers:
        thread.join(50)
    assert not failures


def numbers(records):
    """{thread: the numbers of its records, as they came}"""
    found = defaultdict(list)
    for record in records:
        _, thread, number = record.rstrip(b"\0").rsplit(b" ", 2)
        found[int(thread)].append(int(number))
    return found


def all_in_order(records):
    return numbers(records) == {thread: list(range(RECORDS)) for thread in range(THREADS)}


def sender(log):
    def work(thread):
        for i in range(RECORDS):
            # A message that is made for one call is another object in each.
            log.info("record %d %d" if i % 2 else "".join(("record", " %d %d")), thread, i)
    return work


def turns(function, *values):
    """Calls the function with one value after the other."""
    count = 0

    def turn():
        nonlocal count
        function(values[count % len(values)])
        count += 1
    return turn


@pytest.fixture
def make_log(make_handler, sink):
    def make(cls, **options):
        log = cls("parallel", logging.INFO)
        handler = make_handler(sink.path, block_timeout=20.0, **options)
        log.addHandler(handler)
        return log, handler
    return make


@pytest.mark.skipif(not sysconfig.get_config_var("Py_GIL_DISABLED"),
                    reason="this Python always has a GIL")
def test_import_leaves_the_gil_off():
    """No module of fastlog brings the GIL back, those included that are imported when needed."""
    done = subprocess.run(
        [sys.executable, "-W", "error", "-c",
         "import sys, fastlog, fastlog._engine.crash_drain, fastlog._spool.orphans\n"
         "import fastlog.journal\n"
         "assert not sys._is_gil_enabled()"], capture_output=True, text=True)
    assert (done.returncode, done.stderr) == (0, "")


@BOTH
def test_threads(cls, make_log, sink):
    """Each record arrives once, those of each thread in the order of its calls."""
    log, handler = make_log(cls)
    reader = Reader(sink)
    run_together(sender(log))
    assert all_in_order(reader.records(handler))


@BOTH
def test_while_the_configuration_changes(cls, make_log, sink):
    """Each record is as one configuration makes it, not half as another does."""
    log, handler = make_log(cls)
    formatters = [logging.Formatter(each) for each in (
        "A %(levelname)s A %(message)s", "B %(name)s B %(message)s",
        "C %(asctime)s C %(message)s", "%(message)s")]

    def patch(function):
        fastlog.SysLogHandler.mapPriority = function
        del fastlog.SysLogHandler.mapPriority

    reader = Reader(sink)
    run_together(
        sender(log),
        turns(handler.setFormatter, *formatters),
        turns(lambda text: setattr(formatters[2], "default_msec_format", text),
              "%s,%03d", "%s.%03d"),
        turns(log.setLevel, logging.INFO, logging.DEBUG),
        turns(handler.setLevel, logging.NOTSET, logging.INFO),
        turns(lambda text: setattr(handler, "ident", text), "", "ident: "),
        turns(lambda name: logging.addLevelName(logging.INFO, name), "INFO", "".join("INFO")),
        turns(patch, logging.handlers.SysLogHandler.mapPriority))
    records = reader.records(handler)
    assert all_in_order(records)
    expected = re.compile(rb"<14>(ident: )?(A INFO A |B parallel B |C [\d-]+ [\d:]+[,.]\d{3} C |)"
                          rb"record \d+ \d+\0")
    assert [record for record in records if not expected.fullmatch(record)] == []


@BOTH
def test_while_handlers_come_and_go(cls, make_log, make_handler, make_sink, directory, sink):
    """A handler that stays gets each record once, while another is added and removed."""
    log, handler = make_log(cls)
    other = make_handler(make_sink(directory / "other").path, overflow="drop_oldest",
                         capacity=4096, close_timeout=0.0)
    reader = Reader(sink)
    run_together(sender(log), lambda: (log.addHandler(other), log.removeHandler(other)))
    assert all_in_order(reader.records(handler))


@BOTH
def test_while_the_handler_is_closed(cls, make_log, sink):
    """A record after close() starts the writer again, also when many come at once."""
    log, handler = make_log(cls)
    reader = Reader(sink)
    run_together(sender(log), handler.close, handler.flush, handler.stats)
    assert all_in_order(reader.records(handler))
    stats = handler.stats()
    assert stats.submitted == stats.accepted == stats.sent == THREADS * RECORDS


@pytest.mark.parametrize("overflow", ["block", "drop_oldest"])
def test_tiny_ring(overflow, make_log, sink):
    """A ring that is always full: what arrives is in order, what is lost is counted."""
    log, handler = make_log(fastlog.Logger, overflow=overflow, capacity=4096)
    reader = Reader(sink)
    run_together(sender(log), handler.stats)
    # A notice of the losses may be among them.
    found = numbers(each for each in reader.records(handler) if each.startswith(b"<14>record"))
    stats = handler.stats()
    assert stats.accepted == stats.sent + stats.discarded
    if overflow == "block":
        assert found == {thread: list(range(RECORDS)) for thread in range(THREADS)}
    assert all(seen == sorted(set(seen)) for seen in found.values())


def test_spool_is_given_up_meanwhile(make_log, sink, directory):
    """close() takes the file away from under the producers: none writes where no one reads."""
    reader = Reader(sink)
    for turn in range(10):
        log, handler = make_log(fastlog.Logger, spool=directory / "spool")
        halfway = threading.Event()

        def work(thread, log=log, halfway=halfway, first=turn * RECORDS):
            for i in range(RECORDS):
                log.info("record %d %d", thread, first + i)
                if i == RECORDS // 2:
                    halfway.set()

        run_together(work, lambda handler=handler, halfway=halfway: (
            halfway.wait(30), handler.close()))
        handler.close()
    _, handler = make_log(fastlog.Logger, spool=directory / "spool")
    found = numbers(reader.records(handler))
    # In the file may be left what came at the moment of close(); it is sent by the next handler.
    assert {thread: sorted(seen) for thread, seen in found.items()} == {
        thread: list(range(10 * RECORDS)) for thread in range(THREADS)}


def test_one_record_in_many_threads(make_log, sink):
    """A LogRecord that is changed while it is handled: its attributes are old or new, and alive."""
    _, handler = make_log(fastlog.Logger)
    handler.setFormatter(logging.Formatter("%(name)s %(asctime)s %(message)s"))
    record = logging.LogRecord("name", logging.INFO, "", 0, "m", None, None)
    reader = Reader(sink)

    def work(thread):
        for _ in range(RECORDS):
            handler.handle(record)

    run_together(work, turns(lambda letter: setattr(record, "msg", letter * 50), "a", "b"),
                 turns(lambda letter: setattr(record, "name", letter * 50), "c", "d"))
    records = reader.records(handler)
    assert len(records) == THREADS * RECORDS
    expected = re.compile(rb"<14>(name|c{50}|d{50}) [\d-]+ [\d:,]+ (m|a{50}|b{50})\0")
    assert [each for each in records if not expected.fullmatch(each)] == []


def test_header_of_each_record(make_log, sink):
    """Each record has the time of its own second, though the text of a second is kept."""
    _, handler = make_log(fastlog.Logger, protocol="rfc5424", hostname="host", app_name="app")
    reader = Reader(sink)

    def work(thread):
        for i in range(RECORDS):
            record = logging.LogRecord("x", logging.INFO, "", 0, f"r {thread} {i}", None, None)
            record.created = 100_000.0 * (thread + 1) + i // 2
            handler.handle(record)

    run_together(work)
    records = reader.records(handler)
    assert all_in_order(records)
    for record in records:
        _, when, *_, thread, number = record.rstrip(b"\0").decode().split(" ")
        created = datetime.fromtimestamp(100_000 * (int(thread) + 1) + int(number) // 2)
        assert when == created.astimezone().isoformat(timespec="microseconds")


def test_threads_end(make_log, sink):
    """What is kept for threads is not kept for more and more that are gone."""
    log, handler = make_log(fastlog.Logger)
    reader = Reader(sink)
    for i in range(600):
        thread = threading.Thread(target=log.info, args=("record 0 %d", i))
        thread.start()
        thread.join()
    kept = vars(handler)["_fastlog_snapshot"]       # without a GIL: one for each thread
    assert not isinstance(kept, dict) or 0 < len(kept) <= 256
    assert numbers(reader.records(handler)) == {0: list(range(600))}
