"""max_size and oversize: long records are truncated or split."""
import logging
import platform
import re
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


SD_NAME = r"[!#-<>-\\^-~]{1,32}"
RFC5424 = re.compile(
    rf'<12>1 1970-01-01T\S+ host app 1 - (-|(?:\[{SD_NAME}(?: {SD_NAME}="(?:[^"\\\]]|\\.)*")*\])+) '
    r"(.*)\Z", re.DOTALL)


@pytest.mark.parametrize("oversize", ["shorten", "split"])
@pytest.mark.parametrize("max_size", [480, 1000, None])
@settings(max_examples=60, deadline=None,
          suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.dictionaries(
    st.text("ab\u20ac", max_size=40),
    st.dictionaries(st.text("cd=", max_size=40),
                    st.builds(str.__mul__, st.text('x"\\]\u20ac\udc80\0\n ', max_size=9),
                              st.sampled_from([1, 30, 1000])), max_size=3), max_size=3))
def test_long_structured_data_does_not_push_the_message_out(make_handler, sink, data, max_size,
                                                            oversize):
    """Structured data is shortened to valid structured data, so that the message follows it."""
    handler = make_handler(sink.path, protocol="rfc5424", hostname="host", app_name="app",
                           procid="1", max_size=max_size, oversize=oversize, capacity=1 << 17)
    for message in "m", "m" * 200:
        record = logging.makeLogRecord({"msg": message, "created": 0.0, "levelname": "WARNING",
                                        "structured_data": data})
        handler.handle(record)
        received = b""
        while len(received) < len(message):
            datagram = sink.take_one()
            assert len(datagram) <= (max_size or 1 << 16)
            match = RFC5424.match(datagram.decode().removesuffix("\0"))
            assert match and match[2][:20] == message[:20], datagram
            received += match[2].encode() if oversize == "split" else message.encode()
    handler.close()


def test_shortened_structured_data_is_counted(make_handler, sink):
    """The first parameters stay, the last one is cut, and `truncated` counts the record."""
    handler = make_handler(sink.path, protocol="rfc5424", hostname="h", app_name="a", procid="1",
                           max_size=480)
    for size in 10, 1000:
        handler.handle(logging.makeLogRecord({"msg": "m", "structured_data": {
            "a": {"b": "1", "c": '"' * size, "d": "2"}, "e": {"f": "3"}}}))
    whole, shortened = sink.take(2)
    assert whole.endswith(rb' [a b="1" c="' + rb"\"" * 10 + rb'" d="2"][e f="3"] m' + b"\0")
    assert re.search(rb' \[a b="1" c="(\\")+"\] m\0\Z', shortened)
    assert 220 < len(shortened) <= 240 and handler.stats().truncated == 1
