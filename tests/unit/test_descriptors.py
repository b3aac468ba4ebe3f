"""Programs that close descriptors they did not open, and use the numbers for files of their own."""
import os
import socket

import pytest

pytestmark = pytest.mark.timeout(60)

# Closes all descriptors and takes their numbers for files that nothing else may touch.
PROGRAM = """
import fastlog, logging, os, socket, sys, time
class Connects(fastlog.SysLogHandler):
    def _connect_unixsocket(self, address):
        super()._connect_unixsocket(address)
cls, address, options, directory = sys.argv[1:5]
handler = {"Connects": Connects, "SysLogHandler": fastlog.SysLogHandler}[cls](
    eval(address), **eval(options))
log = logging.Logger("x")
log.addHandler(handler)
def close_all():
    os.closerange(3, 256)
    global files, status
    files = [os.open(f"{directory}/{i}", os.O_RDWR | os.O_CREAT) for i in range(16)]
    status = [os.fstat(file) for file in files]
def check():
    now = [os.fstat(file) for file in files]
    assert [(s.st_ino, s.st_size) for s in now] == [(s.st_ino, s.st_size) for s in status]
"""


@pytest.fixture
def run_closing(run_python, directory):
    """Return a function that runs code behind PROGRAM."""
    def run(code, address, cls="SysLogHandler", **options):
        return run_python(PROGRAM + code, cls, repr(address), repr(options), directory)

    return run


@pytest.mark.parametrize("cls", ["SysLogHandler", "Connects"])
@pytest.mark.parametrize("linger", [0, 0.002])
def test_all_descriptors_closed(run_closing, sink, cls, linger):
    """Records arrive over a new connection, and nothing touches the files of the program."""
    run_closing("""
logging.raiseExceptions = False     # a subclass connects at the next record, so there is an outage
log.info("before")
assert handler.flush(20)
close_all()
log.error("after")
while not handler.flush(1):
    log.error("again")
check()
handler.close()
check()
""", sink.path, cls, linger=linger)
    received = [sink.take_one(), sink.take_one()]
    while not sink.is_empty():
        received.append(sink.take_one())
    received = [datagram for datagram in received if datagram != b"<11>again\0"]
    assert received == [b"<14>before\0", b"<11>after\0"]


@pytest.mark.parametrize("kind", [socket.SOCK_DGRAM, socket.SOCK_STREAM])
def test_all_descriptors_closed_on_a_network(run_closing, kind):
    """A connection by UDP or TCP is made anew, too."""
    with socket.socket(socket.AF_INET, kind) as receiver:
        receiver.bind(("127.0.0.1", 0))
        receiver.settimeout(30)
        if kind == socket.SOCK_STREAM:
            receiver.listen()
        run_closing("""
log.info("before")
assert handler.flush(20)
close_all()
log.error("after")
assert handler.flush(20)
check()
""", receiver.getsockname(), socktype=int(kind))
        for wire in (b"<14>before\0", b"<11>after\0"):
            if kind == socket.SOCK_DGRAM:
                assert receiver.recv(100) == wire
                continue
            connection, _ = receiver.accept()
            with connection:
                assert connection.recv(100) == wire


def test_descriptors_closed_while_the_daemon_hangs(run_closing, sink):
    """A writer that waits for space in the daemon's queue notices that its socket is gone."""
    sink.hang()
    run_closing("""
log.info("before")
assert not handler.flush(0.2)
close_all()
logging.raiseExceptions = False
began = time.process_time()
handler.close(0.5)
assert time.process_time() - began < 0.3, "the writer spins"
check()
""", sink.path)


@pytest.mark.parametrize("pause", [0, 0.5])
def test_no_processor_time_after_the_descriptors_are_closed(run_closing, sink, pause):
    """Neither a lingering nor a sleeping writer spins when its descriptors are closed."""
    run_closing(f"""
log.info("x")
assert handler.flush(20)
time.sleep({pause})     # the writer lingers, or sleeps
close_all()
began = time.process_time()
time.sleep(0.5)         # nothing may happen meanwhile
assert time.process_time() - began < 0.25
""", sink.path)


def test_spool_closed(run_closing, sink, spool):
    """The descriptor of a spool is not closed if its number belongs to another file."""
    run_closing("""
log.info("before")
close_all()
log.error("after")
handler.close()
check()
""", sink.path, spool=str(spool))
    assert sink.take(2) == [b"<14>before\0", b"<11>after\0"]


def test_standard_streams_stay_free(run_closing, sink):
    """A socket that is made while the standard streams are closed leaves their numbers free."""
    run_closing("""
for number in range(3):
    os.close(number)
log.info("x")
assert handler.flush(20)
assert [os.open(os.devnull, os.O_RDWR) for _ in range(3)] == [0, 1, 2]
""", sink.path)
    assert sink.take_one() == b"<14>x\0"


def test_offered_socket_closed_before_it_is_taken(run_closing, sink):
    """A socket that was handed over, but whose number belongs to another file, is not used."""
    run_closing("""
from fastlog._core import Engine
engine = handler._engine
offered = os.dup(handler.socket.fileno())
engine.adopt(offered)
close_all()
engine.adopt(-1)        # withdraws the offer: nothing is closed
check()
""", sink.path, "Connects")


def test_early_socket_closed_before_the_first_record(run_closing, sink):
    """The socket that the constructor connected is checked as well. The first record arrives."""
    run_closing("""
close_all()
log.info("x")
assert handler.flush(20)
handler.close()
check()
""", sink.path)
    assert sink.take_one() == b"<14>x\0"


def test_early_socket_closed_before_close(run_closing, sink):
    """close() without a record leaves the file alone that has the number of the socket."""
    run_closing("""
close_all()
handler.close()
check()
""", sink.path)


def test_writer_has_no_descriptor_but_its_socket(make_handler, logger_for, sink):
    """A handler needs one descriptor, its socket. Wakeups need none."""
    def count():
        return len(os.listdir("/proc/self/fd"))

    before = count()
    handler = make_handler(sink.path)
    logger_for(handler).info("x")
    sink.take_one()
    assert count() == before + 1
    handler.close()
    assert count() == before


def test_python_daemon(run_closing, sink):
    """A process that python-daemon turns into a daemon logs on, and ends."""
    pytest.importorskip("daemon")
    run_closing("""
import daemon
log.info("before")
assert handler.flush(20)
with daemon.DaemonContext(detach_process=False, working_directory="/", stderr=sys.stderr):
    close_all()
    log.error("inside")
    assert handler.flush(20)
    check()
""", sink.path)
    assert sink.take(2) == [b"<14>before\0", b"<11>inside\0"]
