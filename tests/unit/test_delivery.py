"""Delivery: records arrive in order and complete, also after an outage of the daemon."""
import errno
import mmap
import socket
import threading

import pytest
from support import wait_until

MARK = " [... cut by fastlog]"
PAGE = mmap.PAGESIZE


def sums_hold(stats):
    """Return whether the counters satisfy the two sums that hold at any time."""
    return (stats.submitted == stats.accepted + stats.dropped
            and stats.accepted == stats.sent + stats.discarded + stats.pending)


def test_records_arrive_in_order_and_are_counted(handler, log, sink):
    """Records arrive in the order of the calls, and the counters agree with them."""
    for i in range(1000):
        log.info("record %d", i)
    assert sink.take(1000) == [b"<14>record %d\0" % i for i in range(1000)]
    assert handler.flush()
    stats = handler.stats()
    assert stats.sent == stats.accepted == stats.submitted == 1000
    assert (stats.pending, stats.pending_bytes, stats.dropped, stats.send_errors) == (0, 0, 0, 0)
    assert 0 < stats.high_watermark <= stats.capacity
    assert sums_hold(stats)


@pytest.mark.parametrize("capacity", [PAGE, 4 * PAGE, 1 << 22])
def test_each_threads_records_keep_their_order(make_handler, sink, logger_for, capacity):
    """The records of six threads that share a ring all arrive, in order for each thread."""
    handler = make_handler(sink.path, capacity=capacity, block_timeout=30.0)
    log = logger_for(handler)

    def work(thread):
        for i in range(500):
            log.info("%d %d %s", thread, i, "x" * (i % 300))

    workers = [threading.Thread(target=work, args=(n,)) for n in range(6)]
    for worker in workers:
        worker.start()
    next_numbers = {n: 0 for n in range(6)}
    for datagram in sink.take(3000):
        thread, i, *_ = datagram[4:-1].split(b" ")
        assert int(i) == next_numbers[int(thread)]
        next_numbers[int(thread)] += 1
    for worker in workers:
        worker.join()
    stats = handler.stats()
    assert stats.accepted == 3000 and stats.dropped == 0 and sums_hold(stats)


@pytest.mark.parametrize("size", [1, 7, 8, 9, PAGE // 2 - 20, PAGE // 2])
def test_records_wrap_around_the_ring(make_handler, sink, logger_for, size):
    """Records of every size pass through a one-page ring many times, also across its end."""
    handler = make_handler(sink.path, capacity=PAGE, linger=0)
    log = logger_for(handler)
    for i in range(300):
        text = chr(ord("a") + i % 26) * size
        log.info(text)
        longest = PAGE // 2 - 8 - 5
        if size > longest:
            text = text[:longest - len(MARK)] + MARK
        assert sink.take_one() == b"<14>" + text.encode() + b"\0"


def test_records_wait_until_the_daemon_appears(make_handler, make_sink, directory, logger_for):
    """A handler accepts records before the socket exists and sends them once it appears."""
    handler = make_handler(directory / "log")
    log = logger_for(handler)
    for i in range(50):
        log.info("early %d", i)
    wait_until(lambda: handler.stats().last_errno == errno.ENOENT, 20, "a failed connect")
    assert handler.flush(0) is False
    assert handler.stats().pending == 50
    sink = make_sink(directory / "log")
    assert sink.take(50) == [b"<14>early %d\0" % i for i in range(50)]


def test_records_survive_a_daemon_restart(handler, log, sink):
    """Records logged while the daemon is down arrive in order over one new connection."""
    log.info("before")
    assert sink.take_one() == b"<14>before\0"
    sink.close()
    for i in range(100):
        log.info("down %d", i)
    wait_until(lambda: handler.stats().send_errors > 1, 20, "a failed connect")
    stats = handler.stats()
    assert stats.sent == 1 and stats.pending == 100 and sums_hold(stats)
    sink.bind()
    assert sink.take(100) == [b"<14>down %d\0" % i for i in range(100)]
    assert handler.flush()
    assert handler.stats().reconnects == 1


def test_socket_directory_is_recreated(make_handler, make_sink, directory, logger_for):
    """Each connect resolves the path again and therefore finds the new daemon's socket."""
    run_directory = directory / "run"
    run_directory.mkdir()
    sink = make_sink(run_directory / "log")
    log = logger_for(make_handler(sink.path))
    log.info("before")
    assert sink.take_one() == b"<14>before\0"
    sink.close()
    run_directory.rmdir()
    for i in range(5):
        log.info("down %d", i)
    run_directory.mkdir()
    sink.bind()
    assert sink.take(5) == [b"<14>down %d\0" % i for i in range(5)]


def test_connection_stays_with_the_old_daemon(handler, log, make_sink, sink, directory):
    """The connection stays with the old daemon until its socket closes, as in the stdlib."""
    log.info("old")
    assert sink.take_one() == b"<14>old\0"
    (directory / "log").unlink()
    new_sink = make_sink(directory / "log")
    log.info("still old")
    assert sink.take_one() == b"<14>still old\0"
    sink.socket.close()
    log.info("new")
    assert new_sink.take_one() == b"<14>new\0"


def test_handler_falls_back_to_a_stream_socket(make_handler, make_sink, logger_for):
    """If the path is a stream socket, the handler sends each record there, ended by a NUL."""
    sink = make_sink(kind=socket.SOCK_STREAM)
    log = logger_for(make_handler(sink.path))
    for i in range(500):
        log.info("record %d", i)
    expected = b"".join(b"<14>record %d\0" % i for i in range(500))
    assert sink.take_bytes(len(expected)) == expected


def test_explicit_socktype_disables_the_fallback(make_handler, make_sink, logger_for):
    """With socktype=SOCK_DGRAM, connecting to a stream socket fails with EPROTOTYPE."""
    sink = make_sink(kind=socket.SOCK_STREAM)
    handler = make_handler(sink.path, socktype=socket.SOCK_DGRAM)
    logger_for(handler).info("x")
    wait_until(lambda: handler.stats().last_errno == errno.EPROTOTYPE, 20, "a failed connect")
    assert handler.flush(0) is False


def test_stream_resumes_partial_writes(make_handler, make_sink, logger_for):
    """Records far larger than the socket's send buffer arrive complete and in order."""
    sink = make_sink(kind=socket.SOCK_STREAM)
    handler = make_handler(sink.path, socktype=socket.SOCK_STREAM)
    log = logger_for(handler)
    for i in range(5):
        log.info(chr(ord("a") + i) * 700_000)
    expected = b"".join(b"<14>" + bytes([ord("a") + i]) * 700_000 + b"\0" for i in range(5))
    assert sink.take_bytes(len(expected)) == expected
    assert handler.flush() and handler.stats().sent == 5


def test_stream_reconnect_resends_the_interrupted_record(make_handler, make_sink, logger_for):
    """After a connection ends in the middle of a record, the next one starts with that record."""
    sink = make_sink(kind=socket.SOCK_STREAM)
    handler = make_handler(sink.path)
    log = logger_for(handler)
    log.info("first")
    log.info("x" * 1_500_000)
    log.info("last")
    assert sink.take_bytes(10 + 1000).startswith(b"<14>first\0<14>xxx")
    sink.close()
    sink.bind()
    expected = b"<14>" + b"x" * 1_500_000 + b"\0<14>last\0"
    assert sink.take_bytes(len(expected)) == expected
    assert handler.flush()
    assert handler.stats().sent == 3 and handler.stats().reconnects == 1


def test_send_buffer_is_enlarged_for_a_long_record(handler, log, sink):
    """A 400 kB record, which exceeds the default send buffer but not its limit, arrives intact."""
    text = "x" * 400_000
    log.info(text)
    log.info("behind")
    assert sink.take(2) == [b"<14>" + text.encode() + b"\0", b"<14>behind\0"]
    assert handler.flush()
    stats = handler.stats()
    assert (stats.truncated, stats.sent, stats.send_errors) == (0, 2, 0)


@pytest.mark.parametrize("character", ["x", "\u00e9", "\u20ac", "\U0001f600"])
def test_oversized_record_is_truncated(make_handler, sink, logger_for, character):
    """A record too large for a datagram is truncated between characters, marked and counted.

    The record behind it is not delayed.
    """
    handler = make_handler(sink.path, capacity=1 << 26)
    log = logger_for(handler)
    count = 20_000_000 // len(character.encode())
    log.info(character * count)
    log.info("behind")
    truncated, behind = sink.take(2)
    text = truncated[4:-1].decode()  # The strict decoder raises if a character was split.
    assert truncated.endswith(MARK.encode() + b"\0")
    assert set(text.removesuffix(MARK)) == {character} and 200_000 < len(truncated) < 19_999_999
    assert behind == b"<14>behind\0"
    assert handler.flush()
    stats = handler.stats()
    assert (stats.truncated, stats.sent, stats.discarded) == (1, 2, 0)
    assert stats.last_errno in (errno.EMSGSIZE, errno.ENOBUFS)


@pytest.mark.parametrize("ident", ["", "tag: ", "\u20ac" * 5000])
def test_record_larger_than_the_ring_is_truncated(make_handler, sink, logger_for, ident):
    """Truncation to half the ring cuts the message first, then the ident, but never the NUL."""
    handler = make_handler(sink.path, capacity=PAGE, ident=ident)
    log = logger_for(handler)
    log.info("\u20ac" * 10_000)
    log.info("behind")
    truncated, _ = sink.take(2)
    longest = PAGE // 2 - 8
    assert longest - 3 < len(truncated) <= longest
    assert truncated.startswith(b"<14>" + ident.encode()[:1000])
    assert truncated.endswith(MARK.encode() + b"\0")
    truncated[4:-1].decode()
    assert handler.stats().truncated == (2 if len(ident) > 1000 else 1)
