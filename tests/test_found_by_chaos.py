"""What the chaos run found (tests/chaos), each as a test of its own."""
import mmap
import threading

import pytest


@pytest.mark.parametrize("overflow", ["block", "drop_new", "drop_oldest"])
def test_a_full_ring_is_sent_after_close(make_handler, directory, make_sink, logger_for, overflow):
    """close() gives up on a full ring: the next record, though dropped, has it sent."""
    path = directory / "log"
    handler = make_handler(path, capacity=mmap.PAGESIZE, overflow=overflow, block_timeout=0.01)
    log = logger_for(handler)
    while handler.stats().dropped + handler.stats().discarded == 0:
        log.info("x" * 100)
    handler.close(0.0)
    sink = make_sink(path)
    log.info("x" * 100)
    stats = handler.stats()
    sink.take(stats.accepted - stats.discarded)
    assert handler.flush()


def test_first_records_of_a_forked_child_from_two_threads(run_python, directory, make_sink):
    """The child's spool is that of the first to be ready; nothing is left of the other's."""
    sink = make_sink()
    run_python("""
import logging, os, sys, threading, time, fastlog
handler = fastlog.SysLogHandler(sys.argv[1], spool=sys.argv[2], capacity=1 << 16)
log = logging.Logger("x")
log.addHandler(handler)
if os.fork() == 0:
    allocate = os.posix_fallocate
    both = threading.Barrier(2)

    def slow(*args):
        time.sleep(0.2)      # the other thread comes meanwhile
        allocate(*args)

    def record(number):
        both.wait()
        log.info("%d", number)

    os.posix_fallocate = slow
    threads = [threading.Thread(target=record, args=(i,)) for i in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(os.listdir(os.path.dirname(sys.argv[2]))) == [
        "log", "spool", f"spool.{os.getpid()}"]
    handler.close()
    os._exit(handler.stats().sent != 2)
assert os.wait()[1] == 0
""", sink.path, directory / "spool")
    assert sorted(sink.take(2)) == [b"<14>0\0", b"<14>1\0"] and sink.is_empty()


def test_a_child_of_multiprocessing_tells_of_its_losses(run_python, directory):
    """Those of its last moments, too, when records did not yet go out again."""
    run_python("""
import logging, multiprocessing, socket, sys, fastlog
logging.raiseExceptions = False
handler = fastlog.SysLogHandler(sys.argv[1], capacity=4096, overflow="drop_new")

def child():
    log = logging.Logger("x")
    log.addHandler(handler)
    while handler.stats().dropped < 5:
        log.info("x" * 100)
    full.set()

full = multiprocessing.get_context("fork").Event()
process = multiprocessing.get_context("fork").Process(target=child)
with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as sink:
    sink.bind(sys.argv[1])
    sink.settimeout(10)
    process.start()
    assert full.wait(10)
    while b"fastlog: 5 messages lost (full: 5 info)" not in sink.recv(500):
        pass
process.join()
""", directory / "log")


def test_close_waits_for_what_children_left(run_python, make_handler, make_sink, directory, capsys):
    """As flush() does, not only for the records of its own ring."""
    spool = directory / "spool"
    run_python("""
import logging, os, sys, fastlog
logging.raiseExceptions = False
handler = fastlog.SysLogHandler(sys.argv[1], spool=sys.argv[2], capacity=1 << 16)
if os.fork() == 0:
    log = logging.Logger("x")
    log.addHandler(handler)
    for i in range(50):
        log.info("%d", i)
    os._exit(0)
os.wait()
os._exit(0)
""", directory / "log", spool)
    sink = make_sink()
    handler = make_handler(sink.path, spool=spool, capacity=1 << 16)
    reader = threading.Timer(0.2, sink.take, (50,))
    reader.start()
    handler.close()
    reader.join()
    assert sink.is_empty() and list(directory.glob("spool*")) == []
    assert "50 records of an earlier process" in capsys.readouterr().err
