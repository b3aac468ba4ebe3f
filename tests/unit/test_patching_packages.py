"""Packages that patch the logging module or the clock work with fastlog as without it."""
import pytest

import fastlog  # noqa: F401

SENTRY = """
import json, logging, sys
import sentry_sdk
from sentry_sdk.transport import Transport

class Memory(Transport):
    def capture_envelope(self, envelope):
        events.extend(item.payload.json for item in envelope.items if item.type == "event")

def init():
    sentry_sdk.init("https://key@localhost/1", transport=Memory, default_integrations=True,
                    auto_enabling_integrations=False)

def install():
    import fastlog
    fastlog.install()

events = []
for step in sys.argv[2:]:
    globals()[step]()
import fastlog
handler = fastlog.SysLogHandler(sys.argv[1])
log = logging.getLogger("shop")
log.setLevel(logging.INFO)
log.addHandler(handler)
log.info("in the %s", "cart")
log.error("no %s", "money")
handler.flush()
for event in events:
    print(event["logentry"]["message"], event["logentry"]["params"],
          [crumb["message"] for crumb in event["breadcrumbs"]["values"]])
"""


@pytest.mark.parametrize("steps", [("init",), ("init", "install"), ("install", "init")],
                         ids=" ".join)
def test_sentry(run_python, sink, steps):
    """Sentry receives events and breadcrumbs in whatever order the packages are set up."""
    pytest.importorskip("sentry_sdk")
    output = run_python(SENTRY, sink.path, *steps, options=["-W", "ignore"])
    assert output == "no %s ['money'] ['in the cart']\n"
    assert sink.take(2) == [b"<14>in the cart\0", b"<11>no money\0"]


OPENTELEMETRY = """
import logging, sys
from opentelemetry.instrumentation.logging import LoggingInstrumentor

def instrument():
    LoggingInstrumentor().instrument(inject_trace_context=True)

def install():
    import fastlog
    fastlog.install()

for step in sys.argv[2:]:
    globals()[step]()
import fastlog
handler = fastlog.SysLogHandler(sys.argv[1])
handler.setFormatter(logging.Formatter("%(otelTraceID)s %(message)s"))
log = logging.getLogger("shop")
log.addHandler(handler)
log.error("no %s", "money")
handler.flush()
"""


@pytest.mark.parametrize("steps", [("instrument",), ("instrument", "install"),
                                   ("install", "instrument")], ids=" ".join)
def test_opentelemetry(run_python, sink, steps):
    """The trace that OpenTelemetry adds to a record is sent."""
    pytest.importorskip("opentelemetry.instrumentation.logging")
    run_python(OPENTELEMETRY, sink.path, *steps, options=["-W", "ignore"])
    assert sink.take_one() == b"<11>0 no money\0"


WRAPT = """
import logging, sys
import wrapt
seen = []
def wrapper(wrapped, instance, args, kwargs):
    seen.append(wrapped.__name__)
    return wrapped(*args, **kwargs)
for name in sys.argv[2:]:
    wrapt.wrap_function_wrapper("logging", name, wrapper)
import fastlog
fastlog.install()
handler = fastlog.SysLogHandler(sys.argv[1])
log = logging.getLogger("shop")
log.addHandler(handler)
log.error("no %s", "money")
handler.flush()
print(*seen)
"""


@pytest.mark.parametrize("name", ["Logger.callHandlers", "Logger.makeRecord", "Logger.error",
                                  "Handler.handle", "LogRecord.getMessage"])
def test_wrapt(run_python, sink, name):
    """The wrappers of wrapt, which APM agents use, see each call once and with its logger."""
    pytest.importorskip("wrapt")
    output = run_python(WRAPT, sink.path, name, options=["-W", "ignore"])
    assert output.split() == [name.rpartition(".")[2]]
    assert sink.take_one() == b"<11>no money\0"


CLOCK = """
import contextlib, logging, sys, datetime
first = datetime.datetime(2001, 2, 3, 4, 5, 6, tzinfo=datetime.timezone.utc)

def travel():
    if sys.argv[2] == "time_machine":
        import time_machine
        return time_machine.travel(first, tick=False)
    import freezegun
    return freezegun.freeze_time(first.replace(tzinfo=None))

def run(log):
    log.error("x")
    log.error("y", extra={"z": 1})

with contextlib.ExitStack() as stack:
    if sys.argv[3] == "first":
        stack.enter_context(travel())
    import fastlog
    if sys.argv[4] == "install":
        fastlog.install()
    handler = fastlog.SysLogHandler(sys.argv[1], **({"protocol": "rfc5424"}
                                    if sys.argv[5] == "rfc5424" else {}))
    handler.setFormatter(logging.Formatter("%(asctime)s %(message)s"))
    handler.formatter.converter = __import__("time").gmtime
    log = logging.getLogger("shop")
    log.addHandler(handler)
    if sys.argv[3] != "first":
        run(log)
        stack.enter_context(travel())
    run(log)
run(log)
handler.flush()
"""


@pytest.mark.parametrize("protocol", ["rfc3164", "rfc5424"])
@pytest.mark.parametrize("install", ["install", "handler"])
@pytest.mark.parametrize("order", ["first", "later"])
@pytest.mark.parametrize("package", ["time_machine", "freezegun"])
def test_other_time(run_python, sink, package, order, install, protocol):
    """Records have the time that a test has set, and afterwards the real time."""
    pytest.importorskip(package)
    run_python(CLOCK, sink.path, package, order, install,
               protocol if protocol == "rfc5424" else "", options=["-W", "ignore"])
    texts = sink.take(4 if order == "first" else 6)
    *before, frozen, frozen_too, after, after_too = texts
    for text in frozen, frozen_too:
        assert b"2001-02-03 04:05:06,000" in text
        assert protocol == "rfc3164" or b"1 2001-02-03T04:05:06.000000+00:00" in text
    for text in [*before, after, after_too]:
        assert b"2001-02-03" not in text
