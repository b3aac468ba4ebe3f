"""The compiled formatter: byte for byte what logging.Formatter gives, and the same traces of it."""
import contextlib
import logging
import os
import string
import sys
import time
from unittest import mock

import pytest
from hypothesis import HealthCheck, given, settings, strategies as st

import fastlog

# --- both ways of formatting -------------------------------------------------------------------


class Observed(fastlog.SysLogHandler):
    """Keeps what went wrong."""

    error = None

    def handleError(self, record):
        self.__dict__["error"] = sys.exc_info()[1]


@pytest.fixture
def native(make_handler, sink):
    """Formats a record by way of the handler: the bytes, or the error."""
    handler = make_handler(sink.path, cls=Observed, linger=0, append_nul=False)

    def run(formatter, record):
        handler.__dict__["error"] = None
        if handler.formatter is not formatter:  # else what was compiled stays
            handler.setFormatter(formatter)
        handler.handle(record)
        if handler.error is not None:
            return type(handler.error), str(handler.error)
        return sink.take_one().partition(b">")[2]

    return run


def stock(formatter, record):
    try:
        return formatter.format(record).encode("utf-8", "backslashreplace")
    except Exception as error:
        return type(error), str(error)


def twin(record):
    """An equal LogRecord."""
    return logging.makeLogRecord(dict(vars(record)))


@pytest.fixture
def check(native):
    """Asserts that both ways give the same and make_orphaned_spool the same behind."""

    def compare(formatter, record):
        other = twin(record)
        expected = stock(formatter, other)
        got = native(formatter, record)
        assert got == expected
        assert vars(record) == vars(other)
        return got

    return compare


def make_record(msg="call %d from %s", args=(1, "w"), level=logging.INFO, **attributes):
    record = logging.LogRecord("bench.x", level, "/srv/app/main.py", 17, msg, args, None, "run")
    vars(record).update(attributes)
    return record


# --- anything goes -----------------------------------------------------------------------------

FIELDS = ("name", "levelno", "levelname", "pathname", "filename", "module", "lineno", "funcName",
          "created", "asctime", "msecs", "relativeCreated", "thread", "threadName", "taskName",
          "process", "processName", "message", "args", "msg", "exc_info", "stack_info", "custom",
          "default", "missing")
# POSIX rules, because not every machine has the names: zic(8), tzset(3).
ZONES = ("UTC0", "CET-1CEST,M3.5.0,M10.5.0/3", "EST5EDT,M3.2.0,M11.1.0", "IST-5:30",
         "LHST-10:30LHDT-11,M10.1.0,M4.1.0")
EDGES = (1711846799.9, 1711846800.0, 1729990799.999999, 1729990800.5, 1730613599.9995, 0.0, 0.5)

texts = st.text(st.characters(codec=None, exclude_categories=()), max_size=12)
field = st.sampled_from(FIELDS)


class Rude:
    def __str__(self):
        raise LookupError("no str")


class Own:
    def __str__(self):
        return "own ä"

    def __format__(self, spec):
        return f"<{spec}>"


values = st.one_of(st.integers(), texts, st.floats(), st.none(), st.booleans(),
                   st.binary(max_size=3), st.builds(Own), st.builds(Rude), st.tuples(texts))
messages = st.one_of(
    texts, st.sampled_from(("call %d from %s", "%s", "%5.1f|%-6s|%x", "100 %% %r", "%(key)s", "%*d",
                            "%c%i%a", "%s%%", "%")), values)
arguments = st.one_of(st.lists(values, max_size=3).map(tuple), st.just((1, "w")),
                      st.just(({"key": 3},)), st.just(({},)))


@st.composite
def percent_formats(draw):
    spec = st.from_regex(r"[#0\- +]{0,2}\d?(\.\d)?[diouxXeEfFgGcrsaz%]", fullmatch=True)
    plain = st.sampled_from("sd")
    part = st.one_of(texts.map(lambda text: text.replace("%", "%%")),
                     st.builds("%({}){}".format, field, st.one_of(plain, spec)), texts)
    return "".join(draw(st.lists(part, max_size=6)))


@st.composite
def brace_formats(draw):
    spec = st.one_of(st.just(""), st.from_regex(
        r"(![rsa])?(:[<>^]?[+ -]?0?\d{0,2}(\.\d)?[bcdefgnosx%]?)?", fullmatch=True))
    escaped = texts.map(lambda text: text.replace("{", "{{").replace("}", "}}"))
    part = st.one_of(escaped, st.builds("{{{}{}}}".format, field, spec), texts,
                     st.sampled_from(("{args[0]}", "{name.x}", "{message:{levelno}}", "{}", "{0}")))
    return "".join(draw(st.lists(part, max_size=6)))


@st.composite
def dollar_formats(draw):
    part = st.one_of(texts.map(lambda text: text.replace("$", "$$")),
                     st.builds("${}".format, field), st.builds("${{{}}}".format, field), texts)
    return "".join(draw(st.lists(part, max_size=6)))


styled = st.one_of(st.tuples(st.just("%"), percent_formats()),
                   st.tuples(st.just("{"), brace_formats()),
                   st.tuples(st.just("$"), dollar_formats()))


@st.composite
def formatters(draw):
    style, text = draw(styled)
    formatter = logging.Formatter(
        text, draw(st.sampled_from((None, None, "", "%H:%M", "%d.%m.%y %H:%M:%S %Z %z", "%j ä%%"))),
        style, validate=False,
        defaults=draw(st.sampled_from((None, {"default": "d"}, {"name": "n", "missing": 1.5}, {}))))
    if draw(st.booleans()):
        formatter.default_msec_format = draw(st.sampled_from((None, "", "%s.%03d", "%s", "%d")))
    if draw(st.booleans()):
        formatter.converter = draw(st.sampled_from((time.gmtime, time.localtime,
                                                    lambda when: time.gmtime(0))))
    return formatter


@st.composite
def records(draw):
    record = logging.LogRecord(
        draw(texts), draw(st.sampled_from((10, 20, 30, 40, 50, 25, 0))), draw(texts),
        draw(st.integers(0, 10**6)), draw(messages), draw(arguments), None, draw(texts))
    created = draw(st.one_of(st.sampled_from(EDGES), st.floats(0, 4e9)))
    record.created, record.msecs = created, draw(st.one_of(
        st.integers(0, 999).map(float), st.floats(-1, 2000), st.integers(0, 9)))
    if draw(st.integers(0, 4)) == 0:
        record.exc_text = draw(texts)
        record.stack_info = draw(texts)
    if draw(st.booleans()):
        record.custom = draw(values)
    return record


@pytest.fixture
def in_zone():
    """Sets the process's time zone for a while."""

    @contextlib.contextmanager
    def change(zone):
        with mock.patch.dict(os.environ, TZ=zone):
            time.tzset()
            yield
        time.tzset()

    return change


@pytest.mark.timeout(300)
@settings(max_examples=800, deadline=None, derandomize=True,
          suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(formatter=formatters(), record=records(), zone=st.sampled_from(ZONES))
def test_any_format_of_any_record(check, in_zone, formatter, record, zone):
    """Whatever the format, the record, its arguments and the zone: the stdlib's bytes or error."""
    with in_zone(zone):
        check(formatter, record)
        check(formatter, twin(record))  # again, with what was kept


# In two, because longer formats than 24 steps are left to the standard library.
ALL = ("%(asctime)s %(name)s %(levelname)-8s %(levelno)d %(pathname)s %(filename)s %(module)s "
       "%(lineno)d %(message)s 100 %%")
REST = ("%(funcName)s %(created)f %(msecs)03d %(relativeCreated)d %(thread)d %(threadName)s "
        "%(process)d %(processName)s %(message)s 100 %%")


@pytest.mark.parametrize("style, text", [
    ("%", ALL),
    ("%", REST),
    ("{", "{asctime} {name!r} {levelname:<8} {levelno:03d} {created} {msecs:03.0f} {message} {{}}"),
    ("$", "$asctime ${name} $levelname $created $$ ${message}"),
], ids=["percent", "percent, the rest", "braces", "dollar"])
def test_every_field(check, style, text):
    for _ in range(3):
        check(logging.Formatter(text, style=style), make_record())


# --- time --------------------------------------------------------------------------------------

def test_seconds_are_kept_and_renewed(check):
    """Forwards, back, across a second's end, with every millisecond."""
    formatter = logging.Formatter("%(asctime)s %(message)s")
    start = 1_700_000_000
    for created in (start, start + 0.5, start + 0.999999, start + 1, start, start - 0.25,
                    start + 60):
        for msecs in (0.0, 7.0, 70.0, 999.0):
            check(formatter, make_record(created=float(created), msecs=msecs))


def test_time_zone_changes_within_a_second(check, in_zone):
    formatter = logging.Formatter("%(asctime)s %(message)s", "%H:%M:%S %Z")
    texts = set()
    for zone in ZONES:
        with in_zone(zone):
            texts.add(check(formatter, make_record(created=1720000000.25)))
    assert len(texts) == len(ZONES)


def test_time_beyond_the_calendar_is_an_error_like_the_stdlibs(check):
    for created in (1e18, float("nan"), float("inf"), -1e18):
        check(logging.Formatter("%(asctime)s"), make_record(created=created))


# --- a formatter that is changed after its first use -------------------------------------------

CHANGES = {
    "datefmt": lambda formatter: setattr(formatter, "datefmt", "%H"),
    "converter": lambda formatter: setattr(formatter, "converter", lambda when: time.gmtime(7)),
    "converter, a known one": lambda formatter: setattr(formatter, "converter", time.gmtime),
    "default_msec_format": lambda formatter: setattr(formatter, "default_msec_format", "%s.%03d"),
    "default_time_format": lambda formatter: setattr(formatter, "default_time_format", "%M"),
    "format of the style": lambda formatter: setattr(formatter._style, "_fmt", "%(msg)s"),
    "style": lambda formatter: setattr(formatter, "_style", logging.StrFormatStyle("{message}!")),
    "formatTime": lambda formatter: setattr(formatter, "formatTime", lambda *args: "now"),
    "formatMessage": lambda formatter: setattr(formatter, "formatMessage", lambda record: "m"),
    "format": lambda formatter: setattr(formatter, "format", lambda record: "all"),
    "usesTime": lambda formatter: setattr(formatter, "usesTime", lambda: False),
    "usesTime of the style": lambda formatter: setattr(formatter._style, "usesTime", lambda: False),
    "formatException": lambda formatter: setattr(formatter, "formatException", lambda info: "e"),
    "formatStack": lambda formatter: setattr(formatter, "formatStack", lambda text: "s"),
    "class": lambda formatter: setattr(formatter, "__class__", type(
        "Loud", (logging.Formatter,), {"format": lambda self, record: "LOUD"})),
    "attribute of its own": lambda formatter: setattr(formatter, "color", "red"),
}


@pytest.mark.parametrize("name", CHANGES)
def test_formatter_changed_in_place(check, in_zone, name):
    formatter = logging.Formatter("%(asctime)s %(message)s")
    record = make_record(exc_info=(ValueError, ValueError("v"), None), stack_info="stack")
    with in_zone("IST-5:30"):  # where gmtime is another time
        before = check(formatter, twin(record))
        CHANGES[name](formatter)
        after = check(formatter, twin(record))
    assert (after == before) is (name == "attribute of its own")


PATCHES = [
    (logging.Formatter, "formatTime", lambda self, record, datefmt=None: "patched"),
    (logging.Formatter, "format", lambda self, record: "patched"),
    (logging.Formatter, "converter", staticmethod(lambda when: time.gmtime(3))),
    (logging.Formatter, "default_msec_format", "%s patched %d"),
    (logging.Formatter, "formatException", lambda self, info: "patched"),
    (logging.PercentStyle, "format", lambda self, record: "patched"),
    (logging.PercentStyle, "_format", lambda self, record: "patched"),
    (logging.LogRecord, "getMessage", lambda self: "patched"),
    (logging.StrFormatStyle, "format", lambda self, record: "patched"),
    (logging.StringTemplateStyle, "format", lambda self, record: "patched"),
    (string.Template, "substitute", lambda self, **values: "patched"),
    (time, "strftime", lambda *args: "patched"),
]


@pytest.mark.parametrize("owner, name, value", PATCHES,
                         ids=[f"{owner.__name__}.{name}" for owner, name, _ in PATCHES])
def test_patches_are_seen(check, owner, name, value):
    """Programs and their tests replace parts of logging and time: before use, or after it."""
    style = {"StrFormatStyle": "{", "StringTemplateStyle": "$", "Template": "$"}.get(
        owner.__name__, "%")
    formatter = logging.Formatter({"{": "{asctime} {message}", "$": "$asctime $message"}.get(
        style, "%(asctime)s %(message)s"), style=style)
    record = make_record(exc_info=(ValueError, ValueError("v"), None), created=1e9 + 0.5)
    check(formatter, twin(record))
    with mock.patch.object(owner, name, value, create=True):
        record.created += 1
        assert check(formatter, twin(record)).count(b"patched") >= (name != "converter")
    check(formatter, twin(record))


# --- exceptions and stacks ---------------------------------------------------------------------

def failure():
    try:
        raise ValueError("wrong ä\nsecond line")
    except ValueError:
        return sys.exc_info()


@pytest.mark.parametrize("text", ["%(message)s", "%(message)s\n", "%(levelname)s"])
def test_exceptions_and_stacks_follow(check, text):
    formatter = logging.Formatter(text)
    for attributes in ({"exc_info": failure()}, {"exc_text": "kept"}, {"stack_info": "Stack:\n x"},
                       {"exc_info": failure(), "stack_info": "Stack"}, {"exc_text": ""},
                       {"exc_info": failure(), "exc_text": "kept"}, {"exc_info": ()}):
        check(formatter, make_record(**attributes))


def test_exc_text_is_kept_for_the_next_handler(native):
    record = make_record(exc_info=failure())
    native(logging.Formatter("%(message)s"), record)
    assert record.exc_text.startswith("Traceback") and record.exc_text.endswith("second line")


# --- records that are not plain ----------------------------------------------------------------

def test_subclass_of_log_record(native):
    class Record(logging.LogRecord):
        def getMessage(self):
            return "mine"

    record = Record("n", 20, "p", 1, "m", (), None)
    assert native(logging.Formatter("%(message)s"), record) == b"mine"


def test_record_in_another_order(native):
    """makeLogRecord() and pickles may bring the attributes in any order."""
    record = make_record()
    backwards = dict(reversed(vars(record).items()))
    vars(record).clear()
    vars(record).update(backwards)
    other = logging.LogRecord("", 0, "", 0, "", (), None)
    vars(other).clear()
    vars(other).update(backwards)
    formatter = logging.Formatter(ALL)
    assert native(formatter, record) == stock(formatter, other)


def test_missing_attributes_are_errors(native):
    for name in ("args", "msg", "created", "name"):
        record = make_record()
        delattr(record, name)
        outcome = native(logging.Formatter("%(asctime)s %(name)s %(message)s"), record)
        assert isinstance(outcome, tuple) and issubclass(outcome[0], Exception), name


def test_arguments_may_change_the_record(native):
    """A __str__ that meddles with the record it is part of."""
    class Meddler:
        def __str__(self):
            vars(record).clear()
            return "done"

    record = make_record("%s", (Meddler(),))
    assert native(logging.Formatter(ALL), record).endswith(b" done 100 %")


# --- odd things that programs do ---------------------------------------------------------------

def test_each_argument_is_asked_once(check, native):
    """A __str__ may count, or cost."""
    class Counted:
        calls = 0

        def __str__(self):
            self.calls += 1
            return "c"

    counted = Counted()
    native_format = logging.Formatter("%(require)s %(message)s")
    native(native_format, make_record("%s %s", (counted, 1)))
    assert counted.calls == 1
    for n in range(2, 6):
        native(logging.Formatter("%(message)s"), make_record("ä %s %s", (counted, 1)))
        assert counted.calls == n


def test_levels_and_names_of_any_kind(check):
    for attributes in ({"levelno": "INFO"}, {"levelno": None}, {"levelno": 1.5},
                       {"levelname": None}, {"levelname": 5}, {"levelname": "INFO"}):
        check(logging.Formatter("%(message)s"), make_record(**attributes))


def test_unknown_level_names_are_warnings(handler, sink):
    """As mapPriority has it, also for the very first record; numbers are severities."""
    handler.handle(make_record("m", (), levelname=None))
    handler.priority_map = {"INFO": 7}
    handler.handle(make_record("m", ()))
    assert sink.take(2) == [b"<12>m\0", b"<15>m\0"]


def test_default_formatter_replaced(handler, sink):
    """logging._defaultFormatter is for handlers that have none."""
    handler.handle(make_record("m", ()))
    with mock.patch.object(logging, "_defaultFormatter", logging.Formatter("new %(message)s")):
        handler.handle(make_record("m", ()))
    handler.handle(make_record("m", ()))
    assert sink.take(3) == [b"<14>m\0", b"<14>new m\0", b"<14>m\0"]


def test_line_feed_at_the_end_of_ident(handler, sink):
    handler.ident = "ident\n"
    handler.handle(make_record("", (), exc_text="trace"))
    assert sink.take_one() == b"<14>ident\n\ntrace\0"


def test_style_without_attributes(check):
    class Style:
        __slots__ = ()

        def usesTime(self):
            return False

        def format(self, record):
            return "style " + record.message

    formatter = logging.Formatter()
    formatter._style = Style()
    check(formatter, make_record())


def test_defaults_changed_in_place(check):
    defaults = {"custom": 1}
    formatter = logging.Formatter("%(custom)s %(message)s", defaults=defaults)
    check(formatter, make_record())
    formatter._style._defaults["custom"] = 2
    assert check(formatter, make_record()).startswith(b"2")
    del formatter._style._defaults["custom"]
    check(formatter, make_record())


@pytest.mark.parametrize("logger_class", [logging.Logger, fastlog.Logger])
def test_as_many_pieces_as_there_can_be(make_handler, sink, logger_class):
    """Formats and messages of up to many parts, on both sides of what is compiled."""
    handler = make_handler(sink.path, linger=0)
    log = logger_class("x")
    log.addHandler(handler)
    for fields in range(1, 40, 3):
        handler.setFormatter(logging.Formatter("%(asctime)s %(message)s " * fields))
        for count in (0, 1, 13, 14, 15, 40):
            message = "%s," * count + " end"
            for _ in range(3):
                log.info(message, *["a"] * count)
                parts = sink.take_one()[4:-1].split(b" end ")
                assert len(parts) == fields + 1
                assert {part[24:] for part in parts[:-1]} == {b"a," * count}


def test_an_exception_that_changes_the_record(native):
    """Its __str__ runs in the middle of the formatting."""
    class Meddler(Exception):
        def __str__(self):
            vars(record).update(levelno=10**9, name="x" * 1000, stack_info=None)
            return "meddler"

    record = make_record(exc_info=(Meddler, Meddler(), None), stack_info="stack")
    assert native(logging.Formatter("%(message)s"), record).endswith(b"meddler")


def test_formatted_records_share_their_keys(run_python):
    """CPython: instances share the keys of their dicts (PEP 412), as far as these were known before
    ten or so were made. Else each LogRecord's dict is copied when it gets its `asctime`.
    """
    assert run_python("""
import fastlog, logging, sys

def make():
    return logging.LogRecord("x", 20, "", 0, "", (), None)

for _ in range(30):
    make()
formatted = make()
logging.Formatter("%(asctime)s %(message)s").format(formatted)
print(sys.getsizeof(vars(formatted)) - sys.getsizeof(vars(make())) < 100)
""") == "True\n"
