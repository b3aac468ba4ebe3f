"""The command `fastlog bench` runs, and its statements about the sink are true."""
import json
import re
import subprocess
import sys
import time
from array import array

import pytest

from fastlog.__main__ import main
from fastlog.cli import bench

NAMES = ["msg % args", "logging.NullHandler", "logging.handlers.SysLogHandler",
         "fastlog.SysLogHandler", "fastlog.SysLogHandler, fastlog.Logger"]
SHORT = ["--rate", "2000", "--seconds", "0.05"]
LOGGED = 10 + 5 * (2_000 + 20)  # warm-up, then in each round a burst and paced records


def check_facts(facts):
    assert set(facts) == {"machine", "rate", "seconds", "handlers"}
    assert facts["machine"]["fastlog"] and facts["machine"]["CPU"]
    assert (facts["rate"], facts["seconds"]) == (2000, 0.05)
    assert list(facts["handlers"]) == NAMES
    for name, row in facts["handlers"].items():
        assert row["tight"] > 0
        assert 0 < row["service p50"] <= row["p50"] <= row["p99"] <= row["p99.9"] <= row["max"]
        assert row["stdlib / this, tight"] > 0 and row["stdlib / this, p50"] > 0
        assert row["logged"] == LOGGED
        sends = "SysLogHandler" in name
        assert row["arrived"] == (LOGGED if sends else None)
        assert row["in order"] is (True if sends else None)
    stdlib = facts["handlers"][NAMES[2]]
    assert stdlib["stdlib / this, tight"] == stdlib["stdlib / this, p50"] == 1.0


def test_json_with_rsyslogd(start_rsyslogd, tmp_path):
    """The command succeeds with rsyslogd, which the fixture requires to be installed."""
    done = subprocess.run([sys.executable, "-W", "error", "-m", "fastlog", "bench", "--json",
                           *SHORT], capture_output=True, text=True, timeout=50, cwd=tmp_path)
    assert done.stderr == "" and done.returncode == 0
    facts = json.loads(done.stdout)
    assert facts["machine"]["rsyslogd"]
    check_facts(facts)


def test_table_without_rsyslogd(monkeypatch, capfd):
    """Without rsyslogd, the command uses a small receiver."""
    monkeypatch.setattr(bench, "find_rsyslogd", lambda: None)
    assert main(["bench", *SHORT]) == 0
    output = capfd.readouterr().out
    for name in NAMES:
        [line] = re.findall(rf"^{re.escape(name)}(?=  )(.*)$", output, re.MULTILINE)
        assert len(re.findall(r"\d\.\d\d\b", line)) == 7
        assert ("SysLogHandler" in name) == (f"{LOGGED:,} of {LOGGED:,}, in order" in line)
    assert re.search(r"^CPU .*, fastlog [\d.]+, .*\.$", output, re.MULTILINE)
    assert "rsyslogd" not in output


@pytest.mark.slow
def test_missing_records(monkeypatch, capfd):
    """A handler that loses a record is detected, and the exit status is 1."""
    original = bench.fastlog.SysLogHandler.handle

    def handle(self, record):
        return record if record.args[0] == 7 else original(self, record)

    monkeypatch.setattr(bench, "find_rsyslogd", lambda: None)
    monkeypatch.setattr(bench, "_TIMEOUT", 0.2)
    monkeypatch.setattr(bench.fastlog.SysLogHandler, "handle", handle)
    assert main(["bench", "--json", *SHORT]) == 1
    facts = json.loads(capfd.readouterr().out)
    assert facts["handlers"][NAMES[3]]["arrived"] < LOGGED


def test_open_loop_measures_from_the_due_time():
    """A slow call delays the calls after it, and their response times include the delay."""
    calls = []

    def info(message, i, who):
        calls.append((message, i, who))
        if i == 5:
            until = time.perf_counter() + 0.05
            while time.perf_counter() < until:
                pass

    times = bench.time_open_loop(info, "m", "w", 10, 1000, asleep=True, first=5)
    assert calls == [("m", i, "w") for i in range(5, 15)]
    assert all(ns >= 40_000_000 for ns in times.response)  # due within the first 10 ms
    assert times.service[0] >= 50_000_000
    assert sorted(times.service)[5] < 40_000_000
    assert isinstance(times.response, array)


@pytest.mark.parametrize("arguments", [["--rate", "0"], ["--rate", "x"], ["--seconds", "-1"],
                                       ["--seconds", "inf"], ["--seconds", "nan"]])
def test_bad_command_line(arguments, capsys):
    """A bad command line ends with status 2 and a message on stderr."""
    with pytest.raises(SystemExit) as caught:
        main(["bench", *arguments])
    assert caught.value.code == 2
    errors = capsys.readouterr().err
    assert "usage: fastlog bench" in errors
    assert f"{arguments[1]!r} is not a positive number" in errors
