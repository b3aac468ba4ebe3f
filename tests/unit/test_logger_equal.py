"""fastlog.Logger behaves exactly like logging.Logger: calls, levels, handlers and filters.

Each scenario is a program that runs with both kinds of logger. test_logger_equal_patched.py has
the scenarios that patch, subclass or replace parts of the logging package.
"""
import asyncio
import functools
import io
import logging
import sys
import threading
from unittest import mock

import pytest
from support.logger_scene import FORMAT, Scenarios, run_scenario

import fastlog

SCENARIOS = Scenarios()


@SCENARIOS.register
def levels(scene):
    """Log at every level, below the logger's level, and at unnamed levels."""
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


@SCENARIOS.register
def renamed_levels(scene):
    """Name a level, rename it, and rename a standard level."""
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


@SCENARIOS.register
def disabled_logger(scene):
    """Disable the logger, and all loggers of the manager up to a level."""
    log = scene.log
    log.info("one")
    log.disabled = True
    log.info("not")
    enabled_while_disabled = log.isEnabledFor(50)
    log.disabled = False
    log.info("two")
    log.manager.disable = logging.INFO
    log.info("three: the cached level still applies")
    log.manager._clear_cache()
    log._cache.clear()
    log.info("not")
    log.warning("four")
    return enabled_while_disabled


@SCENARIOS.register
def hierarchy(scene):
    """Propagate records through ancestors whose handlers, levels and propagate flags change."""
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
    middle = manager.getLogger("a.b")
    middle.propagate = False
    child.info("stopped in between")
    middle.propagate = True
    parent.removeHandler(scene.handler)
    manager.root.addHandler(scene.handler)
    child.info("root and child")
    child.parent = None
    child.info("orphan")
    parent.setLevel(logging.ERROR)
    child.parent = parent
    child.info("not: the parent's level")


@SCENARIOS.register
def handlers_changed_in_place(scene):
    """Change the list of handlers, and attributes of the handler, between records."""
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


@SCENARIOS.register
def filters(scene):
    """Add filters to the logger and to the handler, and remove them."""
    log = scene.log
    log.info("one")
    reject = mock.Mock(side_effect=lambda record: "not" not in record.msg, spec=())
    log.addFilter(reject)
    log.info("not")
    log.info("two")
    log.filters.clear()
    log.info("three, not filtered")
    scene.handler.addFilter(reject)
    log.info("not")
    log.info("four")
    scene.handler.removeFilter(reject)
    log.info("five, not filtered")
    log.filters = [logging.Filter("other")]
    log.info("not")
    return reject.call_count


@SCENARIOS.register
def filter_changes_the_record(scene):
    """Let a filter change the message and add an attribute."""
    def change(record):
        record.msg = "changed %s"
        record.custom = 1
        return True

    scene.log.addFilter(change)
    scene.log.info("one %s", 2)


@SCENARIOS.register
def message_arguments(scene):
    """Log messages and arguments of many types and conversions, some repeatedly."""
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


@SCENARIOS.register
def invalid_arguments(scene):
    """Log arguments that do not fit the message, or whose __str__ raises."""
    class Unprintable:
        def __str__(self):
            raise LookupError

    log = scene.log
    for _ in range(3):
        log.info("%d", "no number")
        log.info("%s %s", 1)
        log.info("%s", 1, 2)
        log.info("%y", 1)
        log.info("%(key)s", 1)
        log.info("%s", Unprintable())
        log.info(Unprintable())
    log.info("after")


@SCENARIOS.register
def invalid_calls(scene):
    """Call methods with missing, unknown and invalid parameters."""
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


@SCENARIOS.register
def message_as_keyword(scene):
    """Pass the message and the level by keyword."""
    scene.log.info(msg="by name")
    scene.log.log(level=20, msg="by name, too")
    return scene.log.isEnabledFor(level=20)


@SCENARIOS.register
def extra(scene):
    """Format attributes from `extra`, missing ones, and the formatter's defaults."""
    scene.handler.setFormatter(logging.Formatter("%(custom)s %(message)s"))
    scene.log.info("one", extra={"custom": "c"})
    scene.log.info("no custom: an error")
    scene.handler.setFormatter(logging.Formatter("%(custom)s %(message)s",
                                                 defaults={"custom": "d", "name": "ignored"}))
    scene.log.info("two")
    scene.log.info("three", extra={"custom": "c"})
    scene.log.info("four", extra=None)
    scene.log.info("five", extra={})


@SCENARIOS.register
def exceptions(scene):
    """Pass exc_info in every form, inside and outside an except clause."""
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
        saved_error = error
    log.info("instance, later", exc_info=saved_error)
    log.info("no current exception", exc_info=True)
    log.info("false", exc_info=False)
    log.info("none", exc_info=None)
    log.info("empty", exc_info=())


@SCENARIOS.register
def stack_info(scene):
    """Log with and without stack_info."""
    scene.handler.setFormatter(logging.Formatter("%(message)s %(funcName)s %(lineno)d"))
    scene.log.info("with stack", stack_info=True)
    scene.log.info("without", stack_info=False)


@SCENARIOS.register
def stacklevels(scene):
    """Log with stack levels within, beyond and below the call stack."""
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


@SCENARIOS.register
def callers(scene):
    """Call the logger from a lambda, C functions, compiled code, a __repr__ and a thread."""
    log = scene.log
    (lambda: log.info("lambda"))()
    list(map(log.info, ["mapped", "twice"]))
    functools.partial(log.info, "partial %s", 1)()
    exec(compile("log.info('no file')", "<string>", "exec"), {"log": log})
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
    logging.Logger.info(log, "through logging.Logger")
    type(log).info(log, "through its class")


@SCENARIOS.register
def adapters(scene):
    """Log through a LoggerAdapter, and through an adapter around an adapter."""
    adapter = logging.LoggerAdapter(scene.log, {"custom": 1})
    adapter.info("one %s", 2)
    adapter.warning("level", stacklevel=1)
    adapter.log(30, "three")
    nested = logging.LoggerAdapter(adapter, {"other": 2})
    nested.error("nested")
    return nested.isEnabledFor(10)


@SCENARIOS.register
def wrapper_with_stacklevel(scene):
    """Log from a helper that names its caller by stacklevel=2."""
    def helper(message):
        scene.log.info(message, stacklevel=2)

    def user():
        helper("from user")

    user()


@SCENARIOS.register
def optional_fields_disabled(scene):
    """Switch off the fields that the logging module's flags make optional."""
    scene.handler.setFormatter(logging.Formatter(
        "%(thread)s %(threadName)s %(process)s %(processName)s %(message)s"))
    for name in ("logThreads", "logProcesses", "logMultiprocessing"):
        with mock.patch.object(logging, name, False):
            scene.log.info("without %s", name)
    with mock.patch.object(logging, "_srcfile", None):
        scene.handler.setFormatter(logging.Formatter(FORMAT))
        scene.log.info("no caller")


@SCENARIOS.register
def asyncio_tasks(scene):
    """Log the name of an asyncio task, which Python 3.12 introduced."""
    if sys.version_info < (3, 12):
        return
    scene.handler.setFormatter(logging.Formatter("%(taskName)s %(message)s"))

    async def main():
        scene.log.info("in a task")
        with mock.patch.object(logging, "logAsyncioTasks", False):
            scene.log.info("task names are disabled")

    loop = asyncio.new_event_loop()
    loop.run_until_complete(loop.create_task(main(), name="the task"))
    loop.close()
    scene.log.info("outside")


@SCENARIOS.register
def additional_stdlib_handler(scene):
    """Add a handler of the standard library for a while."""
    stream = io.StringIO()
    stream_handler = logging.StreamHandler(stream)
    stream_handler.setFormatter(logging.Formatter(FORMAT))
    scene.log.addHandler(stream_handler)
    scene.log.info("both %d", 1)
    stream_handler.setLevel(logging.ERROR)
    scene.log.info("one")
    scene.log.removeHandler(stream_handler)
    scene.log.info("one again")
    return stream.getvalue()


@SCENARIOS.register
def no_handler(scene):
    """Log without a handler, with the handler of last resort and without it."""
    log = scene.cls("lonely", logging.DEBUG)
    log.manager = scene.log.manager
    stderr = io.StringIO()
    with mock.patch.object(sys, "stderr", stderr):
        log.warning("last resort")
        with mock.patch.object(logging, "lastResort", None):
            log.warning("no handler")
            log.warning("reported once")
    return stderr.getvalue()


@SCENARIOS.register
def huge_levels(scene):
    """Use levels that exceed 64 bits."""
    logging.addLevelName(2**70, "HUGE")
    try:
        scene.log.log(2**70, "huge")
        scene.handler.setLevel(2**64)
        scene.log.info("not")
        scene.log.log(2**70, "huge")
    finally:
        logging._levelToName.pop(2**70)
        logging._nameToLevel.pop("HUGE")


@pytest.mark.parametrize("scenario", SCENARIOS.values(), ids=SCENARIOS)
def test_both_loggers_behave_alike(scenario, make_handler, sink):
    """A scenario gives the same records, errors and result with both kinds of logger."""
    # Both calls are on the same line because some scenarios log the line numbers of their callers.
    expected, actual = [run_scenario(scenario, cls, make_handler, sink)
                        for cls in (logging.Logger, fastlog.Logger)]
    assert actual == expected
    assert expected != (None, [], []) or scenario is asyncio_tasks
