"""fastlog.Logger behaves exactly like logging.Logger when programs modify the logging package.

These scenarios patch, subclass or replace parts of it, or change the configuration during a call.
"""
import gc
import io
import logging
import logging.handlers
import time
import weakref
from unittest import mock

import pytest
from support.logger_scene import Scenarios, run_scenario

import fastlog

SCENARIOS = Scenarios()


@SCENARIOS.register
def record_factory(scene):
    """Replace the factory of LogRecords by a class, by a function, and back."""
    class Record(logging.LogRecord):
        def getMessage(self):
            return "made by the factory"

    scene.log.info("before")
    with mock.patch.object(logging, "_logRecordFactory", Record):
        scene.log.info("within")
    scene.log.info("after")
    logging.setLogRecordFactory(lambda *args, **kwargs: Record(*args, **kwargs))
    try:
        scene.log.info("lambda")
    finally:
        logging.setLogRecordFactory(logging.LogRecord)
    scene.log.info("at last")


def patched_init(self, *args, **kwargs):
    """Replace LogRecord.__init__."""
    vars(self).update(exc_info=None, exc_text=None, stack_info=None, name="n", pathname="p",
                      filename="f", module="m", lineno=1, funcName="f", threadName="t", process=1,
                      processName="p")
    self.levelname, self.levelno, self.msg, self.args = "INFO", 20, "patched init", ()


@SCENARIOS.register
def patched_classes(scene):
    """Patch methods of the classes that take part in a call, one at a time."""
    log = scene.log
    log.info("before")
    for owner, name, value in (
            (logging.Logger, "makeRecord", lambda self, *args, **kwargs: logging.makeLogRecord(
                {"msg": "made", "levelname": "INFO", "levelno": 20})),
            (logging.Logger, "_log", lambda self, *args, **kwargs: None),
            (logging.Logger, "handle", lambda self, record: None),
            (logging.Logger, "findCaller", lambda *args: ("f", 1, "g", None)),
            (logging.Logger, "callHandlers", lambda self, record: scene.handler.handle(record)),
            (logging.Logger, "isEnabledFor", lambda self, level: level > 10),
            (logging.Logger, "info", lambda self, *args: self.warning("patched info")),
            (logging.Filterer, "filter", lambda self, record: "before" in record.msg),
            (logging.LogRecord, "getMessage", lambda self: "patched message"),
            (logging.LogRecord, "__init__", patched_init),
            (logging.Handler, "format", lambda self, record: "patched format"),
            (logging.Handler, "handle", lambda self, record: None),
            (logging.LogRecord, "threadName", property(lambda self: "patched",
                                                       lambda self, value: None)),
            (logging.Formatter, "format", lambda self, record: "formatted otherwise"),
            (type(scene.handler), "emit", lambda self, record: None),
            (type(scene.handler), "handle", lambda self, record: None),
            (type(scene.handler), "mapPriority", lambda self, name: "emerg"),
            (logging.handlers.SysLogHandler, "encodePriority", lambda self, f, p: 7)):
        with mock.patch.object(owner, name, value, create=True):
            log.info("within %s", name)
        log.info("after %s", name)


@SCENARIOS.register
def replaced_by_other_objects(scene):
    """Replace methods by objects that bind themselves in another way than functions, or not."""
    log, seen = scene.log, []
    for name in ("debug", "info", "warning", "error", "critical"):
        for value in (mock.Mock(), staticmethod(lambda *args: seen.append(args)),
                      classmethod(lambda cls, *args: seen.append(args)),
                      property(lambda self: seen.append)):
            with mock.patch.object(logging.Logger, name, value):
                getattr(log, name)("replaced")
            if isinstance(value, mock.Mock):
                seen.append(value.call_args.args)
    with mock.patch.object(logging.Logger, "info", autospec=True) as info:
        log.info("replaced")
        seen.append((info.call_args.args[0] is log, info.call_args.args[1:]))
    log.info("seen: %s", seen)


@SCENARIOS.register
def patched_instances(scene):
    """Patch methods on the logger and on the handler, one at a time."""
    log = scene.log
    for owner, name, value in (
            (log, "info", lambda *args: log.warning("patched info")),
            (log, "isEnabledFor", lambda level: level > 20),
            (log, "handle", lambda record: scene.handler.handle(record)),
            (log, "makeRecord", mock.Mock(side_effect=lambda *args: logging.makeLogRecord(
                {"msg": "made", "levelname": "INFO", "levelno": 20}))),
            (log, "filter", lambda record: False),
            (scene.handler, "handle", lambda record: None),
            (scene.handler, "emit", lambda record: None),
            (scene.handler, "format", lambda record: "patched format")):
        with mock.patch.object(owner, name, value):
            log.info("within %s", name)
        log.info("after %s", name)


@SCENARIOS.register
def patched_clock(scene):
    """Stop the clock, as test libraries do."""
    scene.handler.setFormatter(logging.Formatter("%(created)f %(msecs)d %(asctime)s %(message)s"))
    scene.handler.formatter.converter = time.gmtime
    for ns in (1_700_000_000_123_456_789, 1_700_000_000_999_999_999, 1_700_000_001_000_000_000):
        with mock.patch("time.time_ns", return_value=ns), \
                mock.patch("time.time", return_value=ns / 1e9):
            scene.log.info("stopped")


@SCENARIOS.register
def patched_names_in_logging(scene):
    """Replace functions, tables and modules that the logging module uses."""
    for name, value in (("getLevelName", lambda level: "patched"),
                        ("_levelToName", {20: "replaced"}),
                        ("threading", mock.Mock(**{"current_thread.return_value.name": "t"})),
                        ("os", mock.Mock(**{"getpid.return_value": 5, "path.basename": str,
                                            "path.normcase": str,
                                            "path.splitext": lambda path: (path, "")})),
                        ("time", mock.Mock(**{"time.return_value": 1.0, "time_ns.return_value": 1,
                                              "localtime": time.gmtime}))):
        scene.log.info("before %s", name)
        with mock.patch.object(logging, name, value):
            scene.log.info("within %s", name)


@SCENARIOS.register
def logger_subclasses(scene):
    """Log with subclasses that override steps of a call or access to attributes."""
    queried_levels = []
    handler = scene.handler

    class RecordMaking(scene.cls):
        def makeRecord(self, *args, **kwargs):
            record = super().makeRecord(*args, **kwargs)
            record.msg = "sub " + str(record.msg)
            return record

    class InfoOverridden(scene.cls):
        def info(self, msg, *args, **kwargs):
            super().info("called " + msg, *args, **kwargs)

    class LevelChecking(scene.cls):
        def isEnabledFor(self, level):
            queried_levels.append(level)
            return level != 30

    class DisabledByProperty(scene.cls):
        disabled = property(lambda self: True, lambda self, value: None)

    class Filtering(scene.cls):
        def filter(self, record):
            return "no" not in record.msg

    class DisabledByGetattribute(scene.cls):
        def __getattribute__(self, name):
            return True if name == "disabled" else super().__getattribute__(name)

    class SetattrOverridden(scene.cls):
        def __setattr__(self, name, value):
            self.__dict__[name] = value

    for cls in (RecordMaking, InfoOverridden, LevelChecking, DisabledByProperty, Filtering,
                DisabledByGetattribute, SetattrOverridden):
        log = cls("sub", logging.DEBUG)
        log.addHandler(handler)
        log.info("one %d", 1)
        log.warning("two")
        log.info("no")
        log.disabled = True
        log.info("disabled")
    return queried_levels


@SCENARIOS.register
def handlers_and_filters_that_are_not_lists(scene):
    """Store handlers and filters in a tuple and in a subclass of list."""
    class ListSubclass(list):
        pass

    for sequence in (tuple, ListSubclass):
        log = scene.cls("x", logging.DEBUG)
        log.handlers = sequence([scene.handler])
        log.info("handlers")
        log = scene.cls("x", logging.DEBUG)
        log.addHandler(scene.handler)
        log.filters = sequence()
        log.info("filters")
        scene.handler.filters = sequence()
        log.info("handler's filters")
        scene.handler.filters = []


@SCENARIOS.register
def facility_names_changed_in_place(scene):
    """Change the number of a facility in facility_names."""
    scene.handler.facility_names = dict(scene.handler.facility_names)
    scene.handler.facility = "user"
    scene.log.info("one")
    scene.handler.facility_names["user"] = 20
    scene.log.info("two")


@SCENARIOS.register
def logging_while_formatting(scene):
    """Log and change the handlers in an argument's __str__."""
    log = scene.log

    class SideEffect:
        def __str__(self):
            log.info("inner")
            log.removeHandler(scene.handler)
            log.addHandler(scene.handler)
            scene.handler.setFormatter(logging.Formatter("%(message)s"))
            return "chatty"

    log.info("outer %s", SideEffect())
    log.info("after")


@SCENARIOS.register
def handlers_change_the_configuration(scene):
    """Let a handler change the list of handlers, the record, or the propagation of the record."""
    messages = []
    log = scene.log

    class ActingHandler(logging.Handler):
        def __init__(self, action):
            super().__init__()
            self.action = action

        def emit(self, record):
            messages.append(record.getMessage())
            self.action(self, record)

    late_handler = ActingHandler(lambda handler, record: None)
    for action in (
            lambda handler, record: log.addHandler(late_handler),
            lambda handler, record: log.removeHandler(handler),
            lambda handler, record: setattr(record, "levelno", 5),
            lambda handler, record: setattr(log, "propagate", False)):
        log.handlers = [ActingHandler(action), scene.handler]
        scene.handler.setLevel(10)
        log.parent = scene.cls("parent")
        log.parent.addHandler(ActingHandler(lambda handler, record: None))
        log.propagate = True
        for i in range(3):
            log.info("record %d", i)
    return messages


@SCENARIOS.register
def argument_changes_the_second_handler(scene):
    """Change the second handler in an argument's __str__ while the first handler formats it."""
    log = scene.log

    class CustomFormatter(logging.Formatter):
        def format(self, record):
            return "custom " + super().format(record)

    for action in (
            lambda other: log.removeHandler(other),
            lambda other: other.setLevel(50),
            lambda other: other.addFilter(lambda record: False),
            lambda other: other.setFormatter(CustomFormatter("%(message)s")),
            lambda other: setattr(other, "ident", "changed"),
            lambda other: setattr(log, "disabled", True)):
        other = scene.make_handler(scene.sink.path, linger=0)
        log.disabled = False
        log.handlers = [scene.handler, other]

        class SideEffect:
            def __str__(self, action=action, other=other):
                action(other)
                return "meddler"

        log.info("warm")
        scene.settle(other)
        log.info("%s", SideEffect())
        scene.settle(other)
    scene.received.sort()  # The order of the two writers is not determined.


@SCENARIOS.register
def argument_changes_its_handler(scene):
    """Change the attributes that a handler reads after formatting in an argument's __str__."""
    for name, value in (("ident", "changed: "), ("append_nul", True), ("facility", "local5"),
                        ("priority_map", {"INFO": "alert"}), ("urgent_level", 10)):
        class SideEffect:
            def __str__(self, name=name, value=value):
                setattr(scene.handler, name, value)
                return name

        scene.log.info("%s", SideEffect())
        scene.log.info("after %s", name)


@SCENARIOS.register
def removed_handlers_are_released(scene):
    """Return the referent of a weak reference to a removed handler, which must be None."""
    root, log = scene.cls("root"), scene.cls("x", logging.DEBUG)
    log.parent = root
    handler = logging.StreamHandler(io.StringIO())
    root.addHandler(handler)
    log.info("x")
    reference = weakref.ref(handler)
    root.removeHandler(handler)
    handler.close()
    del handler
    gc.collect()
    return repr(reference())


@pytest.mark.parametrize("scenario", SCENARIOS.values(), ids=SCENARIOS)
def test_both_loggers_behave_alike(scenario, make_handler, sink):
    """A scenario gives the same records, errors and result with both kinds of logger."""
    # Both calls are on the same line because some scenarios log the line numbers of their callers.
    expected, actual = [run_scenario(scenario, cls, make_handler, sink)
                        for cls in (logging.Logger, fastlog.Logger)]
    assert actual == expected
    assert expected != (None, [], [])
