"""The crash drain: accepted records are sent before a fatal signal ends the process."""
import re
import signal
import socket
import subprocess
import threading

import pytest
from support import wait_until

COUNT = 5_000

PROGRAM = """
import ctypes, faulthandler, logging, os, signal, sys, threading, time
import fastlog
address, *arguments = sys.argv[1:]
handler = fastlog.SysLogHandler(address, facility="local0", ident="ServerLog: ")
log = logging.Logger("x")
log.addHandler(handler)

def crash(number):
    os.kill(os.getpid(), number)
    time.sleep(30)

"""
# Logs a record, and can read which signals a process or thread blocks.
PENDING_RECORD = PROGRAM + """
logging.raiseExceptions = False  # no outage reports on stderr
log.info("x")

def blocked(path):
    with open(f"/proc/{path}/status") as status:
        return int(status.read().partition("SigBlk:")[2].split()[0], 16)
"""
LOG = f"for i in range({COUNT}):\n    log.info('%d', i)\n"


@pytest.fixture
def crash(run_python, rsyslogd):
    """Runs a program that a signal ends, and returns the lines that arrived."""
    def run(code, number, *arguments, stderr="", count=COUNT):
        run_python(PROGRAM + code, rsyslogd.socket, *arguments, returncode=-number, stderr=stderr)
        rsyslogd.wait_for_lines(count)
        return rsyslogd.server_lines()
    return run


def numbers(count=COUNT):
    return [str(i) for i in range(count)]


# All whose default action ends the process, without SIGKILL. Python ignores SIGPIPE and SIGXFSZ,
# and has a handler for SIGINT. Python knows SIGSTKFLT from 3.11 on.
ENDING = [getattr(signal, f"SIG{name}") for name in [
    "ABRT", "ALRM", "BUS", "FPE", "HUP", "ILL", "POLL", "PROF", "PWR", "QUIT", "SEGV", "STKFLT",
    "SYS", "TERM", "TRAP", "USR1", "USR2", "VTALRM", "XCPU", "RTMIN", "RTMAX"]
    if hasattr(signal, f"SIG{name}")]


@pytest.mark.parametrize("number", ENDING)
def test_each_signal(crash, number):
    """All records arrive in order, and the signal ends the process."""
    lines = crash(f"fastlog.enable_crash_drain()\n{LOG}crash({int(number)})", number)
    assert lines == numbers()


def test_invalid_memory_access(crash):
    """All records arrive before an invalid memory access ends the process."""
    assert crash(f"fastlog.enable_crash_drain()\n{LOG}ctypes.string_at(0)",
                 signal.SIGSEGV) == numbers()


def test_abort(crash):
    """All records arrive before os.abort() ends the process."""
    assert crash(f"fastlog.enable_crash_drain()\n{LOG}os.abort()", signal.SIGABRT) == numbers()


def test_crash_in_another_thread(crash):
    """All records arrive if another thread crashes while the main thread waits."""
    lines = crash(f"""
fastlog.enable_crash_drain()
{LOG}
thread = threading.Thread(target=ctypes.string_at, args=(0,))
thread.start()
thread.join()
""", signal.SIGSEGV)
    assert lines == numbers()


def test_crash_inside_a_logging_call(crash):
    """All records arrive if the process crashes while it formats a message."""
    lines = crash(f"""
fastlog.enable_crash_drain()
class Crashing:
    def __str__(self):
        return ctypes.string_at(0)
{LOG}
log.info("%s", Crashing())
""", signal.SIGSEGV)
    assert lines == numbers()


def test_half_written_record(crash):
    """The drain skips a record whose producer crashed between reservation and commit.

    The memory of the message is unmapped. If the drain waited for the record, the test would fail
    with a timeout.
    """
    lines = crash(f"""
fastlog.enable_crash_drain(timeout=1000)
libc = ctypes.CDLL(None)
{LOG}
text = "x" * 1_000_000
page = os.sysconf("SC_PAGE_SIZE")
begin = (id(text) // page + 2) * page
assert libc.munmap(ctypes.c_void_p(begin), ctypes.c_size_t(100 * page)) == 0
log.info(text)
""", signal.SIGSEGV)
    assert lines == numbers()


def test_stack_overflow(crash, directory, gcc):
    """All records arrive after a stack overflow, because the signal handler has its own stack."""
    source = directory / "deep.c"
    source.write_text("int deep(volatile char *p) { volatile char frame[4096]; frame[0] = *p; "
                      "return deep(frame) + frame[1]; }\n")
    subprocess.run([gcc, "-O0", "-shared", "-fPIC", "-w", "-o", directory / "deep.so", source],
                   check=True)
    lines = crash(f"fastlog.enable_crash_drain()\n{LOG}"
                  f"ctypes.CDLL({str(directory / 'deep.so')!r}).deep(b'x')", signal.SIGSEGV)
    assert lines == numbers()


@pytest.mark.parametrize("order", [
    "fastlog.enable_crash_drain(); faulthandler.enable()",
    "faulthandler.enable(); fastlog.enable_crash_drain()",
    "fastlog.enable_crash_drain(); faulthandler.enable(); fastlog.enable_crash_drain()"])
def test_with_faulthandler(crash, order):
    """faulthandler prints its traceback once, and the records arrive, in any order of enabling."""
    lines = crash(f"{order}\n{LOG}ctypes.string_at(0)", signal.SIGSEGV,
                  stderr=re.compile(r"\AFatal Python error: Segmentation fault(?!.*Fatal Python)",
                                    re.DOTALL))
    assert lines == numbers()


def test_signal_handler_of_the_program(crash):
    """An earlier signal handler runs after the drain, and the process may continue."""
    lines = crash(f"""
signal.signal(signal.SIGABRT, lambda number, frame: log.info("handled"))
signal.signal(signal.SIGTERM, lambda number, frame: log.info("terminated"))
fastlog.enable_crash_drain()
{LOG}
os.kill(os.getpid(), signal.SIGABRT)
os.kill(os.getpid(), signal.SIGTERM)  # not drained, because the program handles it
log.info("still here")
fastlog.enable_crash_drain()          # the first SIGABRT disabled it
crash(signal.SIGSEGV)
""", signal.SIGSEGV, count=COUNT + 3)
    assert lines == [*numbers(), "handled", "terminated", "still here"]


RESTORE = {
    "signal": "signal.signal(signal.SIGTERM, signal.signal(signal.SIGTERM, print))",
    "asyncio": "asyncio.run(add_and_remove())",
    "default": "for action in print, signal.SIG_DFL: signal.signal(signal.SIGTERM, action)",
}


@pytest.mark.parametrize("code", [
    *(f"fastlog.enable_crash_drain()\n{restore}" for restore in RESTORE.values()),
    "before = signal.signal(signal.SIGTERM, print)\nfastlog.enable_crash_drain()\n"
    "signal.signal(signal.SIGTERM, before)",
], ids=[*RESTORE, "enabled meanwhile"])
def test_default_action_is_restored(crash, code):
    """A program that sets a handler and restores the default action still has the drain."""
    lines = crash(f"""
import asyncio
async def add_and_remove():
    loop = asyncio.get_running_loop()
    loop.add_signal_handler(signal.SIGTERM, print)
    loop.remove_signal_handler(signal.SIGTERM)
{code}
{LOG}
crash(signal.SIGTERM)
""", signal.SIGTERM)
    assert lines == numbers()


@pytest.mark.parametrize("number", [signal.SIGPIPE, signal.SIGINT, signal.SIGXFSZ])
def test_default_action_of_a_signal_that_python_handles(crash, number):
    """A signal that Python ignores or handles is covered once the program sets SIG_DFL."""
    lines = crash(f"fastlog.enable_crash_drain()\nsignal.signal({int(number)}, signal.SIG_DFL)\n"
                  f"{LOG}crash({int(number)})", number)
    assert lines == numbers()


def test_python_handlers_are_not_replaced(crash):
    """A handler of the program runs as without the drain. When it ends the process, it drains."""
    lines = crash(f"""
def handle(number, frame):
    log.info("handled")
    signal.signal(number, signal.SIG_DFL)
    os.kill(os.getpid(), number)

signal.signal(signal.SIGUSR1, lambda number, frame: log.info("first"))
fastlog.enable_crash_drain()
signal.signal(signal.SIGHUP, handle)
{LOG}
for _ in range(2):
    os.kill(os.getpid(), signal.SIGUSR1)
crash(signal.SIGHUP)
""", signal.SIGHUP, count=COUNT + 3)
    assert lines == [*numbers(), "first", "first", "handled"]


def test_disabled(run_python, directory):
    """disable_crash_drain() restores the earlier dispositions."""
    run_python("""
import signal, fastlog
fastlog.disable_crash_drain()
fastlog.enable_crash_drain()
fastlog.enable_crash_drain(1.0)
fastlog.disable_crash_drain()
with open("/proc/self/status") as status:
    caught = int(status.read().partition("SigCgt:")[2].split()[0], 16)
assert caught == 1 << signal.SIGINT - 1, caught
signal.signal(signal.SIGTERM, signal.signal(signal.SIGTERM, print))
with open("/proc/self/status") as status:
    caught = int(status.read().partition("SigCgt:")[2].split()[0], 16)
assert caught == 1 << signal.SIGINT - 1, caught
""")


def test_daemon_down(run_python, directory):
    """Without a daemon, the drain ends at its timeout, and the signal ends the process."""
    code = PROGRAM + ("logging.raiseExceptions = False\nfastlog.enable_crash_drain(0.3)\n"
                      f"{LOG}begin = time.monotonic()\n"
                      "print(begin, flush=True)\ncrash(signal.SIGSEGV)")
    run_python(code, directory / "nobody", returncode=-signal.SIGSEGV)


def test_closed_handler(crash):
    """The signal handler itself sends the records in a ring without a writer."""
    lines = crash(f"""
logging.raiseExceptions = False
fastlog.enable_crash_drain()
handler.close()
os.rename(address, address + ".away")
{LOG}
handler.close(0.0)
os.rename(address + ".away", address)
crash(signal.SIGTERM)
""", signal.SIGTERM)
    assert lines == numbers()


def test_forked_child(crash):
    """A forked child drains its own records and not those of its parent."""
    lines = crash(f"""
fastlog.enable_crash_drain()
pid = os.fork()
if pid == 0:
    {LOG.replace("    log", "        log")}
    crash(signal.SIGSEGV)
os.waitpid(pid, 0)
log.info("parent")
crash(signal.SIGTERM)
""", signal.SIGTERM, count=COUNT + 1)
    assert lines == [*numbers(), "parent"]


def test_two_threads_crash_together(crash):
    """If two threads crash together, the second waits until the first has drained."""
    lines = crash(f"""
fastlog.enable_crash_drain()
{LOG}
for _ in range(2):
    threading.Thread(target=ctypes.CDLL(None).abort).start()
time.sleep(30)
""", signal.SIGABRT)
    assert lines == numbers()


@pytest.mark.parametrize("overflow", ["drop_new", "drop_oldest"])
def test_other_policies(run_python, rsyslogd, overflow):
    """All records arrive with the other overflow policies."""
    run_python(PROGRAM.replace('ident="ServerLog: "',
                               f'ident="ServerLog: ", overflow="{overflow}"')
               + f"fastlog.enable_crash_drain()\n{LOG}crash(signal.SIGSEGV)",
               rsyslogd.socket, returncode=-signal.SIGSEGV)
    rsyslogd.wait_for_lines(COUNT)
    assert rsyslogd.server_lines() == numbers()


@pytest.mark.parametrize("bad, error", [("1", TypeError), (-1, ValueError), (True, TypeError),
                                        (float("inf"), ValueError)])
def test_bad_timeout(bad, error):
    """enable_crash_drain() rejects a bad timeout."""
    import fastlog

    with pytest.raises(error, match="timeout must be"):
        fastlog.enable_crash_drain(bad)


def test_many_handlers(run_python, rsyslogd):
    """The first 64 handlers are drained, and more of them do no harm."""
    run_python(PROGRAM + f"""
handlers = [fastlog.SysLogHandler(address, facility="local0", ident="ServerLog: ", capacity=4096)
            for _ in range(70)]
fastlog.enable_crash_drain()
{LOG}
crash(signal.SIGTERM)
""", rsyslogd.socket, returncode=-signal.SIGTERM)
    rsyslogd.wait_for_lines(COUNT)
    assert rsyslogd.server_lines() == numbers()


@pytest.mark.slow
def test_another_signal_during_the_drain(run_python, directory):
    """A second signal in the draining thread does not make the drain wait for itself."""
    run_python(PENDING_RECORD + """
fastlog.enable_crash_drain(3.0)
if os.fork() == 0:
    # The parent is in the drain as soon as it blocks the signal.
    parent = os.getppid()
    os.kill(parent, signal.SIGTERM)
    while not blocked(parent) >> (signal.SIGTERM - 1) & 1:
        time.sleep(0.001)
    os.kill(parent, signal.SIGABRT)
    os._exit(0)
time.sleep(60)
""", directory / "nobody", returncode=-signal.SIGTERM)


@pytest.mark.usefixtures("with_gil")  # without a GIL, fork waits for the draining thread
def test_fork_during_a_drain(run_python, directory):
    """A child that is forked during a drain is not in it. It can close handlers, and crash."""
    done = run_python(PENDING_RECORD + """
fastlog.enable_crash_drain(1000.0)
signals, pid = {signal.SIGTERM}, 0
signal.pthread_sigmask(signal.SIG_BLOCK, signals)

def crash():
    signal.pthread_sigmask(signal.SIG_UNBLOCK, signals)
    time.sleep(60)

thread = threading.Thread(target=crash, daemon=True)
thread.start()
parent = os.getpid()
os.kill(parent, signal.SIGTERM)

while not blocked(f"self/task/{thread.native_id}") >> (signal.SIGSEGV - 1) & 1:
    pass
if os.fork() == 0:
    fastlog.enable_crash_drain(0.1)
    handler.close(0.0)
    del handler, log.handlers[:]
    os.kill(os.getpid(), signal.SIGSEGV)
while True:
    pid, status = os.waitpid(-1, os.WNOHANG)
    if pid:
        os.write(1, b"%d" % os.waitstatus_to_exitcode(status))
        os._exit(0)
""", directory / "nobody")
    assert done == str(-signal.SIGSEGV)


def test_drain_does_not_wait_for_later_records(run_python, sink):
    """Threads that continue to log do not delay the end of the process.

    The drain only waits for the records that the ring contains at the signal. The ring is small,
    because the reader is slow.
    """
    drain = threading.Thread(target=read_slowly, args=(sink,))
    drain.start()
    try:
        run_python(PENDING_RECORD.replace("ident=", "capacity=1 << 14, ident=") + """
fastlog.enable_crash_drain(1000.0)

def write():
    while True:
        log.info("x")

for _ in range(2):
    threading.Thread(target=write, daemon=True).start()
while handler.stats().pending < 100:  # so the ring never becomes empty
    pass
parent = os.getpid()
if os.fork() == 0:
    os.kill(parent, signal.SIGTERM)
    os._exit(0)
time.sleep(60)  # without holding the GIL
""", sink.path, returncode=-signal.SIGTERM)
    finally:
        with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as end:
            end.sendto(b"end", sink.path)
        drain.join()


def read_slowly(sink):
    """Read more slowly than two threads log, so that the ring is never empty."""
    pause = threading.Event()
    while sink.take_one() != b"end":
        pause.wait(0.001)


@pytest.mark.parametrize("overflow", ["drop_new", "drop_oldest"])
@pytest.mark.usefixtures("nested_calls")
def test_program_that_continues_in_the_middle_of_a_record(run_python, make_sink, overflow):
    """A signal handler repairs a fault, and the interrupted record is completed.

    The drain has already sent the records after it. Each record is sent once.
    """
    sink = make_sink()
    received = []
    reader = threading.Thread(target=lambda: received.extend(sink.take(203)))
    reader.start()
    run_python("""
import ctypes, logging, mmap, os, signal, sys, fastlog
handler = fastlog.SysLogHandler(sys.argv[1], capacity=1 << 18, overflow=sys.argv[2])
log = logging.Logger("x")
log.addHandler(handler)
libc = ctypes.CDLL(None)
text = "x" * 100_000
page = ctypes.c_void_p((id(text) // mmap.PAGESIZE + 5) * mmap.PAGESIZE)

@ctypes.CFUNCTYPE(None, ctypes.c_int)
def repair(number):
    log.info("behind")
    os.kill(os.getpid(), signal.SIGABRT)
    assert libc.mprotect(page, ctypes.c_size_t(mmap.PAGESIZE), 3) == 0  # PROT_READ | PROT_WRITE

signal.signal(signal.SIGABRT, lambda number, frame: None)
libc.signal(signal.SIGSEGV, repair)
fastlog.enable_crash_drain(1000.0)
log.info("before")
assert libc.mprotect(page, ctypes.c_size_t(mmap.PAGESIZE), 0) == 0
log.info(text)
for i in range(200):  # more than the ring holds
    log.info("%d %s", i, "y" * 10_000)
    assert handler.flush()
stats = handler.stats()
assert stats.accepted == stats.sent == 203, stats
""", sink.path, overflow)
    reader.join()
    assert received[:3] == [b"<14>before\0", b"<14>behind\0", b"<14>" + 100_000 * b"x" + b"\0"]
    assert [int(datagram[4:].split()[0]) for datagram in received[3:]] == list(range(200))


def test_half_written_record_in_a_spool(make_orphaned_spool, recover, make_sink, spool):
    """Recovery reports a half-written record and does not repeat the records that were sent."""
    sink = make_sink()
    make_orphaned_spool(*range(5), before="import ctypes, mmap, fastlog",
                        returncode=-signal.SIGSEGV, end="""
fastlog.enable_crash_drain()
text = "x" * 20_000
page = ctypes.c_void_p((id(text) // mmap.PAGESIZE + 2) * mmap.PAGESIZE)
ctypes.CDLL(None).munmap(page, ctypes.c_size_t(mmap.PAGESIZE))
log.info(text)
""")
    assert sink.take(5) == [b"<14>%d\0" % i for i in range(5)]
    done = recover(spool)
    assert done.stdout == (f"{spool}: 1 unfinished records (skipped)\n"), done
    assert sink.is_empty() and not spool.exists()


def test_crashed_thread_waits_for_space(directory, make_sink, run_python):
    """The drain does not wait for a thread that waits for space in the ring.

    The crashed thread is such a thread. Others get space during the drain and log again.
    """
    sink = make_sink()
    sink.hang()
    received = []

    def read():
        wait_until((directory / "killed").exists, 30, "the signal")
        while received[-1:] != [b"end"]:
            received.append(sink.take_one())

    reader = threading.Thread(target=read)
    reader.start()
    try:
        run_python("""
import logging, os, signal, sys, threading, time, fastlog
handler = fastlog.SysLogHandler(sys.argv[1], capacity=1 << 16, block_timeout=1000.0)
logging.raiseExceptions = False           # no outage reports
log = logging.Logger("x")
log.addHandler(handler)
fastlog.enable_crash_drain(10.0)
for i in range(400):  # 136 bytes each, of which seven eighths of the ring hold 421
    log.info("%d %s", i, "x" * 116)

def fill():
    while True:
        log.info("more %s", "x" * 116)

def kill():
    time.sleep(0.2)  # by then all threads should wait, but the test does not depend on it
    open(sys.argv[2], "x").close()
    os.kill(os.getpid(), signal.SIGTERM)

for target in (fill, fill, fill, kill):
    threading.Thread(target=target, daemon=True).start()
fill()
""", sink.path, directory / "killed", returncode=-signal.SIGTERM)
    finally:
        with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as last:
            last.sendto(b"end", sink.path)
        reader.join()
    assert [int(datagram[4:].split()[0]) for datagram in received[:400]] == list(range(400))
