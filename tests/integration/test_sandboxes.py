"""Sandboxes and limits: refused system calls, few descriptors, small files, chroot and setuid."""
import errno
import inspect
import os
import re
import socket
import threading

import pytest
from support import seccomp

TIMEOUT = 30

pytestmark = pytest.mark.skipif(not seccomp.NUMBERS, reason="the call numbers are not listed")

RECORDS = 1000

# The fork is made in C, without a warning about threads.
PROGRAM = inspect.getsource(seccomp) + """
import logging, logging.handlers, sys
address, kind, error, calls = sys.argv[1], int(sys.argv[2]), int(sys.argv[3]), sys.argv[4:]
refuse(error, *calls)
import fastlog
handler = fastlog.SysLogHandler(address, socktype=kind or None)
log = logging.Logger("x")
log.addHandler(handler)
for i in range(1000): log.info("parent %d", i)
assert handler.flush(30), handler.stats()
child = ctypes.PyDLL(None).fork()
for i in range(10): log.info("%s again %d", "parent" if child else "child", i)
assert handler.flush(30), handler.stats()
handler.close()
stats = handler.stats()
assert stats.accepted == (1010 if child else 10), stats
assert stats.sent == stats.accepted and stats.send_errors == 0, stats
if not child: os._exit(0)
assert os.waitpid(child, 0)[1] == 0
"""

# A refused clone3 with EPERM is not here: the C library then makes no thread for any program.
CALLS = ["fcntl", "ftruncate", "getsockopt", "madvise", "memfd_create", "mremap", "ppoll",
         "prctl", "recvfrom", "sendmmsg", "sendmsg", "sendto", "setsockopt"]


@pytest.fixture
def collect(make_sink):
    """Return a function that opens a socket and collects the records that arrive there."""
    threads = []

    def start(kind=socket.SOCK_DGRAM, address=None):
        sink, received, stop = make_sink(address, kind), [], threading.Event()

        def read_datagrams():
            sink.socket.settimeout(0.05)
            while True:
                try:
                    received.append(sink.socket.recv(1 << 20))
                except TimeoutError:
                    if stop.is_set():
                        return

        def read_stream(connection):
            with connection:
                data = b""
                while chunk := connection.recv(1 << 16):
                    data += chunk
                received.extend(part + b"\0" for part in data.split(b"\0")[:-1])

        def accept():
            readers = []
            sink.socket.settimeout(0.05)
            while not stop.is_set():
                try:
                    connection, _ = sink.socket.accept()
                except TimeoutError:
                    continue
                connection.settimeout(TIMEOUT)
                readers.append(threading.Thread(target=read_stream, args=(connection,)))
                readers[-1].start()
            for reader in readers:
                reader.join()

        thread = threading.Thread(
            target=read_datagrams if kind == socket.SOCK_DGRAM else accept)
        thread.start()
        threads.append((thread, stop))

        def finish():
            stop.set()
            thread.join()
            return received

        return sink.path, finish

    yield start
    for thread, stop in threads:
        stop.set()
        thread.join()


@pytest.mark.parametrize("error", [errno.ENOSYS, errno.EPERM], ids=["ENOSYS", "EPERM"])
@pytest.mark.parametrize("kind", [socket.SOCK_DGRAM, socket.SOCK_STREAM], ids=["dgram", "stream"])
@pytest.mark.parametrize("call", CALLS)
def test_one_refused_call(run_python, collect, call, kind, error):
    """The import, 1,000 records, a fork and close() succeed without any one of these calls."""
    address, finish = collect(kind)
    run_python(PROGRAM, address, int(kind), error, call)
    received = finish()
    again = [b"<14>child again %d\0" % i for i in range(10)]
    assert [record for record in received if record.startswith(b"<14>child")] == again
    assert [record for record in received if record.startswith(b"<14>parent")] == [
        *(b"<14>parent %d\0" % i for i in range(RECORDS)),
        *(record.replace(b"child", b"parent") for record in again)]


def test_several_refused_calls(run_python, collect):
    """A filter that refuses all newer calls at once does no harm, and clone3 may be missing."""
    address, finish = collect()
    run_python(PROGRAM, address, 0, errno.ENOSYS,
               "madvise", "memfd_create", "sendmmsg", "ppoll", "clone3")
    assert len(finish()) == RECORDS + 20


def test_no_shared_memory(run_python, sink):
    """Without mremap and memfd_create no ring can be made, and the constructor says so."""
    run_python(inspect.getsource(seccomp) + """
import errno, sys
refuse(errno.EPERM, "mremap", "memfd_create")
import fastlog
try: fastlog.SysLogHandler(sys.argv[1])
except PermissionError: pass
else: raise AssertionError
""", sink.path)


@pytest.mark.parametrize("handler", ["default", "ignored"])
def test_file_size_limit(run_python, sink, handler):
    """RLIMIT_FSIZE below the ring's size affects neither a handler nor a forked child."""
    run_python("""
import logging, os, resource, signal, sys, fastlog
if sys.argv[2] == "default": signal.signal(signal.SIGXFSZ, signal.SIG_DFL)
resource.setrlimit(resource.RLIMIT_FSIZE, (4096, 4096))
handler = fastlog.SysLogHandler(sys.argv[1])
log = logging.Logger("x")
log.addHandler(handler)
child = os.fork()
log.info("parent" if child else "child")
assert handler.flush()
if not child: os._exit(0)
assert os.waitpid(child, 0)[1] == 0
""", sink.path, handler)
    assert sorted(sink.take(2)) == [b"<14>child\0", b"<14>parent\0"]


def test_file_size_limit_without_mremap(run_python, sink):
    """Where the ring must be a memfd, RLIMIT_FSIZE raises an OSError and no signal."""
    run_python(inspect.getsource(seccomp) + """
import errno, resource, signal, sys, fastlog
refuse(errno.ENOSYS, "mremap")
signal.signal(signal.SIGXFSZ, signal.SIG_DFL)
resource.setrlimit(resource.RLIMIT_FSIZE, (4096, 4096))
try: fastlog.SysLogHandler(sys.argv[1])
except OSError: pass
else: raise AssertionError
""", sink.path)


def test_spool_is_detached_without_memfd(run_python, sink, spool):
    """close() gives the spool up, and the next record is sent from memory, without mremap, too."""
    for calls in ["memfd_create"], ["mremap"]:
        run_python(inspect.getsource(seccomp) + """
import errno, logging, sys, fastlog
refuse(errno.ENOSYS, *sys.argv[3:])
handler = fastlog.SysLogHandler(sys.argv[1], spool=sys.argv[2])
log = logging.Logger("x")
log.addHandler(handler)
for i in range(3):
    log.info("%d", i)
    assert handler.flush()
    handler.close()
assert not os.path.exists(sys.argv[2])
""", sink.path, spool, *calls)
        assert sink.take(3) == [b"<14>%d\0" % i for i in range(3)]


@pytest.mark.skipif(os.geteuid() != 0, reason="only root may change its root directory")
def test_chroot_and_setuid_before_the_first_record(run_python, sink, directory):
    """A handler that was made before chroot and setuid reaches the daemon afterwards."""
    os.chmod(sink.path, 0o600)
    run_python("""
import logging, os, sys, fastlog
handler = fastlog.SysLogHandler(sys.argv[1])
log = logging.Logger("x")
log.addHandler(handler)
os.chroot("/proc/self/task")
os.chdir("/")
os.setgid(65534)
os.setuid(65534)
log.info("inside")
assert handler.flush()
""", sink.path)
    assert sink.take_one() == b"<14>inside\0"


@pytest.mark.skipif(os.geteuid() != 0, reason="only root may change its root directory")
def test_chroot_before_a_fork(run_python, sink):
    """A child that cannot reach the daemon's path shares the socket of its parent."""
    run_python("""
import ctypes, logging, os, sys, fastlog
handler = fastlog.SysLogHandler(sys.argv[1])
log = logging.Logger("x")
log.addHandler(handler)
os.chroot("/proc/self/task")
os.chdir("/")
child = ctypes.PyDLL(None).fork()
log.info("parent" if child else "child")
assert handler.flush()
handler.close()
if not child: os._exit(0)
assert os.waitpid(child, 0)[1] == 0
log.info("parent again")             # close() has closed the socket, and the path is out of reach
assert not handler.flush(0.0)
os._exit(0)
""", sink.path, stderr=re.compile(r"^fastlog: 1 records were not delivered to ", re.M))
    assert sorted(sink.take(2)) == [b"<14>child\0", b"<14>parent\0"] and sink.is_empty()


def test_child_inherits_no_other_file(run_python, sink, tmp_path):
    """A child without a path to the daemon leaves a descriptor alone that is another file."""
    run_python("""
import ctypes, logging, os, sys, fastlog
sockets = lambda: [int(fd) for fd in os.listdir("/proc/self/fd")
                   if os.path.exists(f"/dev/fd/{fd}") and
                   os.readlink(f"/proc/self/fd/{fd}").startswith("socket:")]
before = sockets()
handler = fastlog.SysLogHandler(sys.argv[1])
number, = set(sockets()) - set(before)
log = logging.Logger("x")
log.addHandler(handler)
os.rename(sys.argv[1], sys.argv[1] + ".moved")
child = ctypes.PyDLL(None).fork()
if not child:
    file = os.open(sys.argv[2], os.O_RDWR | os.O_CREAT)
    os.dup2(file, number)
    log.info("child")
    assert not handler.flush(0.2) and os.fstat(number).st_size == 0
    os._exit(0)
assert os.waitpid(child, 0)[1] == 0
os.rename(sys.argv[1] + ".moved", sys.argv[1])
""", sink.path, tmp_path / "file",
               stderr=re.compile(r"^fastlog: 1 records were not delivered to ", re.M))
    assert sink.is_empty()


@pytest.mark.parametrize("network", [False, True], ids=["unix", "numeric host"])
def test_descriptors_used_up_before_the_first_record(run_python, sink, network):
    """A handler that was made while there were descriptors sends when there are none."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as udp:
        udp.bind(("127.0.0.1", 0))
        udp.settimeout(TIMEOUT)
        run_python("""
import logging, resource, sys, fastlog
address = sys.argv[1]
handler = fastlog.SysLogHandler(("127.0.0.1", int(address)) if address.isdigit() else address)
log = logging.Logger("x")
log.addHandler(handler)
resource.setrlimit(resource.RLIMIT_NOFILE, (0, resource.getrlimit(resource.RLIMIT_NOFILE)[1]))
log.info("x")
assert handler.flush()
""", udp.getsockname()[1] if network else sink.path)
        assert (udp.recv(100) if network else sink.take_one()) == b"<14>x\0"


def open_sockets():
    """The sockets that this process has open, by their inode numbers."""
    names = (os.path.join("/proc/self/fd", number) for number in os.listdir("/proc/self/fd"))
    return {os.readlink(name) for name in names
            if os.path.islink(name) and os.readlink(name).startswith("socket:")}


def test_close_without_a_record_closes_the_socket(make_handler, sink):
    """A handler is connected from its construction to close(), even if it logs nothing."""
    before = open_sockets()
    handler = make_handler(sink.path)
    assert len(open_sockets() - before) == 1
    handler.close()
    assert open_sockets() == before
