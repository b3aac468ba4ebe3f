"""The compiled formatter: same bytes and same changes to the record as logging.Formatter."""
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

# --- formatting with both implementations ------------------------------------------------------


class ErrorRecorder(fastlog.SysLogHandler):
    """Stores the exception of the last handleError() call."""

    error = None

    def handleError(self, record):
        self.__dict__["error"] = sys.exc_info()[1]


@pytest.fixture
def format_native(make_handler, sink):
    """Return a function that formats a record through the handler.

    It returns the bytes sent, or the type and text of the error.
    """
    handler = make_handler(sink.path, cls=ErrorRecorder, linger=0, append_nul=False)

    def run(formatter, record):
        handler.__dict__["error"] = None
        if handler.formatter is not formatter:  # Setting it again would discard the compiled form.
            handler.setFormatter(formatter)
        handler.handle(record)
        if handler.error is not None:
            return type(handler.error), str(handler.error)
        return sink.take_one().partition(b">")[2]

    return run


def format_stdlib(formatter, record):
    """Format a record with the standard library and return the bytes or the error.

    An error is returned as its type and text.
    """
    try:
        return formatter.format(record).encode("utf-8", "backslashreplace")
    except Exception as error:
        return type(error), str(error)


def copy_record(record):
    """Return an equal LogRecord."""
    return logging.makeLogRecord(dict(vars(record)))


@pytest.fixture
def check(format_native):
    """Return a function that asserts that both implementations agree.

    They must return the same and leave equal records behind.
    """

    def compare(formatter, record):
        other = copy_record(record)
        expected = format_stdlib(formatter, other)
        actual = format_native(formatter, record)
        assert actual == expected
        assert vars(record) == vars(other)
        return actual

    return compare


def make_record(msg="call %d from %s", args=(1, "w"), level=logging.INFO, **attributes):
    record = logging.LogRecord("bench.x", level, "/srv/app/main.py", 17, msg, args, None, "run")
    vars(record).update(attributes)
    return record


# --- arbitrary formats and records -------------------------------------------------------------

FIELDS = ("name", "levelno", "levelname", "pathname", "filename", "module", "lineno", "funcName",
          "created", "asctime", "msecs", "relativeCreated", "thread", "threadName", "taskName",
          "process", "processName", "message", "args", "msg", "exc_info", "stack_info", "custom",
          "default", "missing")
# The zones are POSIX rules because not every machine has the named zones: zic(8), tzset(3).
ZONES = ("UTC0", "CET-1CEST,M3.5.0,M10.5.0/3", "EST5EDT,M3.2.0,M11.1.0", "IST-5:30",
         "LHST-10:30LHDT-11,M10.1.0,M4.1.0")
EDGES = (1711846799.9, 1711846800.0, 1729990799.999999, 1729990800.5, 1730613599.9995, 0.0, 0.5)

# Without NUL, which SysLogHandler escapes.
texts = st.text(st.characters(codec=None, exclude_categories=(), exclude_characters="\0"),
                max_size=12)
field = st.sampled_from(FIELDS)


class Unprintable:
    def __str__(self):
        raise LookupError("no str")


class Custom:
    def __str__(self):
        return "own ä"

    def __format__(self, spec):
        return f"<{spec}>"


values = st.one_of(st.integers(), texts, st.floats(), st.none(), st.booleans(),
                   st.binary(max_size=3), st.builds(Custom), st.builds(Unprintable),
                   st.tuples(texts))
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
    """Return a context manager that sets the time zone of the process."""

    @contextlib.contextmanager
    def change(zone):
        with mock.patch.dict(os.environ, TZ=zone):
            time.tzset()
            yield
        time.tzset()

    return change


@pytest.mark.slow
@pytest.mark.timeout(300)
@settings(max_examples=800, deadline=None, derandomize=True,
          suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(formatter=formatters(), record=records(), zone=st.sampled_from(ZONES))
def test_arbitrary_formats_match_the_standard_library(check, in_zone, formatter, record, zone):
    """Any format, record, arguments and zone produce the standard library's bytes or its error."""
    with in_zone(zone):
        check(formatter, record)
        check(formatter, copy_record(record))  # The second pass uses the caches of the first.


# The fields are split over two formats because formats of more than 24 steps are not compiled.
ALL = ("%(asctime)s %(name)s %(levelname)-8s %(levelno)d %(pathname)s %(filename)s %(module)s "
       "%(lineno)d %(message)s 100 %%")
REST = ("%(funcName)s %(created)f %(msecs)03d %(relativeCreated)d %(thread)d %(threadName)s "
        "%(process)d %(processName)s %(message)s 100 %%")


@pytest.mark.parametrize("style, text", [
    ("%", ALL),
    ("%", REST),
    ("{", "{asctime} {name!r} {levelname:<8} {levelno:03d} {created} {msecs:03.0f} {message} {{}}"),
    ("$", "$asctime ${name} $levelname $created $$ ${message}"),
], ids=["percent", "percent, remaining fields", "braces", "dollar"])
def test_every_field_matches_the_standard_library(check, style, text):
    """A format with many fields gives the standard library's bytes in each style."""
    for _ in range(3):
        check(logging.Formatter(text, style=style), make_record())


# --- time --------------------------------------------------------------------------------------

def test_cached_second_is_renewed(check):
    """The cached text of the second is correct when time moves on, jumps back or stands still."""
    formatter = logging.Formatter("%(asctime)s %(message)s")
    start = 1_700_000_000
    for created in (start, start + 0.5, start + 0.999999, start + 1, start, start - 0.25,
                    start + 60):
        for msecs in (0.0, 7.0, 70.0, 999.0):
            check(formatter, make_record(created=float(created), msecs=msecs))


def test_time_zone_changes_within_a_second(check, in_zone):
    """A changed time zone is used at once, although the second is cached."""
    formatter = logging.Formatter("%(asctime)s %(message)s", "%H:%M:%S %Z")
    texts = set()
    for zone in ZONES:
        with in_zone(zone):
            texts.add(check(formatter, make_record(created=1720000000.25)))
    assert len(texts) == len(ZONES)


def test_time_outside_the_calendar_raises_as_in_the_standard_library(check):
    """A time outside the calendar raises the standard library's error."""
    for created in (1e18, float("nan"), float("inf"), -1e18):
        check(logging.Formatter("%(asctime)s"), make_record(created=created))


# --- formatters changed after their first use --------------------------------------------------

CHANGES = {
    "datefmt": lambda formatter: setattr(formatter, "datefmt", "%H"),
    "converter": lambda formatter: setattr(formatter, "converter", lambda when: time.gmtime(7)),
    "converter set to gmtime": lambda formatter: setattr(formatter, "converter", time.gmtime),
    "default_msec_format": lambda formatter: setattr(formatter, "default_msec_format", "%s.%03d"),
    "default_time_format": lambda formatter: setattr(formatter, "default_time_format", "%M"),
    "style's format": lambda formatter: setattr(formatter._style, "_fmt", "%(msg)s"),
    "style": lambda formatter: setattr(formatter, "_style", logging.StrFormatStyle("{message}!")),
    "formatTime": lambda formatter: setattr(formatter, "formatTime", lambda *args: "now"),
    "formatMessage": lambda formatter: setattr(formatter, "formatMessage", lambda record: "m"),
    "format": lambda formatter: setattr(formatter, "format", lambda record: "all"),
    "usesTime": lambda formatter: setattr(formatter, "usesTime", lambda: False),
    "style's usesTime": lambda formatter: setattr(formatter._style, "usesTime", lambda: False),
    "formatException": lambda formatter: setattr(formatter, "formatException", lambda info: "e"),
    "formatStack": lambda formatter: setattr(formatter, "formatStack", lambda text: "s"),
    "class": lambda formatter: setattr(formatter, "__class__", type(
        "Loud", (logging.Formatter,), {"format": lambda self, record: "LOUD"})),
    "unrelated attribute": lambda formatter: setattr(formatter, "color", "red"),
}


@pytest.mark.parametrize("name", CHANGES)
def test_formatter_changed_in_place(check, in_zone, name):
    """The next record sees a changed formatter attribute, and an unrelated one has no effect."""
    formatter = logging.Formatter("%(asctime)s %(message)s")
    record = make_record(exc_info=(ValueError, ValueError("v"), None), stack_info="stack")
    with in_zone("IST-5:30"):  # Local time differs from gmtime in this zone.
        before = check(formatter, copy_record(record))
        CHANGES[name](formatter)
        after = check(formatter, copy_record(record))
    assert (after == before) is (name == "unrelated attribute")


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
def test_patches_of_logging_and_time_take_effect(check, owner, name, value):
    """Patching a part of logging, string or time takes effect at once, and so does undoing it."""
    style = {"StrFormatStyle": "{", "StringTemplateStyle": "$", "Template": "$"}.get(
        owner.__name__, "%")
    formatter = logging.Formatter({"{": "{asctime} {message}", "$": "$asctime $message"}.get(
        style, "%(asctime)s %(message)s"), style=style)
    record = make_record(exc_info=(ValueError, ValueError("v"), None), created=1e9 + 0.5)
    check(formatter, copy_record(record))
    with mock.patch.object(owner, name, value, create=True):
        record.created += 1
        assert check(formatter, copy_record(record)).count(b"patched") >= (name != "converter")
    check(formatter, copy_record(record))


# --- exceptions and stacks ---------------------------------------------------------------------

def make_exc_info():
    try:
        raise ValueError("wrong ä\nsecond line")
    except ValueError:
        return sys.exc_info()


@pytest.mark.parametrize("text", ["%(message)s", "%(message)s\n", "%(levelname)s"])
def test_exceptions_and_stacks_follow_the_message(check, text):
    """Exception and stack text follow the message as in the standard library."""
    formatter = logging.Formatter(text)
    for attributes in ({"exc_info": make_exc_info()}, {"exc_text": "kept"},
                       {"stack_info": "Stack:\n x"},
                       {"exc_info": make_exc_info(), "stack_info": "Stack"}, {"exc_text": ""},
                       {"exc_info": make_exc_info(), "exc_text": "kept"}, {"exc_info": ()}):
        check(formatter, make_record(**attributes))


def test_exc_text_is_cached_for_the_next_handler(format_native):
    """The traceback is stored in the record's exc_text for the next handler."""
    record = make_record(exc_info=make_exc_info())
    format_native(logging.Formatter("%(message)s"), record)
    assert record.exc_text.startswith("Traceback") and record.exc_text.endswith("second line")


# --- unusual records ---------------------------------------------------------------------------

def test_getmessage_of_a_log_record_subclass_is_called(format_native):
    """A LogRecord subclass that overrides getMessage() determines the message."""
    class Record(logging.LogRecord):
        def getMessage(self):
            return "mine"

    record = Record("n", 20, "p", 1, "m", (), None)
    assert format_native(logging.Formatter("%(message)s"), record) == b"mine"


def test_record_attributes_in_another_order(format_native):
    """A record whose attributes are in another order is formatted correctly.

    makeLogRecord() and pickles may create them in any order.
    """
    record = make_record()
    reversed_attributes = dict(reversed(vars(record).items()))
    vars(record).clear()
    vars(record).update(reversed_attributes)
    other = logging.LogRecord("", 0, "", 0, "", (), None)
    vars(other).clear()
    vars(other).update(reversed_attributes)
    formatter = logging.Formatter(ALL)
    assert format_native(formatter, record) == format_stdlib(formatter, other)


def test_missing_attributes_are_errors(format_native):
    """A record without an attribute that the format requires causes an error."""
    for name in ("args", "msg", "created", "name"):
        record = make_record()
        delattr(record, name)
        outcome = format_native(logging.Formatter("%(asctime)s %(name)s %(message)s"), record)
        assert isinstance(outcome, tuple) and issubclass(outcome[0], Exception), name


def test_argument_clears_the_record_while_it_is_formatted(format_native):
    """An argument's __str__ may clear the record that is being formatted."""
    class SideEffect:
        def __str__(self):
            vars(record).clear()
            return "done"

    record = make_record("%s", (SideEffect(),))
    assert format_native(logging.Formatter(ALL), record).endswith(b" done 100 %")


# --- unusual programs --------------------------------------------------------------------------

def test_each_argument_is_converted_once(check, format_native):
    """An argument's __str__ is called exactly once for each record."""
    class Counted:
        calls = 0

        def __str__(self):
            self.calls += 1
            return "c"

    counted = Counted()
    failing_formatter = logging.Formatter("%(missing)s %(message)s")
    format_native(failing_formatter, make_record("%s %s", (counted, 1)))
    assert counted.calls == 1
    for n in range(2, 6):
        format_native(logging.Formatter("%(message)s"), make_record("ä %s %s", (counted, 1)))
        assert counted.calls == n


def test_levels_and_level_names_of_any_type(check):
    """A levelno or levelname of any type is formatted as in the standard library."""
    for attributes in ({"levelno": "INFO"}, {"levelno": None}, {"levelno": 1.5},
                       {"levelname": None}, {"levelname": 5}, {"levelname": "INFO"}):
        check(logging.Formatter("%(message)s"), make_record(**attributes))


def test_unknown_level_names_are_warnings(handler, sink):
    """An unknown level name is sent as a warning, and a number in priority_map is a severity."""
    handler.handle(make_record("m", (), levelname=None))
    handler.priority_map = {"INFO": 7}
    handler.handle(make_record("m", ()))
    assert sink.take(2) == [b"<12>m\0", b"<15>m\0"]


def test_default_formatter_is_replaced(handler, sink):
    """A handler without a formatter uses the current logging._defaultFormatter."""
    handler.handle(make_record("m", ()))
    with mock.patch.object(logging, "_defaultFormatter", logging.Formatter("new %(message)s")):
        handler.handle(make_record("m", ()))
    handler.handle(make_record("m", ()))
    assert sink.take(3) == [b"<14>m\0", b"<14>new m\0", b"<14>m\0"]


def test_line_feed_at_the_end_of_ident(handler, sink):
    """A line feed that ends the ident does not replace the one before the traceback."""
    handler.ident = "ident\n"
    handler.handle(make_record("", (), exc_text="trace"))
    assert sink.take_one() == b"<14>ident\n\ntrace\0"


def test_style_without_attributes(check):
    """A style object that has no instance attributes is used as it is."""
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
    """The next record sees a changed or deleted entry of the style's defaults."""
    defaults = {"custom": 1}
    formatter = logging.Formatter("%(custom)s %(message)s", defaults=defaults)
    check(formatter, make_record())
    formatter._style._defaults["custom"] = 2
    assert check(formatter, make_record()).startswith(b"2")
    del formatter._style._defaults["custom"]
    check(formatter, make_record())


@pytest.mark.parametrize("logger_class", [logging.Logger, fastlog.Logger])
def test_formats_around_the_compilation_limits(make_handler, sink, logger_class):
    """Formats and messages just below and above the compilation limits are formatted correctly."""
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


def test_exception_changes_the_record_while_it_is_formatted(format_native):
    """An exception's __str__ may change the record that is being formatted."""
    class SideEffect(Exception):
        def __str__(self):
            vars(record).update(levelno=10**9, name="x" * 1000, stack_info=None)
            return "meddler"

    record = make_record(exc_info=(SideEffect, SideEffect(), None), stack_info="stack")
    assert format_native(logging.Formatter("%(message)s"), record).endswith(b"meddler")


def test_formatted_records_share_their_keys(run_python):
    """Adding `asctime` to a LogRecord does not copy its dict.

    CPython lets the dicts of instances share their keys (PEP 412), but only keys that exist before
    about ten instances have been created.
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
