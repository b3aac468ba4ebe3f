"""Patches of the standard library that a program makes before it imports fastlog take effect.

Each program runs in a process of its own, because fastlog examines the standard library when it is
imported.
"""
import pytest

PROGRAM = """
import functools, logging, logging.handlers, string, sys, time
{before}
import fastlog
if sys.argv[2] == "install":
    fastlog.install()
handler = fastlog.SysLogHandler(sys.argv[1])
handler.setFormatter(logging.Formatter(sys.argv[3]))
log = logging.getLogger(sys.argv[4])
log.setLevel(logging.INFO)
log.addHandler(handler)
{during}
handler.flush()
"""

# A class or module, and one of its functions that a call with and without install() makes use of.
LOGGER_STEPS = [("logging.Logger", name) for name in (
    "callHandlers", "handle", "makeRecord", "_log", "findCaller", "info", "isEnabledFor",
    "getEffectiveLevel", "filter")]
SHARED_STEPS = [
    ("logging.Filterer", "filter"), ("logging.Handler", "handle"), ("logging.Handler", "format"),
    ("logging.handlers.SysLogHandler", "handle"), ("logging.handlers.SysLogHandler", "filter"),
    ("logging.handlers.SysLogHandler", "mapPriority"),
    ("logging.handlers.SysLogHandler", "encodePriority"), ("logging.LogRecord", "__init__"),
    ("logging.LogRecord", "getMessage"), ("logging.Formatter", "format"),
    ("logging.Formatter", "formatMessage"), ("logging.Formatter", "formatTime"),
    ("logging.Formatter", "usesTime"), ("logging.PercentStyle", "_format"),
    ("logging.PercentStyle", "format"), ("logging.PercentStyle", "usesTime"),
    ("logging", "getLevelName")]

PATCH = """
seen = []
def patch(owner, name):
    original = getattr(owner, name)
    @functools.wraps(original)
    def replacement(*args, **options):
        seen.append(name)
        return original(*args, **options)
    setattr(owner, name, replacement)
patch({owner}, {name!r})
"""


@pytest.fixture
def run(run_python, sink):
    """Runs a program that patches first and logs one record. Returns its output and the record."""
    def run_program(before, during="log.info('user %s', 'ada')", install=True,
                    format="%(asctime)s %(message)s", logger="shop"):
        output = run_python(PROGRAM.format(before=before, during=during), sink.path,
                            "install" if install else "", format, logger)
        return output, sink.take_one()

    return run_program


@pytest.mark.parametrize(
    "owner, name, install",
    [(*step, True) for step in LOGGER_STEPS + SHARED_STEPS]
    + [(*step, False) for step in SHARED_STEPS],
    ids=lambda value: {True: "install", False: "handler"}.get(value, value))
def test_patched_function_is_called(run, owner, name, install):
    """A function that was patched before the import is called by every record."""
    output, received = run(
        PATCH.format(owner=owner, name=name),
        "seen.clear(); log.info('user %s', 'ada'); print(seen != [])", install=install)
    assert output == "True\n" and received.endswith(b"user ada\0")


@pytest.mark.parametrize("name", ["info", "callHandlers", "handle"])
def test_patched_root_logger(run, name):
    """A patch of logging.RootLogger, a class of its own, is called for the root logger."""
    output, _ = run(PATCH.format(owner="logging.RootLogger", name=name),
                    "log.info('user %s', 'ada'); print(seen != [])", logger="root")
    assert output == "True\n"


@pytest.mark.parametrize("style, name", [
    ("{", "logging.StrFormatStyle._format"), ("$", "logging.StringTemplateStyle._format"),
    ("$", "string.Template.substitute")])
def test_patched_style(run, style, name):
    """The methods of all styles, and of string.Template, count as patched."""
    text = {"{": "{message}", "$": "$message"}[style]
    owner, _, name = name.rpartition(".")
    output, received = run(
        PATCH.format(owner=owner, name=name),
        f"handler.setFormatter(logging.Formatter({text!r}, style={style!r}))\n"
        "log.info('user %s', 'ada'); print(seen != [])")
    assert (output, received) == ("True\n", b"<14>user ada\0")


REDACTIONS = {
    "Formatter.format": """
        original = logging.Formatter.format
        logging.Formatter.format = lambda self, record: original(self, record).replace("ada", "*")
        """,
    "LogRecord.getMessage": """
        original = logging.LogRecord.getMessage
        logging.LogRecord.getMessage = lambda self: original(self).replace("ada", "*")
        """,
    "code of getMessage": """
        def redacted(self): return "user *"
        logging.LogRecord.getMessage.__code__ = redacted.__code__
        """,
    "class LogRecord": """
        class Redacted(logging.LogRecord):
            def getMessage(self): return "user *"
        logging.LogRecord = logging._logRecordFactory = Redacted
        """,
    "class Formatter": """
        class Redacted(logging.Formatter):
            def formatMessage(self, record): return "user *"
        logging.Formatter = Redacted
        """,
    "property of LogRecord": """
        logging.LogRecord.args = property(lambda self: ("*",), lambda self, value: None)
        """,
}


@pytest.mark.parametrize("install", [True, False], ids=["install", "handler"])
@pytest.mark.parametrize("redaction", REDACTIONS)
def test_redaction(run, redaction, install):
    """A secret that a patch removes from every record is not sent."""
    lines = [line.removeprefix(" " * 8) for line in REDACTIONS[redaction].splitlines()]
    _, received = run("\n".join(lines), install=install, format="%(message)s")
    assert received == b"<14>user *\0"


@pytest.mark.parametrize("before, expected", [
    ("logging.Formatter.default_msec_format = '%s.%03d'", b"."),
    ("logging.Formatter.default_time_format = 'T'", b"<14>T,"),
    ("class Clock:\n    def __call__(self, seconds): return time.localtime(0)\n"
     "logging.Formatter.converter = time.gmtime = Clock()", b"1970-01-01"),
    ("clock, name = {True: (time.time_ns, 'time_ns'), False: (time.time, 'time')}["
     "sys.version_info >= (3, 13)]; setattr(time, name, lambda: type(clock())(0))", b"1970-01-01"),
])
def test_patched_time(run, before, expected):
    """The attributes of Formatter and the clock may have been patched."""
    _, received = run(before)
    assert expected in received


UNDO = """
original = logging.LogRecord.__init__
def patched(self, *args, **options):
    original(self, *args, **options)
    self.added = self.name = "added"
logging.LogRecord.__init__ = patched
"""


def test_undone_patch_leaves_no_trace(run):
    """After a patch of LogRecord is undone, records have the attributes of the standard library."""
    output, received = run(UNDO, """
logging.LogRecord.__init__ = original
records = []
handler.addFilter(lambda record: records.append(record) or True)
log.info('user %s', 'ada')
plain = logging.Logger('shop').makeRecord('shop', 20, '', 1, '', (), None)
print(list(vars(records[0]))[:len(vars(plain))] == list(vars(plain)), records[0].name)
""")
    assert output == "True shop\n" and received.endswith(b"user ada\0")


@pytest.mark.parametrize("install", [True, False], ids=["install", "handler"])
def test_record_with_a_method_of_its_own(run, install):
    """A filter can give one record another getMessage()."""
    _, received = run("", """
def redact(record):
    record.getMessage = lambda: "user *"
    return True
log.addFilter(redact)
log.info("user %s", "ada")
""", install=install, format="%(message)s")
    assert received == b"<14>user *\0"


def test_drop_is_reported_to_a_patched_handle_error(run_python, make_sink, directory):
    """A handleError() that was patched into logging.Handler receives the dropped records."""
    sink = make_sink()
    sink.hang()
    output = run_python("""
import logging, sys
dropped = []
logging.Handler.handleError = lambda self, record: dropped.append(record.getMessage())
import fastlog
handler = fastlog.SysLogHandler(sys.argv[1], capacity=1, overflow="drop_new", close_timeout=0)
log = logging.getLogger("shop")
log.addHandler(handler)
logging.raiseExceptions = False
while not dropped:
    log.warning("x" * 1000)
print(set(dropped) == {"x" * 1000})
""".replace("capacity=1,", "capacity=8192,"), sink.path)
    assert output == "True\n"


def test_attribute_of_a_record_factory_is_sent_to_journald(run_python, make_sink):
    """An attribute that a record factory had added before the import becomes a field."""
    sink = make_sink()
    run_python("""
import logging, sys
class Record(logging.LogRecord):
    def __init__(self, *args, **options):
        super().__init__(*args, **options)
        self.trace_id = "4711"
logging.setLogRecordFactory(Record)
import fastlog
handler = fastlog.JournalHandler(sys.argv[1])
log = logging.getLogger("shop")
log.addHandler(handler)
log.warning("x")
handler.flush()
""", sink.path)
    assert b"\nTRACE_ID=4711\n" in sink.take_one()
