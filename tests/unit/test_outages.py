"""What is said of an outage: a line when it begins, a line when it is over, and no more."""
import contextlib
import io
import itertools
import logging
import re
import sys
import time

import pytest

from fastlog._daemons.rsyslogd import wait_until


@pytest.fixture
def told(capsys):
    """The lines on stderr since the last call."""
    return lambda: capsys.readouterr().err.splitlines()


def wait_for_trouble(handler):
    """Until it could be told: the first failure is counted a moment before that."""
    wait_until(lambda: handler.stats().send_errors > 1, 20, "a second failed connect")


def test_absent_daemon(make_handler, make_sink, directory, logger_for, told):
    """However many records wait, there is one line; and one when they go out."""
    handler = make_handler(directory / "log")
    log = logger_for(handler)
    log.info("0")
    wait_for_trouble(handler)
    for i in range(1, 100):
        log.info("%d", i)
    assert told() == [f"fastlog: {directory}/log cannot be reached (No such file or directory); "
                      "records wait in the ring"]
    sink = make_sink(directory / "log")
    sink.take(100)
    assert handler.flush()
    for _ in range(5):
        log.info("back")
    sink.take(5)
    assert told() == [f"fastlog: {directory}/log accepts records again"]


def test_full_ring(make_handler, sink, logger_for, told):
    """Dropped records are told once, and their number when the daemon accepts records again."""
    handler = make_handler(sink.path, capacity=4096, overflow="drop_new")
    log = logger_for(handler)
    sink.hang()
    for _ in range(100):
        log.info("x" * 100)
    assert told() == [f"fastlog: {sink.path} accepts no records and the ring is full: "
                      "records are being lost"]
    stats = handler.stats()
    sink.take(stats.accepted)
    assert handler.flush()
    log.info("again")
    notice, again = sink.take(2)
    assert again == b"<14>again\0"
    assert told() == [f"fastlog: {sink.path} accepts records again; {stats.dropped} were lost"]
    date = r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}[+-]\d\d:\d\d"
    assert re.fullmatch(rf"<12>fastlog: {stats.dropped} messages lost "
                        rf"\(full: {stats.dropped} info\), from {date} to {date}\0",
                        notice.decode())


def test_restart_too_short_to_be_an_outage(handler, log, sink, told):
    log.info("x")
    sink.take_one()
    sink.close()
    sink.bind()
    log.info("x")
    sink.take_one()
    assert handler.flush() and handler.stats().reconnects == 1
    log.info("x")
    sink.take_one()
    assert told() == []


def test_nobody_wants_to_know(make_handler, logger_for, monkeypatch, told, directory):
    """logging.raiseExceptions set to False silences it, as it silences the standard library."""
    monkeypatch.setattr(logging, "raiseExceptions", False)
    handler = make_handler(directory / "log", close_timeout=0.0)
    log = logger_for(handler)
    log.info("x")
    wait_for_trouble(handler)
    log.info("x")
    handler.close()
    assert told() == []


@pytest.mark.parametrize("stderr", [None, "closed"])
def test_without_stderr(make_handler, logger_for, monkeypatch, directory, stderr):
    """A daemon has none: nothing is raised."""
    handler = make_handler(directory / "log", close_timeout=0.0)
    log = logger_for(handler)
    if stderr == "closed":
        stderr = io.StringIO()
        stderr.close()
    # From the first record on: whether that one or the next tells, the writer's pace decides.
    monkeypatch.setattr(sys, "stderr", stderr)
    log.info("x")
    wait_for_trouble(handler)
    log.info("x")
    handler.close()


@pytest.mark.usefixtures("nested_calls")
def test_stderr_that_logs(make_handler, make_sink, logger_for, directory):
    """With stderr redirected into logging, the line is a record like others, not a recursion."""
    handler = make_handler(directory / "log")
    log = logger_for(handler)

    class Redirected:
        def write(self, text):
            log.warning(text.rstrip())

    with contextlib.redirect_stderr(Redirected()):
        log.info("x")
        wait_for_trouble(handler)
        log.info("y")
        log.info("z")
    received = make_sink(directory / "log").take(4)
    # Behind x or y: x itself tells it if the writer has met the trouble before that call ends.
    (told,) = [record for record in received if record.startswith(b"<12>fastlog: ")]
    assert b"cannot be reached" in told and received.index(told) in (1, 2)
    assert [record for record in received if record != told] == [
        b"<14>x\0", b"<14>y\0", b"<14>z\0"]


def test_killed_and_restarted_five_times(make_handler, start_rsyslogd, logger_for, told):
    """SIGKILL under 2,000 records/s: order kept, two lines an outage, lost what the daemon had.

    What a killed daemon had taken in and not written is its loss: at most the
    datagrams in its socket and the records in its queue at that moment. Each
    gap is one run of numbers that ends where a new daemon began.
    """
    daemon = start_rsyslogd()
    handler = make_handler(daemon.socket, facility="local0", ident="ServerLog: ")
    log = logger_for(handler)
    count = 0

    def log_for(seconds):
        nonlocal count
        end = time.monotonic() + seconds
        while time.monotonic() < end:
            log.info("record %d", count)
            count += 1
            time.sleep(0.0005)  # the load's pace

    for _ in range(5):
        log_for(0.3)
        daemon.kill()
        log_for(0.3)
        daemon.start()
        assert handler.flush(20)
    log_for(0.3)
    assert handler.flush()
    log.info("record %d", count)
    wait_until(lambda: daemon.server_lines()[-1:] == [f"record {count}"], 20, "the last record")
    numbers = [int(line.split()[1]) for line in daemon.server_lines()]
    assert numbers == sorted(set(numbers))
    gaps = sum(after != before + 1 for before, after in itertools.pairwise(numbers))
    assert gaps <= 5
    stats = handler.stats()
    assert stats.sent == stats.submitted == count + 1 and stats.reconnects == 5
    # Sent to the kernel and not in the file: the killed daemons had them.
    assert 0 <= stats.sent - len(numbers) <= 5 * 200
    assert len(told()) <= 10
