"""Records pass through a real rsyslogd into the file that its configuration names."""
import logging
import logging.config
import threading
import time
from pathlib import Path

import pytest
from support import wait_until


@pytest.fixture
def configured():
    """Configures the logger "served" with dictConfig and returns it with its handler."""
    handlers = []

    def configure(address, **options):
        logging.config.dictConfig({
            "version": 1,
            "disable_existing_loggers": False,
            "handlers": {"syslog": {
                "class": "fastlog.SysLogHandler", "address": address,
                "facility": "local0", "ident": "ServerLog: ", **options}},
            "loggers": {"served": {"handlers": ["syslog"], "level": "INFO", "propagate": False}},
        })
        logger = logging.getLogger("served")
        handlers.append(logger.handlers[0])
        return logger, logger.handlers[0]

    yield configure
    for handler in handlers:
        logging.getLogger("served").removeHandler(handler)
        handler.close()


def in_threads(count, work):
    workers = [threading.Thread(target=work, args=(n,)) for n in range(count)]
    for worker in workers:
        worker.start()
    return workers


def by_thread(lines):
    """Return the numbers that each thread logged, in the order of the file."""
    numbers = {}
    for line in lines:
        thread, number = line.split()[:2]
        numbers.setdefault(thread, []).append(int(number))
    return numbers


def test_all_records_arrive_in_order(configured, rsyslogd):
    """All 20,000 records of one thread and 24,000 of six threads arrive in order."""
    log, handler = configured(rsyslogd.socket)
    for i in range(20_000):
        log.info("alone %d", i)
    for worker in in_threads(6, lambda n: [log.info("t%d %d", n, i) for i in range(4000)]):
        worker.join()
    assert handler.flush(30)
    rsyslogd.wait_for_lines(44_000)
    assert by_thread(rsyslogd.server_lines()) == {
        "alone": list(range(20_000)), **{f"t{n}": list(range(4000)) for n in range(6)}}
    stats = handler.stats()
    assert stats.submitted == stats.accepted == stats.sent == 44_000
    assert (stats.dropped, stats.discarded, stats.pending, stats.send_errors) == (0, 0, 0, 0)


def test_routing_by_facility_and_tag(configured, rsyslogd):
    """Records of facility local0 with tag ServerLog are stored in a separate file."""
    log, handler = configured(rsyslogd.socket)
    log.info("for the server's file")
    handler.ident = "Other: "
    log.info("for the common file")
    handler.ident, handler.facility = "ServerLog: ", "local1"
    log.info("this as well")
    handler.flush()
    wait_until(lambda: rsyslogd.rest_log.exists()
               and rsyslogd.rest_log.read_text().count("\n") == 2, 20, "the common file")
    assert rsyslogd.server_lines() == ["for the server's file"]
    assert "Other: for the common file" in rsyslogd.rest_log.read_text()


@pytest.mark.slow
@pytest.mark.parametrize("overflow, reason", [
    ("block", "stalled"), ("drop_new", "full"), ("drop_oldest", "evicted")])
def test_stopped_daemon(configured, rsyslogd, overflow, reason):
    """A daemon that is stopped for 3 s under load causes at most one bounded wait.

    The missing records are exactly those that were counted, and a loss report says so in the log.
    """
    log, handler = configured(rsyslogd.socket, capacity=1 << 19, overflow=overflow)
    durations = []
    count = 0
    end = time.monotonic() + 4
    stopped = time.monotonic() + 0.5
    resumed = stopped + 3
    while (current := time.monotonic()) < end:
        if stopped and current > stopped:
            rsyslogd.pause()
            stopped = None
        if resumed and current > resumed:
            rsyslogd.resume()
            resumed = None
        before = time.perf_counter()
        log.info("t %d %s", count, "x" * 100)
        durations.append(time.perf_counter() - before)
        count += 1
        if count % 5 == 0:
            time.sleep(0.001)  # about 4,000 records/s, which fill the ring in a second
    assert handler.flush()
    stats = handler.stats()
    # The loss report is one more record than the program logged.
    assert stats.submitted == count + 1 == stats.accepted + stats.dropped
    lost = stats.dropped + stats.discarded
    assert stats.losses == {reason: {"info": lost}} and lost > 0 and not stats.stalled
    rsyslogd.wait_for_lines(stats.sent)
    [notice] = [line for line in rsyslogd.server_lines() if "fastlog: " in line]
    assert f"{lost} messages lost ({reason}: {lost} info), from" in notice
    numbers = by_thread(rsyslogd.server_lines())["t"]
    assert count - len(numbers) == lost
    assert numbers == sorted(set(numbers)) and numbers[-1] == count - 1
    assert sum(duration >= 0.2 for duration in durations) <= 1 and max(durations) < 1


@pytest.mark.parametrize("end", ["stop", "kill"])
def test_daemon_restart(configured, rsyslogd, end):
    """Records that are logged while the daemon is down arrive in order after its restart."""
    log, handler = configured(rsyslogd.socket)
    for i in range(100):
        log.info("before %d", i)
    rsyslogd.wait_for_lines(100)
    getattr(rsyslogd, end)()
    for i in range(5000):
        log.info("down %d", i)
    assert handler.flush(0.1) is False
    rsyslogd.start()
    for i in range(100):
        log.info("after %d", i)
    rsyslogd.wait_for_lines(5200)
    assert by_thread(rsyslogd.server_lines()) == {
        "before": list(range(100)), "down": list(range(5000)), "after": list(range(100))}
    assert handler.flush()
    stats = handler.stats()
    assert stats.sent == 5200 and stats.reconnects == 1 and stats.dropped == 0


def test_hostile_messages(configured, rsyslogd):
    """NULs, newlines, lone surrogates and 1.9 MB of text do not raise, and later records arrive."""
    log, handler = configured(rsyslogd.socket)
    for text in ("a\0b", "a\nb", "a\udc80b", "x" * 1_900_000, "", "\0", "<0>forged"):
        log.info(text)
    log.info("the end")
    assert handler.flush()
    wait_until(lambda: "the end" in rsyslogd.server_lines(), 20, "the last record")
    stats = handler.stats()
    assert stats.sent == 8 and stats.discarded == 0
    assert r"a\udc80b" in rsyslogd.server_lines()


def test_daemon_does_not_inherit_preloaded_libraries(start_rsyslogd, monkeypatch):
    """A daemon is started without LD_PRELOAD.

    A sanitizer's library that is preloaded into Python would end the daemon for errors of the
    daemon.
    """
    monkeypatch.setenv("LD_PRELOAD", "libm.so.6")
    daemon = start_rsyslogd()
    assert b"LD_PRELOAD" not in Path(f"/proc/{daemon.pid}/environ").read_bytes()
