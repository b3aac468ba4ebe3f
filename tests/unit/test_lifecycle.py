"""The life cycle of a handler: flush, close, reopening, exit and fork."""
import gc
import logging
import logging.config
import os
import re
import signal
import socket
import threading
import time
import weakref

import pytest
from support import wait_until

import fastlog

PROGRAM = """
import logging, sys
import fastlog
log = logging.getLogger("program")
log.setLevel(logging.DEBUG)
log.addHandler(handler := fastlog.SysLogHandler(sys.argv[1]))
"""


# From Python 3.12 on, os.fork() warns if the process has more than one thread.
FORK_WITH_THREADS = ["-W", "ignore:This process:DeprecationWarning"]


def test_flush_waits_until_all_records_are_sent(handler, log, sink):
    """flush() returns True when all records have been sent to the kernel."""
    for i in range(10):
        log.info("%d", i)
    assert handler.flush() is True
    assert handler.stats().sent == 10 and handler.stats().pending == 0


def test_flush_times_out(handler, log, sink):
    """flush() returns False if the daemon does not accept all records within the timeout."""
    sink.hang()
    for i in range(100):
        log.info("%d", i)
    assert handler.flush(0) is False
    assert handler.flush(0.1) is False
    sink.take(100)
    assert handler.flush() is True


def test_flush_without_records(make_handler, threads):
    """flush() returns True without starting the writer if nothing was logged."""
    handler = make_handler("/nowhere")
    assert handler.flush(0) is True
    assert threads.find() == []


def test_flush_can_be_interrupted(handler, log, sink):
    """An exception raised by a signal handler, as by Ctrl-C, leaves flush() at once."""

    def interrupt(signum, frame):
        raise KeyboardInterrupt

    sink.hang()
    log.info("x")
    original_action = signal.signal(signal.SIGALRM, interrupt)
    try:
        with pytest.raises(KeyboardInterrupt):
            signal.setitimer(signal.ITIMER_REAL, 0.1)
            handler.flush(1000)
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, original_action)


def test_flush_releases_the_gil(handler, log, sink):
    """Other threads run during flush(), such as the reader that empties the sink's queue."""
    sink.hang()
    for i in range(100):
        log.info("%d", i)
    reader = threading.Thread(target=sink.take, args=(100,))
    reader.start()
    assert handler.flush(20) is True
    reader.join()


def test_close_twice_and_reopen(handler, log, sink, threads):
    """A record logged after close() arrives, as with the standard library's handler."""
    log.info("one")
    handler.close()
    handler.close()
    assert threads.find() == []
    log.info("two")
    handler.close()
    assert sink.take(2) == [b"<14>one\0", b"<14>two\0"]
    assert handler.stats().sent == 2


def test_close_reports_undelivered_records(handler, log, sink, capsys, threads):
    """close() returns in time, reports the undelivered records and keeps them in the ring.

    The next record starts the writer again, which sends them.
    """
    sink.hang(room=11)
    for i in range(100):
        log.info("%d", i)
    wait_until(lambda: handler.stats().sent == 11, 20, "the writer")
    start = time.monotonic()
    handler.close(0.1)
    assert time.monotonic() - start < 10
    assert threads.find() == []
    pending = handler.stats().pending
    assert pending == 89
    assert capsys.readouterr().err == (
        f"fastlog: {pending} records were not delivered to {sink.path}\n")
    assert handler.flush() is False  # The writer has stopped.
    handler.close()  # The second call reports nothing again.
    assert capsys.readouterr().err == ""
    received = sink.take(11)
    log.info("reopened")
    received += sink.take(pending + 1)
    assert received == [b"<14>%d\0" % i for i in range(100)] + [b"<14>reopened\0"]


@pytest.mark.slow
def test_flush_and_close_share_one_timeout(make_handler, sink, logger_for, capsys):
    """flush() and close(), both called by logging.shutdown(), together take one close_timeout."""
    handler = make_handler(sink.path, close_timeout=2.0)
    log = logger_for(handler)
    sink.hang()
    for i in range(100):
        log.info("%d", i)
    start = time.monotonic()
    handler.flush()
    handler.close()
    assert 2.0 <= time.monotonic() - start < 3.9
    assert "were not delivered" in capsys.readouterr().err


def test_close_while_threads_log(handler, log, sink):
    """A record that races with close() is sent before it returns or by the restarted writer."""
    done = threading.Event()
    closer = threading.Thread(target=lambda: [handler.close(20) for _ in iter(done.is_set, True)])
    closer.start()
    reader = threading.Thread(target=lambda: received.extend(sink.take(3000)))
    received = []
    reader.start()
    for i in range(3000):
        log.info("%d", i)
    reader.join()
    done.set()
    closer.join()
    assert received == [b"<14>%d\0" % i for i in range(3000)]


def test_garbage_collected_handler_delivers_its_records(sink, threads):
    """A handler that was never closed delivers its records when it is garbage collected."""
    descriptors = len(os.listdir("/proc/self/fd"))
    handler = fastlog.SysLogHandler(sink.path, linger=100.0)
    log = logging.Logger("test")
    log.addHandler(handler)
    log.info("x")
    log.info("y")
    del log, handler
    gc.collect()
    assert sink.take(2) == [b"<14>x\0", b"<14>y\0"]
    assert threads.find() == []
    assert len(os.listdir("/proc/self/fd")) == descriptors


def test_descriptors_are_not_inherited(log, sink):
    """Child processes do not inherit the socket of a handler. Its memory has no descriptor."""
    log.info("x")
    sink.take_one()
    for name in os.listdir("/proc/self/fd"):
        try:
            target = os.readlink(f"/proc/self/fd/{name}")
        except FileNotFoundError:  # This descriptor was the one that listed the directory.
            continue
        assert "fastlog-ring" not in target
        if target.startswith("socket"):
            assert not os.get_inheritable(int(name)), target


def test_normal_exit_delivers_all_records(run_python, sink):
    """All 20,000 records of a program that exits right after logging arrive in order."""
    received = []
    reader = threading.Thread(target=lambda: received.extend(sink.take(20_000)))
    reader.start()
    run_python(PROGRAM + "handler.close_timeout = 30\nfor i in range(20_000): log.info('%d', i)",
               sink.path)
    reader.join()
    assert received == [b"<14>%d\0" % i for i in range(20_000)]


def test_exit_with_a_hung_daemon(run_python, sink):
    """The program exits after close_timeout and reports how many records it did not deliver."""
    sink.hang()
    run_python(PROGRAM + "handler.close_timeout = 0.3\nfor i in range(50): log.info('%d', i)",
               sink.path, stderr=re.compile(r"^fastlog: 50 records were not delivered to .*\n$"))


@pytest.mark.parametrize("log_at_exit", ["", "atexit.register(log.info, 'late')"])
def test_exit_without_a_daemon_is_quick(run_python, directory, log_at_exit):
    """A program exits at once if no connect has ever succeeded, and reports what it could not send.

    close_timeout is for daemons that exist.
    """
    start = time.monotonic()
    run_python(PROGRAM + f"import atexit\nhandler.close_timeout = 40\n{log_at_exit}\nlog.info('x')",
               directory / "log", stderr=re.compile(r"^fastlog: .* were not delivered to ", re.M))
    assert time.monotonic() - start < 20


def test_close_without_a_daemon_is_quick(make_handler, directory, logger_for, capsys):
    """close() returns at once if no connect has ever succeeded, unless it is given a timeout."""
    handler = make_handler(directory / "log", close_timeout=40)
    logger_for(handler).info("x")
    start = time.monotonic()
    handler.close()
    assert time.monotonic() - start < 20
    assert "1 records were not delivered" in capsys.readouterr().err
    logger_for(handler).info("y")
    start = time.monotonic()
    handler.close(0.7)
    assert time.monotonic() - start >= 0.7


def test_reconfiguration_without_a_daemon_is_quick(directory, capsys):
    """logging.shutdown(), and dictConfig(), which calls it, do not wait for an absent daemon."""
    configuration = {
        "version": 1, "disable_existing_loggers": False,
        "handlers": {"syslog": {"class": "fastlog.SysLogHandler", "address": f"{directory}/log",
                                "close_timeout": 40}},
        "loggers": {"program": {"handlers": ["syslog"]}}}
    start = time.monotonic()
    for _ in range(2):
        logging.config.dictConfig(configuration)
        logging.getLogger("program").error("x")
    handler = logging.getLogger("program").handlers.pop()
    logging.shutdown([weakref.ref(handler)])
    assert time.monotonic() - start < 20
    assert capsys.readouterr().err.count("1 records were not delivered") == 2


def test_children_of_multiprocessing_without_a_daemon_end_quickly(run_python, directory):
    """A child of multiprocessing does not wait for an absent daemon when it ends."""
    start = time.monotonic()
    run_python(PROGRAM + """
import multiprocessing
handler.close_timeout = 40
child = multiprocessing.get_context("fork").Process(target=log.info, args=("x",))
child.start()
child.join()
assert child.exitcode == 0
""", directory / "log", stderr=re.compile("1 records were not delivered"))
    assert time.monotonic() - start < 20


def test_close_with_an_orphaned_spool_without_a_daemon_is_quick(
        make_orphaned_spool, make_handler, directory, spool, capsys):
    """close() returns at once if only the records of an earlier process cannot be sent."""
    make_orphaned_spool("a", path=f"{spool}.77")
    handler = make_handler(directory / "log", spool=spool, close_timeout=40)
    start = time.monotonic()
    handler.close()
    assert time.monotonic() - start < 20
    assert "of an earlier process were not delivered" in capsys.readouterr().err
    assert os.path.exists(f"{spool}.77")


def test_flush_waits_for_a_daemon_that_starts(make_handler, make_sink, directory, logger_for):
    """flush() waits for an absent daemon as long as its timeout, or else close_timeout."""
    handler = make_handler(directory / "log", close_timeout=1.0)
    logger_for(handler).info("x")
    for timeout in None, 1.0:
        start = time.monotonic()
        assert handler.flush(timeout) is False
        assert time.monotonic() - start >= 1.0
    handler.close_timeout = 40.0
    flusher = threading.Thread(target=handler.flush)
    flusher.start()
    assert make_sink(directory / "log").take_one() == b"<14>x\0"
    flusher.join(20)
    assert not flusher.is_alive()


def test_close_waits_for_a_daemon_that_was_there(make_handler, sink, logger_for, capsys):
    """close() waits for close_timeout once a connect has succeeded: the daemon may restart."""
    handler = make_handler(sink.path, close_timeout=1.0)
    log = logger_for(handler)
    log.info("x")
    assert sink.take_one() == b"<14>x\0"
    sink.close()
    log.info("y")
    start = time.monotonic()
    handler.close()
    assert time.monotonic() - start >= 1.0
    assert "1 records were not delivered" in capsys.readouterr().err


def test_close_waits_for_a_connect_in_progress(make_handler, logger_for, capsys):
    """close() waits for close_timeout if the first connect has neither succeeded nor failed."""
    with socket.socket() as server, socket.socket() as first, socket.socket() as second:
        server.bind(("127.0.0.1", 0))
        server.listen(0)
        for client in first, second:               # these fill the queue of connections
            client.setblocking(False)
            client.connect_ex(server.getsockname())
        handler = make_handler(server.getsockname(), socktype=socket.SOCK_STREAM,
                               close_timeout=1.0)
        logger_for(handler).info("x")
        start = time.monotonic()
        handler.close()
        assert time.monotonic() - start >= 1.0
    assert "1 records were not delivered" in capsys.readouterr().err


def test_parent_and_child_deliver_their_own_records(run_python, sink):
    """After a fork, parent and child deliver their own records once.

    The records that were pending at the fork belong to the parent.
    """
    run_python(PROGRAM + """
import os
for i in range(2): log.info("parent %d", i)
child = os.fork()
for i in range(2, 4): log.info("%s %d", "parent" if child else "child", i)
assert handler.flush()
assert handler.stats().accepted == (4 if child else 2)
if not child: os._exit(0)
assert os.waitpid(child, 0)[1] == 0
""", sink.path, options=FORK_WITH_THREADS)
    received = sink.take(6)
    assert [record for record in received if b"parent" in record] == [
        b"<14>parent %d\0" % i for i in range(4)]
    assert [record for record in received if b"child" in record] == [
        b"<14>child %d\0" % i for i in range(2, 4)]
    assert sink.is_empty()


@pytest.mark.parametrize("use", ["log.info('child')", "del handler; log.handlers.clear()"])
def test_forked_child_does_not_use_recycled_descriptors(run_python, sink, use):
    """A child that closed all descriptors and reopened their numbers keeps the new ones intact.

    Daemons close all descriptors after a fork.
    """
    run_python(PROGRAM + f"""
import os
log.info("parent")
handler.flush()
child = os.fork()
if not child:
    os.closerange(3, 100)
    opened = [os.open("/dev/zero", os.O_RDONLY) for _ in range(30)]
    {use}
    if "handler" in globals(): assert handler.flush()
    assert all(os.read(number, 1) == b"\\0" for number in opened)
    os._exit(0)
assert os.waitpid(child, 0)[1] == 0
""", sink.path, options=FORK_WITH_THREADS)
    assert sink.take_one() == b"<14>parent\0"


def test_fork_in_c_is_detected(run_python, sink):
    """The child's first record detects a fork that ran no Python hooks because C code made it."""
    run_python(PROGRAM + """
import ctypes, os
log.info("parent")
handler.flush()
fork = ctypes.PyDLL(None).fork
child = fork()
if not child:
    log.info("child")
    os._exit(0 if handler.flush() else 1)
assert os.waitpid(child, 0)[1] == 0
""", sink.path)
    assert sink.take(2) == [b"<14>parent\0", b"<14>child\0"]
