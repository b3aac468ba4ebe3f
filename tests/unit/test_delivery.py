"""Records arrive: in order, whole, and through outages of the daemon."""
import errno
import mmap
import socket
import threading

import pytest

from fastlog._daemons.rsyslogd import wait_until

MARK = " [... cut by fastlog]"
PAGE = mmap.PAGESIZE


def add_up(stats):
    """The two sums that always hold."""
    return (stats.submitted == stats.accepted + stats.dropped
            and stats.accepted == stats.sent + stats.discarded + stats.pending)


def test_order_and_counters(handler, log, sink):
    for i in range(1000):
        log.info("record %d", i)
    assert sink.take(1000) == [b"<14>record %d\0" % i for i in range(1000)]
    assert handler.flush()
    stats = handler.stats()
    assert stats.sent == stats.accepted == stats.submitted == 1000
    assert (stats.pending, stats.pending_bytes, stats.dropped, stats.send_errors) == (0, 0, 0, 0)
    assert 0 < stats.high_watermark <= stats.capacity
    assert add_up(stats)


@pytest.mark.parametrize("capacity", [PAGE, 4 * PAGE, 1 << 22])
def test_threads_keep_their_order(make_handler, sink, logger_for, capacity):
    """Six threads into rings from one page up: complete, each thread's records in its order."""
    handler = make_handler(sink.path, capacity=capacity, block_timeout=30.0)
    log = logger_for(handler)

    def work(thread):
        for i in range(500):
            log.info("%d %d %s", thread, i, "x" * (i % 300))

    workers = [threading.Thread(target=work, args=(n,)) for n in range(6)]
    for worker in workers:
        worker.start()
    seen = {n: 0 for n in range(6)}
    for datagram in sink.take(3000):
        thread, i, *_ = datagram[4:-1].split(b" ")
        assert int(i) == seen[int(thread)]
        seen[int(thread)] += 1
    for worker in workers:
        worker.join()
    stats = handler.stats()
    assert stats.accepted == 3000 and stats.dropped == 0 and add_up(stats)


@pytest.mark.parametrize("size", [1, 7, 8, 9, PAGE // 2 - 20, PAGE // 2])
def test_every_place_in_the_ring(make_handler, sink, logger_for, size):
    """Records of each size go around a one-page ring many times, over its end too."""
    handler = make_handler(sink.path, capacity=PAGE, linger=0)
    log = logger_for(handler)
    for i in range(300):
        text = chr(ord("a") + i % 26) * size
        log.info(text)
        longest = PAGE // 2 - 8 - 5
        if size > longest:
            text = text[:longest - len(MARK)] + MARK
        assert sink.take_one() == b"<14>" + text.encode() + b"\0"


def test_records_wait_for_an_absent_daemon(make_handler, make_sink, directory, logger_for):
    """No socket at construction is no error; what was logged goes out when it appears."""
    handler = make_handler(directory / "log")
    log = logger_for(handler)
    for i in range(50):
        log.info("early %d", i)
    wait_until(lambda: handler.stats().last_errno == errno.ENOENT, 20, "a failed connect")
    assert handler.flush(0) is False
    assert handler.stats().pending == 50
    sink = make_sink(directory / "log")
    assert sink.take(50) == [b"<14>early %d\0" % i for i in range(50)]


def test_daemon_restart(handler, log, sink):
    """Records logged while the daemon is down arrive, in order, and one connection is counted."""
    log.info("before")
    assert sink.take_one() == b"<14>before\0"
    sink.close()
    for i in range(100):
        log.info("down %d", i)
    wait_until(lambda: handler.stats().send_errors > 1, 20, "a failed connect")
    stats = handler.stats()
    assert stats.sent == 1 and stats.pending == 100 and add_up(stats)
    sink.bind()
    assert sink.take(100) == [b"<14>down %d\0" % i for i in range(100)]
    assert handler.flush()
    assert handler.stats().reconnects == 1


def test_directory_removed_and_made_again(make_handler, make_sink, directory, logger_for):
    """The path is looked up at each connect, so the new daemon's socket is found."""
    place = directory / "run"
    place.mkdir()
    sink = make_sink(place / "log")
    log = logger_for(make_handler(sink.path))
    log.info("before")
    assert sink.take_one() == b"<14>before\0"
    sink.close()
    place.rmdir()
    for i in range(5):
        log.info("down %d", i)
    place.mkdir()
    sink.bind()
    assert sink.take(5) == [b"<14>down %d\0" % i for i in range(5)]


def test_socket_replaced_while_the_old_daemon_lives(handler, log, make_sink, sink, directory):
    """As with the standard library: the connection stays with the daemon that has it."""
    log.info("old")
    assert sink.take_one() == b"<14>old\0"
    (directory / "log").unlink()
    new = make_sink(directory / "log")
    log.info("still old")
    assert sink.take_one() == b"<14>still old\0"
    sink.socket.close()
    log.info("new")
    assert new.take_one() == b"<14>new\0"


def test_stream_fallback(make_handler, make_sink, logger_for):
    """Where a stream socket listens, records go there, each ended by its NUL."""
    sink = make_sink(kind=socket.SOCK_STREAM)
    log = logger_for(make_handler(sink.path))
    for i in range(500):
        log.info("record %d", i)
    expected = b"".join(b"<14>record %d\0" % i for i in range(500))
    assert sink.take_bytes(len(expected)) == expected


def test_socktype_forbids_the_fallback(make_handler, make_sink, logger_for):
    sink = make_sink(kind=socket.SOCK_STREAM)
    handler = make_handler(sink.path, socktype=socket.SOCK_DGRAM)
    logger_for(handler).info("x")
    wait_until(lambda: handler.stats().last_errno == errno.EPROTOTYPE, 20, "a failed connect")
    assert handler.flush(0) is False


def test_stream_resumes_partial_writes(make_handler, make_sink, logger_for):
    """Records far larger than the socket's buffer arrive whole and in order."""
    sink = make_sink(kind=socket.SOCK_STREAM)
    handler = make_handler(sink.path, socktype=socket.SOCK_STREAM)
    log = logger_for(handler)
    for i in range(5):
        log.info(chr(ord("a") + i) * 700_000)
    expected = b"".join(b"<14>" + bytes([ord("a") + i]) * 700_000 + b"\0" for i in range(5))
    assert sink.take_bytes(len(expected)) == expected
    assert handler.flush() and handler.stats().sent == 5


def test_stream_reconnect_sends_the_torn_record_whole(make_handler, make_sink, logger_for):
    """A connection that ends in the middle of a record: the next one begins with that record."""
    sink = make_sink(kind=socket.SOCK_STREAM)
    handler = make_handler(sink.path)
    log = logger_for(handler)
    log.info("first")
    log.info("x" * 1_500_000)
    log.info("last")
    assert sink.take_bytes(10 + 1000).startswith(b"<14>first\0<14>xxx")
    sink.close()
    sink.bind()
    whole = b"<14>" + b"x" * 1_500_000 + b"\0<14>last\0"
    assert sink.take_bytes(len(whole)) == whole
    assert handler.flush()
    assert handler.stats().sent == 3 and handler.stats().reconnects == 1


def test_the_buffer_is_raised_for_a_long_record(handler, log, sink):
    """400 kB are more than a socket's buffer has by default, and less than it may be raised to."""
    text = "x" * 400_000
    log.info(text)
    log.info("behind")
    assert sink.take(2) == [b"<14>" + text.encode() + b"\0", b"<14>behind\0"]
    assert handler.flush()
    stats = handler.stats()
    assert (stats.truncated, stats.sent, stats.send_errors) == (0, 2, 0)


@pytest.mark.parametrize("character", ["x", "\u00e9", "\u20ac", "\U0001f600"])
def test_oversized_record_is_shortened(make_handler, sink, logger_for, character):
    """What no datagram holds is cut between characters, marked, counted, and holds nothing up."""
    handler = make_handler(sink.path, capacity=1 << 26)
    log = logger_for(handler)
    count = 20_000_000 // len(character.encode())
    log.info(character * count)
    log.info("behind")
    shortened, behind = sink.take(2)
    text = shortened[4:-1].decode()  # strict: a character cut in two would raise
    assert shortened.endswith(MARK.encode() + b"\0")
    assert set(text.removesuffix(MARK)) == {character} and 200_000 < len(shortened) < 19_999_999
    assert behind == b"<14>behind\0"
    assert handler.flush()
    stats = handler.stats()
    assert (stats.truncated, stats.sent, stats.discarded) == (1, 2, 0)
    assert stats.last_errno in (errno.EMSGSIZE, errno.ENOBUFS)


@pytest.mark.parametrize("ident", ["", "tag: ", "\u20ac" * 5000])
def test_record_longer_than_the_ring(make_handler, sink, logger_for, ident):
    """The message, then the ident, is cut to half the ring; the NUL stays."""
    handler = make_handler(sink.path, capacity=PAGE, ident=ident)
    log = logger_for(handler)
    log.info("\u20ac" * 10_000)
    log.info("behind")
    shortened, _ = sink.take(2)
    longest = PAGE // 2 - 8
    assert longest - 3 < len(shortened) <= longest
    assert shortened.startswith(b"<14>" + ident.encode()[:1000])
    assert shortened.endswith(MARK.encode() + b"\0")
    shortened[4:-1].decode()
    assert handler.stats().truncated == (2 if len(ident) > 1000 else 1)
