"""Outages: one line on stderr when an outage begins, one when it ends, and nothing else."""
import contextlib
import io
import itertools
import logging
import re
import sys
import time

import pytest
from support import wait_until


@pytest.fixture
def read_stderr(capsys):
    """Return a function that returns the lines written to stderr since its last call."""
    return lambda: capsys.readouterr().err.splitlines()


def wait_for_outage(handler):
    """Wait until an outage is reportable, which is a moment after the first failure is counted."""
    wait_until(lambda: handler.stats().send_errors > 1, 20, "a second failed connect")


def test_absent_daemon_is_reported_once(make_handler, make_sink, directory, logger_for,
                                        read_stderr):
    """One line is written when records begin to wait and one when the daemon accepts them."""
    handler = make_handler(directory / "log")
    log = logger_for(handler)
    log.info("0")
    wait_for_outage(handler)
    for i in range(1, 100):
        log.info("%d", i)
    assert read_stderr() == [f"fastlog: {directory}/log cannot be reached "
                             "(No such file or directory); records wait in the ring"]
    sink = make_sink(directory / "log")
    sink.take(100)
    assert handler.flush()
    for _ in range(5):
        log.info("back")
    sink.take(5)
    assert read_stderr() == [f"fastlog: {directory}/log accepts records again"]


def test_full_ring_is_reported_once(make_handler, sink, logger_for, read_stderr):
    """Losses are reported once when they begin, and their number when the outage ends.

    The loss report in the stream has the same number, their reason and their severity.
    """
    handler = make_handler(sink.path, capacity=4096, overflow="drop_new")
    log = logger_for(handler)
    sink.hang()
    for _ in range(100):
        log.info("x" * 100)
    assert read_stderr() == [f"fastlog: {sink.path} accepts no records and the ring is full: "
                             "records are being lost"]
    stats = handler.stats()
    sink.take(stats.accepted)
    assert handler.flush()
    log.info("again")
    loss_report, again = sink.take(2)
    assert again == b"<14>again\0"
    assert read_stderr() == [
        f"fastlog: {sink.path} accepts records again; {stats.dropped} were lost"]
    date = r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}[+-]\d\d:\d\d"
    assert re.fullmatch(rf"<12>fastlog: {stats.dropped} messages lost "
                        rf"\(full: {stats.dropped} info\), from {date} to {date}\0",
                        loss_report.decode())


def test_quick_restart_is_not_reported(handler, log, sink, read_stderr):
    """A restart so quick that the first reconnect succeeds is not reported as an outage."""
    log.info("x")
    sink.take_one()
    sink.close()
    sink.bind()
    log.info("x")
    sink.take_one()
    assert handler.flush() and handler.stats().reconnects == 1
    log.info("x")
    sink.take_one()
    assert read_stderr() == []


def test_raise_exceptions_false_silences_reports(make_handler, logger_for, monkeypatch,
                                                 read_stderr, directory):
    """logging.raiseExceptions = False silences all reports, as it does in the standard library."""
    monkeypatch.setattr(logging, "raiseExceptions", False)
    handler = make_handler(directory / "log", close_timeout=0.0)
    log = logger_for(handler)
    log.info("x")
    wait_for_outage(handler)
    log.info("x")
    handler.close()
    assert read_stderr() == []


@pytest.mark.parametrize("stderr", [None, "closed"])
def test_missing_stderr_raises_nothing(make_handler, logger_for, monkeypatch, directory, stderr):
    """An outage raises no error in a process whose stderr is None or closed, such as a daemon."""
    handler = make_handler(directory / "log", close_timeout=0.0)
    log = logger_for(handler)
    if stderr == "closed":
        stderr = io.StringIO()
        stderr.close()
    # It is replaced before the first record because the writer's speed determines whether the
    # first or the second call reports the outage.
    monkeypatch.setattr(sys, "stderr", stderr)
    log.info("x")
    wait_for_outage(handler)
    log.info("x")
    handler.close()


@pytest.mark.usefixtures("nested_calls")
def test_stderr_redirected_to_logging_does_not_recurse(make_handler, make_sink, logger_for,
                                                       directory):
    """If stderr is redirected to logging, an outage adds one record and does not recurse."""
    handler = make_handler(directory / "log")
    log = logger_for(handler)

    class Redirected:
        def write(self, text):
            log.warning(text.rstrip())

    with contextlib.redirect_stderr(Redirected()):
        log.info("x")
        wait_for_outage(handler)
        log.info("y")
        log.info("z")
    received = make_sink(directory / "log").take(4)
    # The report follows x if the writer detects the outage before the call for x returns, else y.
    (report,) = [record for record in received if record.startswith(b"<12>fastlog: ")]
    assert b"cannot be reached" in report and received.index(report) in (1, 2)
    assert [record for record in received if record != report] == [
        b"<14>x\0", b"<14>y\0", b"<14>z\0"]


@pytest.mark.slow
def test_daemon_is_killed_and_restarted_five_times(make_handler, start_rsyslogd, logger_for,
                                                   read_stderr):
    """A daemon killed under 2,000 records/s loses only the records that it had received.

    Those are at most the datagrams in its socket and the records in its queue. Each kill causes at
    most one gap in the record numbers, which ends with the first record of the new daemon. The
    order is kept, and each outage is reported with at most two lines.
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
            time.sleep(0.0005)  # limits the rate

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
    # Records sent to the kernel but missing in the file were lost by the killed daemons.
    assert 0 <= stats.sent - len(numbers) <= 5 * 200
    assert len(read_stderr()) <= 10
