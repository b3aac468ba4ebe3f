"""max_size and oversize: long records are truncated or split."""
import platform
import socket
import threading

import pytest
from hypothesis import HealthCheck, given, settings, strategies as st

MARK = b" [... cut by fastlog]"


@pytest.mark.parametrize("append_nul", [True, False])
def test_max_size_truncates(make_handler, sink, logger_for, append_nul):
    """max_size limits the record as sent, including the priority, the ident and the NUL."""
    handler = make_handler(sink.path, max_size=500, ident="tag: ", append_nul=append_nul)
    log = logger_for(handler)
    nul = b"\0" * append_nul
    longest = 500 - 9 - append_nul
    log.info("x" * longest)
    log.info("x" * (longest + 1))
    log.info("\u20ac" * 200)
    untruncated, ascii_text, multibyte = sink.take(3)
    assert untruncated == b"<14>tag: " + b"x" * longest + nul
    assert ascii_text == b"<14>tag: " + b"x" * (longest - len(MARK)) + MARK + nul
    assert len(ascii_text) == 500
    assert len(multibyte) in (498, 499, 500) and multibyte.endswith(MARK + nul)
    assert set(multibyte[9:-len(MARK + nul)].decode()) == {"\u20ac"}
    assert handler.stats().truncated == 2


@settings(max_examples=200, deadline=None,
          suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(text=st.text(st.characters(codec="utf-8", exclude_characters="\0"), max_size=3000),
       size=st.integers(480, 700), ident=st.sampled_from(["", "tag: ", "\u20ac" * 30]))
def test_split_parts_add_up_to_the_message(make_handler, sink, logger_for, text, size, ident):
    """Each part is valid and within the limit, and the parts together contain the message."""
    handler = make_handler(sink.path, max_size=size, oversize="split", ident=ident)
    logger_for(handler).info("%s", text)
    prefix = b"<14>" + ident.encode()
    space = size - len(prefix) - 1
    parts = []
    expected = text.encode()
    while b"".join(parts) != expected or not parts:
        datagram = sink.take_one()
        assert len(datagram) <= size and datagram.startswith(prefix) and datagram.endswith(b"\0")
        part = datagram[len(prefix):-1]
        part.decode()
        assert len(part) > space - 4 or b"".join(parts) + part == expected
        parts.append(part)
        assert expected.startswith(b"".join(parts))
    assert handler.flush() and sink.is_empty()
    stats = handler.stats()
    assert stats.sent == len(parts) and stats.truncated == 0
    handler.close()


def test_split_uses_rsyslogs_limit_by_default(make_handler, sink, logger_for):
    """Without max_size, parts have at most 8192 bytes, which is rsyslogd's default limit."""
    log = logger_for(make_handler(sink.path, oversize="split"))
    log.info("x" * 20_000)
    assert [len(part) for part in sink.take(3)] == [8192, 8192, 20_000 - 2 * (8192 - 5) + 5]


def test_split_with_an_overlong_ident_truncates(make_handler, sink, logger_for):
    """If the ident leaves no space for a part of the message, the record is truncated."""
    handler = make_handler(sink.path, max_size=480, oversize="split", ident="i" * 470)
    logger_for(handler).info("message")
    received = sink.take_one()
    assert received == b"<14>" + b"i" * (480 - 5 - len(MARK)) + MARK + b"\0"


def test_split_record_may_exceed_the_ring(make_handler, sink, logger_for):
    """A record longer than the ring is split into parts that fit and wait for space."""
    handler = make_handler(sink.path, capacity=4096, oversize="split", block_timeout=30.0)
    log = logger_for(handler)
    received = []
    reader = threading.Thread(target=lambda: received.extend(sink.take(5)))
    reader.start()
    log.info("x" * 10_000)
    reader.join()
    assert b"".join(part[4:-1] for part in received) == b"x" * 10_000


@pytest.mark.skipif(platform.machine() != "x86_64", reason="the filter has its call numbers")
def test_enobufs_on_a_stream_does_not_truncate(run_python, make_sink):
    """ENOBUFS on a stream is a temporary error, so the record waits and is not truncated."""
    sink = make_sink(kind=socket.SOCK_STREAM)
    run_python("""
import ctypes, errno, logging, socket, struct, sys, time, fastlog
logging.raiseExceptions = False      # silences the warning about the undelivered record at exit
rules = ctypes.create_string_buffer(b"".join(struct.pack("=HBBI", *rule) for rule in (
    (0x20, 0, 0, 0),                           # loads the number of the system call: seccomp(2)
    (0x15, 0, 1, 46),                          # skips the next rule unless it is sendmsg
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


@pytest.mark.parametrize("options, error, message", [
    ({"max_size": 479}, ValueError, "max_size must be from 480"),
    ({"max_size": True}, TypeError, "max_size must be an int"),
    ({"max_size": "1"}, TypeError, "max_size must be an int"),
    ({"oversize": "cut"}, ValueError, "oversize must be one of 'shorten', 'split'"),
    ({"oversize": None}, TypeError, "oversize must be a str"),
    ({"overflow": "drop_all"}, ValueError, "overflow must be one of"),
])
def test_invalid_options_are_rejected(make_handler, options, error, message):
    """An invalid option raises an error that names it."""
    with pytest.raises(error, match=message):
        make_handler("/dev/log", **options)
