"""Kernels, name servers and daemons that do not answer: no call waits for them without a limit."""
import errno
import os
import platform
import re
import socket
import struct
import subprocess
import sys
import threading
from pathlib import Path

import pytest

import fastlog._core
from fastlog._daemons.daemon import wait_until

pytestmark = pytest.mark.timeout(60)

PROGRAM = """
import ctypes, errno, fastlog, gc, logging, os, socket, struct, sys, time
log = logging.Logger("x")
def deny(number, error):
    "Let a system call fail with an errno: seccomp(2)."
    rules = ctypes.create_string_buffer(b"".join(struct.pack("=HBBI", *rule) for rule in (
        (0x20, 0, 0, 0),                    # loads the number of the system call
        (0x15, 0, 1, number),               # skips the next rule unless it is this one
        (0x06, 0, 0, 0x50000 | error),      # SECCOMP_RET_ERRNO
        (0x06, 0, 0, 0x7fff0000))))         # SECCOMP_RET_ALLOW
    program = struct.pack("HxxxxxxP", 4, ctypes.addressof(rules))
    libc = ctypes.CDLL(None)
    assert libc.prctl(38, 1, 0, 0, 0) == 0         # PR_SET_NO_NEW_PRIVS
    assert libc.prctl(22, 2, program, 0, 0) == 0   # PR_SET_SECCOMP
"""
SENDTO, SETSOCKOPT, CLONE, CLONE3 = 44, 54, 56, 435       # of x86-64


def drain(sink):
    """Read what arrives until that is the word "end"."""
    while sink.socket.recv(1000) != b"end":
        pass


needs_x86_64 = pytest.mark.skipif(platform.machine() != "x86_64",
                                  reason="the numbers of system calls are those of x86-64")


def test_no_wait_uses_the_wall_clock():
    """No native wait has a deadline on a clock that an administrator may set."""
    code = Path(fastlog._core.__file__).read_bytes()
    for function in (b"pthread_timedjoin_np", b"pthread_mutex_timedlock", b"sem_timedwait",
                     b"pthread_cond_timedwait"):
        assert function not in code


@pytest.fixture
def make_unfinished_spool(make_orphaned_spool, spool):
    """Return a function that leaves a spool with nothing but a record that was never committed."""
    def make():
        make_orphaned_spool("a record", capacity=4096)
        page = os.sysconf("SC_PAGE_SIZE")
        with spool.open("r+b") as file:
            file.seek(page)
            [header] = struct.unpack("Q", file.read(8))
            assert header >> 63     # committed
            file.seek(page)
            file.write(struct.pack("Q", header & ~(1 << 63)))

    return make


def test_close_of_a_ring_with_discarded_records(make_unfinished_spool, run_python, directory,
                                                spool):
    """A process whose ring holds only discarded records ends, although no daemon listens."""
    make_unfinished_spool()
    run_python(PROGRAM + """
handler = fastlog.SysLogHandler(sys.argv[1], spool=sys.argv[2], capacity=4096, close_timeout=0.5)
began = time.monotonic()
handler.close()
assert time.monotonic() - began < 10
""", directory / "log", spool, stderr=re.compile(r"1 unfinished record"))
    assert not spool.exists()


def test_recover_of_a_spool_with_discarded_records(make_unfinished_spool, recover, spool):
    """`fastlog recover` ends, too, and removes the file."""
    make_unfinished_spool()
    assert recover("--timeout", "1", spool).returncode == 0
    assert not spool.exists()


@needs_x86_64
def test_kernel_refuses_socket_options(run_python, sink):
    """Without SO_SNDTIMEO, close() still returns when the daemon hangs."""
    sink.hang()
    run_python(PROGRAM + f"""
deny({SETSOCKOPT}, errno.EPERM)
handler = fastlog.SysLogHandler(sys.argv[1], close_timeout=0.2)
log.addHandler(handler)
for i in range(20):
    log.info("x")
began = time.monotonic()
handler.close()
assert time.monotonic() - began < 3
""", sink.path, stderr=re.compile("20 records were not delivered"))


@needs_x86_64
@pytest.mark.parametrize("error", [errno.EINTR, errno.EAGAIN])
def test_send_that_never_succeeds_does_not_spin(run_python, sink, error):
    """A kernel that interrupts or refuses each send costs little processor time."""
    run_python(PROGRAM + f"""
logging.raiseExceptions = False     # the record is not delivered
handler = fastlog.SysLogHandler(sys.argv[1], close_timeout=0, overflow="drop_oldest")
log.addHandler(handler)
deny({SENDTO}, {error})
began = time.process_time()
log.error("x")
assert not handler.flush(1)
assert time.process_time() - began < 0.5
stats = handler.stats()
assert stats.pending == 1
assert stats.last_errno == {0 if error == errno.EAGAIN else error}, stats
""", sink.path)


HUNG_RESOLVER = """
#include <semaphore.h>
int getaddrinfo(const void *a, const void *b, const void *c, void **d)
{
    sem_t never;
    sem_init(&never, 0, 0);
    while (1) sem_wait(&never);
}
"""


@pytest.fixture
def hung_resolver(tmp_path, gcc):
    """Return a library whose getaddrinfo() never returns, for LD_PRELOAD."""
    (tmp_path / "hung.c").write_text(HUNG_RESOLVER)
    subprocess.run([gcc, "-shared", "-fPIC", tmp_path / "hung.c", "-o", tmp_path / "hung.so"],
                   check=True)
    return tmp_path / "hung.so"


def test_counters_outlive_a_hung_thread(hung_resolver, tmp_path):
    """After close() has given a hung thread up, the counters go on and the records are pending."""
    code = PROGRAM + """
logging.raiseExceptions = False
handler = fastlog.SysLogHandler(("host.example", 514), close_timeout=0.1, capacity=4096,
                                overflow="drop_new")
log.addHandler(handler)
for i in range(200):
    log.info("record %d", i)
before = handler.stats()
assert before.dropped and before.pending
handler.close()
after = handler.stats()
# One record more, because close() logs a loss report.
assert (after.submitted, after.accepted, after.dropped, after.sent, after.discarded,
        after.pending) == (201, before.accepted + 1, before.dropped, 0, 0, before.pending + 1), (
    after)
assert after.pending_bytes > before.pending_bytes and after.losses == before.losses
log.error("starts a thread")
assert handler.stats().pending == after.pending + 1
os._exit(0)
"""
    subprocess.run([sys.executable, "-c", code], check=True, timeout=30, cwd=tmp_path,
                   env={**os.environ, "LD_PRELOAD": str(hung_resolver)})


def test_collected_handler_does_not_wait_for_a_hung_daemon(sink, run_python):
    """The collection of handlers takes little time. What they cannot send in it is reported."""
    sink.hang()
    run_python(PROGRAM + """
handlers = [fastlog.SysLogHandler(sys.argv[1]) for _ in range(10)]
for handler in handlers:
    log.addHandler(handler)
for i in range(20):
    log.info("x")
began = time.monotonic()
del log, handler, handlers
gc.collect()
assert time.monotonic() - began < 1
""", sink.path, stderr=re.compile(
        r"^(fastlog: a handler was collected without close\(\): 20 records for .* are lost unless "
        r"they can be sent within 5 s\n){10}$"))


def test_close_in_a_busy_program_ends(sink, run_python):
    """close() returns after its timeout, although other threads log without a pause."""
    reader = threading.Thread(target=drain, args=[sink], daemon=True)
    reader.start()
    run_python(PROGRAM + """
import threading
logging.raiseExceptions = False     # some records are left
handler = fastlog.SysLogHandler(sys.argv[1], overflow="drop_new")
log.addHandler(handler)
done = threading.Event()
def work():
    while not done.is_set():
        log.error("x")
threads = [threading.Thread(target=work) for _ in range(3)]
for thread in threads:
    thread.start()
for _ in range(5):
    began = time.monotonic()
    handler.close(0.1)
    assert time.monotonic() - began < 10
done.set()
for thread in threads:
    thread.join()
""", sink.path)
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as sender:
        sender.connect(sink.path)
        sender.send(b"end")
    reader.join()


def test_writer_of_a_collected_handler_goes_on(sink, logger_for, threads, capfd):
    """What a collected handler held is sent when the daemon accepts it. Then the thread ends."""
    sink.hang()
    handler = fastlog.SysLogHandler(sink.path, close_timeout=30)
    log = logger_for(handler)
    for i in range(20):
        log.info("%d", i)
    del log, handler
    assert threads.find() != []
    assert sink.take(20) == [b"<14>%d\0" % i for i in range(20)]
    wait_until(lambda: not threads.find(), 20, "the end of the thread")
    assert "20 records" in capfd.readouterr().err


@needs_x86_64
def test_split_record_without_a_thread(run_python, sink):
    """All parts of a split record are sent although no thread can be started for the first."""
    run_python(PROGRAM + f"""
logging.raiseExceptions = False
handler = fastlog.SysLogHandler(sys.argv[1], oversize="split", max_size=480, close_timeout=0)
log.addHandler(handler)
for number in ({CLONE}, {CLONE3}):
    deny(number, errno.EAGAIN)
log.info("A" * 400 + "B" * 400 + "C" * 400)
stats = handler.stats()
assert (stats.submitted, stats.pending) == (3, 0), stats
""", sink.path)
    assert [bytes(part[4:5]) for part in sink.take(3)] == [b"A", b"B", b"C"]
