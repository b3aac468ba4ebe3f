"""The command `fastlog demo` with fewer records than `make demo` sends."""
import re
import subprocess
import sys
import time

import pytest

from fastlog.__main__ import main
from fastlog.cli import demo
from fastlog.cli.measure import percentile, time_paced


def check_output(text):
    assert "3,000 of 3,000 records from 4 threads are in the file" in text
    assert "order within each thread: correct" in text
    assert "submitted 3,000 = accepted 3,000 + dropped 0" in text
    assert max(map(len, text.splitlines())) <= 80
    assert len(re.findall(r"^    thread \d record \d+$", text, re.MULTILINE)) == 3
    for name in ("logging.handlers.SysLogHandler", "fastlog.SysLogHandler"):
        assert re.search(rf"^  {name} +([\d.]+ +){{4}}[\d,]+$", text, re.MULTILINE)


@pytest.mark.slow
def test_with_rsyslogd(start_rsyslogd, tmp_path):
    """The command succeeds with rsyslogd, which the fixture requires to be installed."""
    done = subprocess.run([sys.executable, "-m", "fastlog", "demo", "--records", "3000"],
                          capture_output=True, text=True, timeout=50, cwd=tmp_path)
    assert done.stderr == "" and done.returncode == 0
    assert "rsyslogd, which writes facility local0" in done.stdout
    check_output(done.stdout)


@pytest.mark.slow
def test_without_rsyslogd(monkeypatch, capfd):
    """Without rsyslogd, the demo uses a small receiver and prints that."""
    monkeypatch.setattr(demo, "find_rsyslogd", lambda: None)
    assert main(["demo", "--records", "3000"]) == 0
    output = capfd.readouterr().out
    assert "rsyslogd is not installed" in output
    check_output(output)


@pytest.mark.parametrize("lines, problem", [
    (["thread 0 record 0", "thread 1 record 0", "thread 0 record 1"], None),
    (["thread 0 record 1", "thread 0 record 0", "thread 1 record 0"], "record 1 instead of 0"),
    (["thread 0 record 0", "thread 0 record 0", "thread 1 record 0"], "record 0 instead of 1"),
    (["thread 0 record 0", "thread 1 record 0"], "1 records are missing"),
])
def test_check_finds_the_problem(lines, problem):
    """The check reports records that are out of order, repeated or missing."""
    result = demo._check(lines, [2, 1])
    assert result is None if problem is None else problem in result


@pytest.mark.parametrize("arguments, words", [
    ([], "required: COMMAND"), (["nonsense"], "invalid choice: 'nonsense'"),
    (["demo", "--records", "0"], "'0' is not a positive number"),
    (["demo", "--threads", "x"], "'x' is not a positive number")])
def test_bad_command_line(arguments, words, capsys):
    """A bad command line ends with status 2 and a message on stderr."""
    with pytest.raises(SystemExit) as caught:
        main(arguments)
    assert caught.value.code == 2
    errors = capsys.readouterr().err
    assert "usage: fastlog" in errors and words in errors


def test_percentile_is_the_nearest_rank():
    """A percentile is one of the values, by the nearest-rank method."""
    durations = list(range(1000, 0, -1))
    assert [percentile(durations, p) for p in (50, 99, 99.9, 100)] == [500, 990, 999, 1000]
    assert percentile([7], 50) == 7


@pytest.mark.parametrize("asleep", [True, False])
def test_time_paced_calls_in_order_and_not_early(asleep):
    """time_paced makes its calls in order, and none before it is due."""
    times = []
    start = time.perf_counter()
    assert len(time_paced(lambda i: times.append((i, time.perf_counter())), 20, 1000,
                          asleep=asleep)) == 20
    assert [i for i, _ in times] == list(range(20))
    assert all(when >= start + i / 1000 for i, when in times)
