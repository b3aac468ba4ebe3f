"""Each row of README's table of the ways a process ends, measured with a real rsyslogd."""
import re
import signal

import pytest
from support import wait_until

COUNT = 20_000
BATCH = 16  # records that may arrive twice if the process died while it sent a batch

PROGRAM = """
import ctypes, logging, os, signal, sys, time
import fastlog
logging.raiseExceptions = False  # no reports of undelivered records on stderr
address, spool, safety, end = sys.argv[1:]
options = ({"spool": spool, "close_timeout": 0.2} if safety == "spool" else
           {"close_timeout": 30})
handler = fastlog.SysLogHandler(address, facility="local0", ident="ServerLog: ", **options)
if safety == "crash drain":
    fastlog.enable_crash_drain(30)
log = logging.Logger("x")
log.addHandler(handler)
logging.getLogger().addHandler(handler)
for i in range(COUNT):
    log.info("%d", i)
if end.startswith("SIG"):
    os.kill(os.getpid(), getattr(signal, end))
    time.sleep(60)
elif end == "os._exit":
    os._exit(0)
elif end == "sys.exit":
    sys.exit(0)
elif end == "exception":
    sys.excepthook = lambda *error: None
    raise RuntimeError
""".replace("COUNT", str(COUNT))

ENDS = ["return", "sys.exit", "exception", "SIGTERM", "SIGABRT", "SIGSEGV", "os._exit", "SIGKILL"]
NORMAL = ENDS[:3]


def status(end):
    """Return the exit status of a process that ends this way."""
    return -getattr(signal, end) if end.startswith("SIG") else int(end == "exception")


def check(lines):
    """Check the order of the records, and return their number as README shows it.

    After a recovery, one batch may arrive twice.
    """
    numbers = [int(line) for line in lines]
    repetitions = [i for i in range(1, len(numbers)) if numbers[i] <= numbers[i - 1]]
    assert len(repetitions) <= 1 and len(numbers) - len(set(numbers)) <= BATCH
    return f"{len(set(numbers)):,}"


@pytest.fixture(scope="module")
def table(repository):
    """The rows of README's table as {end: (plain, crash drain, spool)}."""
    readme = (repository / "README.md").read_text()
    rows = re.findall(r"^\| (.*?) \| (.*?) \| (.*?) \| (.*?) \|$",
                      readme.partition("| a process ends by |")[2].partition("\n\n")[0],
                      re.MULTILINE)
    cells_of = {}
    for ends, *cells in rows:
        for end in re.findall(r"[\w.]+", ends):
            cells_of[end] = tuple(cells)
    return cells_of


def test_table_is_complete(table):
    """The table has a row for each tested end."""
    assert list(table) == ENDS


@pytest.mark.parametrize("end", ENDS)
def test_without_crash_safety(run_python, rsyslogd, directory, table, end):
    """With the defaults, the number of records in the table arrives."""
    run_python(PROGRAM, rsyslogd.socket, directory / "spool", "", end, returncode=status(end))
    if end in NORMAL:
        rsyslogd.wait_for_lines(COUNT)
        assert check(rsyslogd.server_lines()) == table[end][0]
    else:
        rsyslogd.stop()  # writes the records that it has received
        assert table[end][0] == "what was sent by then"
        assert [int(line) for line in rsyslogd.server_lines()] == list(
            range(len(rsyslogd.server_lines())))


@pytest.mark.parametrize("end", ENDS)
def test_with_crash_drain(run_python, rsyslogd, directory, table, end):
    """With the crash drain, the number of records in the table arrives."""
    run_python(PROGRAM, rsyslogd.socket, directory / "spool", "crash drain", end,
               returncode=status(end))
    if end in ("os._exit", "SIGKILL"):
        assert table[end][1] == "what was sent by then"
    else:
        rsyslogd.wait_for_lines(COUNT)
        assert check(rsyslogd.server_lines()) == table[end][1]


@pytest.mark.parametrize("end", ENDS)
def test_with_spool(run_python, rsyslogd, directory, table, end):
    """With a spool, the number of records in the table arrives.

    The daemon is stopped while the process runs. Then it continues, and `fastlog recover` runs.
    """
    spool = directory / "spool"
    rsyslogd.pause()
    run_python(PROGRAM, rsyslogd.socket, spool, "spool", end, returncode=status(end))
    rsyslogd.resume()
    run_python("import sys; from fastlog.__main__ import main; sys.exit(main())",
               "recover", spool)
    assert not spool.exists()
    wait_until(lambda: len(set(rsyslogd.server_lines())) == COUNT, 60, "all records")
    assert check(rsyslogd.server_lines()) == table[end][2]
