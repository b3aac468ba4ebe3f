"""Spools of several processes: exclusive use, forked children, and orphaned spools."""
import os
import shutil
import subprocess
import sys
import threading

import pytest

CAPACITY = 1 << 16


def test_two_processes_cannot_share_a_spool(make_handler, recover, directory, spool):
    """A spool that another process uses is refused, with the id of that process."""
    code = ("import sys, fastlog; h = fastlog.SysLogHandler(sys.argv[1], spool=sys.argv[2]); "
            "print(1, flush=True); sys.stdin.read()")
    with subprocess.Popen([sys.executable, "-c", code, directory / "log", spool],
                          stdin=subprocess.PIPE, stdout=subprocess.PIPE) as other:
        assert other.stdout.readline() == b"1\n"
        with pytest.raises(BlockingIOError, match=f"{spool} is in use by process {other.pid}"):
            make_handler(directory / "log", spool=spool)
        done = recover(spool)
        assert done.returncode == 1 and f"in use by process {other.pid}" in done.stderr
        other.stdin.close()
    make_handler(directory / "log", spool=spool)


def test_two_handlers_cannot_share_a_spool(make_handler, recover, directory, spool):
    """A spool that another handler uses is refused, and that handler keeps its lock."""
    make_handler(directory / "log", spool=spool, capacity=CAPACITY)
    with pytest.raises(BlockingIOError, match="in use by another handler of this process"):
        make_handler(directory / "log", spool=spool, capacity=CAPACITY)
    done = recover(spool)
    assert done.returncode == 1 and f"in use by process {os.getpid()}" in done.stderr


def test_forked_child_does_not_hold_the_parents_lock(run_python, directory, spool, make_handler):
    """A child that outlives its parent does not block the parent's spool."""
    code = """
import os, sys, fastlog
handler = fastlog.SysLogHandler(sys.argv[1], spool=sys.argv[2], capacity=1 << 16)
if os.fork() == 0:
    sys.stdin.read()
    os._exit(0)
os._exit(0)
"""
    with subprocess.Popen([sys.executable, "-c", code, directory / "log", spool],
                          stdin=subprocess.PIPE) as parent:
        parent.wait(30)
        make_handler(directory / "log", spool=spool, capacity=CAPACITY)
        parent.stdin.close()


def test_forked_children_have_separate_spools(run_python, recover, directory, spool, make_sink):
    """Recovery finds all records of a parent and its children once after all are killed."""
    run_python("""
import logging, os, signal, sys, fastlog
logging.raiseExceptions = False  # no outage reports on stderr
handler = fastlog.SysLogHandler(sys.argv[1], spool=sys.argv[2], capacity=1 << 16)
log = logging.Logger("x")
log.addHandler(handler)
log.info("parent 0")
for child in "ab":
    pid = os.fork()
    if pid == 0:
        for i in range(10):
            log.info("%s %d", child, i)
        os.kill(os.getpid(), signal.SIGKILL)
    os.waitpid(pid, 0)
log.info("parent 1")
os.kill(os.getpid(), signal.SIGKILL)
""", directory / "log", spool, returncode=-9)
    assert len(list(directory.glob("spool.*"))) == 2
    sink = make_sink()
    done = recover(spool, sink=sink, count=22)
    assert done.returncode == 0, done
    by_process = {}
    for datagram in done.received:
        name, number = datagram[4:-1].decode().split()
        by_process.setdefault(name, []).append(int(number))
    assert by_process == {"parent": [0, 1], "a": list(range(10)), "b": list(range(10))}
    assert sink.is_empty() and list(directory.glob("spool*")) == []


def test_handler_sends_records_of_dead_children(run_python, make_handler, make_sink, directory,
                                                spool, capsys):
    """The next handler with the same path also sends the records in the children's spools.

    Then it removes these files.
    """
    run_python("""
import logging, os, sys, fastlog
logging.raiseExceptions = False
handler = fastlog.SysLogHandler(sys.argv[1], spool=sys.argv[2], capacity=1 << 16)
if os.fork() == 0:
    log = logging.Logger("x")
    log.addHandler(handler)
    log.info("0")
    os._exit(0)
os.wait()
os._exit(0)
""", directory / "log", spool)
    sink = make_sink()
    handler = make_handler(sink.path, spool=spool, capacity=CAPACITY)
    assert sink.take_one() == b"<14>0\0"
    assert handler.flush()
    assert "1 records of an earlier process" in capsys.readouterr().err
    assert sorted(os.listdir(directory)) == ["log", "spool"]


def test_orderly_children_leave_no_file(run_python, directory, spool, make_sink):
    """A child of multiprocessing delivers its records and removes its spool."""
    sink = make_sink()
    run_python("""
import logging, multiprocessing, os, sys, fastlog
handler = fastlog.SysLogHandler(sys.argv[1], spool=sys.argv[2], capacity=1 << 16)
log = logging.getLogger()
log.addHandler(handler)
process = multiprocessing.get_context("fork").Process(target=log.warning, args=("child",))
process.start()
process.join()
""", sink.path, spool)
    assert sink.take_one() == b"<12>child\0"
    assert os.listdir(directory) == ["log"]


def test_first_records_of_a_forked_child_from_two_threads(run_python, directory, make_sink):
    """The child uses the spool of the thread that is ready first, and removes the other one."""
    sink = make_sink()
    run_python("""
import logging, os, sys, threading, time, fastlog
from fastlog._spool.file import Spool
handler = fastlog.SysLogHandler(sys.argv[1], spool=sys.argv[2], capacity=1 << 16)
log = logging.Logger("x")
log.addHandler(handler)
if os.fork() == 0:
    allocate = os.posix_fallocate
    end = Spool.__del__
    both = threading.Barrier(2)

    def slow(*args):
        time.sleep(0.2)  # the other thread arrives meanwhile
        allocate(*args)

    def slow_end(self):  # deletes the Spool that was inherited from the parent
        time.sleep(0.5)
        end(self)

    def record(number):
        both.wait()
        log.info("%d", number)

    os.posix_fallocate = slow
    Spool.__del__ = slow_end
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


def test_close_waits_for_records_of_dead_children(make_orphaned_spool, make_handler, make_sink,
                                                  directory, spool, capsys):
    """Like flush(), close() also waits for the records in the spools of children."""
    make_orphaned_spool(*range(50), path=f"{spool}.77")
    sink = make_sink()
    handler = make_handler(sink.path, spool=spool, capacity=1 << 16)
    reader = threading.Timer(0.2, sink.take, (50,))
    reader.start()
    handler.close()
    reader.join()
    assert sink.is_empty() and list(directory.glob("spool*")) == []
    assert "50 records of an earlier process" in capsys.readouterr().err


def test_fork_while_another_thread_opens_a_spool(run_python, directory, spool):
    """A child does not wait for a lock whose holder only exists in the parent."""
    run_python("""
import logging, os, sys, threading, fastlog
from fastlog._spool import file as _spool
logging.raiseExceptions = False
handler = fastlog.SysLogHandler(sys.argv[1], spool=sys.argv[2], capacity=1 << 16)
log = logging.Logger("x")
log.addHandler(handler)
held, done = threading.Event(), threading.Event()

def hold():
    with _spool._lock:
        held.set()
        done.wait()

thread = threading.Thread(target=hold)
thread.start()
held.wait()
pid = os.fork()
if pid == 0:
    log.info("child")
    os._exit(handler.stats().accepted)
assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 1
done.set()
thread.join()
""", directory / "log", spool)


def test_child_without_a_spool_and_without_stderr(run_python, directory, sink):
    """A child delivers its records even if it can neither make a spool nor report that."""
    (directory / "sub").mkdir()
    run_python("""
import logging, os, shutil, sys, fastlog
handler = fastlog.SysLogHandler(sys.argv[1], spool=sys.argv[2], capacity=1 << 16)
log = logging.Logger("x")
log.addHandler(handler)
shutil.rmtree(os.path.dirname(sys.argv[2]))
pid = os.fork()
if pid == 0:
    sys.stderr.close()
    log.info("child")
    os._exit(0 if handler.flush() and handler.stats().sent == 1 else 1)
assert os.waitpid(pid, 0)[1] == 0
""", sink.path, directory / "sub" / "spool")
    assert sink.take_one() == b"<14>child\0"


def test_child_ignores_a_damaged_file(run_python, spool, sink):
    """A child continues with a ring in memory if a damaged file has the name of its spool.

    Such a file PATH.PID comes from an earlier process with the same id.
    """
    run_python("""
import logging, os, shutil, sys, fastlog
handler = fastlog.SysLogHandler(sys.argv[1], spool=sys.argv[2], capacity=1 << 16)
log = logging.Logger("x")
log.addHandler(handler)
pid = os.fork()
if pid == 0:
    path = f"{sys.argv[2]}.{os.getpid()}"
    shutil.copy(sys.argv[2], path)
    with open(path, "r+b") as file:
        file.seek(512)
        file.write(b"\\3" * 8)
    log.info("child")
    os._exit(0 if handler.flush() and handler.stats().sent == 1 else 1)
assert os.waitpid(pid, 0)[1] == 0
""", sink.path, spool)
    assert sink.take_one() == b"<14>child\0"


# --- orphaned spools with the same path -----------------------------------------------------------

def test_orphaned_spool_for_another_destination(make_orphaned_spool, recover, make_handler,
                                                make_sink, directory, spool, capsys):
    """An orphaned spool for another destination is not sent but reported."""
    make_orphaned_spool("other", path=f"{spool}.77", address=str(directory / "other"))
    make_orphaned_spool("same", path=f"{spool}.78")
    sink = make_sink()
    handler = make_handler(sink.path, spool=spool, capacity=CAPACITY)
    assert (f"1 records of an earlier process in {spool}.77, for another destination. Run "
            f"`fastlog recover {spool}.77` to send them\n") in capsys.readouterr().err
    assert sink.take_one() == b"<14>same\0"
    handler.close()
    assert sink.is_empty() and sorted(os.listdir(directory)) == ["log", "spool.77"]
    sink = make_sink(directory / "other")
    assert recover(f"{spool}.77", sink=sink, count=1).received == [b"<14>other\0"]


def test_child_with_the_id_of_a_dead_process(make_orphaned_spool, run_python, recover, make_sink,
                                             directory, spool):
    """A child does not send the records that a process with its id left for another daemon."""
    sink = make_sink()
    other_spool = directory / "other_spool"
    make_orphaned_spool("other", path=other_spool, address=str(directory / "other"))
    run_python("""
import logging, os, shutil, sys, fastlog
handler = fastlog.SysLogHandler(sys.argv[1], spool=sys.argv[2], capacity=1 << 16)
log = logging.Logger("x")
log.addHandler(handler)
ready, go = os.pipe()
pid = os.fork()
if pid == 0:
    os.read(ready, 1)
    log.info("child")
    os._exit(0 if handler.flush() and handler.stats().sent == 1 else 1)
shutil.copy(sys.argv[3], f"{sys.argv[2]}.{pid}")
os.write(go, b"x")
assert os.waitpid(pid, 0)[1] == 0
""", sink.path, spool, other_spool)
    assert sink.take_one() == b"<14>child\0" and sink.is_empty()
    other_sink = make_sink(directory / "other")
    assert recover(spool).returncode == 0
    assert other_sink.take_one() == b"<14>other\0"


def test_empty_file_of_a_child(make_handler, directory, spool, capsys):
    """An empty file of a child is removed without a report.

    A child leaves such a file if it is killed right after it created the file.
    """
    (directory / "spool.77").touch(0o600)
    make_handler(directory / "log", spool=spool, capacity=CAPACITY)
    assert os.listdir(directory) == ["spool"] and capsys.readouterr().err == ""


def test_close_reports_the_remaining_records(make_orphaned_spool, make_handler, directory, spool,
                                             capsys):
    """close() reports the records in each file. After that, other handlers can use the files."""
    for number in range(3):
        make_orphaned_spool(*range(number + 1), path=f"{spool}.{number}")
    handler = make_handler(directory / "log", spool=spool, capacity=CAPACITY)
    handler._engine.submit(14, "x")
    capsys.readouterr()
    handler.close(0.0)
    assert capsys.readouterr().err.splitlines() == [
        f"fastlog: 1 records were not delivered to {directory}/log; they are kept in {spool}",
        *(f"fastlog: {number + 1} records of an earlier process were not delivered; they are kept "
          f"in {spool}.{number}" for number in range(3))]
    for number in range(3):
        make_handler(directory / "log", spool=f"{spool}.{number}", capacity=CAPACITY)


def test_close_of_a_child_reports_the_file_of_the_child(run_python, directory, spool):
    """close() in a forked child reports the path of the child's spool."""
    done = run_python("""
import logging, os, sys, fastlog
handler = fastlog.SysLogHandler(sys.argv[1], spool=sys.argv[2], capacity=1 << 16)
sys.stderr = sys.stdout
log = logging.Logger("x")
log.addHandler(handler)
if os.fork() == 0:
    log.info("child")
    handler.close(0.0)
    print(os.getpid())
    sys.stdout.flush()
    os._exit(0)
os.wait()
""", directory / "log", spool)
    *_, said, pid = done.splitlines()
    assert said == (f"fastlog: 1 records were not delivered to {directory}/log; they are kept in "
                    f"{spool}.{pid}")


@pytest.mark.parametrize("spooled", [True, False])
def test_child_of_multiprocessing_reports_its_undelivered_records(run_python, directory, spool,
                                                                  spooled):
    """A child of multiprocessing reports its undelivered records, and their file if it has one."""
    done = run_python("""
import logging, multiprocessing, os, sys, fastlog
handler = fastlog.SysLogHandler(sys.argv[1], spool=sys.argv[2] or None, capacity=1 << 16,
                                close_timeout=0.0)
sys.stderr = sys.stdout
log = logging.Logger("x")
log.addHandler(handler)
process = multiprocessing.get_context("fork").Process(target=log.info, args=("child",))
process.start()
process.join()
print(process.pid, process.exitcode)
""", directory / "log", spool if spooled else "")
    *lines, end = done.splitlines()
    pid, status = end.split()
    assert status == "0"
    assert lines[-1:] == [f"fastlog: 1 records were not delivered to {directory}/log"
                          + (f"; they are kept in {spool}.{pid}" if spooled else "")]


def make_many_orphaned_spools(make_orphaned_spool, spool, count):
    """Make the spools of `count` dead children with one record each."""
    make_orphaned_spool("x")
    for number in range(count):
        shutil.copy(spool, f"{spool}.{number}")
    spool.unlink()


def test_many_files(make_orphaned_spool, make_handler, make_sink, directory, spool, threads):
    """Many files are sent a few at a time, to limit the descriptors and threads of the process."""
    make_many_orphaned_spools(make_orphaned_spool, spool, 100)
    handler = make_handler(directory / "log", spool=spool, capacity=CAPACITY)
    assert len(threads.find()) <= 16
    sink = make_sink()
    reader = threading.Thread(target=sink.take, args=(100,))
    reader.start()
    assert handler.flush(30)
    reader.join()
    assert sorted(os.listdir(directory)) == ["log", "spool"]


def test_many_files_that_cannot_be_sent(make_orphaned_spool, make_handler, directory, spool,
                                        capsys):
    """Files that were still waiting to be opened are also reported."""
    make_many_orphaned_spools(make_orphaned_spool, spool, 20)
    handler = make_handler(directory / "log", spool=spool, capacity=CAPACITY)
    handler.close(0.0)
    assert (f"4 more files of earlier processes beside {spool} were not sent"
            in capsys.readouterr().err)
    assert len(os.listdir(directory)) == 20
