"""SysLogHandler as its users see it: the standard library's interface and its bytes."""
import collections
import logging
import logging.config
import logging.handlers
import socket
import sys
import threading
from unittest import mock

import pytest
from hypothesis import HealthCheck, given, settings, strategies as st

import fastlog

TEXT = st.text(st.characters(exclude_categories=["Cs"]), max_size=200)


@pytest.fixture
def both_handlers(directory, make_sink, make_handler):
    """Return fastlog's handler and the standard library's, each paired with its own sink."""
    fastlog_sink, stdlib_sink = make_sink(directory / "fastlog"), make_sink(directory / "stdlib")
    stdlib_handler = logging.handlers.SysLogHandler(stdlib_sink.path)
    yield (make_handler(fastlog_sink.path), fastlog_sink), (stdlib_handler, stdlib_sink)
    stdlib_handler.close()


# All examples share one instance of the fixture. This is intended, because the test changes the
# attributes of live handlers.
@given(
    message=TEXT,
    level=st.sampled_from([1, 10, 20, 25, 30, 40, 45, 50, 60]),
    ident=TEXT,
    append_nul=st.booleans(),
    facility=st.sampled_from([*logging.handlers.SysLogHandler.facility_names, *range(24)]),
)
@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None)
def test_same_bytes_as_the_standard_library(both_handlers, message, level, ident, append_nul,
                                            facility):
    """Any message, level, ident, append_nul and facility give the standard library's bytes.

    Only NULs before the last byte are different, which are sent as #000.
    """
    received = []
    for handler, sink in both_handlers:
        handler.ident, handler.append_nul, handler.facility = ident, append_nul, facility
        handler.handle(logging.LogRecord("name", level, __file__, 1, message, None, None))
        handler.flush()
        received.append(sink.take_one())
    sent, sent_by_stdlib = received
    assert sent == sent_by_stdlib[:-1].replace(b"\0", b"#000") + sent_by_stdlib[-1:]


def test_handler_is_a_stdlib_sysloghandler(handler):
    """The handler passes isinstance checks and has every attribute of the stdlib's handler."""
    assert isinstance(handler, logging.handlers.SysLogHandler)
    stdlib = logging.handlers.SysLogHandler()
    for name in vars(stdlib):
        assert hasattr(handler, name), name
    stdlib.close()


def test_dict_config_creates_the_handler(sink):
    """dictConfig creates a handler from the name of the class."""
    logging.config.dictConfig({
        "version": 1,
        "disable_existing_loggers": False,
        "formatters": {"plain": {"format": "%(name)s: %(message)s"}},
        "handlers": {"syslog": {
            "class": "fastlog.SysLogHandler", "formatter": "plain", "level": "INFO",
            "address": sink.path, "facility": "local0", "ident": "ServerLog: "}},
        "loggers": {"served": {"handlers": ["syslog"], "level": "DEBUG", "propagate": False}},
    })
    logger = logging.getLogger("served")
    logger.debug("below the handler's level")
    logger.info("request %d", 7)
    assert sink.take_one() == b"<134>ServerLog: served: request 7\0"
    handler = logger.handlers.pop()
    handler.close()


@pytest.mark.parametrize("level, severity", [
    (logging.DEBUG, 7), (logging.INFO, 6), (logging.WARNING, 4), (logging.ERROR, 3),
    (logging.CRITICAL, 2), (25, 4)])
def test_levels_map_to_severities(log, sink, level, severity):
    """Levels map to severities as in the standard library, unknown levels to warning."""
    log.log(level, "x")
    assert sink.take_one() == b"<%d>x\0" % (1 << 3 | severity)


def test_facility_by_name_and_number(make_handler, sink, logger_for):
    """A facility may be given by name or by number."""
    for facility in ("local0", 16):
        handler = make_handler(sink.path, facility=facility)
        logger_for(handler).info("x")
        assert sink.take_one() == b"<134>x\0"


def test_methods_and_attributes_may_be_replaced_at_any_time(handler, log, sink):
    """The next record sees a method or attribute replaced on the instance or on a class."""
    log.info("x")
    handler.format = lambda record: "by instance"
    log.info("x")
    del handler.format
    log.info("x")
    with mock.patch.object(fastlog.SysLogHandler, "mapPriority", lambda self, level: "emerg"):
        log.info("x")
    with mock.patch.object(logging.handlers.SysLogHandler, "append_nul", False):
        log.info("x")
    with mock.patch.object(logging.LogRecord, "getMessage", lambda self: "by record"):
        log.info("x")
    with mock.patch.object(fastlog.SysLogHandler, "emit", lambda self, record: None):
        log.info("goes nowhere")
    handler.priority_map = collections.defaultdict(lambda: "debug")
    log.info("x")
    assert sink.take(7) == [b"<14>x\0", b"<14>by instance\0", b"<14>x\0", b"<8>x\0", b"<14>x",
                            b"<14>by record\0", b"<12>x\0"]


def test_constructor_sets_ident_and_append_nul(make_handler, sink, logger_for):
    """The constructor accepts ident and append_nul, which the standard library does not."""
    handler = make_handler(sink.path, ident="tag: ", append_nul=False)
    logger_for(handler).info("x")
    assert sink.take_one() == b"<14>tag: x"


def test_overridden_methods_are_called(make_handler, sink, logger_for):
    """A subclass's encodePriority, format and priority_map determine what is sent."""

    class Mapped(fastlog.SysLogHandler):
        priority_map = {**fastlog.SysLogHandler.priority_map, "NOTICE": "notice"}

        def encodePriority(self, facility, priority):
            return super().encodePriority("local1", priority)

        def format(self, record):
            return f"[{super().format(record)}]"

    logging.addLevelName(25, "NOTICE")
    try:
        logger_for(make_handler(sink.path, cls=Mapped)).log(25, "x")
    finally:
        logging._levelToName.pop(25)
        logging._nameToLevel.pop("NOTICE")
    assert sink.take_one() == b"<%d>[x]\0" % (17 << 3 | 5)


@pytest.mark.parametrize("text, sent", [
    ("a\udc80b", rb"a\udc80b"), ("\ud800", rb"\ud800"), ("a\0b", b"a#000b"), ("a\nb", b"a\nb"),
    ("", b""), ("\U0001f600", "\U0001f600".encode())])
def test_unusual_text_is_sent(log, sink, text, sent):
    """Line feeds are sent unchanged, and NULs and lone surrogates are sent as escapes."""
    log.info(text)
    log.info("behind")
    assert sink.take(2) == [b"<14>" + sent + b"\0", b"<14>behind\0"]


def test_exception_text_is_part_of_the_message(log, sink):
    """The traceback of log.exception() follows the message in the same record."""
    try:
        raise ValueError("broken")
    except ValueError:
        log.exception("failed")
    received = sink.take_one()
    assert received.startswith(b"<11>failed\nTraceback")
    assert received.endswith(b"ValueError: broken\0")


@pytest.mark.parametrize("cause_error", [
    lambda log, handler: log.info("%d", "no number"),
    lambda log, handler: setattr(handler, "facility", "nonsense") or log.info("x"),
    lambda log, handler: setattr(handler, "ident", 7) or log.info("x"),
    lambda log, handler: setattr(handler, "format", lambda record: b"no str") or log.info("x"),
    lambda log, handler: setattr(handler, "facility", -1) or log.info("x"),
], ids=["arguments", "unknown facility", "ident", "format", "negative facility"])
def test_formatting_errors_are_passed_to_handle_error(make_handler, sink, logger_for, cause_error):
    """An error while a record is formatted is passed to handleError, not to the application."""
    handler = make_handler(sink.path)
    errors = []
    handler.handleError = lambda record: errors.append(sys.exc_info()[1])
    log = logger_for(handler)
    cause_error(log, handler)
    assert len(errors) == 1 and isinstance(errors[0], Exception)
    assert handler.stats().submitted == 0
    handler.facility, handler.ident = "user", ""
    handler.__dict__.pop("format", None)
    log.info("fine")
    assert sink.take_one() == b"<14>fine\0"


def test_logging_does_not_acquire_the_handlers_lock(handler, log, sink):
    """A thread that holds the handler's lock does not block other threads that log."""
    with handler.lock:
        thread = threading.Thread(target=log.info, args=("x",))
        thread.start()
        thread.join(20)
        assert not thread.is_alive()
    assert sink.take_one() == b"<14>x\0"


def test_user_code_runs_under_the_handlers_lock(make_handler, sink, logger_for):
    """An overridden emit, an overridden format and a custom formatter run under the lock."""
    lock_states = []

    class EmitOverridden(fastlog.SysLogHandler):
        def emit(self, record):
            lock_states.append(self.lock._is_owned())
            super().emit(record)

    class FormatOverridden(fastlog.SysLogHandler):
        def format(self, record):
            lock_states.append(self.lock._is_owned())
            return super().format(record)

    class CustomFormatter(logging.Formatter):
        def format(self, record):
            lock_states.append(plain_handler.lock._is_owned())
            return super().format(record)

    plain_handler = make_handler(sink.path)
    plain_handler.setFormatter(CustomFormatter())
    for handler in (make_handler(sink.path, cls=EmitOverridden),
                    make_handler(sink.path, cls=FormatOverridden), plain_handler):
        logger_for(handler).info("x")
        assert sink.take_one() == b"<14>x\0"
    assert lock_states == [True, True, True]


def test_filters_reject_and_replace_records(handler, log, sink):
    """A filter can reject a record and, from Python 3.12 on, replace it."""

    def reject_or_replace(record):
        if record.msg == "refused":
            return False
        if sys.version_info >= (3, 12):
            return logging.makeLogRecord({**vars(record), "msg": "replaced"})
        return True

    handler.addFilter(reject_or_replace)
    log.info("refused")
    log.info("passed")
    expected = b"replaced" if sys.version_info >= (3, 12) else b"passed"
    assert sink.take_one() == b"<14>%s\0" % expected


def test_handle_returns_what_the_standard_library_returns(both_handlers):
    """handle() returns the record from Python 3.12 on, True before 3.12, and False if filtered."""
    record = logging.makeLogRecord({"msg": "x"})
    refused = logging.makeLogRecord({"msg": "refused"})
    results = []
    for handler, _ in both_handlers:
        unfiltered = handler.handle(record)
        handler.addFilter(lambda record: record.msg != "refused")
        results.append((unfiltered, handler.handle(record), handler.handle(refused)))
    assert results[0] == results[1]


def test_path_like_and_abstract_addresses(make_handler, make_sink, sink, directory, logger_for):
    """The address may be a path-like object or the name of an abstract socket."""
    logger_for(make_handler(directory / "log")).info("path")
    assert sink.take_one() == b"<14>path\0"
    abstract = make_sink("\0fastlog-test-" + directory.name)
    logger_for(make_handler(abstract.path)).info("abstract")
    assert abstract.take_one() == b"<14>abstract\0"


def test_default_addresses(monkeypatch, make_handler, make_sink, directory, logger_for):
    """The default address is /dev/log if a daemon listens there, else journald's socket."""
    from fastlog import _validation
    assert _validation.DEFAULT_PATHS == ("/dev/log", "/run/systemd/journal/dev-log")
    paths = (str(directory / "first"), str(directory / "second"))
    monkeypatch.setattr(_validation, "DEFAULT_PATHS", paths)
    second = make_sink(paths[1])
    logger_for(make_handler()).info("fallback")
    assert second.take_one() == b"<14>fallback\0"
    first = make_sink(paths[0])
    logger_for(make_handler()).info("preferred")
    assert first.take_one() == b"<14>preferred\0"


def test_record_without_a_level_is_sent(handler, sink):
    """A record made by logging.makeLogRecord() without a level is sent as a warning."""
    handler.handle(logging.makeLogRecord({"msg": "x"}))
    assert sink.take_one() == b"<12>x\0"


def test_gunicorn_style_construction(make_handler, sink, logger_for):
    """The handler accepts the keyword arguments with which gunicorn creates its handler."""
    handler = make_handler(address=sink.path, facility=fastlog.SysLogHandler.LOG_USER,
                           socktype=socket.SOCK_DGRAM)
    logger_for(handler).info("x")
    assert sink.take_one() == b"<14>x\0"


@pytest.mark.parametrize("logger_class", [logging.Logger, fastlog.Logger])
def test_error_report_shows_the_calling_code(handler, capsys, logger_class):
    """handleError prints the call stack of the logging call, as the standard library does."""
    log = logger_class("x")
    log.addHandler(handler)

    def caller():
        log.warning("%d", "no number")

    caller()
    stderr = capsys.readouterr().err
    trace, _, stack = stderr.partition("Call stack:")
    assert "TypeError: %d format" in trace
    assert "in caller" in stack and "in test_error_report_shows" in stack
    assert "Message: '%d'" in stack and "Arguments: ('no number',)" in stack
