"""JournalHandler: what is in an entry, its size, its arguments. With journald: test_journald.py."""
import fcntl
import logging
import re
import socket
import struct
import subprocess
import sys
import threading
from datetime import datetime

import loguru
import pytest
from hypothesis import HealthCheck, given, settings, strategies as st

import fastlog
from fastlog._frontend.journal_entry import OWN_FIELDS, field_name


@pytest.fixture
def handler(make_journal_handler, sink):
    return make_journal_handler(sink.path)


def fields_of(entry):
    """The fields of an entry, as systemd's description of the protocol says; each name once."""
    fields = {}
    while entry:
        line, end, entry = entry.partition(b"\n")
        assert end == b"\n"
        name, equals, value = line.partition(b"=")
        if not equals:
            size = struct.unpack("<Q", entry[:8])[0]
            value = entry[8:8 + size]
            assert entry[8 + size:9 + size] == b"\n"
            entry = entry[9 + size:]
        assert name.decode() not in fields
        fields[name.decode()] = value
    return fields


# --- what is in an entry -----------------------------------------------------------------------

def test_call_and_record_make_the_same_entry(handler, sink):
    """A call that makes no LogRecord tells of the same things as one that does."""
    fast = fastlog.Logger("a.b", logging.DEBUG)
    stock = logging.Logger("a.b", logging.DEBUG)
    for log in (fast, stock):
        log.addHandler(handler)
    handler.setFormatter(logging.Formatter("%(levelname)s %(message)s"))
    found = []
    for log in (fast, stock):
        log.warning("one\ntwo %d", 3)
        found.append(fields_of(sink.take_one()))
        datetime.fromisoformat(found[-1].pop("SYSLOG_TIMESTAMP").decode())
    assert found[0] == found[1]
    assert found[0]["MESSAGE"] == b"WARNING one\ntwo 3"


def test_a_formatter_of_the_programs_own(handler, sink, logger_for):
    class Formatter(logging.Formatter):
        def format(self, record):
            return "mine: " + record.getMessage()

    handler.setFormatter(Formatter())
    logger_for(handler).info("text", extra={"user": "me"})
    fields = fields_of(sink.take_one())
    assert (fields["MESSAGE"], fields["USER"]) == (b"mine: text", b"me")


def test_traceback_that_the_formatter_leaves_out(handler, sink, logger_for):
    """It has its field all the same, with loguru in front, too. What a formatter made is kept."""
    class Formatter(logging.Formatter):
        def format(self, record):
            return "mine"

    class Short(logging.Formatter):
        def formatException(self, ei):
            return "short"

    log = logger_for(handler)
    behind_loguru = loguru.logger.add(handler, format="{message}")
    found = []
    for formatter, say in ((Formatter(), log.exception), (Short(), log.exception),
                           (None, loguru.logger.exception)):
        handler.setFormatter(formatter)
        try:
            raise KeyError("a key")
        except KeyError:
            say("failed")
        found.append(fields_of(sink.take_one()))
    loguru.logger.remove(behind_loguru)
    mine, short, loguru_s = (each["EXCEPTION_TEXT"] for each in found)
    assert found[0]["MESSAGE"] == b"mine" and short == b"short"
    for text in mine, loguru_s:
        assert text.startswith(b"Traceback (most") and text.endswith(b"KeyError: 'a key'")


def test_overridden_steps(make_handler, sink, logger_for):
    """A subclass that overrides a step is asked, and its answer is what is sent."""
    class Handler(fastlog.JournalHandler):
        def mapPriority(self, levelName):
            return "crit"

        def format(self, record):
            return "formatted"

    handler = make_handler(sink.path, cls=Handler, ident="x", facility="mail")
    logger_for(handler).info("text", extra={"user": "me"})
    fields = fields_of(sink.take_one())
    assert (fields["MESSAGE"], fields["PRIORITY"], fields["SYSLOG_FACILITY"],
            fields["USER"]) == (b"formatted", b"2", b"2", b"me")


def test_thread_name(handler, sink, logger_for):
    thread = threading.Thread(target=logger_for(handler).info, args=("x",), name="two\nlines")
    thread.start()
    thread.join()
    assert fields_of(sink.take_one())["THREAD_NAME"] == b"two\nlines"


def test_extra_in_the_place_of_a_field(make_journal_handler, sink, logger_for):
    handler = make_journal_handler(sink.path, fields={"A": "always", "B": "always"})
    log = logger_for(handler)
    log.info("1", extra={"a": "this time"})
    log.info("2")
    first, second = map(fields_of, sink.take(2))
    assert (first["A"], first["B"], second["A"]) == (b"this time", b"always", b"always")


@pytest.mark.parametrize("attribute, name", [
    ("order_id", "ORDER_ID"), ("Größe in mm", "GR_SSE_IN_MM"), ("1st", "X_1ST"),
    ("_private", "X__PRIVATE"), ("", "X_"), ("message", "X_MESSAGE"), ("a" * 70, "A" * 64),
    ("a\nMESSAGE=b", "A_MESSAGE_B"), (7, "X_7")])
def test_names_made_valid(attribute, name):
    assert field_name(attribute) == name


class Unprintable:
    def __str__(self):
        raise RuntimeError("no")


def test_values_of_any_type(handler, sink, logger_for, capsys):
    """None keeps the record from being sent, nor does one raise into the program."""
    logger_for(handler).info("m", extra={
        "bytes_": b"\0\n", "array": bytearray(b"a"), "view": memoryview(b"b"), "none": None,
        "number": 1.5, "list": [1, "x"], "surrogate": "\udc80", "bad": Unprintable(), "": 1,
        "priority": "mine"})
    fields = fields_of(sink.take_one())
    assert capsys.readouterr().err == ""
    assert {name: value for name, value in fields.items() if name not in OWN_FIELDS} == {
        "BYTES_": b"\0\n", "ARRAY": b"a", "VIEW": b"b", "NONE": b"None", "NUMBER": b"1.5",
        "LIST": b"[1, 'x']", "SURROGATE": b"\\udc80", "BAD": b"<Unprintable without a str()>",
        "X_": b"1", "X_PRIORITY": b"mine"}
    assert fields["PRIORITY"] == b"6"


class Text(str):
    """Not to be asked for what a str can do."""

    def __str__(self):
        return self

    def encode(self, *_):
        raise RuntimeError("no")

    upper = __hash__ = __eq__ = encode
    __hash__ = str.__hash__


class Bytes(bytes):
    def __bytes__(self):
        return self


def test_values_that_do_not_behave(handler, sink, logger_for, capsys):
    """What a value's own methods do to a call keeps no record back."""
    released = memoryview(b"x")
    released.release()
    record = logging.makeLogRecord({"msg": "m", "text": Text("t"), "bytes_": Bytes(b"b"),
                                    "view": released})
    vars(record)[Unprintable()] = 1
    vars(record)[Text("own")] = 2
    handler.handle(record)
    fields = fields_of(sink.take_one())
    assert capsys.readouterr().err == ""
    assert fields.pop("VIEW").startswith(b"<released memory")
    assert {name: value for name, value in fields.items() if name not in OWN_FIELDS} == {
        "TEXT": b"t", "BYTES_": b"b", "OWN": b"2",
        "X__UNPRINTABLE_WITHOUT_A_STR___": b"1"}


def test_attributes_of_any_type(handler, sink, capsys):
    """makeLogRecord() takes anything for what a record has by itself."""
    class Attributes(dict):
        pass

    record = logging.makeLogRecord({
        "msg": "m", "name": Text("logger"), "pathname": b"\xff\n", "lineno": 10 ** 5000,
        "funcName": Unprintable(), "threadName": ["a"], "exc_text": ""})
    record.__dict__ = Attributes(vars(record))
    handler.handle(record)
    fields = fields_of(sink.take_one())
    assert capsys.readouterr().err == ""
    assert fields["LOGGER"] == b"logger" and fields["CODE_FILE"] == b"\xff\n"
    assert fields["CODE_FUNC"] == b"<Unprintable without a str()>"
    assert fields["THREAD_NAME"] == b"['a']" and "EXCEPTION_TEXT" not in fields


@pytest.mark.parametrize("created", [
    None, float("nan"), float("inf"), -float("inf"), -1.5, 1e300, 10 ** 400, "x"], ids=repr)
def test_time_that_is_none(handler, sink, created):
    """In the place of a time that cannot be written stands that of the sending."""
    before = datetime.now().astimezone()
    handler.handle(logging.makeLogRecord({"msg": "m", "created": created}))
    fields = fields_of(sink.take_one())
    assert before <= datetime.fromisoformat(fields["SYSLOG_TIMESTAMP"].decode())


def test_ident_taken_away(handler, sink, logger_for):
    log = logger_for(handler)
    for handler.ident in "first", None, "last", "":
        log.info("x")
    assert [fields_of(entry).get("SYSLOG_IDENTIFIER") for entry in sink.take(4)] == [
        b"first", None, b"last", None]


def test_format_and_message_of_many_pieces(run_python, sink):
    """The longest format that is compiled, and a message with as many conversions."""
    run_python("""
import logging, sys, fastlog
handler = fastlog.JournalHandler(sys.argv[1], ident="x")
handler.setFormatter(logging.Formatter("|".join(
    ["%(asctime)s", *["%(levelname)s"] * 10, "%(message)s"])))
log = fastlog.Logger("two\\nlines")
log.addHandler(handler)
message = " ".join(["%s"] * 14) + "."     # compiled when it comes again
for _ in range(3):
    log.info(message, *"abcdefghijklmn")
    assert handler.flush(20)
""", sink.path)
    for entry in sink.take(3):
        fields = fields_of(entry)
        assert fields["MESSAGE"].endswith(b"INFO|" * 10 + b"a b c d e f g h i j k l m n.")
        assert fields["LOGGER"] == b"two\nlines"


NAME = st.text(max_size=80)


@settings(max_examples=200, deadline=None,
          suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(extra=st.dictionaries(NAME, st.text() | st.binary() | st.integers() | st.none(), max_size=5),
       message=st.text())
def test_any_extra_is_made_valid(handler, sink, extra, message):
    """Whatever the names and values: one entry that can be taken apart, with all values in it."""
    record = logging.makeLogRecord({"msg": message.replace("%", ""), "levelname": "INFO"})
    standard = {*vars(record), "message", "asctime", "taskName"}
    # Of two that come out alike, which would be two values of one field, only one.
    alike = {field_name(name): name for name in extra if name not in standard}
    extra = {name: extra[name] for name in alike.values()}
    vars(record).update(extra)
    handler.handle(record)
    fields = fields_of(sink.take_one())
    assert fields["MESSAGE"] == record.msg.encode("utf-8", "backslashreplace")
    for name, value in extra.items():
        name = field_name(name)
        assert name.isascii() and name == name.upper() and name[0].isalpha() and len(name) <= 64
        expected = value if isinstance(value, bytes) else str(value).encode(
            "utf-8", "backslashreplace")
        assert fields[name] == expected


# --- sizes -------------------------------------------------------------------------------------

def take_file(sink):
    """The content of a datagram that is empty but for a file with all its seals."""
    data, files, _, _ = socket.recv_fds(sink.socket, 100, 2)
    assert data == b"" and len(files) == 1
    with open(files[0], "rb") as file:
        assert fcntl.fcntl(file, fcntl.F_GET_SEALS) == (
            fcntl.F_SEAL_SEAL | fcntl.F_SEAL_SHRINK | fcntl.F_SEAL_GROW | fcntl.F_SEAL_WRITE)
        return file.read()


def test_too_long_for_a_datagram(handler, sink, logger_for):
    logger_for(handler).info("x" * 500_000, extra={"blob": bytes(100_000)})
    fields = fields_of(take_file(sink))
    assert fields["MESSAGE"] == b"x" * 500_000 and fields["BLOB"] == bytes(100_000)


def test_no_descriptor_left_for_a_file(run_python, sink):
    """It is tried for a while; then the entry goes in a buffer that is large enough."""
    run_python("""
import contextlib, errno, logging, os, resource, sys, fastlog
handler = fastlog.JournalHandler(sys.argv[1], ident="x")
log = logging.Logger("x")
log.addHandler(handler)
log.info("small")
assert handler.flush(20)                     # connected
resource.setrlimit(resource.RLIMIT_NOFILE, (50, 50))
taken = []
with contextlib.suppress(OSError):
    while True:
        taken.append(os.dup(0))
log.info("x" * 300_000)
assert handler.flush(20)
stats = handler.stats()
assert stats.send_errors == 10 and stats.last_errno == errno.EMFILE, stats
assert stats.truncated == stats.discarded == stats.reconnects == 0, stats
os.close(taken.pop())
log.info("y" * 1_000_000)
assert handler.flush(20)
""", sink.path)
    assert [fields_of(each)["MESSAGE"] for each in sink.take(2)] == [b"small", b"x" * 300_000]
    assert fields_of(take_file(sink))["MESSAGE"] == b"y" * 1_000_000


def test_too_long_for_the_ring(make_journal_handler, sink, logger_for):
    """Text and extra are shortened, with the mark, and what is left is an entry."""
    handler = make_journal_handler(sink.path, capacity=1 << 20)
    log = logger_for(handler)
    log.info("\N{EURO SIGN}" * 1_000_000)
    log.info("short", extra={"a": "first", "b": "\N{EURO SIGN}" * 1_000_000, "c": "last"})
    log.info("\N{EURO SIGN}" * 1_000_000, extra={"b": "\N{EURO SIGN}" * 1_000_000})
    mark = b" [... cut by fastlog]"
    first, second, third = (fields_of(take_file(sink)) for _ in range(3))
    assert len(first["MESSAGE"]) > 300_000 and first["MESSAGE"].endswith(mark)
    assert first["LOGGER"] == b"test"
    assert (second["MESSAGE"], second["A"]) == (b"short", b"first")
    assert len(second["B"]) > 200_000 and second["B"].endswith(mark) and second["C"] == mark
    second["B"][:-len(mark)].decode()
    assert len(third["MESSAGE"]) > 100_000 and len(third["B"]) > 200_000
    assert handler.stats().truncated == 3


def test_traceback_too_long_for_the_ring(make_journal_handler, sink, logger_for):
    """It is in an entry twice; both are shortened, and what `extra` brings is there."""
    handler = make_journal_handler(sink.path, capacity=1 << 20)
    try:
        raise ValueError("line\n" * 100_000)
    except ValueError:
        logger_for(handler).exception("failed", extra={"order_id": 7})
    fields = fields_of(take_file(sink))
    mark = b" [... cut by fastlog]"
    assert fields["MESSAGE"].endswith(mark) and fields["EXCEPTION_TEXT"].endswith(mark)
    assert len(fields["MESSAGE"]) > 300_000 and len(fields["EXCEPTION_TEXT"]) > 100_000
    assert fields["ORDER_ID"] == b"7" and handler.stats().truncated == 1


def test_long_names_cost_only_themselves(make_journal_handler, sink, directory):
    """Even where a field of our own is too long for the ring, MESSAGE arrives."""
    handler = make_journal_handler(sink.path, capacity=1 << 16)
    log = logging.Logger("n" * 100_000)
    log.addHandler(handler)
    log.info("text")
    entry = sink.take_one()
    assert entry.startswith(b"MESSAGE=text\nSYSLOG_IDENTIFIER=") and len(entry) <= 1 << 15


# --- arguments ---------------------------------------------------------------------------------

@pytest.mark.parametrize("options, error, said", [
    ({"ident": "two words"}, ValueError, "ident must be"),
    ({"ident": "line\n"}, ValueError, "ident must be"),
    ({"ident": 1}, TypeError, "ident must be"),
    ({"fields": 1}, TypeError, "fields must be a mapping"),
    ({"fields": {"_PID": "1"}}, ValueError, "'_PID'"),
    ({"fields": {"1A": "1"}}, ValueError, "'1A'"),
    ({"fields": {"A B": "1"}}, ValueError, "'A B'"),
    ({"fields": {"\N{LATIN SMALL LETTER SHARP S}": "1"}}, ValueError, "ASCII"),
    ({"fields": {"a": "1", "A": "2"}}, ValueError, "A twice"),
    ({"fields": {"": "1"}}, ValueError, "''"),
    ({"fields": {1: "1"}}, ValueError, "names"),
    ({"fields": {"A" * 65: "1"}}, ValueError, "64"),
    ({"fields": {"Priority": "1"}}, ValueError, "Priority"),
    ({"fields": {"A": None}}, TypeError, "fields\\['A'\\]"),
    ({"fields": {f"A{i}": 1 for i in range(1001)}}, ValueError, "at most 1000"),
    ({"facility": "nonsense"}, ValueError, "facility"),
    ({"fallback": 1}, TypeError, "fallback"),
    ({"overflow": "never"}, ValueError, "overflow"),
    ({"address": ("host", 514)}, TypeError, "address"),
    ({"address": ""}, ValueError, "address"),
])
def test_bad_arguments(options, error, said):
    options = {"address": "/nowhere", **options}
    with pytest.raises(error, match=said):
        fastlog.JournalHandler(options.pop("address"), **options)


def test_dict_config(run_python, sink):
    run_python("""
import logging.config, sys
logging.config.dictConfig({
    "version": 1,
    "handlers": {"journal": {"class": "fastlog.JournalHandler", "address": sys.argv[1],
                             "ident": "billing", "fields": {"SHARD": 7}}},
    "root": {"level": "INFO", "handlers": ["journal"]}})
logging.info("configured")
""", sink.path)
    fields = fields_of(sink.take_one())
    assert (fields["MESSAGE"], fields["SYSLOG_IDENTIFIER"], fields["SHARD"]) == (
        b"configured", b"billing", b"7")


@pytest.mark.parametrize("name, arguments, ident", [
    ("my program.py", ["my program.py"], b"my_program.py"),
    ("shop/__main__.py", ["-m", "shop"], b"shop"),
    ("shop/__init__.py", ["-m", "shop"], b"python"),      # before there is a name
    ("shop.py", ["-m", "shop"], b"shop.py"),
    ("shop.py", ["-c", "import shop"], b"python")])
def test_default_ident_is_the_program(sink, tmp_path, name, arguments, ident):
    program = tmp_path / name
    program.parent.mkdir(exist_ok=True)
    program.write_text("import sys, logging, fastlog\n"
                       "logging.root.addHandler(fastlog.JournalHandler(sys.argv[1]))\n"
                       "logging.warning('x')\n")
    if name == "shop/__init__.py":
        (program.parent / "__main__.py").touch()
    subprocess.run([sys.executable, *arguments, sink.path], check=True, timeout=30, cwd=tmp_path)
    assert fields_of(sink.take_one())["SYSLOG_IDENTIFIER"] == ident


def test_fallback(make_journal_handler, make_sink, directory, monkeypatch, logger_for):
    """Without journald to syslog; with it, and by default, to journald."""
    sink = make_sink()
    monkeypatch.setattr("fastlog._validation.DEFAULT_PATHS", (sink.path,))
    handler = make_journal_handler(directory / "missing", fallback=True, facility="local0")
    log = logger_for(handler)
    log.info("to syslog %d", 1, extra={"a": 1})
    assert sink.take_one() == b"<134>test-journal: to syslog 1\0"
    for handler.ident, sent in ("other", b"<134>other: m\0"), (None, b"<134>m\0"):
        log.info("m")
        assert sink.take_one() == sent
    journal = make_sink(directory / "journal")
    logger_for(make_journal_handler(journal.path, fallback=True)).info("to journald")
    assert fields_of(journal.take_one())["MESSAGE"] == b"to journald"
    waiting = make_journal_handler(directory / "later")
    logger_for(waiting).info("waits")
    later = make_sink(directory / "later")
    assert fields_of(later.take_one())["MESSAGE"] == b"waits"


def test_notice_of_losses(make_journal_handler, sink, logger_for, capsys):
    """What was lost is said in the journal, as an entry."""
    handler = make_journal_handler(sink.path, capacity=1 << 12, overflow="drop_new")
    log = logger_for(handler)
    sink.hang()
    for _ in range(200):
        log.info("x" * 100)
    lost = handler.stats().dropped
    assert lost
    entries = []
    while not handler.flush(0.0) or not sink.is_empty():
        if not sink.is_empty():
            entries.append(fields_of(sink.take_one()))
    notices = [entry for entry in entries if entry["LOGGER"] == b"fastlog"]
    told = [int(re.match(rb"fastlog: (\d+) messages lost", each["MESSAGE"])[1])
            for each in notices]
    assert sum(told) == lost and notices[0]["PRIORITY"] == b"4"
    assert len(entries) == 200 - lost + len(notices)


def test_spool(make_journal_handler, make_sink, directory, run_python):
    """Entries that were not sent are sent by the next handler, large ones as files."""
    path = directory / "journal"
    run_python("""
import logging, os, sys, fastlog
log = logging.getLogger()
log.addHandler(fastlog.JournalHandler(sys.argv[1], ident="x", spool=sys.argv[2]))
log.warning("small\\nentry", extra={"a": 1})
log.warning("x" * 300_000)
os._exit(0)
""", path, directory / "spool", stderr=re.compile(""))
    sink = make_sink(path)
    logging.raiseExceptions, before = False, logging.raiseExceptions
    make_journal_handler(path, spool=directory / "spool")
    logging.raiseExceptions = before
    assert fields_of(sink.take_one())["A"] == b"1"
    assert fields_of(take_file(sink))["MESSAGE"] == b"x" * 300_000
