"""max_size and oversize: long records, shortened or split."""
import platform
import socket
import threading

import pytest
from hypothesis import HealthCheck, given, settings, strategies as st

MARK = b" [... cut by fastlog]"


@pytest.mark.parametrize("append_nul", [True, False])
def test_max_size_shortens(make_handler, sink, logger_for, append_nul):
    """Of the record as it goes on the wire, priority, ident and NUL included."""
    handler = make_handler(sink.path, max_size=500, ident="tag: ", append_nul=append_nul)
    log = logger_for(handler)
    nul = b"\0" * append_nul
    fits = 500 - 9 - append_nul
    log.info("x" * fits)
    log.info("x" * (fits + 1))
    log.info("\u20ac" * 200)
    whole, cut, between = sink.take(3)
    assert whole == b"<14>tag: " + b"x" * fits + nul
    assert cut == b"<14>tag: " + b"x" * (fits - len(MARK)) + MARK + nul and len(cut) == 500
    assert len(between) in (498, 499, 500) and between.endswith(MARK + nul)
    assert set(between[9:-len(MARK + nul)].decode()) == {"\u20ac"}
    assert handler.stats().truncated == 2


@settings(max_examples=200, deadline=None,
          suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(text=st.text(st.characters(codec="utf-8", exclude_characters="\0"), max_size=3000),
       size=st.integers(480, 700), ident=st.sampled_from(["", "tag: ", "\u20ac" * 30]))
def test_split(make_handler, sink, logger_for, text, size, ident):
    """The parts' messages together are the message; each is within the limit, and valid."""
    handler = make_handler(sink.path, max_size=size, oversize="split", ident=ident)
    logger_for(handler).info("%s", text)
    start = b"<14>" + ident.encode()
    room = size - len(start) - 1
    parts = []
    expected = text.encode()
    while b"".join(parts) != expected or not parts:
        datagram = sink.take_one()
        assert len(datagram) <= size and datagram.startswith(start) and datagram.endswith(b"\0")
        part = datagram[len(start):-1]
        part.decode()
        assert len(part) > room - 4 or b"".join(parts) + part == expected
        parts.append(part)
        assert expected.startswith(b"".join(parts))
    assert handler.flush() and sink.is_empty()
    stats = handler.stats()
    assert stats.sent == len(parts) and stats.truncated == 0
    handler.close()


def test_split_by_default_as_rsyslog_would_cut(make_handler, sink, logger_for):
    log = logger_for(make_handler(sink.path, oversize="split"))
    log.info("x" * 20_000)
    assert [len(part) for part in sink.take(3)] == [8192, 8192, 20_000 - 2 * (8192 - 5) + 5]


def test_an_ident_too_long_to_be_repeated(make_handler, sink, logger_for):
    """Then there is nothing to split: shortened."""
    handler = make_handler(sink.path, max_size=480, oversize="split", ident="i" * 470)
    logger_for(handler).info("message")
    received = sink.take_one()
    assert received == b"<14>" + b"i" * (480 - 5 - len(MARK)) + MARK + b"\0"


def test_split_over_the_whole_ring(make_handler, sink, logger_for):
    """A record longer than the ring, in parts that fit."""
    handler = make_handler(sink.path, capacity=4096, oversize="split", block_timeout=30.0)
    log = logger_for(handler)
    received = []
    reader = threading.Thread(target=lambda: received.extend(sink.take(5)))
    reader.start()
    log.info("x" * 10_000)
    reader.join()
    assert b"".join(part[4:-1] for part in received) == b"x" * 10_000


@pytest.mark.skipif(platform.machine() != "x86_64", reason="the filter has its call numbers")
def test_no_memory_for_a_stream(run_python, make_sink):
    """That passes: the record waits, and is not shortened as if it were too long."""
    sink = make_sink(kind=socket.SOCK_STREAM)
    run_python("""
import ctypes, errno, logging, socket, struct, sys, time, fastlog
logging.raiseExceptions = False      # the record is still there at the end, which is told
rules = ctypes.create_string_buffer(b"".join(struct.pack("=HBBI", *rule) for rule in (
    (0x20, 0, 0, 0),                           # seccomp(2): the number of the call
    (0x15, 0, 1, 46),                          # sendmsg
    (0x06, 0, 0, 0x50000 | errno.ENOBUFS),     # SECCOMP_RET_ERRNO
    (0x06, 0, 0, 0x7fff0000))))                # SECCOMP_RET_ALLOW
program = struct.pack("HxxxxxxP", 4, ctypes.addressof(rules))
libc = ctypes.CDLL(None)
assert libc.prctl(38, 1, 0, 0, 0) == 0         # PR_SET_NO_NEW_PRIVS
assert libc.prctl(22, 2, program, 0, 0) == 0   # PR_SET_SECCOMP
handler = fastlog.SysLogHandler(sys.argv[1], socktype=socket.SOCK_STREAM,
                                framing="octet-counting", close_timeout=0.0)
log = logging.Logger("x")
log.addHandler(handler)
log.info("x" * 100_000)
end = time.monotonic() + 30
while handler.stats().send_errors < 20 and time.monotonic() < end:
    time.sleep(0.01)
stats = handler.stats()
assert stats.send_errors >= 20 and stats.last_errno == errno.ENOBUFS
assert stats.pending == 1 and stats.truncated == 0, stats
""", sink.path)


@pytest.mark.parametrize("options, error, why", [
    ({"max_size": 479}, ValueError, "max_size must be from 480"),
    ({"max_size": True}, TypeError, "max_size must be an int"),
    ({"max_size": "1"}, TypeError, "max_size must be an int"),
    ({"oversize": "cut"}, ValueError, "oversize must be one of 'shorten', 'split'"),
    ({"oversize": None}, TypeError, "oversize must be a str"),
    ({"overflow": "drop_all"}, ValueError, "overflow must be one of"),
])
def test_bad_options(make_handler, options, error, why):
    with pytest.raises(error, match=why):
        make_handler("/dev/log", **options)
