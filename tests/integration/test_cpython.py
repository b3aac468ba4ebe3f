"""CPython's tests of logging, with fastlog's handler in the place of the standard library's.

One test of 3.14 is left out, because it requires a constructor that waits for a connection.
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
    """Skip these tests, or fail in CI, without the package `test`, which Debian splits off."""
    if importlib.util.find_spec("test.test_logging") is None:
        if os.environ.get("CI"):
            pytest.fail("this Python has no test package")
        pytest.skip("this Python has no test package")


@pytest.mark.slow
@pytest.mark.timeout(120)
def test_logging_tests_of_the_interpreter(tmp_path):
    """The classes of test.test_logging that use a handler pass."""
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


@pytest.mark.slow
@pytest.mark.timeout(200)
def test_whole_test_logging_with_the_fast_logger(tmp_path):
    """Each test of test.test_logging has the same outcome with install() and without."""
    runs = {}
    for variant in ("stdlib", "installed"):
        directory = tmp_path / variant
        directory.mkdir()
        runs[variant] = subprocess.Popen(
            [sys.executable, "-c", WHOLE, variant], cwd=directory, stdout=subprocess.PIPE,
            stderr=subprocess.PIPE, text=True)
    results = {}
    for variant, run in runs.items():
        output, errors = run.communicate(timeout=180)
        assert run.returncode == 0, errors
        results[variant] = json.loads(output.splitlines()[-1])
    assert results["stdlib"]["root"] == "logging"
    assert results["installed"]["root"] == "fastlog.loggers"
    assert results["installed"]["outcomes"] == results["stdlib"]["outcomes"]
    outcomes = list(results["installed"]["outcomes"].values())
    assert outcomes.count("ok") >= 190, outcomes
