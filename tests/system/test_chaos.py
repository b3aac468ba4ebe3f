"""A short run of tests/chaos, which `make chaos` runs for longer. See tests/chaos/__main__.py."""
import re
import subprocess
import sys

import pytest

pytestmark = [pytest.mark.slow, pytest.mark.timeout(120)]


@pytest.fixture
def chaos(repository, start_rsyslogd):
    """Runs tests/chaos. The fixture start_rsyslogd ensures that rsyslogd is installed."""
    def run(*arguments):
        done = subprocess.run(
            [sys.executable, str(repository / "tests" / "chaos"), *map(str, arguments)],
            capture_output=True, text=True, timeout=110)
        assert done.returncode == 0, done.stdout + done.stderr
        return done.stdout

    return run


def test_every_lost_record_is_reported(chaos):
    """Every lost record is reported with each overflow policy, with and without a spool.

    One round runs with rsyslogd.
    """
    output = chaos("--seed", 7, "--rounds", 9, "--bursts", 40)
    assert len(re.findall(r"round \d+: \d+ records", output)) == 9
    assert {"block", "drop_new", "drop_oldest"} <= set(re.findall(r" s, (\w+),", output))
    assert "spool" in output and "rsyslogd" in output and "kill" in output and "fork" in output


def test_memory_and_descriptors_stay_the_same(chaos):
    """Memory and the number of open descriptors do not grow while 300,000 records are sent."""
    output = chaos("--seconds", 0, "--soak", 300_000)
    assert "300000 records" in output and "flat" in output
