"""A handler that was closed uses its spool again from the next record on."""
import logging
import os
import shutil

import pytest

CAPACITY = 1 << 16
TIMEOUT = 30.0


@pytest.fixture
def quiet(monkeypatch):
    """Handlers report no undelivered records, and errors of the spool all the same."""
    monkeypatch.setattr(logging, "raiseExceptions", False)


def check_sums(handler, pending):
    stats = handler.stats()
    assert stats.submitted == stats.accepted + stats.dropped
    assert stats.accepted == stats.sent + stats.discarded + stats.pending
    assert stats.pending == pending


@pytest.mark.parametrize("end", ["handler.close(0)", "logging.shutdown()"])
def test_record_after_close_is_in_the_spool(make_orphaned_spool, recover, make_sink, spool, end):
    """Records before and after close() are in the spool, in order, when the process is killed."""
    again = "logging.raiseExceptions = False; " + end + '; log.info("b"); log.info("c"); '
    make_orphaned_spool("a", end=again * 2 + "os.kill(os.getpid(), signal.SIGKILL)",
                        close_timeout=0)
    recovery = recover(spool, sink=make_sink(), count=5)
    assert recovery.received == [b"<14>%b\0" % text for text in (b"a", b"b", b"c", b"b", b"c")]
    assert recovery.returncode == 0


def test_record_of_an_exit_function_is_in_the_spool(make_orphaned_spool, recover, spool):
    """A record logged after logging.shutdown() at the exit of the process is in the spool."""
    make_orphaned_spool("a", before="import atexit; atexit.register(lambda: log.error('b'))\n",
                        end="", returncode=0, close_timeout=0)
    assert "  <14>a\n  <11>b\n" in recover(spool, "--dry-run").stdout


def test_left_records_are_sent_before_the_next_one(make_handler, logger_for, make_sink, directory,
                                                   spool, quiet):
    """Records that close() left in the spool are sent first, once, and are no longer pending."""
    handler = make_handler(directory / "log", spool=spool, capacity=CAPACITY)
    log = logger_for(handler)
    for text in "ab":
        log.info(text)
        handler.close(0)
    check_sums(handler, 2)
    sink = make_sink()
    log.info("c")
    assert handler.flush(TIMEOUT)
    assert sink.take(3) == [b"<14>a\0", b"<14>b\0", b"<14>c\0"] and sink.is_empty()
    check_sums(handler, 0)
    assert spool.exists()
    handler.close()
    assert not spool.exists()
    log.info("d")
    assert sink.take_one() == b"<14>d\0" and spool.exists()
    handler.close()
    assert not spool.exists()
    check_sums(handler, 0)


def test_another_process_sends_what_close_left(make_handler, logger_for, make_sink, recover,
                                               directory, spool, quiet):
    """Records that recover has sent meanwhile count as sent, and are not sent again."""
    handler = make_handler(directory / "log", spool=spool, capacity=CAPACITY)
    log = logger_for(handler)
    log.info("a")
    handler.close(0)
    sink = make_sink()
    assert recover(spool, sink=sink, count=1).received == [b"<14>a\0"]
    log.info("b")
    assert sink.take_one() == b"<14>b\0"
    assert handler.flush(TIMEOUT)
    check_sums(handler, 0)
    assert handler.stats().sent == 2


@pytest.mark.parametrize("spoil, reason", [
    (lambda path: path.write_bytes(b"x"), "is a file of another kind"),
    (lambda path: path.mkdir(), "is not a regular file"),
    (lambda path: shutil.rmtree(path.parent), "No such file"),
], ids=["other", "directory", "removed"])
def test_spool_that_cannot_be_used_again(make_handler, logger_for, sink, tmp_path, capsys, spoil,
                                         reason):
    """A record after close() is sent even if the file cannot be opened, and stderr has a line."""
    (tmp_path / "spools").mkdir()
    spool = tmp_path / "spools" / "spool"
    handler = make_handler(sink.path, spool=spool, capacity=CAPACITY)
    log = logger_for(handler)
    handler.close()
    spoil(spool)
    if spool.is_file():
        spool.chmod(0o600)
    log.info("a")
    log.info("b")
    assert sink.take(2) == [b"<14>a\0", b"<14>b\0"]
    [line] = capsys.readouterr().err.splitlines()
    assert line.startswith("fastlog: records after close() are not in a spool: ")
    assert reason in line and str(spool) in line


def test_spool_that_another_handler_uses_now(make_handler, logger_for, sink, spool, capsys):
    """A closed handler leaves its spool to the handler that has opened it meanwhile."""
    first = make_handler(sink.path, spool=spool, capacity=CAPACITY)
    log = logger_for(first)
    first.close()
    make_handler(sink.path, spool=spool, capacity=CAPACITY)
    log.info("a")
    assert sink.take_one() == b"<14>a\0"
    assert "in use by another handler of this process" in capsys.readouterr().err


def test_damaged_spool_is_not_used_again(make_handler, logger_for, sink, directory, spool, quiet):
    """A spool that was damaged after close() is left as it is, and the record is sent."""
    handler = make_handler(directory / "nobody", spool=spool, capacity=CAPACITY)
    log = logger_for(handler)
    log.info("a")
    handler.close(0)
    with open(spool, "r+b") as file:
        file.seek(512)
        file.write(b"\xff" * 8)
    damaged = spool.read_bytes()
    log.info("b")
    os.rename(sink.path, directory / "nobody")
    assert sink.take_one() == b"<14>b\0"
    assert spool.read_bytes() == damaged
