"""Any bytes in a spool, and any text on a stream: neither crashes, and neither forges a record."""
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
HEADER_END = 512  # what comes behind it in the first page are the ring's positions

pytestmark = pytest.mark.timeout(300)

fuzz = settings(max_examples=200, deadline=None, derandomize=True, database=None,
                suppress_health_check=list(HealthCheck))

# Looks at spools as `fastlog recover --dry-run` does: a path in, what it found out.
LOOK = """
import json, sys
from fastlog._spool.file import Spool
from fastlog._engine.spool_reader import read_records
from fastlog.cli.recover import make_engine
for line in sys.stdin:
    try:
        spool = Spool.open_existing(line[:-1], read_only=True)
        engine = spool.capacity and make_engine(spool.destination, spool.capacity, spool)
        found = [record.decode("latin-1") for record in read_records(engine)] if engine else []
    except OSError as error:
        found = str(error)
    engine = spool = None
    print(json.dumps(found), flush=True)
"""


@pytest.fixture(scope="module")
def look():
    """A process of its own: if it crashes, the test says so; if it loops, the time limit does."""
    with subprocess.Popen([sys.executable, "-c", LOOK], text=True, stdin=subprocess.PIPE,
                          stdout=subprocess.PIPE) as process:
        def ask(path):
            process.stdin.write(f"{path}\n")
            process.stdin.flush()
            answer = process.stdout.readline()
            assert answer, f"it crashed: {process.wait()}"
            return json.loads(answer)

        yield ask
        process.kill()


# --- spools --------------------------------------------------------------------------------------

TEXTS = [f"{i} " + "xyz" * (i * 7 % 60) for i in range(60)]


def span_of(record):
    return (WORD + len(record) + WORD - 1) // WORD * WORD


@pytest.fixture(scope="module")
def valid(tmp_path_factory):
    """(the bytes of a spool, its records, where in the file each begins)."""
    directory = tmp_path_factory.mktemp("spool")
    path = directory / "valid"
    handler = fastlog.SysLogHandler(directory / "nobody", spool=path, capacity=CAPACITY)
    log = logging.Logger("x")
    log.addHandler(handler)
    for text in TEXTS:
        log.info(text)
    content = path.read_bytes()
    handler._tell = lambda text: None       # that nobody takes them
    handler.close(0.0)
    records = [f"<14>{text}\0" for text in TEXTS]
    places, place = [], PAGE
    for record in records:
        places.append(place)
        place += span_of(record)
    return content, records, places


def write(path, content):
    path.write_bytes(content)
    path.chmod(0o600)


def test_valid_spool(valid, look, tmp_path):
    """So that the tests below mean something."""
    content, records, _ = valid
    write(tmp_path / "spool", content)
    assert look(tmp_path / "spool") == records


patches = st.one_of(st.binary(min_size=1, max_size=40),
                    st.integers(0, 2**64 - 1).map(lambda word: struct.pack("=Q", word)),
                    st.integers(0, 2**14).map(lambda word: struct.pack("=Q", word | 1 << 63)))


@fuzz
@given(data=st.data())
def test_damaged_records(valid, look, tmp_path, data):
    """Where only records were edited, all others are there, in order."""
    content, records, places = valid
    edited = bytearray(content)
    end = places[-1] + span_of(records[-1])
    touched = set()
    for _ in range(data.draw(st.integers(1, 5))):
        patch = data.draw(patches)
        place = data.draw(st.one_of(st.integers(PAGE, end - 1), st.sampled_from(places)))
        patch = patch[:end - place]
        edited[place:place + len(patch)] = patch
        touched.update(range(place, place + len(patch)))
    write(tmp_path / "spool", edited)
    found = iter(look(tmp_path / "spool"))
    for record, place in zip(records, places, strict=True):
        if touched.isdisjoint(range(place, place + span_of(record))):
            assert any(record == each for each in found), record


def test_damaged_lengths(valid, look, tmp_path):
    """A record whose length was changed takes none of its neighbours along."""
    content, records, places = valid
    for i, place in enumerate(places[:-1]):
        edited = bytearray(content)
        length = len(records[i]) + span_of(records[i + 1])   # as if the next one were its text
        edited[place:place + 4] = struct.pack("=I", length)
        write(tmp_path / "spool", edited)
        assert look(tmp_path / "spool") == records[:i] + records[i + 1:]


@fuzz
@given(data=st.data())
def test_any_damage(valid, look, tmp_path, data):
    """Positions, header, length of the file, anything: an OSError with a message, or a list."""
    edited = bytearray(valid[0])
    words = st.one_of(patches, st.integers(0, CAPACITY).map(lambda n: struct.pack("=Q", n)))
    for _ in range(data.draw(st.integers(1, 5))):
        place = data.draw(st.one_of(
            st.integers(0, HEADER_END), st.integers(0, len(edited) - 1),
            st.integers(0, 2).map(lambda i: HEADER_END + 64 * i)))   # head, tail, done
        patch = data.draw(words)
        edited[place:place + len(patch)] = patch
    if data.draw(st.booleans()):
        del edited[data.draw(st.integers(0, len(edited))):]
    write(tmp_path / "spool", edited)
    found = look(tmp_path / "spool")
    assert isinstance(found, list) or "spool" in found


@fuzz
@given(content=st.binary(min_size=1, max_size=2000))
def test_any_file(look, tmp_path, content):
    write(tmp_path / "spool", content)
    assert "spool" in look(tmp_path / "spool")


# --- streams -------------------------------------------------------------------------------------

def parse_octet_counting(stream):
    """RFC 6587 section 3.4.1, strictly."""
    records = []
    while stream:
        length, space, stream = stream.partition(b" ")
        assert space and length.isdigit() and length[:1] != b"0", length
        assert len(stream) >= int(length)
        records.append(stream[:int(length)])
        stream = stream[int(length):]
    return records


def parse_ended_by(end):
    """RFC 6587 section 3.4.2: each record ends with this byte."""
    def parse(stream):
        records = stream.split(end)
        assert records.pop() == b""
        return records
    return parse


PARSERS = {"octet-counting": parse_octet_counting, "newline": parse_ended_by(b"\n"),
           None: parse_ended_by(b"\0")}


def escaped(text):
    return text.encode("utf-8", "surrogateescape").replace(b"\n", b"#012").replace(b"\0", b"#000")


def send(framing, max_size, ident, texts):
    """What is on the wire after these were logged."""
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
    """A strict parser gets back exactly the records that were logged."""
    records = PARSERS[framing](send(framing, max_size, ident, texts))
    assert len(records) == len(texts)
    for record, text in zip(records, texts, strict=True):
        message = ident + text
        whole = b"<14>" + (message.encode() if framing == "octet-counting" else escaped(message))
        if max_size is None or len(whole) + (framing is None) <= max_size:
            assert record == whole
        else:
            assert len(record) + (framing is None) <= max_size
            cut = record.removesuffix(b" [... cut by fastlog]")
            assert cut != record and whole.startswith(cut)
