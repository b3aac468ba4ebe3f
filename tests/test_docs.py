"""docs/: every block of code in it runs, every link leads somewhere."""
import re
import shlex
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]


def blocks(page, language):
    return re.findall(rf"^```{language}\n(.*?)^```$", page.read_text(), re.MULTILINE | re.DOTALL)


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_links(page):
    for target in re.findall(r"\]\(([^)#:]+)[^):]*\)", page.read_text()):
        assert (page.parent / target).exists(), target


def test_every_block_is_run():
    """Those of README.md are run by test_readme.py."""
    kinds = {page.name: re.findall(r"^```(\w+)$", page.read_text(), re.MULTILINE)
             for page in PAGES[1:]}
    assert kinds == {"crash-safety.md": ["python", "python", "console", "ini", "yaml"],
                     "differences.md": [], "formats.md": ["python"] * 4,
                     "journal.md": ["python", "console"]}


def test_crash_safety(run_python, make_sink, directory):
    """Its examples one after the other: what the second leaves the command sends."""
    page = ROOT / "docs/crash-safety.md"
    enable, spool = blocks(page, "python")
    [command] = blocks(page, "console")
    places = {"/dev/log": str(directory / "log"), "/dev/shm/shop.spool": str(directory / "spool")}
    for old, new in places.items():
        spool, command = spool.replace(old, new), command.replace(old, new)
    run_python("import logging, os\nlogging.raiseExceptions = False\n" + enable + spool
               + 'handler.handle(logging.makeLogRecord({"msg": "x", "levelname": "INFO"}))\n'
                 "os._exit(0)")
    sink = make_sink()
    program, *arguments = shlex.split(command)
    assert program == "fastlog"
    done = subprocess.run([sys.executable, "-m", program, *arguments], capture_output=True,
                          text=True, check=True)
    assert sink.take_one() == b"<14>x\0" and "1 records sent" in done.stdout


def test_systemd_unit(directory, missing):
    """systemd knows each line, and the command of ExecStopPost is one of ours."""
    [unit] = blocks(ROOT / "docs/crash-safety.md", "ini")
    stop = re.search(r"ExecStopPost=\S+ (.*)", unit)[1].split()
    assert stop[:3] == ["-m", "fastlog", "recover"]
    analyze = shutil.which("systemd-analyze")
    if analyze is None:
        missing("systemd")
    (directory / "shop.service").write_text(unit)
    done = subprocess.run([analyze, "verify", "--man=no", directory / "shop.service"],
                          capture_output=True, text=True)
    assert "Unknown" not in done.stderr and "shop.service:" not in done.stderr, done.stderr


def test_formats(run_python, make_sink):
    """Each example sends what the page says."""
    rfc5424, cee, structured, loguru = blocks(ROOT / "docs/formats.md", "python")
    expected = [
        (rfc5424, rb"<156>1 \S+ \S+ shop \d+ PAY \[order@32473 number=\"4711\"\] paid by ann\0"),
        (cee, rb'<12>shop: @cee: \{.*"message": "paid".*"order": 4711.*\}\0'),
        (structured, rb'<14>shop: \{"order": 4711, "event": "paid"\}\0'),
        (loguru, rb"<14>shop: paid 4711\0")]
    sink = make_sink()
    for example, wire in expected:
        run_python(example.replace("/dev/log", sink.path))
        assert re.fullmatch(wire, sink.take_one()), wire


def test_rsyslog_reads_the_cookie(run_python, start_rsyslogd):
    """mmjsonparse finds the fields of the example."""
    daemon = start_rsyslogd(configuration="""
module(load="imuxsock" SysSock.Use="off")
module(load="mmjsonparse")
input(type="imuxsock" Socket="{socket}")
template(name="parsed" type="string" string="%$!order% %$!message%\\n")
action(type="mmjsonparse")
action(type="omfile" file="{server_log}" template="parsed")
""")
    run_python(blocks(ROOT / "docs/formats.md", "python")[1].replace("/dev/log", daemon.socket))
    daemon.wait_for_lines(1)
    assert daemon.server_lines() == ["4711 paid"]


def test_journal(run_python, journald):
    """The entry is found by the command of the page, with its fields."""
    page = ROOT / "docs/journal.md"
    [example], [command] = blocks(page, "python"), blocks(page, "console")
    journald.start()
    run_python(example.replace('ident="shop"', f'{journald.native!r}, ident="shop"'))
    program, *arguments = shlex.split(command.removeprefix("$ "))
    assert program == "journalctl"
    journald.wait_for_entries("shop", 1)
    shown = journald.journalctl(*arguments)
    for field in ("MESSAGE=paid by ann", "ORDER_ID=4711", "SERVICE_SHARD=7", "PRIORITY=4",
                  "LOGGER=shop.orders"):
        assert field in shown
