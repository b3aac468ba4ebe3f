"""README.md: its code runs, its commands exist and its table of options is the signature."""
import inspect
import logging
import logging.handlers
import re
import socket

import pytest

import fastlog


@pytest.fixture(scope="module")
def readme(repository):
    return (repository / "README.md").read_text()


def fenced(readme):
    """Return (language, text) of each fenced block."""
    return re.findall(r"^```(\w*)\n(.*?)^```$", readme, re.MULTILINE | re.DOTALL)


def blocks(readme, language):
    return [text for name, text in fenced(readme) if name == language]


def test_every_block_is_known(readme):
    """Each fenced block is of a kind that a test in this module runs."""
    kinds = [name for name, _ in fenced(readme)]
    assert sorted(kinds) == ["", *["console"] * 3, "diff", *["python"] * 3]


def test_dict_config_example(readme, make_sink, run_python):
    """The program logs the documented record, with install() and without.

    Only the address is changed.
    """
    example, install, _ = blocks(readme, "python")
    sink = make_sink()
    run_python(install + example.replace("/dev/log", sink.path))
    run_python(example.replace("/dev/log", sink.path))
    assert sink.take(2) == 2 * [b"<134>ServerLog: shop: order 4711 paid by ann\0"]


def test_options_example(readme, make_sink, run_python):
    """The example of the options runs and prints zero for both counters."""
    _, _, example = blocks(readme, "python")
    sink = make_sink()
    assert run_python(example.replace("/dev/log", sink.path)) == "0 0\n"


def test_one_changed_line(readme, sink):
    """Both lines of the diff make a handler, and both handlers send the same."""
    [diff] = blocks(readme, "diff")
    for line in diff.splitlines():
        names = {"logging": logging, "fastlog": fastlog}
        exec(line[1:].replace("/dev/log", sink.path), names)
        handler = names["handler"]
        handler.handle(logging.makeLogRecord({"msg": "x", "levelname": "INFO"}))
        assert sink.take_one() == b"<14>x\0"
        handler.close()


def test_rsyslog_example(readme, start_rsyslogd, make_handler, logger_for, directory):
    """The rsyslog rule routes the record of the example to its file."""
    [rule] = blocks(readme, "")
    rule = rule.replace("/var/log/server.log", "{server_log}")
    daemon = start_rsyslogd(configuration='module(load="imuxsock" SysSock.Use="off")\n'
                                          'input(type="imuxsock" Socket="{socket}")\n' + rule)
    handler = make_handler(daemon.socket, facility="local0", ident="ServerLog: ")
    logger_for(handler).info("order 4711 paid by ann")
    handler.ident = "Other: "
    logger_for(handler).info("not for this file")
    handler.ident = "ServerLog: "
    logger_for(handler).info("the last")
    daemon.wait_for_lines(2)
    lines = daemon.server_lines()
    assert lines[0].endswith("ServerLog: order 4711 paid by ann")
    assert lines[1].endswith("ServerLog: the last")


def test_commands(readme, repository):
    """The commands are those that `.ci/run` runs on a clean checkout, and `pip install .`."""
    commands = [line for block in blocks(readme, "console") for line in block.splitlines()]
    assert commands == ["pip install .", "make demo", "make test", "fastlog bench"]
    # test_cli_bench.py runs the last one with smaller numbers.
    steps = (repository / ".ci" / "run").read_text().splitlines()
    for command in ("make demo", "run_tests make test"):
        assert command in steps
    # `pip install .` builds the package in the same way as the installation of the sdist, on which
    # these tests run.
    assert repository not in (*map(type(repository), fastlog.__path__),)


def test_table_of_options(readme):
    """Each constructor argument has a row that shows its default."""
    rows = dict(re.findall(r"^\| `(\w+)` \| (.*?) \|", readme, re.MULTILINE))
    parameters = inspect.signature(fastlog.SysLogHandler).parameters
    assert list(rows) == list(parameters)
    spellings = {"capacity": "4 MiB", "block_timeout": "0.2 s", "linger": "0.002 s",
                 "close_timeout": "5 s", "facility": "`LOG_USER`",
                 "urgent_level": "`logging.ERROR`", "ident": '`""`', "append_nul": "`True`"}
    for name, parameter in parameters.items():
        default = repr(parameter.default).replace("'", '"')
        assert rows[name] == spellings.get(name, f"`{default}`"), name
    assert parameters["facility"].default == logging.handlers.SysLogHandler.LOG_USER
    assert parameters["capacity"].default == 4 * 1024 * 1024
    assert parameters["block_timeout"].default == 0.2
    assert parameters["linger"].default == 0.002
    assert parameters["close_timeout"].default == 5
    assert parameters["urgent_level"].default == logging.ERROR
    assert fastlog.SysLogHandler.ident == "" and fastlog.SysLogHandler.append_nul is True
    assert socket.SOCK_DGRAM  # the row of socktype names it
