"""fastlog.Logger is to the letter what logging.Logger is: the same programs with both."""
import asyncio
import functools
import gc
import io
import logging
import sys
import threading
import time
import weakref
from unittest import mock

import pytest

import fastlog
from fastlog import loggers

ALL = ("%(name)s|%(levelname)-8s|%(levelno)d|%(pathname)s|%(filename)s|%(module)s|%(lineno)d|"
       "%(funcName)s|%(threadName)s|%(process)d|%(processName)s|%(message)s")


# --- the same program with both loggers --------------------------------------------------------

class Scene:
    """What a scenario works with: a logger of one class in front of handlers that are observed."""

    def __init__(self, cls, make_handler, sink):
        self.cls = cls
        self.make_handler = make_handler
        self.sink = sink
        self.errors = []
        self.received = []
        scene = self

        class Handler(fastlog.SysLogHandler):
            def handleError(self, record):
                scene.errors.append((record.getMessage, type(sys.exc_info()[1])))

        self.handler = make_handler(sink.path, cls=Handler, linger=0, append_nul=False)
        self.handler.setFormatter(logging.Formatter(ALL))
        self.log = cls("scene.x", logging.DEBUG)
        self.log.manager = logging.Manager(self.root_of(cls))
        self.log.addHandler(self.handler)

    @staticmethod
    def root_of(cls):
        return (loggers.RootLogger if cls is fastlog.Logger else logging.RootLogger)(logging.DEBUG)

    def settle(self, *others):
        """Wait until all is there, and take it: a socket's queue is short."""
        done = False
        while not done:
            done = all([handler.flush(0.01) for handler in (self.handler, *others)])
            while not self.sink.is_empty():
                self.received.append(self.sink.take_one())


SCENARIOS = {}


def scenario(function):
    SCENARIOS[function.__name__] = function
    return function


@scenario
def levels(scene):
    log = scene.log
    for call in (log.debug, log.info, log.warning, log.error, log.critical, log.fatal):
        call("x %s", 1)
    log.log(25, "between")
    log.log(logging.INFO, "log %d", 1)
    log.log(True, "a bool")
    log.setLevel("ERROR")
    log.warning("not")
    log.error("yes")
    return [log.isEnabledFor(level) for level in (10, 40, 45, 10**30, True)]


@scenario
def own_level_names(scene):
    logging.addLevelName(25, "NOTICE")
    try:
        scene.log.log(25, "named")
        logging.addLevelName(25, "RENAMED")
        scene.log.log(25, "renamed")
        logging.addLevelName(logging.INFO, "Info")
        scene.log.info("lower")
    finally:
        logging.addLevelName(logging.INFO, "INFO")
        logging._levelToName.pop(25)
        logging._nameToLevel.pop("NOTICE")
        logging._nameToLevel.pop("RENAMED")
        logging._nameToLevel.pop("Info")


@scenario
def disabled(scene):
    log = scene.log
    log.info("one")
    log.disabled = True
    log.info("not")
    before = log.isEnabledFor(50)
    log.disabled = False
    log.info("two")
    log.manager.disable = logging.INFO
    log.info("three: what was enabled is kept")
    log.manager._clear_cache()
    log._cache.clear()
    log.info("not")
    log.warning("four")
    return before


@scenario
def hierarchy(scene):
    manager = scene.log.manager
    manager.loggerClass = scene.cls
    parent, child = manager.getLogger("a"), manager.getLogger("a.b.c")
    parent.addHandler(scene.handler)
    child.info("to the parent")
    child.addHandler(scene.handler)
    child.info("twice")
    child.propagate = False
    child.info("once")
    child.propagate = True
    between = manager.getLogger("a.b")
    between.propagate = False
    child.info("stopped in between")
    between.propagate = True
    parent.removeHandler(scene.handler)
    manager.root.addHandler(scene.handler)
    child.info("root and child")
    child.parent = None
    child.info("orphan")
    parent.setLevel(logging.ERROR)
    child.parent = parent
    child.info("not: the parent's level")


@scenario
def handlers_changed_in_place(scene):
    log = scene.log
    log.info("one")
    log.handlers.clear()
    with mock.patch.object(logging, "lastResort", None):
        log.info("nobody")
    log.handlers.append(scene.handler)
    log.info("two")
    log.handlers[:] = [scene.handler, scene.handler]
    log.info("three, twice")
    log.handlers = [scene.handler]
    log.info("four")
    scene.handler.setLevel(logging.ERROR)
    log.info("not")
    scene.handler.setLevel(0)
    scene.handler.ident = "ident: "
    log.info("five")
    scene.handler.facility = "local7"
    log.info("six")
    scene.handler.setFormatter(None)
    log.info("seven")
    scene.handler.priority_map = {"INFO": "debug"}
    log.info("eight")
    scene.handler.priority_map["INFO"] = "alert"
    log.info("nine")


@scenario
def filters(scene):
    log = scene.log
    log.info("one")
    refuse = mock.Mock(side_effect=lambda record: "not" not in record.msg, spec=())
    log.addFilter(refuse)
    log.info("not")
    log.info("two")
    log.filters.clear()
    log.info("three, not filtered")
    scene.handler.addFilter(refuse)
    log.info("not")
    log.info("four")
    scene.handler.removeFilter(refuse)
    log.info("five, not filtered")
    log.filters = [logging.Filter("other")]
    log.info("not")
    return refuse.call_count


@scenario
def a_filter_that_changes_the_record(scene):
    def change(record):
        record.msg = "changed %s"
        record.custom = 1
        return True

    scene.log.addFilter(change)
    scene.log.info("one %s", 2)


@scenario
def arguments(scene):
    class Text(str):
        def __str__(self):
            return "text"

    log = scene.log
    log.info("no %s args %d")
    log.info("%(a)s %(b)d", {"a": 1, "b": 2})
    log.info("%s", {})
    log.info("%s", {"a": 1}, )
    log.info("%s %s", {"a": 1}, {"b": 2})
    log.info("%s", (1, 2))
    log.info("%s", [1])
    log.info(Text("str subclass"))
    log.info(Text("%s"), 1)
    log.info("%s", Text("arg"))
    log.info(ValueError("an exception"))
    log.info(None)
    log.info(42)
    log.info("%d %d %d", -1, True, 2**70)
    log.info("%5.1f|%x|%r|%a|%c|%i|%%", 1.25, 255, "ä", "ä", "c", 7)
    log.info("ä %s \udc80", "ö")
    for _ in range(3):
        log.info("%s and %d", "kept", 1)


@scenario
def wrong_arguments(scene):
    class Rude:
        def __str__(self):
            raise LookupError

    log = scene.log
    for _ in range(3):
        log.info("%d", "no number")
        log.info("%s %s", 1)
        log.info("%s", 1, 2)
        log.info("%y", 1)
        log.info("%(key)s", 1)
        log.info("%s", Rude())
        log.info(Rude())
    log.info("after")


@scenario
def wrong_calls(scene):
    outcomes = []
    scene.log.setLevel(logging.INFO)
    for call in (lambda: scene.log.info(), lambda: scene.log.log("INFO", "x"),
                 lambda: scene.log.log(20), lambda: scene.log.info("x", other=1),
                 lambda: scene.log.info(args=1), lambda: scene.log.isEnabledFor(),
                 lambda: scene.log.isEnabledFor("INFO"),
                 lambda: scene.log.info("x", stacklevel="y"),
                 lambda: scene.log.info("x", extra={"message": 1}),
                 lambda: scene.log.info("x", extra={"name": 1}),
                 lambda: scene.log.info("x", extra=5),
                 lambda: scene.log.log(5, "x", level=1), lambda: scene.log.log(5, "x", msg=1),
                 lambda: scene.log.debug("x", msg=1), lambda: scene.log.debug("x", self=1)):
        try:
            outcomes.append(call())
        except Exception as error:
            outcomes.append((type(error), str(error)))
    with mock.patch.object(logging, "raiseExceptions", False):
        outcomes.append(scene.log.log("INFO", "x"))
    return outcomes


@scenario
def message_as_keyword(scene):
    scene.log.info(msg="by name")
    scene.log.log(level=20, msg="by name, too")
    return scene.log.isEnabledFor(level=20)


@scenario
def extra(scene):
    scene.handler.setFormatter(logging.Formatter("%(custom)s %(message)s"))
    scene.log.info("one", extra={"custom": "c"})
    scene.log.info("no custom: an error")
    scene.handler.setFormatter(logging.Formatter("%(custom)s %(message)s",
                                                 defaults={"custom": "d", "name": "ignored"}))
    scene.log.info("two")
    scene.log.info("three", extra={"custom": "c"})
    scene.log.info("four", extra=None)
    scene.log.info("five", extra={})


@scenario
def exceptions(scene):
    log = scene.log
    scene.handler.setFormatter(logging.Formatter("%(message)s %(funcName)s"))

    try:
        raise ValueError("v")
    except ValueError as error:
        log.exception("exception")
        log.error("true", exc_info=True)
        log.info("instance", exc_info=error)
        log.info("tuple", exc_info=sys.exc_info())
        log.info("a number", exc_info=1)
        kept = error
    log.info("instance, later", exc_info=kept)
    log.info("none to tell", exc_info=True)
    log.info("false", exc_info=False)
    log.info("none", exc_info=None)
    log.info("empty", exc_info=())


@scenario
def stacks(scene):
    scene.handler.setFormatter(logging.Formatter("%(message)s %(funcName)s %(lineno)d"))
    scene.log.info("with stack", stack_info=True)
    scene.log.info("without", stack_info=False)


@scenario
def stacklevels(scene):
    def inner(level):
        scene.log.info("level %d", level, stacklevel=level)
        scene.log.log(20, "log", stacklevel=level)
        scene.log.warning("w", stacklevel=level, exc_info=False)
        scene.log.warning("e", stacklevel=level, extra={"x": 1})

    def outer(level):
        inner(level)

    for level in (1, 2, 3, 4, 50, 0, -1):
        outer(level)
        eval("outer(level)", {"outer": outer, "level": level})


@scenario
def callers(scene):
    log = scene.log
    (lambda: log.info("lambda"))()
    list(map(log.info, ["mapped", "twice"]))
    functools.partial(log.info, "partial %s", 1)()
    exec(compile("log.info('made up')", "<string>", "exec"), {"log": log})
    exec(compile("log.info('a path')", "/some/where/mod.py", "exec"), {"log": log})
    exec(compile("log.info('no path')", "", "exec"), {"log": log})
    next(log.info("generator") or 1 for _ in (1,))

    class Thing:
        def __repr__(self):
            log.info("in repr")
            return "thing"

    log.info("%r", Thing())
    thread = threading.Thread(target=log.info, args=("from a thread",), name="other")
    thread.start()
    thread.join()
    logging.Logger.info(log, "by the class")
    type(log).info(log, "by its class")


@scenario
def adapters(scene):
    adapter = logging.LoggerAdapter(scene.log, {"custom": 1})
    adapter.info("one %s", 2)
    adapter.warning("level", stacklevel=1)
    adapter.log(30, "three")
    nested = logging.LoggerAdapter(adapter, {"other": 2})
    nested.error("nested")
    return nested.isEnabledFor(10)


@scenario
def wrapped(scene):
    def helper(message):
        scene.log.info(message, stacklevel=2)

    def user():
        helper("from user")

    user()


@scenario
def facts_switched_off(scene):
    scene.handler.setFormatter(logging.Formatter(
        "%(thread)s %(threadName)s %(process)s %(processName)s %(message)s"))
    for name in ("logThreads", "logProcesses", "logMultiprocessing"):
        with mock.patch.object(logging, name, False):
            scene.log.info("without %s", name)
    with mock.patch.object(logging, "_srcfile", None):
        scene.handler.setFormatter(logging.Formatter(ALL))
        scene.log.info("no caller")


@scenario
def tasks(scene):
    if sys.version_info < (3, 12):
        return
    scene.handler.setFormatter(logging.Formatter("%(taskName)s %(message)s"))

    async def main():
        scene.log.info("in a task")
        with mock.patch.object(logging, "logAsyncioTasks", False):
            scene.log.info("told not to")

    loop = asyncio.new_event_loop()
    loop.run_until_complete(loop.create_task(main(), name="the task"))
    loop.close()
    scene.log.info("outside")


@scenario
def record_factory(scene):
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
    vars(self).update(exc_info=None, exc_text=None, stack_info=None, name="n", pathname="p",
                      filename="f", module="m", lineno=1, funcName="f", threadName="t", process=1,
                      processName="p")
    self.levelname, self.levelno, self.msg, self.args = "INFO", 20, "patched init", ()


@scenario
def patched_classes(scene):
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


@scenario
def patched_instances(scene):
    log = scene.log
    for owner, name, value in (
            (log, "info", lambda *args: log.warning("own info")),
            (log, "isEnabledFor", lambda level: level > 20),
            (log, "handle", lambda record: scene.handler.handle(record)),
            (log, "makeRecord", mock.Mock(side_effect=lambda *args: logging.makeLogRecord(
                {"msg": "made", "levelname": "INFO", "levelno": 20}))),
            (log, "filter", lambda record: False),
            (scene.handler, "handle", lambda record: None),
            (scene.handler, "emit", lambda record: None),
            (scene.handler, "format", lambda record: "own format")):
        with mock.patch.object(owner, name, value):
            log.info("within %s", name)
        log.info("after %s", name)


@scenario
def clock_replaced(scene):
    """As libraries do that stop the time for tests."""
    scene.handler.setFormatter(logging.Formatter("%(created)f %(msecs)d %(asctime)s %(message)s"))
    scene.handler.formatter.converter = time.gmtime
    for ns in (1_700_000_000_123_456_789, 1_700_000_000_999_999_999, 1_700_000_001_000_000_000):
        with mock.patch("time.time_ns", return_value=ns), \
                mock.patch("time.time", return_value=ns / 1e9):
            scene.log.info("stopped")


@scenario
def other_handlers_too(scene):
    stream = io.StringIO()
    other = logging.StreamHandler(stream)
    other.setFormatter(logging.Formatter(ALL))
    scene.log.addHandler(other)
    scene.log.info("both %d", 1)
    other.setLevel(logging.ERROR)
    scene.log.info("one")
    scene.log.removeHandler(other)
    scene.log.info("one again")
    return stream.getvalue()


@scenario
def no_handler_at_all(scene):
    log = scene.cls("lonely", logging.DEBUG)
    log.manager = scene.log.manager
    stderr = io.StringIO()
    with mock.patch.object(sys, "stderr", stderr):
        log.warning("last resort")
        with mock.patch.object(logging, "lastResort", None):
            log.warning("nobody")
            log.warning("told once")
    return stderr.getvalue()


@scenario
def logging_while_logging(scene):
    log = scene.log

    class Chatty:
        def __str__(self):
            log.info("inner")
            log.removeHandler(scene.handler)
            log.addHandler(scene.handler)
            scene.handler.setFormatter(logging.Formatter("%(message)s"))
            return "chatty"

    log.info("outer %s", Chatty())
    log.info("after")


@scenario
def subclasses(scene):
    outcomes = []
    handler = scene.handler

    class Made(scene.cls):
        def makeRecord(self, *args, **kwargs):
            record = super().makeRecord(*args, **kwargs)
            record.msg = "sub " + str(record.msg)
            return record

    class Called(scene.cls):
        def info(self, msg, *args, **kwargs):
            super().info("called " + msg, *args, **kwargs)

    class Enabled(scene.cls):
        def isEnabledFor(self, level):
            outcomes.append(level)
            return level != 30

    class Quiet(scene.cls):
        disabled = property(lambda self: True, lambda self, value: None)

    class Filtering(scene.cls):
        def filter(self, record):
            return "no" not in record.msg

    class Asked(scene.cls):
        def __getattribute__(self, name):
            return True if name == "disabled" else super().__getattribute__(name)

    class Silent(scene.cls):
        def __setattr__(self, name, value):
            self.__dict__[name] = value

    for cls in (Made, Called, Enabled, Quiet, Filtering, Asked, Silent):
        log = cls("sub", logging.DEBUG)
        log.addHandler(handler)
        log.info("one %d", 1)
        log.warning("two")
        log.info("no")
        log.disabled = True
        log.info("disabled")
    return outcomes


@scenario
def handlers_that_meddle(scene):
    """A handler changes the list that is being walked, the record, or the way on."""
    seen = []
    log = scene.log

    class Meddler(logging.Handler):
        def __init__(self, action):
            super().__init__()
            self.action = action

        def emit(self, record):
            seen.append(record.getMessage())
            self.action(self, record)

    late = Meddler(lambda handler, record: None)
    for action in (
            lambda handler, record: log.addHandler(late),
            lambda handler, record: log.removeHandler(handler),
            lambda handler, record: setattr(record, "levelno", 5),
            lambda handler, record: setattr(log, "propagate", False)):
        log.handlers = [Meddler(action), scene.handler]
        scene.handler.setLevel(10)
        log.parent = scene.cls("parent")
        log.parent.addHandler(Meddler(lambda handler, record: None))
        log.propagate = True
        for i in range(3):
            log.info("record %d", i)
    return seen


@scenario
def two_handlers_and_a_message_that_meddles(scene):
    """Between the first handler and the second, an argument's __str__ changes the second."""
    log = scene.log

    class Own(logging.Formatter):
        def format(self, record):
            return "own " + super().format(record)

    for action in (
            lambda other: log.removeHandler(other),
            lambda other: other.setLevel(50),
            lambda other: other.addFilter(lambda record: False),
            lambda other: other.setFormatter(Own("%(message)s")),
            lambda other: setattr(other, "ident", "changed"),
            lambda other: setattr(log, "disabled", True)):
        other = scene.make_handler(scene.sink.path, linger=0)
        log.disabled = False
        log.handlers = [scene.handler, other]

        class Meddler:
            def __str__(self, action=action, other=other):
                action(other)
                return "meddler"

        log.info("warm")
        scene.settle(other)
        log.info("%s", Meddler())
        scene.settle(other)
    scene.received.sort()  # the two are not in step


@scenario
def a_message_that_meddles_with_its_handler(scene):
    """What comes after the formatting is looked up after it."""
    for name, value in (("ident", "changed: "), ("append_nul", True), ("facility", "local5"),
                        ("priority_map", {"INFO": "alert"}), ("urgent_level", 10)):
        class Meddler:
            def __str__(self, name=name, value=value):
                setattr(scene.handler, name, value)
                return name

        scene.log.info("%s", Meddler())
        scene.log.info("after %s", name)


@scenario
def facility_names_changed_in_place(scene):
    scene.handler.facility_names = dict(scene.handler.facility_names)
    scene.handler.facility = "user"
    scene.log.info("one")
    scene.handler.facility_names["user"] = 20
    scene.log.info("two")


@scenario
def handlers_and_filters_that_are_no_lists(scene):
    class Own(list):
        pass

    for kind in (tuple, Own):
        log = scene.cls("x", logging.DEBUG)
        log.handlers = kind([scene.handler])
        log.info("handlers")
        log = scene.cls("x", logging.DEBUG)
        log.addHandler(scene.handler)
        log.filters = kind()
        log.info("filters")
        scene.handler.filters = kind()
        log.info("handler's filters")
        scene.handler.filters = []


@scenario
def huge_levels(scene):
    logging.addLevelName(2**70, "HUGE")
    try:
        scene.log.log(2**70, "huge")
        scene.handler.setLevel(2**64)
        scene.log.info("not")
        scene.log.log(2**70, "huge")
    finally:
        logging._levelToName.pop(2**70)
        logging._nameToLevel.pop("HUGE")


@scenario
def patched_names_in_logging(scene):
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


@scenario
def removed_handlers_are_let_go(scene):
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


def run_scenario(play, cls, make_handler, sink):
    scene = Scene(cls, make_handler, sink)
    answer = play(scene)
    scene.settle()
    return answer, scene.received, [error for _, error in scene.errors]


@pytest.mark.parametrize("play", SCENARIOS.values(), ids=SCENARIOS)
def test_scenario(play, make_handler, sink):
    """Both loggers: the same records, the same errors, the same answers."""
    expected, got = [run_scenario(play, cls, make_handler, sink)
                     for cls in (logging.Logger, fastlog.Logger)]
    assert got == expected
    assert expected != (None, [], []) or play is tasks
