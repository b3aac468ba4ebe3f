"""The writer thread and its wakeup protocol."""
import logging
import mmap
import os
import resource
import time

import pytest
from support import wait_until

NEVER = 1e6  # seconds; with this linger, the writer does not poll again by itself


@pytest.fixture
def make_lingering(make_handler, sink, logger_for, threads):
    """Return a function that returns a handler and a logger whose writer lingers until woken."""

    def make(**options):
        handler = make_handler(sink.path, linger=NEVER, **options)
        log = logger_for(handler)
        log.info("first")
        assert sink.take_one() == b"<14>first\0"
        [thread] = threads.find()
        wait_until(lambda: handler.stats().sent == 1 and threads.is_waiting(thread), 20, "linger")
        return handler, log

    return make


def test_first_record_starts_the_writer(make_handler, sink, logger_for, threads):
    """The writer thread exists from the first record until close()."""
    handler = make_handler(sink.path)
    assert threads.find() == []
    logger_for(handler).info("x")
    assert len(threads.find()) == 1
    handler.close()
    assert threads.find() == []


def test_writer_blocks_all_signals(log, sink, threads):
    """The writer blocks all signals that can be blocked, so that other threads handle them."""
    log.info("x")
    sink.take_one()
    [thread] = threads.find()
    blocked = int(threads.status(thread, "SigBlk"), 16)
    # SIGKILL (9) and SIGSTOP (19) cannot be blocked. 32 and 33 belong to the C library: nptl(7).
    expected = {n for n in range(1, 65) if n not in (9, 19, 32, 33)}
    assert {n for n in range(1, 65) if blocked >> (n - 1) & 1} >= expected


@pytest.mark.slow
def test_idle_writer_sleeps(log, sink, threads):
    """A writer with nothing to send makes no voluntary context switch within 5 s."""
    log.info("x")
    sink.take_one()
    [thread] = threads.find()

    def count_switches():
        return int(threads.status(thread, "voluntary_ctxt_switches"))

    def is_asleep():
        count = count_switches()
        time.sleep(1)  # many times the longest linger
        return count_switches() == count

    wait_until(is_asleep, 20, "the writer to fall asleep")
    count = count_switches()
    time.sleep(5)  # The test shows that nothing happens meanwhile.
    assert count_switches() == count
    log.info("awake")
    assert sink.take_one() == b"<14>awake\0"


def test_urgent_record_is_sent_at_once(make_lingering, sink):
    """An info record waits for the writer's next poll, and an error sends both at once."""
    handler, log = make_lingering()
    log.info("held back")
    assert sink.is_empty()
    log.error("urgent")
    assert sink.take(2) == [b"<14>held back\0", b"<11>urgent\0"]
    assert handler.stats().wakeups == 1


@pytest.mark.parametrize("urgent_level, level", [
    (logging.INFO, logging.INFO), ("DEBUG", logging.DEBUG), (35, 35)])
def test_urgent_level_is_configurable(make_lingering, sink, urgent_level, level):
    """A record at the configured urgent_level, given by name or by number, wakes the writer."""
    _, log = make_lingering(urgent_level=urgent_level)
    log.log(level, "x")
    assert sink.take_one().endswith(b">x\0")


def test_half_full_ring_wakes_the_writer(make_lingering, sink):
    """Records that fill more than half of the ring wake the writer."""
    handler, log = make_lingering(capacity=mmap.PAGESIZE)
    count = 0
    while handler.stats().wakeups == 0:
        assert handler.stats().pending_bytes <= mmap.PAGESIZE // 2
        log.info("x" * 100)
        count += 1
    assert len(sink.take(count)) == count > 10


def test_flush_wakes_the_writer(make_lingering, sink):
    """flush() wakes a lingering writer."""
    handler, log = make_lingering()
    log.info("x")
    assert handler.flush()
    assert sink.take_one() == b"<14>x\0"


def test_close_wakes_the_writer(make_lingering, sink):
    """close() wakes a lingering writer."""
    handler, log = make_lingering()
    log.info("x")
    handler.close(20)
    assert sink.take_one() == b"<14>x\0"


def test_busy_program_makes_no_wakeup_calls(make_lingering):
    """Records logged while the writer lingers cause no wakeup calls."""
    handler, log = make_lingering()
    for i in range(1000):
        log.info("record %d", i)
    assert handler.stats().wakeups == 0


def test_sleeping_writer_is_woken_once(make_handler, sink, logger_for, threads):
    """Without linger, each record that finds the writer asleep is sent after one wakeup call."""
    handler = make_handler(sink.path, linger=0)
    log = logger_for(handler)
    log.info("0")
    sink.take_one()
    [thread] = threads.find()
    for i in range(1, 20):
        wait_until(lambda: threads.is_waiting(thread), 20, "sleep")
        log.info("%d", i)
        assert sink.take_one() == b"<14>%d\0" % i
    assert handler.stats().wakeups == 19


def test_lingering_writer_sends_records_without_a_wakeup(make_handler, sink, logger_for):
    """A record that finds the writer lingering is sent at its next poll without a wakeup call."""
    handler = make_handler(sink.path, linger=0.02)
    log = logger_for(handler)
    for i in range(5):
        log.info("%d", i)
        assert sink.take_one() == b"<14>%d\0" % i
    assert handler.stats().wakeups == 0


@pytest.mark.skipif(tuple(map(int, os.uname().release.split(".")[:2])) < (5, 14),
                    reason="needs Linux 5.14: madvise(2), MADV_POPULATE_WRITE")
def test_writer_prefaults_the_rings_memory(make_lingering):
    """Producers take few page faults because the writer pre-faults the ring ahead of them."""
    _, log = make_lingering()

    def count_page_faults():
        initial_count = resource.getrusage(resource.RUSAGE_THREAD).ru_minflt
        for _ in range(1000):
            log.info("x" * 100)
        return resource.getrusage(resource.RUSAGE_THREAD).ru_minflt - initial_count

    count_page_faults()             # The first run faults in the interpreter's memory, too.
    assert count_page_faults() < 1000 * 100 // mmap.PAGESIZE // 2
