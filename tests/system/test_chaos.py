"""A short run of chaos and of soak; `make chaos` runs more of it. See tests/chaos/__main__.py."""
import re
import subprocess
import sys

import pytest

pytestmark = pytest.mark.timeout(120)


@pytest.fixture
def chaos(repository, start_rsyslogd):   # for its check that there is one
    def run(*arguments):
        done = subprocess.run(
            [sys.executable, str(repository / "tests" / "chaos"), *map(str, arguments)],
            capture_output=True, text=True, timeout=110)
        assert done.returncode == 0, done.stdout + done.stderr
        return done.stdout

    return run


def test_nothing_is_lost_without_a_word(chaos):
    """Each overflow policy, without and with a spool, and one round in front of rsyslogd."""
    said = chaos("--seed", 7, "--rounds", 9, "--bursts", 40)
    assert len(re.findall(r"round \d+: \d+ records", said)) == 9
    assert {"block", "drop_new", "drop_oldest"} <= set(re.findall(r" s, (\w+),", said))
    assert "spool" in said and "rsyslogd" in said and "kill" in said and "fork" in said


def test_memory_and_descriptors_stay_the_same(chaos):
    said = chaos("--seconds", 0, "--soak", 300_000)
    assert "300000 records" in said and "flat" in said
