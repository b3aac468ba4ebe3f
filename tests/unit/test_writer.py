"""The writer thread and its wake protocol."""
import logging
import mmap
import os
import resource
import time

import pytest

from fastlog._daemons.rsyslogd import wait_until

NEVER = 1e6  # seconds of linger: the writer does not look again by itself


@pytest.fixture
def make_lingering(make_handler, sink, logger_for, threads):
    """A logger whose writer lingers, for good unless a producer wakes it."""

    def make(**options):
        handler = make_handler(sink.path, linger=NEVER, **options)
        log = logger_for(handler)
        log.info("first")
        assert sink.take_one() == b"<14>first\0"
        [thread] = threads.find()
        wait_until(lambda: handler.stats().sent == 1 and threads.is_waiting(thread), 20, "linger")
        return handler, log

    return make


def test_started_by_the_first_record(make_handler, sink, logger_for, threads):
    handler = make_handler(sink.path)
    assert threads.find() == []
    logger_for(handler).info("x")
    assert len(threads.find()) == 1
    handler.close()
    assert threads.find() == []


def test_blocks_all_signals(log, sink, threads):
    """The program's signals are for its own threads; only SIGKILL and SIGSTOP cannot be blocked."""
    log.info("x")
    sink.take_one()
    [thread] = threads.find()
    blocked = int(threads.status(thread, "SigBlk"), 16)
    # 32 and 33 belong to the C library: nptl(7).
    expected = {n for n in range(1, 65) if n not in (9, 19, 32, 33)}
    assert {n for n in range(1, 65) if blocked >> (n - 1) & 1} >= expected


def test_idle_writer_sleeps(log, sink, threads):
    """With nothing to send, the thread makes no voluntary context switch in 5 s."""
    log.info("x")
    sink.take_one()
    [thread] = threads.find()

    def switches():
        return int(threads.status(thread, "voluntary_ctxt_switches"))

    def settled():
        before = switches()
        time.sleep(1)  # many times the longest linger
        return switches() == before

    wait_until(settled, 20, "the writer to fall asleep")
    before = switches()
    time.sleep(5)  # what is shown is that nothing happens
    assert switches() == before
    log.info("awake")
    assert sink.take_one() == b"<14>awake\0"


def test_urgent_record_leaves_at_once(make_lingering, sink):
    """An info record waits for the writer's next look; an error takes it along at once."""
    handler, log = make_lingering()
    log.info("held back")
    assert sink.is_empty()
    log.error("urgent")
    assert sink.take(2) == [b"<14>held back\0", b"<11>urgent\0"]
    assert handler.stats().wakeups == 1


@pytest.mark.parametrize("urgent_level, level", [
    (logging.INFO, logging.INFO), ("DEBUG", logging.DEBUG), (35, 35)])
def test_urgent_level(make_lingering, sink, urgent_level, level):
    _, log = make_lingering(urgent_level=urgent_level)
    log.log(level, "x")
    assert sink.take_one().endswith(b">x\0")


def test_half_full_ring_wakes_the_writer(make_lingering, sink):
    handler, log = make_lingering(capacity=mmap.PAGESIZE)
    count = 0
    while handler.stats().wakeups == 0:
        assert handler.stats().pending_bytes <= mmap.PAGESIZE // 2
        log.info("x" * 100)
        count += 1
    assert len(sink.take(count)) == count > 10


def test_flush_wakes_the_writer(make_lingering, sink):
    handler, log = make_lingering()
    log.info("x")
    assert handler.flush()
    assert sink.take_one() == b"<14>x\0"


def test_close_wakes_the_writer(make_lingering, sink):
    handler, log = make_lingering()
    log.info("x")
    handler.close(20)
    assert sink.take_one() == b"<14>x\0"


def test_busy_program_makes_no_wakeup_calls(make_lingering):
    handler, log = make_lingering()
    for i in range(1000):
        log.info("record %d", i)
    assert handler.stats().wakeups == 0


def test_sleeping_writer_is_woken_once(make_handler, sink, logger_for, threads):
    """Without linger each record that finds the writer asleep leaves at once, for one call."""
    handler = make_handler(sink.path, linger=0)
    log = logger_for(handler)
    log.info("0")
    sink.take_one()
    [thread] = threads.find()
    for i in range(1, 20):
        wait_until(lambda: threads.is_waiting(thread), 20, "sleep")
        log.info("%d", i)
        assert sink.take_one() == b"<14>%d\0" % i
    assert handler.stats().wakeups <= 19


def test_records_are_held_back_no_longer_than_the_longest_linger(make_handler, sink, logger_for):
    """A record that meets a lingering writer leaves by itself, without a wake-up call."""
    handler = make_handler(sink.path)
    log = logger_for(handler)
    for i in range(20):
        log.info("%d", i)
        assert sink.take_one() == b"<14>%d\0" % i
    assert handler.stats().wakeups <= 20


@pytest.mark.skipif(tuple(map(int, os.uname().release.split(".")[:2])) < (5, 14),
                    reason="needs Linux 5.14: madvise(2), MADV_POPULATE_WRITE")
def test_memory_is_there_before_it_is_needed(make_lingering):
    """No call waits for the kernel to find a page: the writer has had them put there."""
    _, log = make_lingering()

    def faults():
        before = resource.getrusage(resource.RUSAGE_THREAD).ru_minflt
        for _ in range(1000):
            log.info("x" * 100)
        return resource.getrusage(resource.RUSAGE_THREAD).ru_minflt - before

    faults()                        # the interpreter's own memory
    assert faults() < 1000 * 100 // mmap.PAGESIZE // 2
