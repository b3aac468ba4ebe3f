"""A real journald: entries with all fields, its syslog socket, outages and forks."""
import inspect
import logging
import os
import signal
import subprocess
import sys
from datetime import datetime

import pytest
from support import seccomp, wait_until

import fastlog
from fastlog._frontend.journal_entry import OWN_FIELDS

IDENT = "test-journal"


@pytest.mark.parametrize("fast", [False, True], ids=["logging.Logger", "fastlog.Logger"])
def test_every_record_with_all_its_fields(journald, make_journal_handler, fast):
    """All entries can be read back with all fields.

    Among the 2,003 records are one of two lines, one with a traceback and one of 400 kB.
    """
    journald.start()
    handler = make_journal_handler(journald.native, facility="local3",
                                   fields={"service": "billing", "SHARD": 7, "BLOB": b"\0\n\xff"})
    log = (fastlog.Logger if fast else logging.Logger)("test.journal", logging.DEBUG)
    log.addHandler(handler)
    before = datetime.now().astimezone()
    large = "large " + "\N{EURO SIGN}x" * 100_000
    for i in range(2000):
        log.info("record %d", i, extra={"order_id": i} if i % 2 else None)
    log.warning("first line\nsecond line")
    try:
        raise KeyError("a key")
    except KeyError:
        log.exception("it failed")
    log.error(large)
    line = sys._getframe().f_lineno - 1
    assert handler.flush(30)
    entries = journald.wait_for_entries(IDENT, 2003)
    after = datetime.now().astimezone()

    assert len(entries) == 2003
    assert [entry["MESSAGE"] for entry in entries[:2001]] == [
        *(f"record {i}" for i in range(2000)), "first line\nsecond line"]
    assert [entry.get("ORDER_ID") for entry in entries[:2000]] == [
        str(i) if i % 2 else None for i in range(2000)]
    assert [entry["PRIORITY"] for entry in entries] == ["6"] * 2000 + ["4", "3", "3"]
    failed = entries[2001]
    assert failed["MESSAGE"] == "it failed\n" + failed["EXCEPTION_TEXT"]
    assert failed["EXCEPTION_TEXT"].startswith("Traceback (most recent call last):")
    assert failed["EXCEPTION_TEXT"].endswith("KeyError: 'a key'")
    assert entries[2002]["MESSAGE"] == large
    for entry in entries:
        assert entry["SYSLOG_IDENTIFIER"] == IDENT and entry["SYSLOG_FACILITY"] == "19"
        assert entry["LOGGER"] == "test.journal" and entry["THREAD_NAME"] == "MainThread"
        assert entry["CODE_FILE"] == __file__
        assert entry["CODE_FUNC"] == "test_every_record_with_all_its_fields"
        assert entry["SERVICE"] == "billing" and entry["SHARD"] == "7"
        assert entry["BLOB"] == [0, 10, 255]
        assert entry["_TRANSPORT"] == "journal" and entry["_PID"] == str(os.getpid())
    assert entries[2002]["CODE_LINE"] == str(line)
    times = [datetime.fromisoformat(entry["SYSLOG_TIMESTAMP"]) for entry in entries]
    assert before <= times[0] and times == sorted(times) and times[-1] <= after
    assert (handler.stats().sent, handler.stats().truncated) == (2003, 0)


@pytest.mark.parametrize("cls", [fastlog.SysLogHandler, fastlog.JournalHandler])
def test_absent_stopped_killed_and_restarted(journald, make_handler, logger_for, cls):
    """All records arrive in order on either of journald's sockets, whatever happens to journald."""
    logging.raiseExceptions, before = False, logging.raiseExceptions
    try:
        if cls is fastlog.JournalHandler:
            address, handler = journald.native, make_handler(journald.native, cls=cls, ident=IDENT)
        else:
            address, handler = journald.syslog, make_handler(journald.syslog, ident=f"{IDENT}: ")
        log = logger_for(handler)
        log.info("record 0")
        wait_until(lambda: handler.stats().send_errors > 0, 20, "a failed connect")
        journald.start()
        for i in range(1, 1000):
            log.info("record %d", i)
        assert handler.flush(20)
        journald.wait_for_entries(IDENT, 1000)
        journald.pause()
        for i in range(1000, 1500):
            log.info("record %d", i)
        assert handler.flush(0.1) is False
        journald.resume()
        assert handler.flush(20)
        journald.wait_for_entries(IDENT, 1500)
        journald.kill()
        os.unlink(address)
        for i in range(1500, 2000):
            log.info("record %d", i)
        assert handler.flush(0.1) is False
        journald.start()
        assert handler.flush(20)
        log.error("record 2000")
        entries = journald.wait_for_entries(IDENT, 2001)
        assert [entry["MESSAGE"] for entry in entries] == [f"record {i}" for i in range(2001)]
    finally:
        logging.raiseExceptions = before


def test_large_entries_wait_for_a_stalled_journald(journald, make_journal_handler, logger_for,
                                                   fill_queue):
    """Large entries, which are sent as files, wait for a stalled journald and arrive in order."""
    journald.start()
    handler = make_journal_handler(journald.native)
    log = logger_for(handler)
    journald.pause()
    fill_queue(journald.native)
    for i in range(40):
        log.info("%d %s", i, "x" * (300_000 if i % 4 == 0 else 10))
    assert handler.flush(0.1) is False
    journald.resume()
    assert handler.flush(20)
    entries = journald.wait_for_entries(IDENT, 40)
    assert [int(entry["MESSAGE"].split()[0]) for entry in entries] == list(range(40))
    assert handler.stats().discarded == handler.stats().truncated == 0


def test_large_entry_of_an_ordinary_user(run_python, journald):
    """journald accepts the large entry of an ordinary user, for which it requires a sealed file."""
    journald.start()
    run_python("""
import logging, os, sys, fastlog
handler = fastlog.JournalHandler(sys.argv[1], ident=sys.argv[2])
log = logging.Logger("x")
log.addHandler(handler)
log.info("root")
assert handler.flush(20)  # connects, because an ordinary user has no access to this path
os.setuid(65534)
log.info("x" * 400_000)
log.info("last")
assert handler.flush(20)
""", journald.native, IDENT)
    entries = journald.wait_for_entries(IDENT, 3)
    assert [(entry["_UID"], entry["MESSAGE"]) for entry in entries] == [
        ("0", "root"), ("65534", "x" * 400_000), ("65534", "last")]


def test_values_that_could_forge_a_field(journald, make_journal_handler, logger_for):
    """journald stores each name and value unchanged, and no other fields."""
    journald.start()
    values = {"empty": b"", "feed": b"\n", "lines": b"A=B\nMESSAGE=forged\nPRIORITY=0\n",
              "length": b"\n\1\0\0\0\0\0\0\0x\n", "nul": b"\0", "all": bytes(range(256)),
              "large": b"\n" * 300_000}
    logger_for(make_journal_handler(journald.native)).info(
        "m\nA=B", extra={**values, "a\nPRIORITY": "1", ".b": "2", "#c": "3"})
    entry, = journald.wait_for_entries(IDENT, 1)
    fields = {name: value for name, value in entry.items()
              if not name.startswith("_") and name not in OWN_FIELDS}
    assert (fields.pop("A_PRIORITY"), fields.pop("X__B"), fields.pop("X__C")) == ("1", "2", "3")
    assert {name: value.encode() if isinstance(value, str) else bytes(value)
            for name, value in fields.items()} == {
        name.upper(): value for name, value in values.items()}
    assert (entry["MESSAGE"], entry["PRIORITY"]) == ("m\nA=B", "6")


def test_more_fields_than_journald_accepts(journald, make_journal_handler, logger_for):
    """An entry with too many fields arrives with as many as journald accepts."""
    journald.start()
    handler = make_journal_handler(journald.native, fields={"ALWAYS": 1})
    logger_for(handler).info("many", extra={f"field{i}": i for i in range(2000)})
    entry, = journald.wait_for_entries(IDENT, 1)
    assert entry["MESSAGE"] == "many" and entry["ALWAYS"] == "1"
    assert entry["FIELD0"] == "0" and entry["FIELD998"] == "998" and "FIELD999" not in entry
    assert handler.stats().truncated == 1


def test_forked_child(run_python, journald):
    """A child's entries have its process id, and the parent's entries are not sent twice."""
    journald.start()
    child = int(run_python("""
import logging, os, sys, fastlog
log = logging.getLogger()
log.addHandler(fastlog.JournalHandler(sys.argv[1], ident=sys.argv[2]))
log.warning("parent")
child = os.fork()
if child == 0:
    log.warning("child")
    logging.shutdown()
    os._exit(0)
os.wait()
print(child)
log.warning("parent again")
""", journald.native, IDENT))
    entries = journald.wait_for_entries(IDENT, 3)
    assert sorted(entry["MESSAGE"] for entry in entries) == ["child", "parent", "parent again"]
    for entry in entries:
        assert (entry["_PID"] == str(child)) is (entry["MESSAGE"] == "child")


LONG_ENTRY = inspect.getsource(seccomp) + """
import errno, logging, sys, fastlog
handler = fastlog.JournalHandler(sys.argv[1], ident=sys.argv[2])    # connects as root
os.setgid(65534)
os.setuid(65534)
refuse(errno.EPERM, *sys.argv[3:])
log = logging.Logger("x")
log.addHandler(handler)
for text in "small", "long" * 100_000, "after": log.warning(text)
assert handler.flush(30)
assert handler.stats().sent == 3, handler.stats()
"""


def check_long_entry(journald):
    entries = journald.wait_for_entries(IDENT, 3, timeout=20)
    assert [entry["MESSAGE"] for entry in entries] == ["small", "long" * 100_000, "after"]


@pytest.mark.skipif(not seccomp.NUMBERS, reason="the call numbers are not listed")
@pytest.mark.parametrize("call", ["memfd_create", "fcntl"])
def test_long_entry_without_memfd(run_python, journald, call):
    """A long entry of an ordinary user arrives where a filter refuses memfds or their seals."""
    journald.start()
    os.chmod(journald.output.parent, 0o755)
    run_python(LONG_ENTRY, journald.native, IDENT, call)
    check_long_entry(journald)


@pytest.mark.skipif(not os.path.exists("/proc/sys/vm/memfd_noexec"), reason="needs Linux 6.3")
@pytest.mark.parametrize("mode", [0, 1, 2])
def test_long_entry_under_memfd_noexec(journald, mode):
    """A long entry of an ordinary user arrives whatever vm.memfd_noexec is."""
    journald.start()
    subprocess.run(
        [*journald.enter, "unshare", "--pid", "--fork", "--mount-proc", "sh", "-ec",
         f'echo {mode} > /proc/sys/vm/memfd_noexec; exec "$@"', "sh", sys.executable, "-c",
         LONG_ENTRY, "/run/systemd/journal/socket", IDENT],
        check=True, timeout=60)
    check_long_entry(journald)


ENDS = """
import ctypes, logging, os, signal, sys, fastlog
logging.raiseExceptions = False
{before}
handler = fastlog.JournalHandler(sys.argv[1], ident=sys.argv[2], spool={spool})
log = fastlog.Logger("x")
log.addHandler(handler)
for number in range(300):
    log.warning("%d\\n%s", number, "x" * (300_000 if number % 100 == 0 else 10))
{end}
"""


@pytest.mark.parametrize("number", [signal.SIGSEGV, signal.SIGKILL], ids=lambda number: number.name)
def test_process_that_is_killed(run_python, journald, directory, make_journal_handler, number):
    """All entries of a killed process arrive, including large ones.

    The crash drain sends them after SIGSEGV, and a spool preserves them across SIGKILL.
    """
    if number == signal.SIGSEGV:
        journald.start()
        code = ENDS.format(before="fastlog.enable_crash_drain()", spool=None,
                           end="ctypes.string_at(0)")
    else:
        code = ENDS.format(before="", spool=repr(str(directory / "spool")),
                           end="os.kill(os.getpid(), signal.SIGKILL)")
    run_python(code, journald.native, IDENT, returncode=-number)
    if number == signal.SIGKILL:
        journald.start()
        logging.raiseExceptions, before = False, logging.raiseExceptions
        make_journal_handler(journald.native, spool=directory / "spool")
        logging.raiseExceptions = before
    entries = journald.wait_for_entries(IDENT, 300)
    assert [int(entry["MESSAGE"].split()[0]) for entry in entries] == list(range(300))
    assert len(entries[100]["MESSAGE"]) == 300_000 + len("100\n")
