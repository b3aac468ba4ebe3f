"""CPython's own tests of logging, with fastlog's handler in the place of the standard library's.

All but one of 3.14's, which tests what differs: that the constructor waits for a connection.
"""
import importlib.util
import json
import os
import re
import subprocess
import sys

import pytest

CLASSES = ("SysLogHandlerTest", "UnixSysLogHandlerTest", "IPv6SysLogHandlerTest", "HandlerTest",
           "ShutdownTest", "ConfigDictTest", "ConfigFileTest", "MemoryTest", "QueueHandlerTest")

PROGRAM = """
import logging.handlers, unittest
import fastlog
from test.test_logging import SysLogHandlerTest
if hasattr(SysLogHandlerTest, "test_tcp_timeout"):
    del SysLogHandlerTest.test_tcp_timeout
logging.handlers.SysLogHandler = fastlog.SysLogHandler
unittest.main("test.test_logging", argv=["", *{classes}], verbosity=2)
"""


@pytest.fixture(autouse=True)
def needs_test_package():
    """Debian, for one, has it in a package of its own."""
    if importlib.util.find_spec("test.test_logging") is None:
        if os.environ.get("CI"):
            pytest.fail("this Python comes without its test package")
        pytest.skip("this Python comes without its test package")


@pytest.mark.timeout(120)
def test_logging_tests_of_the_interpreter(tmp_path):
    """The classes of test.test_logging that meet a handler: none fails."""
    done = subprocess.run([sys.executable, "-c", PROGRAM.format(classes=CLASSES)],
                          capture_output=True, text=True, cwd=tmp_path, timeout=100)
    assert done.returncode == 0, done.stderr
    assert int(re.search(r"^Ran (\d+) tests", done.stderr, re.MULTILINE)[1]) >= 60
    for name in ("SysLogHandlerTest", "UnixSysLogHandlerTest", "IPv6SysLogHandlerTest"):
        results = re.findall(rf"^\w+ \(.*\b{name}\b.*\n?.*\.\.\. (.*)$", done.stderr,
                             re.MULTILINE)
        assert results and set(results) == {"ok"}, (name, done.stderr)


WHOLE = """
import json, logging, sys, unittest
if sys.argv[1] == "installed":
    import fastlog
    fastlog.install()
import test.test_logging


class Outcomes(unittest.TestResult):
    def startTest(self, test):
        super().startTest(test)
        outcomes[test.id()] = "ok"

    def addError(self, test, error):
        outcomes[test.id()] = "error: " + self._exc_info_to_string(error, test)

    addFailure = addError

    def addSkip(self, test, reason):
        outcomes[test.id()] = "skipped: " + reason


outcomes = {}
unittest.defaultTestLoader.loadTestsFromModule(test.test_logging).run(Outcomes())
print(json.dumps({"outcomes": outcomes, "root": type(logging.root).__module__}))
"""


@pytest.mark.timeout(200)
def test_whole_test_logging_with_the_fast_logger(tmp_path):
    """All of test.test_logging: each test ends the same with install() as without."""
    runs = {}
    for how in ("stock", "installed"):
        directory = tmp_path / how
        directory.mkdir()
        runs[how] = subprocess.Popen([sys.executable, "-c", WHOLE, how], cwd=directory,
                                     stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    found = {}
    for how, run in runs.items():
        output, errors = run.communicate(timeout=180)
        assert run.returncode == 0, errors
        found[how] = json.loads(output.splitlines()[-1])
    assert found["stock"]["root"] == "logging"
    assert found["installed"]["root"] == "fastlog.loggers"
    assert found["installed"]["outcomes"] == found["stock"]["outcomes"]
    outcomes = list(found["installed"]["outcomes"].values())
    assert outcomes.count("ok") >= 190, outcomes
