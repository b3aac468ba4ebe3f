"""Spool files that are damaged, belong to others or are not spools, and file system errors."""
import errno
import mmap
import os
import random
import struct

import pytest

from fastlog._spool import file as _spool

PAGE = mmap.PAGESIZE
CAPACITY = 1 << 16


def assert_refused(make_handler, spool, number, message, **options):
    """Assert that a handler raises an OSError with this errno, this message and the path."""
    with pytest.raises(OSError) as caught:
        make_handler("/dev/log", spool=spool, **{"capacity": CAPACITY, **options})
    assert caught.value.errno == number and message in str(caught.value), caught.value
    assert str(spool) in str(caught.value)


def test_symbolic_link_is_refused(make_handler, directory, spool):
    """A symbolic link is refused, and its target stays unchanged."""
    (directory / "target").write_bytes(b"precious")
    spool.symlink_to(directory / "target")
    assert_refused(make_handler, spool, errno.ELOOP, "symbolic link")
    assert (directory / "target").read_bytes() == b"precious"


@pytest.mark.parametrize("create, message", [
    (lambda path: path.mkdir(), "is not a regular file"),
    (lambda path: os.mkfifo(path), "is not a regular file"),
    (lambda path: path.write_bytes(b"precious" * 100), "is a file of another kind"),
    (lambda path: path.write_bytes(b"x"), "is a file of another kind"),
    (lambda path: path.write_bytes(random.Random(0).randbytes(PAGE + CAPACITY)),
     "is a file of another kind"),
], ids=["directory", "fifo", "text", "short", "random"])
def test_file_that_is_not_a_spool_is_refused(make_handler, spool, create, message):
    """Anything at the path that is not a spool is refused and stays unchanged."""
    create(spool)
    if spool.is_file():
        spool.chmod(0o600)
        original = spool.read_bytes()
    assert_refused(make_handler, spool, errno.EINVAL, message)
    assert not spool.is_file() or spool.read_bytes() == original


def test_spool_readable_by_others_is_refused(make_handler, directory, spool):
    """A spool whose mode is not 0600 is refused."""
    make_handler(directory / "log", spool=spool, capacity=CAPACITY)
    other = spool.with_name("other")
    other.write_bytes(spool.read_bytes())
    other.chmod(0o644)
    assert_refused(make_handler, other, errno.EPERM, "mode 0644, should be 0600")


@pytest.mark.parametrize("create", [
    lambda path: path.touch(mode=0o600),
    lambda path: os.link(path.with_name("left"), path),
], ids=["empty", "spool"])
def test_hard_link_is_refused(make_orphaned_spool, make_handler, recover, spool, create):
    """A file that has another path, too, is refused and stays unchanged."""
    make_orphaned_spool("a", path=spool.with_name("left"))
    create(spool)
    if spool.stat().st_nlink == 1:
        os.link(spool, spool.with_name("other"))
    original = spool.read_bytes()
    assert_refused(make_handler, spool, errno.EMLINK, "has 2 hard links")
    assert "has 2 hard links" in recover(spool).stderr
    assert spool.read_bytes() == original


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can give a file away")
def test_spool_of_another_user_is_refused(make_handler, make_orphaned_spool, recover, spool):
    """Even root cannot open or recover another user's spool."""
    make_orphaned_spool(*range(3))
    os.chown(spool, 65534, -1)
    assert_refused(make_handler, spool, errno.EPERM, "belongs to user 65534")
    recovery = recover(spool)
    assert recovery.returncode == 1 and "belongs to user 65534" in recovery.stderr


@pytest.mark.parametrize("version", [0, 2, 99])
def test_another_format_version_is_refused(make_orphaned_spool, make_handler, spool, version):
    """A spool of an older or newer format is refused and stays unchanged."""
    make_orphaned_spool(*range(3))
    with open(spool, "r+b") as file:
        file.seek(8)
        file.write(struct.pack("I", version))
    original = spool.read_bytes()
    assert_refused(make_handler, spool, errno.EINVAL,
                   f"has format {version}, but this version of fastlog reads format 1")
    assert spool.read_bytes() == original


def test_full_disk_is_an_error_at_construction(make_handler, directory, run_python):
    """A full or read-only file system raises an OSError and leaves no partial file."""
    if os.geteuid() != 0:
        pytest.skip("only root can mount a file system that is too small")
    run_python("""
import errno, os, sys, fastlog
os.unshare(os.CLONE_NEWNS) if hasattr(os, "unshare") else None
import ctypes
libc = ctypes.CDLL(None, use_errno=True)
assert libc.unshare(0x00020000) == 0
assert libc.mount(b"none", b"/", None, 1 << 18 | 1 << 14, None) == 0
assert libc.mount(b"tmpfs", sys.argv[1].encode(), b"tmpfs", 0, b"size=100k") == 0
path = sys.argv[1] + "/spool"
try:
    fastlog.SysLogHandler("/dev/log", spool=path)
except OSError as error:
    assert error.errno == errno.ENOSPC and path in str(error), error
    assert "cannot be created with" in str(error)
else:
    raise AssertionError("no error")
assert os.listdir(sys.argv[1]) == []
fastlog.SysLogHandler("/dev/log", spool=path, capacity=1 << 16).close()
assert libc.mount(b"tmpfs", sys.argv[1].encode(), None, 1 << 5 | 1, None) == 0  # read-only
try:
    fastlog.SysLogHandler("/dev/log", spool=sys.argv[1] + "/other")
except OSError as error:
    assert error.errno == errno.EROFS, error
else:
    raise AssertionError("no error")
""", directory)


def test_unwritable_directory_is_an_error_at_construction(run_python, directory):
    """A spool in a directory without write permission raises EACCES."""
    if os.geteuid() != 0:
        pytest.skip("only root can become another user")
    directory.chmod(0o755)
    run_python("""
import errno, os, sys, fastlog, fastlog._spool.file
os.setuid(65534)
try:
    fastlog.SysLogHandler("/dev/log", spool=sys.argv[1] + "/spool")
except OSError as error:
    assert error.errno == errno.EACCES, error
else:
    raise AssertionError("no error")
""", directory)


def test_truncated_file_is_recovered_partly(make_orphaned_spool, recover, make_sink, make_handler,
                                            spool):
    """The records left in a truncated file are sent, and a dry run fails and changes nothing."""
    make_orphaned_spool(*range(100))
    os.truncate(spool, PAGE + 16 * 40)
    original = spool.read_bytes()
    assert recover(spool, "--dry-run").returncode == 1
    assert spool.read_bytes() == original
    sink = make_sink()
    handler = make_handler(sink.path, spool=spool, capacity=CAPACITY)
    assert sink.take(40) == [b"<14>%d\0" % i for i in range(40)]
    assert handler.flush() and sink.is_empty()


def test_refused_file_is_not_in_use(make_handler, directory, spool, make_orphaned_spool):
    """A refused file can be repaired and opened again, even while the exception is alive."""
    make_orphaned_spool("a")
    intact = spool.read_bytes()
    with open(spool, "r+b") as file:
        file.seek(512)
        file.write(b"\3" * 8)
    with pytest.raises(OSError, match="positions are inconsistent"):
        make_handler(directory / "log", spool=spool, capacity=CAPACITY)
    try:
        make_handler(directory / "log", spool=spool, capacity=CAPACITY)
    except OSError as error:
        spool.write_bytes(intact)
        handler = make_handler(directory / "log", spool=spool, capacity=CAPACITY)
        assert handler.stats().accepted == 1 and error


def test_process_is_killed_after_allocating_the_file(make_handler, make_sink, spool, directory,
                                                     monkeypatch, logger_for):
    """A spool whose creator was killed right after allocating it is valid.

    Its header is written before. A handler of another capacity can therefore replace it.
    """
    class Killed(BaseException):
        pass

    def kill(*arguments):
        fallocate(*arguments)
        raise Killed

    fallocate = os.posix_fallocate

    with monkeypatch.context() as patch:
        patch.setattr(os, "posix_fallocate", kill)
        with pytest.raises(Killed):
            make_handler(directory / "log", spool=spool, capacity=8192)
    sink = make_sink()
    handler = make_handler(sink.path, spool=spool, capacity=CAPACITY)
    logger_for(handler).info("x")
    assert sink.take_one() == b"<14>x\0"
    assert handler.flush() and sorted(os.listdir(directory)) == ["log", "spool"]


def test_sparse_file_on_a_full_disk_is_an_error(make_orphaned_spool, run_python, directory, spool):
    """A sparse spool on a full disk raises an OSError at construction and causes no SIGBUS later.

    Copying a spool can make it sparse.
    """
    if os.geteuid() != 0:
        pytest.skip("only root can mount a file system that is too small")
    make_orphaned_spool("x", capacity=1 << 18)
    run_python("""
import ctypes, errno, os, sys, fastlog
libc = ctypes.CDLL(None, use_errno=True)
assert libc.unshare(0x00020000) == 0
assert libc.mount(b"none", b"/", None, 1 << 18 | 1 << 14, None) == 0
with open(sys.argv[1], "rb") as file:
    content = file.read()
os.mkdir(sys.argv[2])
assert libc.mount(b"tmpfs", sys.argv[2].encode(), b"tmpfs", 0, b"size=100k") == 0
path = sys.argv[2] + "/spool"
with open(os.open(path, os.O_CREAT | os.O_WRONLY, 0o600), "wb") as file:
    file.write(content[:8192])
    file.truncate(len(content))
try:
    fastlog.SysLogHandler("/dev/log", spool=path, capacity=1 << 18)
except OSError as error:
    assert error.errno == errno.ENOSPC and path in str(error), error
else:
    raise AssertionError("no error")
assert os.stat(path).st_size == len(content)
""", spool, directory / "small")


@pytest.mark.parametrize("path", ["", "a\0b"])
def test_invalid_path_is_rejected(make_handler, path):
    """An empty path and a path that contains a NUL raise a ValueError."""
    with pytest.raises(ValueError, match="spool must be"):
        make_handler("/dev/log", spool=path)


def test_release_does_not_unlock_a_file_that_reuses_the_inode(directory):
    """Releasing a removed spool does not unlock a spool in use that has reused its inode number."""
    removed = _spool.Spool(directory / "gone", CAPACITY, {})
    os.close(removed.open())
    used = _spool.Spool(directory / "used", CAPACITY, {})
    descriptor = used.open()
    original_inode, removed._inode = removed._inode, used._inode
    removed.release()
    with pytest.raises(BlockingIOError, match="in use by another handler"):
        _spool.Spool(directory / "used", CAPACITY, {}).open()
    removed._inode = original_inode
    removed.release()
    used.discard(descriptor)
