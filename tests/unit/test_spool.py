"""The spool: records survive the process that logged them."""
import mmap
import stat
import struct

import pytest

import fastlog
from fastlog._spool import file as _spool, orphans as _orphans

PAGE = mmap.PAGESIZE
CAPACITY = 1 << 16


def make_datagrams(*texts):
    return [f"<14>{text}\0".encode() for text in texts]


@pytest.mark.parametrize("end, returncode", [
    ("os.kill(os.getpid(), signal.SIGKILL)", -9), ("os._exit(3)", 3),
    ("os.kill(os.getpid(), signal.SIGSEGV)", -11)])
def test_next_handler_sends_an_orphaned_spool(make_orphaned_spool, make_handler, make_sink, spool,
                                              capsys, logger_for, end, returncode):
    """The next handler sends a dead process's records once and in order before its own."""
    make_orphaned_spool(*range(100), end=end, returncode=returncode)
    assert stat.S_IMODE(spool.stat().st_mode) == 0o600
    sink = make_sink()
    handler = make_handler(sink.path, spool=spool, capacity=CAPACITY)
    assert f"100 records of an earlier process in {spool}" in capsys.readouterr().err
    logger_for(handler).info("100")
    assert sink.take(101) == make_datagrams(*range(101))
    assert handler.flush() and sink.is_empty()
    stats = handler.stats()
    assert stats.submitted == stats.accepted == stats.sent == 101 and stats.pending == 0
    handler.close()
    assert not spool.exists()  # close() removes an empty spool.
    assert make_handler(sink.path, spool=spool, capacity=CAPACITY).stats().accepted == 0


def test_orphaned_spool_of_another_capacity(make_orphaned_spool, make_handler, make_sink, spool,
                                            capsys):
    """A handler with another capacity sends the old records and creates a new file."""
    make_orphaned_spool(*range(30))
    sink = make_sink()
    handler = make_handler(sink.path, spool=spool, capacity=2 * CAPACITY)
    assert sink.take(30) == make_datagrams(*range(30))
    assert handler.flush() and handler.stats().capacity == 2 * CAPACITY
    assert sorted(path.name for path in spool.parent.iterdir()) == ["log", "spool"]
    assert spool.stat().st_size == PAGE + 2 * CAPACITY


def test_close_leaves_the_spool_to_the_next_handler(make_handler, make_sink, directory, spool,
                                                    logger_for, capsys):
    """After close() timed out, the next handler in the same process sends the spool's records.

    close() reports the spool's path. The closed handler still works, but without the spool, which
    the next handler uses.
    """
    handler = make_handler(directory / "log", spool=spool, capacity=CAPACITY)
    log = logger_for(handler)
    for i in range(5):
        log.info("%d", i)
    handler.close(0.0)
    assert (f"5 records were not delivered to {directory / 'log'}; they are kept in {spool}"
            in capsys.readouterr().err)
    sink = make_sink()
    second = make_handler(sink.path, spool=spool, capacity=CAPACITY)
    assert sink.take(5) == make_datagrams(*range(5))
    log.info("5")
    assert sink.take(1) == make_datagrams(5)
    assert handler.flush() and handler.stats().sent == 1 and handler.stats().pending == 5
    assert second.flush() and second.stats().sent == 5
    second.close()
    assert not spool.exists()


def test_unfinished_records_are_skipped(make_orphaned_spool, recover, make_sink, spool):
    """Recovery skips a record that was not committed and one whose word was not written."""
    make_orphaned_spool(*range(3))
    with open(spool, "r+b") as file:
        file.seek(PAGE)
        first_word = struct.unpack("Q", file.read(8))[0]
        file.seek(PAGE)
        file.write(struct.pack("Q", first_word & ~(1 << 63)))  # The first is not committed.
        file.seek(PAGE + 16)
        file.write(bytes(16))                                  # The second is only reserved.
    recovery = recover(spool, "--dry-run")
    assert recovery.stdout.splitlines() == [
        f"{spool}: 1 records of an earlier process, 1 unfinished records (skipped)",
        "  <14>2"]
    sink = make_sink()
    assert recover(spool).returncode == 0
    assert sink.take(1) == make_datagrams(2) and sink.is_empty()


def test_record_logged_while_close_removes_the_spool(make_handler, make_sink, directory, spool,
                                                     logger_for, monkeypatch):
    """A record that another thread logs while close() removes the file is not lost.

    close() releases the GIL to remove the file.
    """
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
    assert sink.take(2) == make_datagrams("meanwhile", "later")
    assert handler.flush() and handler.stats().sent == 2


def test_flush_has_one_timeout_for_all_spools(make_orphaned_spool, make_handler, spool, directory,
                                              monkeypatch):
    """flush() applies its timeout to all orphaned spools together.

    With a timeout for each, a process with the spools of many children could take very long to
    exit while no daemon accepts records.
    """
    for number in range(3):
        make_orphaned_spool("x", path=f"{spool}.{number}")
    timeouts = []

    def finish(self, timeout):
        timeouts.append(timeout)
        return original_finish(self, timeout)

    original_finish = _orphans.OrphanedSpools.finish
    monkeypatch.setattr(_orphans.OrphanedSpools, "finish", finish)
    handler = make_handler(directory / "log", spool=spool, capacity=CAPACITY)
    handler._engine.submit(14, "x")
    assert not handler.flush(0.05)
    assert timeouts == [0.0]


@pytest.mark.parametrize("path", [3, object(), True])
def test_spool_of_a_wrong_type_is_rejected(make_handler, path):
    """A spool that is neither a str nor path-like raises a TypeError."""
    with pytest.raises(TypeError, match="spool must be"):
        make_handler("/dev/log", spool=path)


def test_spool_is_refused_with_an_overridden_create_socket(make_handler, spool):
    """A subclass that overrides createSocket cannot use a spool."""
    class CustomSocket(fastlog.SysLogHandler):
        def createSocket(self):
            pass

    with pytest.raises(ValueError, match="spool cannot be used where createSocket"):
        make_handler("/dev/log", cls=CustomSocket, spool=spool)


def test_second_close_reports_only_new_records(make_handler, make_sink, directory, spool,
                                               logger_for, capsys):
    """A second close() does not report the records that the first one left in the spool."""
    handler = make_handler(directory / "log", spool=spool, capacity=CAPACITY)
    log = logger_for(handler)
    for i in range(5):
        log.info("%d", i)
    handler.close(0.0)
    log.info("5")
    capsys.readouterr()
    handler.close(0.0)
    assert capsys.readouterr().err == (
        f"fastlog: 1 records were not delivered to {directory / 'log'}; they are kept in {spool}\n")
    handler.close(0.0)
    assert capsys.readouterr().err == ""


def test_removed_spool_is_not_reported_as_kept(make_handler, directory, spool, logger_for, capsys):
    """If the spool was removed, close() does not report it, nor change another file at its path."""
    handler = make_handler(directory / "log", spool=spool, capacity=CAPACITY)
    logger_for(handler).info("x")
    spool.unlink()
    spool.write_text("precious")
    capsys.readouterr()
    handler.close(0.0)
    assert capsys.readouterr().err == (
        f"fastlog: 1 records were not delivered to {directory / 'log'}\n")
    assert spool.read_text() == "precious"
