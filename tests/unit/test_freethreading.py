"""Threads log while other threads change their loggers, handlers and formatters.

A free-threaded CPython runs these tests without a GIL. Elsewhere the GIL switches between threads
as often as possible.
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
RECORDS = 2000                # per thread
BOTH = pytest.mark.parametrize("cls", [logging.Logger, fastlog.Logger], ids=["stdlib", "fastlog"])


@pytest.fixture(autouse=True)
def short_switch_interval():
    """Let the GIL, if there is one, switch to another thread every 10 µs."""
    original_interval = sys.getswitchinterval()
    sys.setswitchinterval(1e-5)
    yield
    sys.setswitchinterval(original_interval)


class Reader:
    """A thread that receives everything sent to a sink."""

    def __init__(self, sink):
        self.sink = sink
        self.received = []
        self.thread = threading.Thread(target=self.run)
        self.thread.start()

    def run(self):
        while (record := self.sink.take_one()) != b"end":
            self.received.append(record)

    def finish(self, *handlers):
        """Flush the handlers, stop the reader and return all records that it received."""
        delivered = [handler.flush(timeout=20) for handler in handlers]
        with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as end:
            end.connect(self.sink.path)
            end.send(b"end")
        self.thread.join(30)
        assert all(delivered)
        return self.received


def run_together(work, *others):
    """Run work(number) in THREADS threads and call each of the others repeatedly meanwhile."""
    failures = []
    start_barrier = threading.Barrier(THREADS + len(others))
    workers_done = threading.Event()

    def run_guarded(function, *arguments):
        start_barrier.wait(30)
        try:
            function(*arguments)
        except BaseException as error:
            failures.append(error)

    def repeat(function):
        while not workers_done.is_set():
            function()

    workers = [threading.Thread(target=run_guarded, args=(work, i)) for i in range(THREADS)]
    changers = [threading.Thread(target=run_guarded, args=(repeat, other)) for other in others]
    for thread in workers + changers:
        thread.start()
    for thread in workers:
        thread.join(50)
    workers_done.set()
    for thread in changers:
        thread.join(50)
    assert not failures


def group_by_thread(records):
    """Return a dict of each thread's record numbers in the order of arrival."""
    numbers = defaultdict(list)
    for record in records:
        _, thread, number = record.rstrip(b"\0").rsplit(b" ", 2)
        numbers[int(thread)].append(int(number))
    return numbers


def are_complete_and_ordered(records):
    return group_by_thread(records) == {thread: list(range(RECORDS)) for thread in range(THREADS)}


def make_sender(log):
    def work(thread):
        for i in range(RECORDS):
            # Every other call joins its message anew, so that it is a different object each time.
            log.info("record %d %d" if i % 2 else "".join(("record", " %d %d")), thread, i)
    return work


def cycle_values(function, *values):
    """Return a callable that passes the next of the values to the function at each call."""
    count = 0

    def call_with_next():
        nonlocal count
        function(values[count % len(values)])
        count += 1
    return call_with_next


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
    """No module of fastlog enables the GIL, including those that are imported on demand."""
    done = subprocess.run(
        [sys.executable, "-W", "error", "-c",
         "import sys, fastlog, fastlog._engine.crash_drain, fastlog._spool.orphans\n"
         "import fastlog.journal\n"
         "assert not sys._is_gil_enabled()"], capture_output=True, text=True)
    assert (done.returncode, done.stderr) == (0, "")


@BOTH
def test_threads_log_concurrently(cls, make_log, sink):
    """Each record arrives once, and each thread's records keep their order."""
    log, handler = make_log(cls)
    reader = Reader(sink)
    run_together(make_sender(log))
    assert are_complete_and_ordered(reader.finish(handler))


@BOTH
def test_configuration_changes_while_threads_log(cls, make_log, sink):
    """Each record is formatted by exactly one of the formatters, never by a mixture of two."""
    log, handler = make_log(cls)
    formatters = [logging.Formatter(text) for text in (
        "A %(levelname)s A %(message)s", "B %(name)s B %(message)s",
        "C %(asctime)s C %(message)s", "%(message)s")]

    def patch(function):
        fastlog.SysLogHandler.mapPriority = function
        del fastlog.SysLogHandler.mapPriority

    reader = Reader(sink)
    run_together(
        make_sender(log),
        cycle_values(handler.setFormatter, *formatters),
        cycle_values(lambda text: setattr(formatters[2], "default_msec_format", text),
                     "%s,%03d", "%s.%03d"),
        cycle_values(log.setLevel, logging.INFO, logging.DEBUG),
        cycle_values(handler.setLevel, logging.NOTSET, logging.INFO),
        cycle_values(lambda text: setattr(handler, "ident", text), "", "ident: "),
        cycle_values(lambda name: logging.addLevelName(logging.INFO, name),
                     "INFO", "".join("INFO")),
        cycle_values(patch, logging.handlers.SysLogHandler.mapPriority))
    records = reader.finish(handler)
    assert are_complete_and_ordered(records)
    expected = re.compile(rb"<14>(ident: )?(A INFO A |B parallel B |C [\d-]+ [\d:]+[,.]\d{3} C |)"
                          rb"record \d+ \d+\0")
    assert [record for record in records if not expected.fullmatch(record)] == []


@BOTH
def test_handlers_change_while_threads_log(cls, make_log, make_handler, make_sink, directory, sink):
    """A permanent handler gets each record once while another one is added and removed."""
    log, handler = make_log(cls)
    other = make_handler(make_sink(directory / "other").path, overflow="drop_oldest",
                         capacity=4096, close_timeout=0.0)
    reader = Reader(sink)
    run_together(make_sender(log), lambda: (log.addHandler(other), log.removeHandler(other)))
    assert are_complete_and_ordered(reader.finish(handler))


@BOTH
def test_handler_is_closed_while_threads_log(cls, make_log, sink):
    """A record logged after close() starts the writer again, also when threads log concurrently."""
    log, handler = make_log(cls)
    reader = Reader(sink)
    run_together(make_sender(log), handler.close, handler.flush, handler.stats)
    assert are_complete_and_ordered(reader.finish(handler))
    stats = handler.stats()
    assert stats.submitted == stats.accepted == stats.sent == THREADS * RECORDS


@pytest.mark.parametrize("overflow", ["block", "drop_oldest"])
def test_threads_overflow_a_tiny_ring(overflow, make_log, sink):
    """Records that pass through an always full ring keep their order, and losses are counted."""
    log, handler = make_log(fastlog.Logger, overflow=overflow, capacity=4096)
    reader = Reader(sink)
    run_together(make_sender(log), handler.stats)
    # The received records may include a loss report.
    numbers = group_by_thread(record for record in reader.finish(handler)
                              if record.startswith(b"<14>record"))
    stats = handler.stats()
    assert stats.accepted == stats.sent + stats.discarded
    if overflow == "block":
        assert numbers == {thread: list(range(RECORDS)) for thread in range(THREADS)}
    assert all(thread_numbers == sorted(set(thread_numbers)) for thread_numbers in numbers.values())


@pytest.mark.slow
def test_spool_is_detached_while_threads_log(make_log, sink, directory):
    """close() detaches the spool while producers write, and no record is lost in the old file."""
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
    numbers = group_by_thread(reader.finish(handler))
    # Records logged during close() may remain in the file. The next handler sends them.
    assert {thread: sorted(thread_numbers) for thread, thread_numbers in numbers.items()} == {
        thread: list(range(10 * RECORDS)) for thread in range(THREADS)}


def test_threads_share_a_changing_record(make_log, sink):
    """An attribute changed while its LogRecord is handled yields its old or its new value."""
    _, handler = make_log(fastlog.Logger)
    handler.setFormatter(logging.Formatter("%(name)s %(asctime)s %(message)s"))
    record = logging.LogRecord("name", logging.INFO, "", 0, "m", None, None)
    reader = Reader(sink)

    def work(thread):
        for _ in range(RECORDS):
            handler.handle(record)

    run_together(work, cycle_values(lambda letter: setattr(record, "msg", letter * 50), "a", "b"),
                 cycle_values(lambda letter: setattr(record, "name", letter * 50), "c", "d"))
    records = reader.finish(handler)
    assert len(records) == THREADS * RECORDS
    expected = re.compile(rb"<14>(name|c{50}|d{50}) [\d-]+ [\d:,]+ (m|a{50}|b{50})\0")
    assert [record for record in records if not expected.fullmatch(record)] == []


def test_each_header_has_the_time_of_its_record(make_log, sink):
    """Each header shows the time of its own record, although the text of a second is cached."""
    _, handler = make_log(fastlog.Logger, protocol="rfc5424", hostname="host", app_name="app")
    reader = Reader(sink)

    def work(thread):
        for i in range(RECORDS):
            record = logging.LogRecord("x", logging.INFO, "", 0, f"r {thread} {i}", None, None)
            record.created = 100_000.0 * (thread + 1) + i // 2
            handler.handle(record)

    run_together(work)
    records = reader.finish(handler)
    assert are_complete_and_ordered(records)
    for record in records:
        _, timestamp, *_, thread, number = record.rstrip(b"\0").decode().split(" ")
        created = datetime.fromtimestamp(100_000 * (int(thread) + 1) + int(number) // 2)
        assert timestamp == created.astimezone().isoformat(timespec="microseconds")


def test_per_thread_caches_are_bounded(make_log, sink):
    """The handler does not accumulate caches of threads that have exited."""
    log, handler = make_log(fastlog.Logger)
    reader = Reader(sink)
    for i in range(600):
        thread = threading.Thread(target=log.info, args=("record 0 %d", i))
        thread.start()
        thread.join()
    snapshots = vars(handler)["_fastlog_snapshot"]       # without a GIL, a dict with one per thread
    assert not isinstance(snapshots, dict) or 0 < len(snapshots) <= 256
    assert group_by_thread(reader.finish(handler)) == {0: list(range(600))}
