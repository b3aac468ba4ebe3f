"""The pages in docs/: their code runs, their links have targets and their lists are complete."""
import inspect
import logging
import logging.handlers
import re
import shlex
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

import fastlog
from fastlog.__main__ import main

ROOT = Path(__file__).parents[2]
DOCS = ROOT / "docs"
PAGES = [ROOT / "README.md", *sorted(DOCS.glob("*.md"))]
OTHER_PAGES = [ROOT / name for name in (
    "DESIGN.md", "CONTRIBUTING.md", "CHANGELOG.md", "RELEASING.md", "SECURITY.md",
    "bench/README.md", "examples/README.md",
    "examples/rsyslog/README.md")]
SPECIAL_PAGES = ("crash-safety.md", "formats.md", "journal.md")  # with tests for their blocks


def fenced(page):
    """Return (language, text) of each block of code."""
    return re.findall(r"^```(\w*)\n(.*?)^```$", page.read_text(), re.MULTILINE | re.DOTALL)


def blocks(page, language):
    return [text for name, text in fenced(page) if name == language]


def examples(language):
    """Return (code, expected records or None) of each block that the general tests run.

    The expected records are the lines of the text block that follows it.
    """
    result = []
    for page in PAGES[1:]:
        page_blocks = fenced(page) if page.name not in SPECIAL_PAGES else []
        for (name, text), (next_name, sent) in zip(
                page_blocks, [*page_blocks, ("", "")][1:], strict=True):
            if name == language:
                result.append(pytest.param(text, sent.splitlines() if next_name == "text" else None,
                                           id=f"{page.name}, {len(result)}"))
    return result


@pytest.mark.parametrize("page", PAGES + OTHER_PAGES,
                         ids=lambda page: str(page.relative_to(ROOT)))
def test_links(page):
    """Each relative link has a target."""
    for target in re.findall(r"\]\(([^)#:]+)[^):]*\)", page.read_text()):
        assert (page.parent / target).exists(), target


def test_every_block_is_run():
    """Each block is of a kind that a test runs. test_readme.py runs those of README.md."""
    kinds = {page.name: [name for name, _ in fenced(page)] for page in PAGES[1:]}
    assert kinds.pop("crash-safety.md") == ["python", "python", "console", "ini", "yaml"]
    assert kinds.pop("formats.md") == ["python", "", "python", "python", "python"]
    assert kinds.pop("journal.md") == ["python", "console"]
    assert kinds.pop("start.md").count("") == 1  # the rule in test_rule_of_the_start_page
    assert {name for names in kinds.values() for name in names} <= {
        "python", "diff", "text", "console"}


@pytest.mark.parametrize("code, sent", examples("python"))
def test_python(run_python, make_sink, code, sent):
    """The code runs without output on stderr and sends the records that the page shows."""
    sink = make_sink()
    run_python(code.replace("/dev/log", sink.path))
    if sent is not None:
        assert sink.take(len(sent)) == [f"{line}\0".encode() for line in sent]
        assert sink.is_empty()


def without(sign, diff):
    """Return one side of a diff, without the lines that start with a sign."""
    return "\n".join(line[1:] for line in diff.splitlines() if not line.startswith(sign))


SYSTEMD, DIFFS = [], []
for example in examples("diff"):
    (SYSTEMD if "systemd" in example.values[0] else DIFFS).append(example)


@pytest.mark.parametrize("diff, _", DIFFS)
def test_diff(run_python, make_sink, diff, _):
    """The code before a change and the code after it send the same record."""
    sink = make_sink()
    sent = []
    for sign in "+-":
        code = without(sign, diff)
        run_python(code.replace("/dev/log", sink.path))
        sent.append(sink.take_one())
        assert sink.is_empty()
    assert len(set(sent)) == 1


@pytest.mark.parametrize("diff, _", SYSTEMD)
def test_diff_to_journald(run_python, journald, diff, _):
    """The code after a change makes an entry. The code before it needs a further package."""
    journald.start()
    constructor = f"JournalHandler({journald.native!r}, "
    run_python(without("-", diff).replace("JournalHandler(", constructor))
    [entry] = journald.wait_for_entries("shop", 1)
    assert (entry["MESSAGE"], entry["PRIORITY"]) == ("out of apples", "4")


def test_commands_that_other_tests_run():
    """No command is untested.

    `pip install .` builds the package under test, and other modules test the others.
    """
    commands = {line for page in PAGES[1:] if page.name not in SPECIAL_PAGES
                for block in blocks(page, "console") for line in block.splitlines()}
    assert commands == {"pip install .", "fastlog bench", "fastlog doctor"}


def test_rule_of_the_start_page(run_python, start_rsyslogd):
    """rsyslogd writes the record of the page's program to the file."""
    [rule] = blocks(DOCS / "start.md", "")
    daemon = start_rsyslogd(configuration='module(load="imuxsock" SysSock.Use="off")\n'
                                          'input(type="imuxsock" Socket="{socket}")\n'
                                          + rule.replace("/var/log/shop.log", "{server_log}"))
    run_python(blocks(DOCS / "start.md", "python")[0].replace("/dev/log", daemon.socket))
    daemon.wait_for_lines(1)
    [line] = daemon.server_lines()
    assert line.endswith(" shop: INFO order 4711 paid by ann")


def test_options():
    """Each argument of the constructors has a section that shows its default."""
    sections = re.findall(r"^### (\w+)\n\nDefault: `(.*?)`", (DOCS / "options.md").read_text(),
                          re.MULTILINE)
    parameters = {**inspect.signature(fastlog.JournalHandler).parameters,
                  **inspect.signature(fastlog.SysLogHandler).parameters}
    assert sorted(name for name, _ in sections) == sorted(parameters)
    for name, default in sections:
        assert eval(default, {"logging": logging}) == parameters[name].default, name


def test_how_large_a_ring(run_python, make_sink, make_handler, logger_for, directory):
    """The capacity that the page computes is enough for the outage, and half of it is not."""
    [code, _] = blocks(DOCS / "tuning.md", "python")
    capacity = int(run_python(code.replace("/dev/log", make_sink().path)))
    assert f"This prints {capacity}" in (DOCS / "tuning.md").read_text()
    for share in (1, 2):
        handler = make_handler(directory / "absent", capacity=capacity // share,
                               overflow="drop_new", ident="")
        log = logger_for(handler)
        message = "x" * (120 - len("<14>\0"))
        for _ in range(2000 * 10):
            log.info(message)
        assert bool(handler.stats().dropped) is (share == 2)


def test_guarantees_name_their_tests():
    """Each test file that the page names exists."""
    named = set(re.findall(r"`(test_\w+\.py)`", (DOCS / "guarantees.md").read_text()))
    assert named and named <= {path.name for path in (ROOT / "tests").rglob("test_*.py")}


def test_commands(capsys):
    """Each command has a section that lists all its options."""
    page = (DOCS / "commands.md").read_text()
    sections = dict(re.findall(r"^## fastlog (\w+)\n(.*?)(?=^## |\Z)", page,
                               re.MULTILINE | re.DOTALL))

    def help_of(*command):
        with pytest.raises(SystemExit):
            main([*command, "--help"])
        return capsys.readouterr().out

    commands = re.findall(r"^    (\w+) {2,}\S", help_of(), re.MULTILINE)
    assert commands == re.findall(r"^\| `fastlog (\w+)`", page, re.MULTILINE)
    for command in commands:
        options = re.findall(r"^  (--\w\S*(?: \w+)?)", help_of(command), re.MULTILINE)
        assert options == re.findall(r"^\| `(--[^`]+)`", sections[command], re.MULTILINE)


def test_api():
    """Each public name has a section, and each counter has a row that quotes its docstring."""
    page = (DOCS / "api.md").read_text()
    assert sorted([*re.findall(r"^::: fastlog\.(\w+)", page, re.MULTILINE),
                   *re.findall(r"^## (\w+)", page, re.MULTILINE)]) == sorted(fastlog.__all__)
    rows = dict(re.findall(r"^\| `(\w+)` \| (.*) \|$", page, re.MULTILINE))
    assert tuple(rows) == fastlog.Stats._fields
    for name, meaning in rows.items():
        documented = getattr(fastlog.Stats, name).__doc__.rstrip(".")
        assert meaning.replace("`", "").lower().startswith(documented.lower()), name


def test_every_example_is_shown():
    """The page on frameworks links to each file in examples/."""
    shown = re.findall(r"^\[examples/(\S+)\]\(\.\./examples/\1\)$",
                       (DOCS / "frameworks.md").read_text(), re.MULTILINE)
    files = [path.name for path in (ROOT / "examples").iterdir() if path.suffix in (".py", ".ini")]
    assert sorted(shown) == sorted(files)


def test_ends_of_a_process():
    """The table is the same as in README.md, whose figures test_ends.py measures."""
    readme = (ROOT / "README.md").read_text()
    table = readme[readme.index("| a process ends by |"):].partition("\n\n")[0]
    assert f"\n\n{table}\n\n" in (DOCS / "crash-safety.md").read_text()


def test_crash_safety(run_python, make_sink, directory):
    """The examples run one after the other, and the command sends the records of the second."""
    page = ROOT / "docs/crash-safety.md"
    enable, spool = blocks(page, "python")
    [command] = blocks(page, "console")
    paths = {"/dev/log": str(directory / "log"), "/dev/shm/shop.spool": str(directory / "spool")}
    for old, new in paths.items():
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


def test_systemd_unit(directory, require):
    """systemd accepts each line, and ExecStopPost runs `fastlog recover`."""
    [unit] = blocks(ROOT / "docs/crash-safety.md", "ini")
    stop = re.search(r"ExecStopPost=\S+ (.*)", unit)[1].split()
    assert stop[:3] == ["-m", "fastlog", "recover"]
    analyze = require("systemd", shutil.which("systemd-analyze"))
    (directory / "shop.service").write_text(unit)
    done = subprocess.run([analyze, "verify", "--man=no", directory / "shop.service"],
                          capture_output=True, text=True)
    assert "Unknown" not in done.stderr and "shop.service:" not in done.stderr, done.stderr


def test_formats(run_python, make_sink):
    """Each example sends the record that the page shows."""
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


def test_rsyslog_reads_the_header(run_python, start_rsyslogd):
    """With the input of the page, rsyslogd parses the header of the first example."""
    [listen] = blocks(DOCS / "formats.md", "")
    daemon = start_rsyslogd(
        configuration='module(load="imuxsock" SysSock.Use="off")\n'
                      + listen.replace("/run/shop.sock", "{socket}")
                      + 'template(name="parsed" type="string"\n'
                        '         string="%app-name% %msgid% %structured-data% %msg%\\n")\n'
                        'action(type="omfile" file="{server_log}" template="parsed")\n')
    example = blocks(DOCS / "formats.md", "python")[0]
    run_python(example.replace("/dev/log", daemon.socket))
    daemon.wait_for_lines(1)
    assert daemon.server_lines() == ['shop PAY [order@32473 number="4711"] paid by ann']


def test_rsyslog_reads_the_cookie(run_python, start_rsyslogd):
    """rsyslog's module mmjsonparse finds the fields of the example."""
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
    """The page's command shows the entry with its fields."""
    page = DOCS / "journal.md"
    [example], [command] = blocks(page, "python"), blocks(page, "console")
    journald.start()
    run_python(example.replace('ident="shop"', f'{journald.native!r}, ident="shop"'))
    program, *arguments = shlex.split(command.removeprefix("$ "))
    assert program == "journalctl"
    journald.wait_for_entries("shop", 1)
    output = journald.journalctl(*arguments)
    for field in ("MESSAGE=paid by ann", "ORDER_ID=4711", "SERVICE_SHARD=7", "PRIORITY=4",
                  "LOGGER=shop.orders"):
        assert field in output
