"""Overflow policies: how long a call waits for a full ring, and which records are lost.

All losses are counted and reported.
"""
import contextlib
import logging
import mmap
import signal
import socket
import sysconfig
import threading
import time

import pytest

CAPACITY = 4 * mmap.PAGESIZE
TEXT = "x" * 100


def fill(handler, log, sink):
    """Fill the sink's queue, log until a record is dropped, and return the number accepted."""
    sink.hang()
    while handler.stats().dropped == 0:
        log.info(TEXT)
    return handler.stats().accepted


def test_drop_new_never_waits(make_handler, sink, logger_for):
    """drop_new keeps the oldest records, drops and counts new ones, and never waits."""
    handler = make_handler(sink.path, capacity=CAPACITY, overflow="drop_new", block_timeout=1000.0)
    log = logger_for(handler)
    sink.hang()
    for i in range(1000):
        log.info("%d %s", i, TEXT)
    stats = handler.stats()
    assert stats.submitted == 1000 and stats.dropped > 0
    assert stats.accepted == stats.pending and not stats.stalled
    received = sink.take(stats.accepted)
    assert received[0].startswith(b"<14>0 ")
    numbers = [int(datagram[4:].split()[0]) for datagram in received]
    assert numbers == sorted(numbers)


def test_block_waits_once_until_progress(make_handler, sink, logger_for):
    """The first record that finds no space waits for block_timeout, and later ones do not wait."""
    handler = make_handler(sink.path, capacity=CAPACITY, block_timeout=1.0)
    log = logger_for(handler)
    sink.hang()
    waits = []
    for _ in range(1000):
        start = time.monotonic()
        log.info(TEXT)
        waits.append(time.monotonic() - start)
    stats = handler.stats()
    assert stats.stalled and stats.dropped > 0
    assert stats.submitted == 1000 == stats.accepted + stats.dropped
    assert sum(wait >= 1.0 for wait in waits) == 1
    # If the other 500 or so dropped records had also waited for 1 s each, the sum would be 500 s.
    assert sum(waits) < 20


def test_stall_ends_when_the_daemon_accepts_records(make_handler, sink, logger_for):
    """Once the daemon accepts records again, the ring accepts new ones and losses are reported."""
    handler = make_handler(sink.path, capacity=CAPACITY, block_timeout=0.5)
    log = logger_for(handler)
    accepted = fill(handler, log, sink)
    assert handler.stats().stalled
    sink.take(accepted)
    assert handler.flush()
    assert not handler.stats().stalled
    log.info("again")
    report, again = sink.take(2)
    assert again == b"<14>again\0" and report.startswith(b"<12>fastlog: 1 messages lost (stalled:")


@pytest.mark.slow
def test_block_waits_as_long_as_there_is_progress(make_handler, sink, logger_for):
    """A slow daemon slows the program down, but no record is lost while it makes progress."""
    handler = make_handler(sink.path, capacity=mmap.PAGESIZE, block_timeout=2.0)
    log = logger_for(handler)
    sink.hang()
    received = []
    tick = threading.Event()

    def read_slowly():
        for _ in range(200):
            tick.wait(0.01)  # slows the reader by 2 s in total
            received.append(sink.take_one())

    reader = threading.Thread(target=read_slowly)
    reader.start()
    for i in range(200):
        log.info("%d %s", i, TEXT)
    reader.join()
    assert [int(datagram[4:].split()[0]) for datagram in received] == list(range(200))
    assert handler.stats().dropped == 0


def test_last_eighth_is_reserved_for_warnings(make_handler, sink, logger_for):
    """Warnings and errors find space after debug and info records have filled seven eighths."""
    handler = make_handler(sink.path, capacity=CAPACITY, overflow="drop_new")
    log = logger_for(handler)
    fill(handler, log, sink)
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
    """An exception raised by a signal handler leaves a waiting logging call at once."""

    class Interrupted(BaseException):
        pass

    def interrupt(signum, frame):
        raise Interrupted

    handler = make_handler(sink.path, capacity=CAPACITY, block_timeout=1000.0)
    log = logger_for(handler)
    sink.hang()
    original_action = signal.signal(signal.SIGALRM, interrupt)
    try:
        with pytest.raises(Interrupted):
            signal.setitimer(signal.ITIMER_REAL, 0.2)
            while True:
                log.info(TEXT)
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, original_action)
    stats = handler.stats()
    assert stats.submitted == stats.accepted + stats.dropped
    assert sink.take_one() == b"<14>" + TEXT.encode() + b"\0"


def test_threads_overflow_the_ring_together(make_handler, sink, logger_for):
    """Eight threads that log to a hung daemon finish soon, and all records are accounted for."""
    handler = make_handler(sink.path, capacity=mmap.PAGESIZE, block_timeout=0.2)
    log = logger_for(handler)
    sink.hang()
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
    assert handler.flush() and handler.stats().sent == stats.accepted + 1  # with the loss report


@pytest.mark.parametrize("overflow", ["block", "drop_new", "drop_oldest"])
@pytest.mark.parametrize("daemon_exists", [True, False])
def test_waiting_uses_no_processor_time(make_handler, directory, make_sink, logger_for, overflow,
                                        daemon_exists):
    """Neither the writer nor a waiting thread spins while nothing can be sent."""
    if daemon_exists:
        make_sink().hang()
    handler = make_handler(directory / "log", capacity=CAPACITY, overflow=overflow,
                           block_timeout=0.5)
    log = logger_for(handler)
    start = time.process_time()
    while not handler.stats().losses:      # With "block", the last call waits.
        log.info(TEXT)
    assert not handler.flush(0.5)
    assert time.process_time() - start < 0.25


# --- drop_oldest -------------------------------------------------------------------------------

@pytest.mark.parametrize("capacity", [mmap.PAGESIZE, 4 * mmap.PAGESIZE])
def test_drop_oldest_keeps_the_newest(make_handler, sink, logger_for, capacity):
    """drop_oldest evicts the oldest unsent records, counts them and reports them."""
    handler = make_handler(sink.path, capacity=capacity, overflow="drop_oldest")
    log = logger_for(handler)
    sink.hang(room=10)
    for i in range(1000):
        log.info("%d %s", i, TEXT)
    stats = handler.stats()
    assert stats.submitted == stats.accepted == 1000 and stats.dropped == 0
    assert stats.discarded > 0 and stats.accepted == stats.sent + stats.discarded + stats.pending
    assert stats.losses == {"evicted": {"info": stats.discarded}}
    received = sink.take(1000 - stats.discarded)
    numbers = [int(datagram[4:].split()[0]) for datagram in received]
    assert numbers == sorted(numbers) and numbers[-1] == 999
    # The sink's queue held a few of the oldest records. The newest follow without a gap.
    assert stats.sent <= 10 and numbers[stats.sent:] == list(range(numbers[stats.sent], 1000))
    assert handler.flush()
    assert sink.take_one().startswith(b"<12>fastlog: %d messages lost (evicted: %d info), from"
                                      % (stats.discarded, stats.discarded))


def test_drop_oldest_leaves_the_reserved_eighth_free(make_handler, sink, logger_for):
    """Debug records evict one another and leave the eighth that is reserved for warnings free."""
    handler = make_handler(sink.path, capacity=CAPACITY, overflow="drop_oldest")
    log = logger_for(handler)
    sink.hang()
    for _ in range(1000):
        log.debug(TEXT)
    discarded = handler.stats().discarded
    assert discarded
    log.warning(TEXT)
    assert handler.stats().discarded == discarded


def test_drop_oldest_on_a_stream(make_handler, make_sink, logger_for):
    """A record that is evicted while it is half sent on a stream is sent to its end."""
    sink = make_sink(kind=socket.SOCK_STREAM)
    handler = make_handler(sink.path, socktype=socket.SOCK_STREAM, capacity=1 << 20,
                           overflow="drop_oldest")
    log = logger_for(handler)
    for i in range(100):
        log.info("%d %s", i, "x" * 100_000)
    handler.flush(0.1)
    for i in range(100, 200):
        log.info("%d %s", i, "x" * 100_000)
    log.info("the end")
    stats = handler.stats()
    assert stats.discarded > 50 and stats.accepted == stats.sent + stats.discarded + stats.pending
    wire = sink.take_bytes(1)
    while not wire.endswith(b"<14>the end\0"):
        wire += sink.connection.recv(1 << 20)
    numbers = []
    for record in wire.split(b"\0")[:-2]:
        number, text = record[4:].split()
        assert record.startswith(b"<14>") and text == b"x" * 100_000
        numbers.append(int(number))
    assert numbers == sorted(set(numbers)) and numbers[-1] == 199
    assert len(numbers) == 200 - handler.stats().discarded
    assert handler.flush() and handler.stats().pending == 0


def test_drop_oldest_counts_a_record_interrupted_by_close(make_handler, make_sink, logger_for):
    """If close() interrupts a half-sent evicted record, it counts as evicted and is not resent."""
    sink = make_sink(kind=socket.SOCK_STREAM)
    handler = make_handler(sink.path, socktype=socket.SOCK_STREAM, capacity=1 << 21,
                           overflow="drop_oldest")
    log = logger_for(handler)
    log.error("0 %s", "x" * 900_000)
    assert sink.take_bytes(1) == b"<"
    log.info("1 %s", "x" * 900_000)
    log.info("2 %s", "x" * 900_000)      # evicts the first record
    assert handler.stats().pending == 3 and handler.stats().discarded == 0
    handler.close(0.0)
    with contextlib.suppress(ConnectionResetError):
        while chunk := sink.connection.recv(1 << 20):
            assert b"\0" not in chunk
    sink.connection.close()
    sink.connection = None
    log.info("3")
    wire = sink.take_bytes(1)
    while not wire.endswith(b"<14>3\0"):
        wire += sink.connection.recv(1 << 20)
    received = wire.split(b"\0")
    assert [record[:6] for record in received] == [b"<14>1 ", b"<14>2 ", b"<14>3", b""]
    assert handler.flush()
    assert handler.stats().losses == {"evicted": {"err": 1}}


def test_drop_oldest_with_concurrent_threads(make_handler, sink, logger_for):
    """When eight threads overflow a one-page ring, each thread's order and the sums are kept."""
    handler = make_handler(sink.path, capacity=mmap.PAGESIZE, overflow="drop_oldest")
    log = logger_for(handler)
    received = []
    done = threading.Event()

    def read():
        while not (done.is_set() and handler.stats().pending == 0 and sink.is_empty()):
            if not sink.is_empty():
                received.append(sink.take_one())

    reader = threading.Thread(target=read)
    reader.start()
    workers = [threading.Thread(target=lambda n=n: [log.info("%d %d %s", n, i, TEXT)
                                                    for i in range(2000)]) for n in range(8)]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join()
    assert handler.flush()
    done.set()
    reader.join()
    stats = handler.stats()
    assert stats.accepted == stats.sent + stats.discarded
    # Without a GIL, the oldest record may not be committed yet and cannot be evicted then.
    assert stats.dropped == 0 or sysconfig.get_config_var("Py_GIL_DISABLED")
    last_numbers = {}
    logged = [datagram for datagram in received if b"fastlog" not in datagram]
    for datagram in logged:
        thread, number, _ = datagram[4:].split()
        assert int(number) > last_numbers.get(thread, -1)
        last_numbers[thread] = int(number)
    assert len(received) == stats.sent


def test_drop_oldest_never_drops_the_new_record(make_handler, sink, logger_for):
    """The new record is accepted even if the writer frees space just before the eviction."""
    handler = make_handler(sink.path, capacity=mmap.PAGESIZE, overflow="drop_oldest", linger=0.0)
    log = logger_for(handler)
    done = threading.Event()

    def read():
        while not (done.is_set() and handler.stats().pending == 0 and sink.is_empty()):
            if not sink.is_empty():
                sink.take_one()

    reader = threading.Thread(target=read)
    reader.start()
    for i in range(50_000):
        log.info("%d %s", i, "x" * 100)
    assert handler.flush()
    done.set()
    reader.join()
    stats = handler.stats()
    assert stats.discarded and stats.dropped == 0


def test_losses_add_up(make_handler, sink, logger_for):
    """The losses by reason and severity add up to the number of dropped records."""
    handler = make_handler(sink.path, capacity=mmap.PAGESIZE, overflow="drop_new")
    log = logger_for(handler)
    sink.hang()
    for _ in range(100):
        log.debug(TEXT)
    for _ in range(100):
        log.info(TEXT)
    for _ in range(100):
        log.error(TEXT)
    stats = handler.stats()
    assert set(stats.losses) == {"full"}
    assert set(stats.losses["full"]) == {"debug", "info", "err"}
    assert sum(stats.losses["full"].values()) == stats.dropped
    assert stats.losses["full"]["info"] == 100


def test_next_loss_report_includes_a_lost_report(make_handler, sink, logger_for):
    """If a loss report is itself dropped, the next one states the sum of all losses."""
    handler = make_handler(sink.path, capacity=mmap.PAGESIZE, overflow="drop_new")
    log = logger_for(handler)
    sink.hang()
    while handler.stats().losses.get("full", {}).get("err", 0) == 0:
        log.error(TEXT)
    handler._log_loss_report(during_outage=True)
    lost = handler.stats().dropped
    assert handler.stats().losses["full"] == {"err": lost - 1, "warning": 1}
    sink.take(handler.stats().accepted)
    assert handler.flush()
    report = sink.take_one()
    assert report.startswith(b"<12>fastlog: 1 messages lost (full: 1 warning), from")
    assert report.endswith(b"; %d in all\0" % lost)


def test_loss_report_is_formatted_by_the_formatter(make_handler, sink, logger_for):
    """The loss report passes through the formatter, so that all lines of a log file look alike."""
    handler = make_handler(sink.path, capacity=mmap.PAGESIZE, overflow="drop_new")
    handler.setFormatter(logging.Formatter("%(name)s|%(levelname)s|%(message)s"))
    log = logger_for(handler)
    accepted = fill(handler, log, sink)
    sink.take(accepted)
    assert handler.flush()
    assert sink.take_one().startswith(b"<12>fastlog|WARNING|fastlog: 1 messages lost (full: 1 info")


@pytest.mark.parametrize("overflow", ["block", "drop_new", "drop_oldest"])
def test_full_ring_is_sent_after_close(make_handler, directory, make_sink, logger_for, overflow):
    """After close() timed out, the next record restarts the writer even if the ring is full."""
    path = directory / "log"
    handler = make_handler(path, capacity=mmap.PAGESIZE, overflow=overflow, block_timeout=0.01)
    log = logger_for(handler)
    while handler.stats().dropped + handler.stats().discarded == 0:
        log.info("x" * 100)
    handler.close(0.0)
    sink = make_sink(path)
    log.info("x" * 100)
    stats = handler.stats()
    sink.take(stats.accepted - stats.discarded)
    assert handler.flush()
