"""Each row of README's table of the ways a process ends, measured with a real rsyslogd."""
import importlib.util
import re
import signal

import pytest
from support import wait_until

COUNT = 20_000
BATCH = 16  # records that may arrive twice if the process died while it sent a batch

PROGRAM = """
import logging, os, signal, subprocess, sys, time
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

def work():
    for i in range(COUNT):
        log.info("%d", i)

if end in ("multiprocessing", "billiard", "multiprocess"):
    package = __import__(end)
    child = package.get_context("fork").Process(target=work)
    child.start()
    child.join()
elif end == "with Pool()":
    import multiprocessing
    with multiprocessing.get_context("fork").Pool(1) as pool:
        pool.apply(work)
elif end == "preexec_fn":
    subprocess.run(["true"], preexec_fn=work)
else:
    work()
if end.startswith("SIG"):        # from another process
    subprocess.run(["sh", "-c", f"kill -{end[3:]} {os.getpid()}"])
    time.sleep(60)
elif end == "sys.exit()":
    sys.exit(0)
elif end == "exception":
    sys.excepthook = lambda *error: None
    raise RuntimeError
elif end == "os._exit()":
    os._exit(0)
elif end == "os.execv()":
    os.execv("/bin/true", ["true"])
elif end == "os.abort()":
    os.abort()
elif end == "signal.raise_signal()":
    signal.raise_signal(signal.SIGTERM)
elif end == "os.kill()":
    os.kill(os.getpid(), signal.SIGKILL)
""".replace("COUNT", str(COUNT))

NORMAL = ["return", "sys.exit()", "exception"]
BY_PYTHON = ["os._exit()", "os.execv()", "os.abort()", "signal.raise_signal()", "os.kill()"]
OF_CHILDREN = ["multiprocessing", "billiard", "multiprocess", "with Pool()", "preexec_fn"]
BY_SIGNAL = ["SIGTERM", "SIGHUP", "SIGABRT", "SIGSEGV", "SIGKILL"]
ENDS = NORMAL + BY_PYTHON + OF_CHILDREN + BY_SIGNAL
STATUS = {"exception": 1, "os.abort()": -signal.SIGABRT, "os.kill()": -signal.SIGKILL,
          "signal.raise_signal()": -signal.SIGTERM,
          **{end: -getattr(signal, end) for end in BY_SIGNAL}}


@pytest.fixture
def end_process(run_python, rsyslogd, directory, require):
    """Run the program to its end."""
    def run(safety, end):
        if end in ("billiard", "multiprocess"):
            require(end, importlib.util.find_spec(end))
        # The packages' own warnings, and that of os.fork() beside a second thread.
        run_python(PROGRAM, rsyslogd.socket, directory / "spool", safety, end,
                   options=["-W", "ignore"], returncode=STATUS.get(end, 0))
    return run


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
        for quoted, plain in re.findall(r"`([^`]+)`|\b(SIG[A-Z]+|exception)\b", ends):
            cells_of[quoted or plain] = tuple(cells)
    return cells_of


def test_table_is_complete(table):
    """The table has a row for each tested end."""
    assert list(table) == ENDS


@pytest.mark.parametrize("end", ENDS)
def test_without_crash_safety(end_process, rsyslogd, table, end):
    """With the defaults, the number of records in the table arrives."""
    end_process("", end)
    if end in BY_SIGNAL:
        rsyslogd.stop()  # writes the records that it has received
        assert table[end][0] == "what was sent by then"
        assert [int(line) for line in rsyslogd.server_lines()] == list(
            range(len(rsyslogd.server_lines())))
    else:
        rsyslogd.wait_for_lines(COUNT)
        assert check(rsyslogd.server_lines()) == table[end][0]


@pytest.mark.parametrize("end", ENDS)
def test_with_crash_drain(end_process, rsyslogd, table, end):
    """With the crash drain, the number of records in the table arrives."""
    end_process("crash drain", end)
    if end == "SIGKILL":
        assert table[end][1] == "what was sent by then"
    else:
        rsyslogd.wait_for_lines(COUNT)
        assert check(rsyslogd.server_lines()) == table[end][1]


@pytest.mark.parametrize("end", ENDS)
def test_with_spool(run_python, end_process, rsyslogd, directory, table, end):
    """With a spool, the number of records in the table arrives.

    The daemon is stopped while the process runs. Then it continues, and `fastlog recover` runs.
    """
    spool = directory / "spool"
    rsyslogd.pause()
    end_process("spool", end)
    rsyslogd.resume()
    run_python("import sys; from fastlog.__main__ import main; sys.exit(main())",
               "recover", spool)
    assert not spool.exists()
    wait_until(lambda: len(set(rsyslogd.server_lines())) == COUNT, 60, "all records")
    assert check(rsyslogd.server_lines()) == table[end][2]
