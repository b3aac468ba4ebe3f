"""Arbitrary bytes in a spool and arbitrary text on a stream neither crash nor forge a record."""
import json
import logging
import mmap
import socket
import struct
import subprocess
import sys

import pytest
from hypothesis import HealthCheck, given, settings, strategies as st

import fastlog

PAGE = mmap.PAGESIZE
CAPACITY = 4 * PAGE
WORD = 8
HEADER_END = 512  # The ring's positions follow in the rest of the first page.

pytestmark = pytest.mark.timeout(300)

fuzz = settings(max_examples=200, deadline=None, derandomize=True, database=None,
                suppress_health_check=list(HealthCheck))

# Reads spools as `fastlog recover --dry-run` does. Each line of input is a path, and each line of
# output is a JSON list of the records or the text of an error.
READER = """
import json, sys
from fastlog._spool.file import Spool
from fastlog._engine.spool_reader import read_records
from fastlog.cli.recover import make_engine
for line in sys.stdin:
    try:
        spool = Spool.open_existing(line[:-1], read_only=True)
        engine = spool.capacity and make_engine(spool.destination, spool.capacity, spool)
        result = [record.decode("latin-1") for record in read_records(engine)] if engine else []
    except OSError as error:
        result = str(error)
    engine = spool = None
    print(json.dumps(result), flush=True)
"""


@pytest.fixture(scope="module")
def read_spool():
    """Return a function that reads a spool in a separate process.

    A crash of that process fails the test, and an endless loop runs into the test's timeout.
    """
    with subprocess.Popen([sys.executable, "-c", READER], text=True, stdin=subprocess.PIPE,
                          stdout=subprocess.PIPE) as process:
        def read(path):
            process.stdin.write(f"{path}\n")
            process.stdin.flush()
            answer = process.stdout.readline()
            assert answer, f"it crashed: {process.wait()}"
            return json.loads(answer)

        yield read
        process.kill()


# --- spools ------------------------------------------------------------------------------------

TEXTS = [f"{i} " + "xyz" * (i * 7 % 60) for i in range(60)]


def compute_span(record):
    """Return the number of bytes that the record occupies in the ring."""
    return (WORD + len(record) + WORD - 1) // WORD * WORD


@pytest.fixture(scope="module")
def valid_spool(tmp_path_factory):
    """Return the bytes of a spool, its records, and the file offset of each record."""
    directory = tmp_path_factory.mktemp("spool")
    path = directory / "spool"
    handler = fastlog.SysLogHandler(directory / "nobody", spool=path, capacity=CAPACITY)
    log = logging.Logger("x")
    log.addHandler(handler)
    for text in TEXTS:
        log.info(text)
    content = path.read_bytes()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(logging, "raiseExceptions", False)     # no report on undelivered records
        handler.close(0.0)
    records = [f"<14>{text}\0" for text in TEXTS]
    offsets, offset = [], PAGE
    for record in records:
        offsets.append(offset)
        offset += compute_span(record)
    return content, records, offsets


def write_spool(path, content):
    path.write_bytes(content)
    path.chmod(0o600)


def test_undamaged_spool_is_read_completely(valid_spool, read_spool, tmp_path):
    """The spool that the tests below damage is readable before."""
    content, records, _ = valid_spool
    write_spool(tmp_path / "spool", content)
    assert read_spool(tmp_path / "spool") == records


patches = st.one_of(st.binary(min_size=1, max_size=40),
                    st.integers(0, 2**64 - 1).map(lambda word: struct.pack("=Q", word)),
                    st.integers(0, 2**14).map(lambda word: struct.pack("=Q", word | 1 << 63)))


@pytest.mark.slow
@fuzz
@given(data=st.data())
def test_undamaged_records_are_recovered(valid_spool, read_spool, tmp_path, data):
    """When only records were overwritten, all other records are recovered in order."""
    content, records, offsets = valid_spool
    edited = bytearray(content)
    end = offsets[-1] + compute_span(records[-1])
    touched_offsets = set()
    for _ in range(data.draw(st.integers(1, 5))):
        patch = data.draw(patches)
        offset = data.draw(st.one_of(st.integers(PAGE, end - 1), st.sampled_from(offsets)))
        patch = patch[:end - offset]
        edited[offset:offset + len(patch)] = patch
        touched_offsets.update(range(offset, offset + len(patch)))
    write_spool(tmp_path / "spool", edited)
    recovered = iter(read_spool(tmp_path / "spool"))
    for record, offset in zip(records, offsets, strict=True):
        if touched_offsets.isdisjoint(range(offset, offset + compute_span(record))):
            assert any(record == candidate for candidate in recovered), record


def test_record_with_a_wrong_length_hides_no_other_record(valid_spool, read_spool, tmp_path):
    """A record whose length was overwritten is skipped without losing its neighbours."""
    content, records, offsets = valid_spool
    for i, offset in enumerate(offsets[:-1]):
        edited = bytearray(content)
        # The wrong length makes the next record look like part of this one.
        length = len(records[i]) + compute_span(records[i + 1])
        edited[offset:offset + 4] = struct.pack("=I", length)
        write_spool(tmp_path / "spool", edited)
        assert read_spool(tmp_path / "spool") == records[:i] + records[i + 1:]


@pytest.mark.slow
@fuzz
@given(data=st.data())
def test_arbitrary_damage_does_not_crash_the_reader(valid_spool, read_spool, tmp_path, data):
    """Damage to positions, header, records or file length yields a list or a clear OSError."""
    edited = bytearray(valid_spool[0])
    words = st.one_of(patches, st.integers(0, CAPACITY).map(lambda n: struct.pack("=Q", n)))
    for _ in range(data.draw(st.integers(1, 5))):
        offset = data.draw(st.one_of(
            st.integers(0, HEADER_END), st.integers(0, len(edited) - 1),
            st.integers(0, 2).map(lambda i: HEADER_END + 64 * i)))   # head, tail, sent_pos
        patch = data.draw(words)
        edited[offset:offset + len(patch)] = patch
    if data.draw(st.booleans()):
        del edited[data.draw(st.integers(0, len(edited))):]
    write_spool(tmp_path / "spool", edited)
    result = read_spool(tmp_path / "spool")
    assert isinstance(result, list) or "spool" in result


@fuzz
@given(content=st.binary(min_size=1, max_size=2000))
def test_arbitrary_file_is_refused(read_spool, tmp_path, content):
    """A file of arbitrary bytes is refused with an error that names it."""
    write_spool(tmp_path / "spool", content)
    assert "spool" in read_spool(tmp_path / "spool")


# --- streams -----------------------------------------------------------------------------------

def parse_octet_counting(stream):
    """Parse the octet counting of RFC 6587 section 3.4.1 strictly."""
    records = []
    while stream:
        length, space, stream = stream.partition(b" ")
        assert space and length.isdigit() and length[:1] != b"0", length
        assert len(stream) >= int(length)
        records.append(stream[:int(length)])
        stream = stream[int(length):]
    return records


def make_parser(end):
    """Return a parser for records that end with this byte (RFC 6587 section 3.4.2)."""
    def parse(stream):
        records = stream.split(end)
        assert records.pop() == b""
        return records
    return parse


PARSERS = {"octet-counting": parse_octet_counting, "newline": make_parser(b"\n"),
           None: make_parser(b"\0")}


def escape(text):
    return text.encode("utf-8", "surrogateescape").replace(b"\n", b"#012").replace(b"\0", b"#000")


def send(framing, max_size, ident, texts):
    """Log the texts and return the bytes that arrive over TCP."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        handler = fastlog.SysLogHandler(listener.getsockname(), socktype=socket.SOCK_STREAM,
                                        framing=framing, ident=ident, max_size=max_size,
                                        capacity=1 << 16)
        log = logging.Logger("x")
        log.addHandler(handler)
        for text in texts:
            log.info("%s", text)
        handler.close()
        connection, _ = listener.accept()
        with connection, connection.makefile("rb") as file:
            return file.read()


texts = st.one_of(
    st.text(st.characters(exclude_categories=["Cs"]), max_size=40),
    st.text("a\0\n 1<>é", max_size=40),
    st.sampled_from(["7 <14>abc", "x\n<14>forged", "x\0<14>forged", "\n", "\0", "<14>", "x\0\n"]),
    st.integers(1, 1500).map(lambda size: "é\n1 "[size % 4] * size))


@pytest.mark.parametrize("framing", PARSERS)
@settings(fuzz, max_examples=60)
@given(texts=st.lists(texts, min_size=1, max_size=8), ident=st.one_of(st.just(""), texts),
       max_size=st.one_of(st.none(), st.integers(480, 2000)))
def test_no_message_forges_a_record(framing, texts, ident, max_size):
    """A strict parser extracts exactly the records that were logged."""
    records = PARSERS[framing](send(framing, max_size, ident, texts))
    assert len(records) == len(texts)
    for record, text in zip(records, texts, strict=True):
        message = ident + text
        wire_text = message.encode() if framing == "octet-counting" else escape(message)
        untruncated = b"<14>" + wire_text
        if max_size is None or len(untruncated) + (framing is None) <= max_size:
            assert record == untruncated
        else:
            assert len(record) + (framing is None) <= max_size
            remainder = record.removesuffix(b" [... cut by fastlog]")
            assert remainder != record and untruncated.startswith(remainder)
