"""CPython's own tests of logging, with fastlog's handler in the place of the standard library's."""
import importlib.util
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
logging.handlers.SysLogHandler = fastlog.SysLogHandler
unittest.main("test.test_logging", argv=["", *{classes}], verbosity=2)
"""


@pytest.mark.timeout(120)
def test_logging_tests_of_the_interpreter(tmp_path):
    """The classes of test.test_logging that meet a handler: unmodified, and none fails."""
    if importlib.util.find_spec("test.test_logging") is None:
        if os.environ.get("CI"):
            pytest.fail("this Python comes without its test package")
        pytest.skip("this Python comes without its test package")
    done = subprocess.run([sys.executable, "-c", PROGRAM.format(classes=CLASSES)],
                          capture_output=True, text=True, cwd=tmp_path, timeout=100)
    assert done.returncode == 0, done.stderr
    assert int(re.search(r"^Ran (\d+) tests", done.stderr, re.MULTILINE)[1]) >= 60
    for name in ("SysLogHandlerTest", "UnixSysLogHandlerTest", "IPv6SysLogHandlerTest"):
        results = re.findall(rf"^\w+ \(.*\b{name}\b.*\n?.*\.\.\. (.*)$", done.stderr,
                             re.MULTILINE)
        assert results and set(results) == {"ok"}, (name, done.stderr)
