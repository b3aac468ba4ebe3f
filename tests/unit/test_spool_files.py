"""Files that are not what they should be, where a spool is asked for."""
import errno
import mmap
import os
import random
import struct

import pytest

from fastlog._spool import file as _spool

PAGE = mmap.PAGESIZE
CAPACITY = 1 << 16


def refused(make_handler, spool, number, why, **options):
    with pytest.raises(OSError) as caught:
        make_handler("/dev/log", spool=spool, **{"capacity": CAPACITY, **options})
    assert caught.value.errno == number and why in str(caught.value), caught.value
    assert str(spool) in str(caught.value)


def test_symbolic_link(make_handler, directory, spool):
    (directory / "target").write_bytes(b"precious")
    spool.symlink_to(directory / "target")
    refused(make_handler, spool, errno.ELOOP, "symbolic link")
    assert (directory / "target").read_bytes() == b"precious"


@pytest.mark.parametrize("make, why", [
    (lambda path: path.mkdir(), "is not a regular file"),
    (lambda path: os.mkfifo(path), "is not a regular file"),
    (lambda path: path.write_bytes(b"precious" * 100), "is another file, which is left as it is"),
    (lambda path: path.write_bytes(b"x"), "is another file, which is left as it is"),
    (lambda path: path.write_bytes(random.Random(0).randbytes(PAGE + CAPACITY)), "is another file"),
], ids=["directory", "fifo", "text", "short", "random"])
def test_something_else_is_there(make_handler, spool, make, why):
    make(spool)
    if spool.is_file():
        spool.chmod(0o600)
        before = spool.read_bytes()
    refused(make_handler, spool, errno.EINVAL, why)
    assert not spool.is_file() or spool.read_bytes() == before


def test_others_can_read_it(make_handler, directory, spool):
    make_handler(directory / "log", spool=spool, capacity=CAPACITY)
    other = spool.with_name("other")
    other.write_bytes(spool.read_bytes())
    other.chmod(0o644)
    refused(make_handler, other, errno.EPERM, "mode 0644, should be 0600")


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can give a file away")
def test_another_users(make_handler, make_orphaned_spool, recover, spool):
    """Not even root takes another user's records."""
    make_orphaned_spool(*range(3))
    os.chown(spool, 65534, -1)
    refused(make_handler, spool, errno.EPERM, "belongs to user 65534")
    done = recover(spool)
    assert done.returncode == 1 and "belongs to user 65534" in done.stderr


@pytest.mark.parametrize("version", [0, 2, 99])
def test_another_format(make_orphaned_spool, make_handler, spool, version):
    """Upgrades and downgrades of the format are refused, and lose nothing."""
    make_orphaned_spool(*range(3))
    with open(spool, "r+b") as file:
        file.seek(8)
        file.write(struct.pack("I", version))
    before = spool.read_bytes()
    refused(make_handler, spool, errno.EINVAL, f"has format {version}, and this version of "
                                               "fastlog knows 1")
    assert spool.read_bytes() == before


def test_disk_full(make_handler, directory, run_python):
    """An error at construction, and no half-made file."""
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
    assert "cannot be made with" in str(error)
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


def test_directory_that_may_not_be_written(run_python, directory):
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


def test_truncated_file(make_orphaned_spool, recover, make_sink, make_handler, spool):
    """What is left of a file that was cut off is recovered; the rest is told as lost."""
    make_orphaned_spool(*range(100))
    os.truncate(spool, PAGE + 16 * 40)
    before = spool.read_bytes()
    assert recover(spool, "--dry-run").returncode == 1
    assert spool.read_bytes() == before
    sink = make_sink()
    handler = make_handler(sink.path, spool=spool, capacity=CAPACITY)
    assert sink.take(40) == [b"<14>%d\0" % i for i in range(40)]
    assert handler.flush() and sink.is_empty()


def test_refused_file_is_not_in_use(make_handler, directory, spool, make_orphaned_spool):
    """Whoever keeps the exception can put the file right, and try again."""
    make_orphaned_spool("a")
    whole = spool.read_bytes()
    with open(spool, "r+b") as file:
        file.seek(512)
        file.write(b"\3" * 8)
    with pytest.raises(OSError, match="positions are inconsistent"):
        make_handler(directory / "log", spool=spool, capacity=CAPACITY)
    try:
        make_handler(directory / "log", spool=spool, capacity=CAPACITY)
    except OSError as error:
        spool.write_bytes(whole)
        handler = make_handler(directory / "log", spool=spool, capacity=CAPACITY)
        assert handler.stats().accepted == 1 and error


def test_killed_once_the_file_has_its_size(make_handler, make_sink, spool, directory,
                                           monkeypatch, logger_for):
    """The header is in it before: a spool like others, also for a handler of another capacity."""
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


def test_file_with_holes(make_orphaned_spool, run_python, directory, spool):
    """As a copy has them: on a full disk that is an error at construction, and no SIGBUS later."""
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


@pytest.mark.parametrize("bad", ["", "a\0b"])
def test_no_path(make_handler, bad):
    with pytest.raises(ValueError, match="spool must be"):
        make_handler("/dev/log", spool=bad)


def test_release_when_the_inode_is_another_files(directory):
    """A file that was removed and closed can have its inode taken by the next one, in use."""
    gone = _spool.Spool(directory / "gone", CAPACITY, {})
    os.close(gone.open())
    used = _spool.Spool(directory / "used", CAPACITY, {})
    descriptor = used.open()
    own, gone._inode = gone._inode, used._inode
    gone.release()
    with pytest.raises(BlockingIOError, match="in use by another handler"):
        _spool.Spool(directory / "used", CAPACITY, {}).open()
    gone._inode = own
    gone.release()
    used.discard(descriptor)
