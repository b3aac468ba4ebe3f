"""A full ring: who waits, for how long, what is dropped, and that all of it is counted."""
import logging
import mmap
import signal
import threading
import time

import pytest

CAPACITY = 4 * mmap.PAGESIZE
TEXT = "x" * 100


def fill(handler, log):
    """Log until a record is dropped; the sink reads nothing. Returns the number accepted."""
    while handler.stats().dropped == 0:
        log.info(TEXT)
    return handler.stats().accepted


def test_drop_new_never_waits(make_handler, sink, logger_for):
    """The ring's first records stay, the new ones are dropped and counted, nobody waits."""
    handler = make_handler(sink.path, capacity=CAPACITY, overflow="drop_new", block_timeout=1000.0)
    log = logger_for(handler)
    for i in range(1000):
        log.info("%d %s", i, TEXT)
    stats = handler.stats()
    assert stats.submitted == 1000 and stats.dropped > 0
    assert stats.accepted == stats.sent + stats.pending and not stats.stalled
    received = sink.take(stats.accepted)
    assert received[0].startswith(b"<14>0 ")
    numbers = [int(datagram[4:].split()[0]) for datagram in received]
    assert numbers == sorted(numbers)


def test_block_waits_once_then_the_engine_is_stalled(make_handler, sink, logger_for):
    """The first record without room waits block_timeout; the following ones do not wait."""
    handler = make_handler(sink.path, capacity=CAPACITY, block_timeout=0.2)
    log = logger_for(handler)
    waits = []
    for _ in range(1000):
        before = time.monotonic()
        log.info(TEXT)
        waits.append(time.monotonic() - before)
    stats = handler.stats()
    assert stats.stalled and stats.dropped > 0
    assert stats.submitted == 1000 == stats.accepted + stats.dropped
    assert sum(wait >= 0.2 for wait in waits) == 1
    # All that had to wait did so together with the first: 500 more waits would be 100 s.
    assert sum(waits) < 10


def test_stall_ends_with_the_first_progress(make_handler, sink, logger_for):
    """Once the daemon takes records again, records are accepted again."""
    handler = make_handler(sink.path, capacity=CAPACITY, block_timeout=0.5)
    log = logger_for(handler)
    accepted = fill(handler, log)
    assert handler.stats().stalled
    sink.take(accepted)
    assert handler.flush()
    assert not handler.stats().stalled
    log.info("again")
    assert sink.take_one() == b"<14>again\0"


def test_block_waits_as_long_as_there_is_progress(make_handler, sink, logger_for):
    """A slow daemon slows the program down and loses nothing, whatever block_timeout is."""
    handler = make_handler(sink.path, capacity=mmap.PAGESIZE, block_timeout=0.5)
    log = logger_for(handler)
    received = []
    tick = threading.Event()

    def read_slowly():
        for _ in range(200):
            tick.wait(0.01)  # the daemon's own slowness, 2 s in all
            received.append(sink.take_one())

    reader = threading.Thread(target=read_slowly)
    reader.start()
    for i in range(200):
        log.info("%d %s", i, TEXT)
    reader.join()
    assert [int(datagram[4:].split()[0]) for datagram in received] == list(range(200))
    assert handler.stats().dropped == 0


def test_last_eighth_is_for_warnings(make_handler, sink, logger_for):
    """Where debug and info records have filled their part, warnings and errors find room."""
    handler = make_handler(sink.path, capacity=CAPACITY, overflow="drop_new")
    log = logger_for(handler)
    fill(handler, log)
    used = handler.stats().pending_bytes
    assert CAPACITY * 7 // 8 - 128 < used <= CAPACITY * 7 // 8
    accepted = 0
    for level in (logging.WARNING, logging.ERROR, logging.CRITICAL, 25):
        before = handler.stats()
        log.log(level, TEXT)
        accepted += handler.stats().accepted - before.accepted
    assert accepted == 4
    dropped = handler.stats().dropped
    log.debug(TEXT)
    assert handler.stats().dropped == dropped + 1


def test_ctrl_c_interrupts_a_waiting_call(make_handler, sink, logger_for):
    """A signal handler's exception leaves the call at once, as it leaves the stdlib's send."""

    class Interrupted(BaseException):
        pass

    def interrupt(signum, frame):
        raise Interrupted

    handler = make_handler(sink.path, capacity=CAPACITY, block_timeout=1000.0)
    log = logger_for(handler)
    before = signal.signal(signal.SIGALRM, interrupt)
    try:
        signal.setitimer(signal.ITIMER_REAL, 0.2)
        with pytest.raises(Interrupted):
            while True:
                log.info(TEXT)
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)
    stats = handler.stats()
    assert stats.submitted == stats.accepted + stats.dropped
    assert sink.take_one() == b"<14>" + TEXT.encode() + b"\0"


def test_threads_overflow_together(make_handler, sink, logger_for):
    """Eight threads against a daemon that takes nothing: each ends soon, the sums hold."""
    handler = make_handler(sink.path, capacity=mmap.PAGESIZE, block_timeout=0.2)
    log = logger_for(handler)
    workers = [threading.Thread(target=lambda: [log.info(TEXT) for _ in range(200)])
               for _ in range(8)]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join(20)
        assert not worker.is_alive()
    stats = handler.stats()
    assert stats.submitted == 1600 == stats.accepted + stats.dropped
    sink.take(stats.accepted)
    assert handler.flush() and handler.stats().sent == stats.accepted
