"""The spool: records that outlive their process."""
import mmap
import stat
import struct

import pytest

import fastlog
from fastlog._spool import file as _spool, orphans as _orphans

PAGE = mmap.PAGESIZE
CAPACITY = 1 << 16


def records(*texts):
    return [f"<14>{text}\0".encode() for text in texts]


@pytest.mark.parametrize("end, returncode", [
    ("os.kill(os.getpid(), signal.SIGKILL)", -9), ("os._exit(3)", 3),
    ("os.kill(os.getpid(), signal.SIGSEGV)", -11)])
def test_next_handler_sends_what_the_last_one_left(make_orphaned_spool, make_handler, make_sink, spool, capsys,
                                                   logger_for, end, returncode):
    """The records of the dead process come first, in order, once; then the new ones."""
    make_orphaned_spool(*range(100), end=end, returncode=returncode)
    assert stat.S_IMODE(spool.stat().st_mode) == 0o600
    sink = make_sink()
    handler = make_handler(sink.path, spool=spool, capacity=CAPACITY)
    assert f"100 records of an earlier process in {spool}" in capsys.readouterr().err
    logger_for(handler).info("100")
    assert sink.take(101) == records(*range(101))
    assert handler.flush() and sink.is_empty()
    stats = handler.stats()
    assert stats.submitted == stats.accepted == stats.sent == 101 and stats.pending == 0
    handler.close()
    assert not spool.exists()  # nothing is in it
    assert make_handler(sink.path, spool=spool, capacity=CAPACITY).stats().accepted == 0


def test_other_capacity(make_orphaned_spool, make_handler, make_sink, spool, capsys):
    """A handler with another capacity sends the old records and has a new file."""
    make_orphaned_spool(*range(30))
    sink = make_sink()
    handler = make_handler(sink.path, spool=spool, capacity=2 * CAPACITY)
    assert sink.take(30) == records(*range(30))
    assert handler.flush() and handler.stats().capacity == 2 * CAPACITY
    assert sorted(each.name for each in spool.parent.iterdir()) == ["log", "spool"]
    assert spool.stat().st_size == PAGE + 2 * CAPACITY


def test_close_leaves_the_file_to_the_next(make_handler, make_sink, directory, spool, logger_for,
                                           capsys):
    """A close that gave up says where the records are; the next handler in the same process
    sends them. The closed one still works, without its spool."""
    handler = make_handler(directory / "log", spool=spool, capacity=CAPACITY)
    log = logger_for(handler)
    for i in range(5):
        log.info("%d", i)
    handler.close(0.0)
    assert (f"5 records were not delivered to {directory / 'log'}; they are kept in {spool}"
            in capsys.readouterr().err)
    sink = make_sink()
    second = make_handler(sink.path, spool=spool, capacity=CAPACITY)
    assert sink.take(5) == records(*range(5))
    log.info("5")
    assert sink.take(1) == records(5)
    assert handler.flush() and handler.stats().sent == 1 and handler.stats().pending == 5
    assert second.flush() and second.stats().sent == 5
    second.close()
    assert not spool.exists()


def test_unfinished_record_is_left_out(make_orphaned_spool, recover, make_sink, spool):
    """A record that its producer did not commit, and one that has no word yet, are skipped."""
    make_orphaned_spool(*range(3))
    with open(spool, "r+b") as file:
        file.seek(PAGE)
        first = struct.unpack("Q", file.read(8))[0]
        file.seek(PAGE)
        file.write(struct.pack("Q", first & ~(1 << 63)))      # not committed
        file.seek(PAGE + 16)
        file.write(bytes(16))                                 # the second: claimed, no more
    done = recover(spool, "--dry-run")
    assert done.stdout.splitlines() == [
        f"{spool}: 1 records of an earlier process, 1 that it did not finish, which are left out",
        "  <14>2"]
    sink = make_sink()
    assert recover(spool).returncode == 0
    assert sink.take(1) == records(2) and sink.is_empty()


def test_record_that_comes_while_the_spool_is_left(make_handler, make_sink, directory, spool,
                                                   logger_for, monkeypatch):
    """close() removes the file without the GIL: what another thread logs then is not lost."""
    handler = make_handler(directory / "log", spool=spool, capacity=CAPACITY)
    log = logger_for(handler)
    remove = _spool.Spool.remove

    def log_and_remove(self):
        log.info("meanwhile")
        remove(self)

    monkeypatch.setattr(_spool.Spool, "remove", log_and_remove)
    handler.close()
    assert handler.stats().pending == 1
    sink = make_sink()
    log.info("later")
    assert sink.take(2) == records("meanwhile", "later")
    assert handler.flush() and handler.stats().sent == 2


def test_flush_has_one_timeout_for_all_files(make_orphaned_spool, make_handler, spool, directory, monkeypatch):
    """With many files of children, and nobody who takes records, an exit would never end."""
    for number in range(3):
        make_orphaned_spool("x", path=f"{spool}.{number}")
    given = []

    def finish(self, timeout):
        given.append(timeout)
        return finish_all(self, timeout)

    finish_all = _orphans.OrphanedSpools.finish
    monkeypatch.setattr(_orphans.OrphanedSpools, "finish", finish)
    handler = make_handler(directory / "log", spool=spool, capacity=CAPACITY)
    handler._engine.submit(14, "x")
    assert not handler.flush(0.05)
    assert given == [0.0]


@pytest.mark.parametrize("bad", [3, object(), True])
def test_wrong_type(make_handler, bad):
    with pytest.raises(TypeError, match="spool must be"):
        make_handler("/dev/log", spool=bad)


def test_not_with_sockets_of_ones_own(make_handler, spool):
    class Own(fastlog.SysLogHandler):
        def createSocket(self):
            pass

    with pytest.raises(ValueError, match="spool cannot be used where createSocket"):
        make_handler("/dev/log", cls=Own, spool=spool)


def test_closed_twice(make_handler, make_sink, directory, spool, logger_for, capsys):
    """What the first close left in the file is not what the second has to tell of."""
    handler = make_handler(directory / "log", spool=spool, capacity=CAPACITY)
    log = logger_for(handler)
    for i in range(5):
        log.info("%d", i)
    handler.close(0.0)
    log.info("in memory")
    capsys.readouterr()
    handler.close(0.0)
    assert capsys.readouterr().err == (
        f"fastlog: 1 records were not delivered to {directory / 'log'}\n")
    handler.close(0.0)
    assert capsys.readouterr().err == ""


def test_file_that_somebody_removed(make_handler, directory, spool, logger_for, capsys):
    """Nothing is kept under its name, and close() does not say so; what is there now stays."""
    handler = make_handler(directory / "log", spool=spool, capacity=CAPACITY)
    logger_for(handler).info("x")
    spool.unlink()
    spool.write_text("precious")
    capsys.readouterr()
    handler.close(0.0)
    assert capsys.readouterr().err == (
        f"fastlog: 1 records were not delivered to {directory / 'log'}\n")
    assert spool.read_text() == "precious"
