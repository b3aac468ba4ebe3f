"""JournalHandler: the content and size of its entries, and its constructor arguments.

The tests with a real journald are in test_journald.py.
"""
import fcntl
import logging
import re
import socket
import struct
import subprocess
import sys
import threading
import uuid
from datetime import datetime

import loguru
import pytest
from hypothesis import HealthCheck, given, settings, strategies as st

import fastlog
from fastlog._frontend.journal_entry import OWN_FIELDS, field_name


@pytest.fixture
def handler(make_journal_handler, sink):
    return make_journal_handler(sink.path)


def parse_entry(entry):
    """Parse an entry of journald's native protocol into a dict and assert that names are unique."""
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


# --- content of an entry -----------------------------------------------------------------------

def test_entry_is_the_same_with_and_without_a_log_record(handler, sink):
    """A call that creates no LogRecord sends the same fields as one that does."""
    fastlog_logger = fastlog.Logger("a.b", logging.DEBUG)
    stdlib_logger = logging.Logger("a.b", logging.DEBUG)
    for log in (fastlog_logger, stdlib_logger):
        log.addHandler(handler)
    handler.setFormatter(logging.Formatter("%(levelname)s %(message)s"))
    entries = []
    for log in (fastlog_logger, stdlib_logger):
        log.warning("one\ntwo %d", 3)
        entries.append(parse_entry(sink.take_one()))
        datetime.fromisoformat(entries[-1].pop("SYSLOG_TIMESTAMP").decode())
    assert entries[0] == entries[1]
    assert entries[0]["MESSAGE"] == b"WARNING one\ntwo 3"


def test_custom_formatter_determines_the_message(handler, sink, logger_for):
    """A custom formatter determines MESSAGE and leaves the other fields as they are."""
    class Formatter(logging.Formatter):
        def format(self, record):
            return "mine: " + record.getMessage()

    handler.setFormatter(Formatter())
    logger_for(handler).info("text", extra={"user": "me"})
    fields = parse_entry(sink.take_one())
    assert (fields["MESSAGE"], fields["USER"]) == (b"mine: text", b"me")


def test_traceback_is_sent_if_the_formatter_omits_it(handler, sink, logger_for):
    """EXCEPTION_TEXT holds the traceback even if the formatter omits it or loguru sent the record.

    If the formatter formatted the exception itself, EXCEPTION_TEXT holds the formatter's text.
    """
    class Formatter(logging.Formatter):
        def format(self, record):
            return "mine"

    class Short(logging.Formatter):
        def formatException(self, ei):
            return "short"

    log = logger_for(handler)
    loguru_sink = loguru.logger.add(handler, format="{message}")
    entries = []
    for formatter, log_exception in ((Formatter(), log.exception), (Short(), log.exception),
                                     (None, loguru.logger.exception)):
        handler.setFormatter(formatter)
        try:
            raise KeyError("a key")
        except KeyError:
            log_exception("failed")
        entries.append(parse_entry(sink.take_one()))
    loguru.logger.remove(loguru_sink)
    omitted, short, from_loguru = (entry["EXCEPTION_TEXT"] for entry in entries)
    assert entries[0]["MESSAGE"] == b"mine" and short == b"short"
    for text in omitted, from_loguru:
        assert text.startswith(b"Traceback (most") and text.endswith(b"KeyError: 'a key'")


def test_overridden_methods_determine_the_entry(make_handler, sink, logger_for):
    """The entry contains the results of a subclass's format and mapPriority."""
    class Handler(fastlog.JournalHandler):
        def mapPriority(self, levelName):
            return "crit"

        def format(self, record):
            return "formatted"

    handler = make_handler(sink.path, cls=Handler, ident="x", facility="mail")
    logger_for(handler).info("text", extra={"user": "me"})
    fields = parse_entry(sink.take_one())
    assert (fields["MESSAGE"], fields["PRIORITY"], fields["SYSLOG_FACILITY"],
            fields["USER"]) == (b"formatted", b"2", b"2", b"me")


def test_thread_name_is_sent(handler, sink, logger_for):
    """THREAD_NAME holds the name of the calling thread, including its newlines."""
    thread = threading.Thread(target=logger_for(handler).info, args=("x",), name="two\nlines")
    thread.start()
    thread.join()
    assert parse_entry(sink.take_one())["THREAD_NAME"] == b"two\nlines"


@pytest.mark.parametrize("name", ["MESSAGE_ID", "message_id", "INVOCATION_ID"])
def test_id_given_as_a_uuid(make_journal_handler, sink, logger_for, name):
    """A UUID as an id of the journal is sent as 32 hexadecimal digits, from extra and fields.

    systemd.journal-fields(7) requires that form, and the message catalog looks for it.
    """
    number = uuid.UUID("8d45620c1a4348dbb17410da57c60c66")
    for handler, extra in ((make_journal_handler(sink.path), {name: number}),
                           (make_journal_handler(sink.path, fields={name: number}), {})):
        logger_for(handler).info("x", extra=extra)
        assert parse_entry(sink.take_one())[name.upper()] == b"8d45620c1a4348dbb17410da57c60c66"


def test_other_values_of_ids_and_other_uuids(handler, log, sink):
    """An id that is not a UUID, and a UUID in another field, are sent as their str()."""
    number = uuid.UUID(int=1)

    class UUID:
        hex = property(lambda self: 7)
        __str__ = lambda self: "odd"  # noqa: E731

    log.info("x", extra={"MESSAGE_ID": str(number), "ORDER": number})
    fields = parse_entry(sink.take_one())
    assert (fields["MESSAGE_ID"], fields["ORDER"]) == (str(number).encode(), str(number).encode())
    log.info("x", extra={"MESSAGE_ID": UUID()})
    assert parse_entry(sink.take_one())["MESSAGE_ID"] == b"odd"


def test_extra_overrides_a_constant_field(make_journal_handler, sink, logger_for):
    """A value in `extra` replaces the handler's constant field of that name for one entry."""
    handler = make_journal_handler(sink.path, fields={"A": "always", "B": "always"})
    log = logger_for(handler)
    log.info("1", extra={"a": "this time"})
    log.info("2")
    first, second = map(parse_entry, sink.take(2))
    assert (first["A"], first["B"], second["A"]) == (b"this time", b"always", b"always")


@pytest.mark.parametrize("attribute, name", [
    ("order_id", "ORDER_ID"), ("Größe in mm", "GR_SSE_IN_MM"), ("1st", "X_1ST"),
    ("_private", "X__PRIVATE"), ("", "X_"), ("message", "X_MESSAGE"), ("a" * 70, "A" * 64),
    ("a\nMESSAGE=b", "A_MESSAGE_B"), (7, "X_7")])
def test_field_names_are_sanitized(attribute, name):
    """An attribute's name becomes a valid field name that does not clash with a handler's field."""
    assert field_name(attribute) == name


class Unprintable:
    def __str__(self):
        raise RuntimeError("no")


def test_values_of_any_type_are_sent(handler, sink, logger_for, capsys):
    """A value of any type is sent, and none raises an exception into the program."""
    logger_for(handler).info("m", extra={
        "bytes_": b"\0\n", "array": bytearray(b"a"), "view": memoryview(b"b"), "none": None,
        "number": 1.5, "list": [1, "x"], "surrogate": "\udc80", "bad": Unprintable(), "": 1,
        "priority": "mine"})
    fields = parse_entry(sink.take_one())
    assert capsys.readouterr().err == ""
    assert {name: value for name, value in fields.items() if name not in OWN_FIELDS} == {
        "BYTES_": b"\0\n", "ARRAY": b"a", "VIEW": b"b", "NONE": b"None", "NUMBER": b"1.5",
        "LIST": b"[1, 'x']", "SURROGATE": b"\\udc80", "BAD": b"<Unprintable without a str()>",
        "X_": b"1", "X_PRIORITY": b"mine"}
    assert fields["PRIORITY"] == b"6"


class Text(str):
    """A str whose methods raise."""

    def __str__(self):
        return self

    def encode(self, *_):
        raise RuntimeError("no")

    upper = __hash__ = __eq__ = encode
    __hash__ = str.__hash__


class Bytes(bytes):
    def __bytes__(self):
        return self


def test_misbehaving_values_are_sent(handler, sink, logger_for, capsys):
    """A record is sent even if methods of its names or values raise."""
    released = memoryview(b"x")
    released.release()
    record = logging.makeLogRecord({"msg": "m", "text": Text("t"), "bytes_": Bytes(b"b"),
                                    "view": released})
    vars(record)[Unprintable()] = 1
    vars(record)[Text("own")] = 2
    handler.handle(record)
    fields = parse_entry(sink.take_one())
    assert capsys.readouterr().err == ""
    assert fields.pop("VIEW").startswith(b"<released memory")
    assert {name: value for name, value in fields.items() if name not in OWN_FIELDS} == {
        "TEXT": b"t", "BYTES_": b"b", "OWN": b"2",
        "X__UNPRINTABLE_WITHOUT_A_STR___": b"1"}


def test_standard_attributes_of_any_type_are_sent(handler, sink, capsys):
    """A standard attribute may have any type, because makeLogRecord() accepts any."""
    class Attributes(dict):
        pass

    record = logging.makeLogRecord({
        "msg": "m", "name": Text("logger"), "pathname": b"\xff\n", "lineno": 10 ** 5000,
        "funcName": Unprintable(), "threadName": ["a"], "exc_text": ""})
    record.__dict__ = Attributes(vars(record))
    handler.handle(record)
    fields = parse_entry(sink.take_one())
    assert capsys.readouterr().err == ""
    assert fields["LOGGER"] == b"logger" and fields["CODE_FILE"] == b"\xff\n"
    assert fields["CODE_FUNC"] == b"<Unprintable without a str()>"
    assert fields["THREAD_NAME"] == b"['a']" and "EXCEPTION_TEXT" not in fields


@pytest.mark.parametrize("created", [
    None, float("nan"), float("inf"), -float("inf"), -1.5, 1e300, 10 ** 400, "x"], ids=repr)
def test_invalid_time_is_replaced(handler, sink, created):
    """If a record's time cannot be formatted, SYSLOG_TIMESTAMP holds the current time."""
    before = datetime.now().astimezone()
    handler.handle(logging.makeLogRecord({"msg": "m", "created": created}))
    fields = parse_entry(sink.take_one())
    assert before <= datetime.fromisoformat(fields["SYSLOG_TIMESTAMP"].decode())


def test_ident_may_be_removed(handler, sink, logger_for):
    """An ident that is None or empty leaves SYSLOG_IDENTIFIER out."""
    log = logger_for(handler)
    for handler.ident in "first", None, "last", "":
        log.info("x")
    assert [parse_entry(entry).get("SYSLOG_IDENTIFIER") for entry in sink.take(4)] == [
        b"first", None, b"last", None]


def test_format_and_message_of_many_pieces(run_python, sink):
    """The longest formats and messages that are compiled fit into an entry."""
    run_python("""
import logging, sys, fastlog
handler = fastlog.JournalHandler(sys.argv[1], ident="x")
handler.setFormatter(logging.Formatter("|".join(
    ["%(asctime)s", *["%(levelname)s"] * 10, "%(message)s"])))
log = fastlog.Logger("two\\nlines")
log.addHandler(handler)
message = " ".join(["%s"] * 14) + "."     # compiled at its second use
for _ in range(3):
    log.info(message, *"abcdefghijklmn")
    assert handler.flush(20)
""", sink.path)
    for entry in sink.take(3):
        fields = parse_entry(entry)
        assert fields["MESSAGE"].endswith(b"INFO|" * 10 + b"a b c d e f g h i j k l m n.")
        assert fields["LOGGER"] == b"two\nlines"


NAME = st.text(max_size=80)


@pytest.mark.slow
@settings(max_examples=200, deadline=None,
          suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(extra=st.dictionaries(NAME, st.text() | st.binary() | st.integers() | st.none(), max_size=5),
       message=st.text())
def test_arbitrary_extra_makes_a_valid_entry(handler, sink, extra, message):
    """Any names and values in `extra` make one entry that can be parsed and contains them all."""
    record = logging.makeLogRecord({"msg": message.replace("%", ""), "levelname": "INFO"})
    standard = {*vars(record), "message", "asctime", "taskName"}
    # Names that map to the same field name would be two values of one field, so only one is used.
    unique_names = {field_name(name): name for name in extra if name not in standard}
    extra = {name: extra[name] for name in unique_names.values()}
    vars(record).update(extra)
    handler.handle(record)
    fields = parse_entry(sink.take_one())
    assert fields["MESSAGE"] == record.msg.encode("utf-8", "backslashreplace")
    for name, value in extra.items():
        name = field_name(name)
        assert name.isascii() and name == name.upper() and name[0].isalpha() and len(name) <= 64
        expected = value if isinstance(value, bytes) else str(value).encode(
            "utf-8", "backslashreplace")
        assert fields[name] == expected


# --- sizes -------------------------------------------------------------------------------------

def take_file(sink):
    """Receive an empty datagram with a sealed file attached and return the file's content."""
    data, files, _, _ = socket.recv_fds(sink.socket, 100, 2)
    assert data == b"" and len(files) == 1
    with open(files[0], "rb") as file:
        assert fcntl.fcntl(file, fcntl.F_GET_SEALS) == (
            fcntl.F_SEAL_SEAL | fcntl.F_SEAL_SHRINK | fcntl.F_SEAL_GROW | fcntl.F_SEAL_WRITE)
        return file.read()


def test_entry_too_long_for_a_datagram_is_sent_as_a_file(handler, sink, logger_for):
    """An entry that is too long for a datagram is passed to journald as a sealed file."""
    logger_for(handler).info("x" * 500_000, extra={"blob": bytes(100_000)})
    fields = parse_entry(take_file(sink))
    assert fields["MESSAGE"] == b"x" * 500_000 and fields["BLOB"] == bytes(100_000)


def test_large_entry_is_sent_without_a_free_descriptor(run_python, sink):
    """If no descriptor is free for the file, the entry is sent as a datagram after ten attempts.

    The socket's send buffer is enlarged for it.
    """
    run_python("""
import contextlib, errno, logging, os, resource, sys, fastlog
handler = fastlog.JournalHandler(sys.argv[1], ident="x")
log = logging.Logger("x")
log.addHandler(handler)
log.info("small")
assert handler.flush(20)                     # waits until the handler is connected
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
    assert [parse_entry(entry)["MESSAGE"] for entry in sink.take(2)] == [b"small", b"x" * 300_000]
    assert parse_entry(take_file(sink))["MESSAGE"] == b"y" * 1_000_000


def test_entry_too_long_for_the_ring_is_truncated(make_journal_handler, sink, logger_for):
    """The message and the extra fields are truncated and marked, and the entry stays valid."""
    handler = make_journal_handler(sink.path, capacity=1 << 20)
    log = logger_for(handler)
    log.info("\N{EURO SIGN}" * 1_000_000)
    log.info("short", extra={"a": "first", "b": "\N{EURO SIGN}" * 1_000_000, "c": "last"})
    log.info("\N{EURO SIGN}" * 1_000_000, extra={"b": "\N{EURO SIGN}" * 1_000_000})
    mark = b" [... cut by fastlog]"
    first, second, third = (parse_entry(take_file(sink)) for _ in range(3))
    assert len(first["MESSAGE"]) > 300_000 and first["MESSAGE"].endswith(mark)
    assert first["LOGGER"] == b"test"
    assert (second["MESSAGE"], second["A"]) == (b"short", b"first")
    assert len(second["B"]) > 200_000 and second["B"].endswith(mark) and second["C"] == mark
    second["B"][:-len(mark)].decode()
    assert len(third["MESSAGE"]) > 100_000 and len(third["B"]) > 200_000
    assert handler.stats().truncated == 3


def test_traceback_too_long_for_the_ring_is_truncated(make_journal_handler, sink, logger_for):
    """A long traceback is truncated in both of its fields, and the extra fields are complete."""
    handler = make_journal_handler(sink.path, capacity=1 << 20)
    try:
        raise ValueError("line\n" * 100_000)
    except ValueError:
        logger_for(handler).exception("failed", extra={"order_id": 7})
    fields = parse_entry(take_file(sink))
    mark = b" [... cut by fastlog]"
    assert fields["MESSAGE"].endswith(mark) and fields["EXCEPTION_TEXT"].endswith(mark)
    assert len(fields["MESSAGE"]) > 300_000 and len(fields["EXCEPTION_TEXT"]) > 100_000
    assert fields["ORDER_ID"] == b"7" and handler.stats().truncated == 1


def test_overlong_standard_field_does_not_displace_the_message(make_journal_handler, sink,
                                                               directory):
    """MESSAGE arrives even if one of the handler's own fields is too long for the ring."""
    handler = make_journal_handler(sink.path, capacity=1 << 16)
    log = logging.Logger("n" * 100_000)
    log.addHandler(handler)
    log.info("text")
    entry = sink.take_one()
    assert entry.startswith(b"MESSAGE=text\nSYSLOG_IDENTIFIER=") and len(entry) <= 1 << 15


# --- arguments ---------------------------------------------------------------------------------

@pytest.mark.parametrize("options, error, message", [
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
    ({"fields": {"A": uuid.UUID(int=1)}}, TypeError, "fields\\['A'\\]"),
    ({"fields": {f"A{i}": 1 for i in range(1001)}}, ValueError, "at most 1000"),
    ({"facility": "nonsense"}, ValueError, "facility"),
    ({"fallback": 1}, TypeError, "fallback"),
    ({"overflow": "never"}, ValueError, "overflow"),
    ({"address": ("host", 514)}, TypeError, "address"),
    ({"address": ""}, ValueError, "address"),
])
def test_invalid_arguments_are_rejected(options, error, message):
    """An invalid argument raises an error that names it."""
    options = {"address": "/nowhere", **options}
    with pytest.raises(error, match=message):
        fastlog.JournalHandler(options.pop("address"), **options)


def test_dict_config_creates_the_handler(run_python, sink):
    """dictConfig creates a JournalHandler with all of its arguments."""
    run_python("""
import logging.config, sys
logging.config.dictConfig({
    "version": 1,
    "handlers": {"journal": {"class": "fastlog.JournalHandler", "address": sys.argv[1],
                             "ident": "billing", "fields": {"SHARD": 7}}},
    "root": {"level": "INFO", "handlers": ["journal"]}})
logging.info("configured")
""", sink.path)
    fields = parse_entry(sink.take_one())
    assert (fields["MESSAGE"], fields["SYSLOG_IDENTIFIER"], fields["SHARD"]) == (
        b"configured", b"billing", b"7")


@pytest.mark.parametrize("name, arguments, ident", [
    ("my program.py", ["my program.py"], b"my_program.py"),
    ("shop/__main__.py", ["-m", "shop"], b"shop"),
    ("shop/__init__.py", ["-m", "shop"], b"python"),      # sys.argv[0] is still "-m".
    ("shop.py", ["-m", "shop"], b"shop.py"),
    ("shop.py", ["-c", "import shop"], b"python")])
def test_default_ident_is_the_program(sink, tmp_path, name, arguments, ident):
    """The default ident is derived from the way in which the program was started."""
    program = tmp_path / name
    program.parent.mkdir(exist_ok=True)
    program.write_text("import sys, logging, fastlog\n"
                       "logging.root.addHandler(fastlog.JournalHandler(sys.argv[1]))\n"
                       "logging.warning('x')\n")
    if name == "shop/__init__.py":
        (program.parent / "__main__.py").touch()
    subprocess.run([sys.executable, *arguments, sink.path], check=True, timeout=30, cwd=tmp_path)
    assert parse_entry(sink.take_one())["SYSLOG_IDENTIFIER"] == ident


def test_fallback_to_syslog(make_journal_handler, make_sink, directory, monkeypatch, logger_for):
    """With fallback=True records are sent to syslog only if journald's socket is absent.

    By default they wait for journald.
    """
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
    assert parse_entry(journal.take_one())["MESSAGE"] == b"to journald"
    waiting = make_journal_handler(directory / "later")
    logger_for(waiting).info("waits")
    later = make_sink(directory / "later")
    assert parse_entry(later.take_one())["MESSAGE"] == b"waits"


def test_loss_report_is_an_entry(make_journal_handler, sink, logger_for, capsys):
    """Losses are reported in the journal as entries."""
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
            entries.append(parse_entry(sink.take_one()))
    reports = [entry for entry in entries if entry["LOGGER"] == b"fastlog"]
    reported = [int(re.match(rb"fastlog: (\d+) messages lost", report["MESSAGE"])[1])
                for report in reports]
    assert sum(reported) == lost and reports[0]["PRIORITY"] == b"4"
    assert len(entries) == 200 - lost + len(reports)


def test_spooled_entries_are_sent_by_the_next_handler(make_journal_handler, make_sink, directory,
                                                      run_python):
    """The next handler sends the entries of an orphaned spool, large ones as files."""
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
    logging.raiseExceptions, raise_exceptions = False, logging.raiseExceptions
    make_journal_handler(path, spool=directory / "spool")
    logging.raiseExceptions = raise_exceptions
    assert parse_entry(sink.take_one())["A"] == b"1"
    assert parse_entry(take_file(sink))["MESSAGE"] == b"x" * 300_000
