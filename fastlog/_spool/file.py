"""The spool: a file that the ring lives in, so that its records outlive the process.

    first page   Header, and from byte 512 on the ring's positions (_backend/ring.pxd)
    the rest     the ring's memory

The process that uses a spool holds a lock on it (fcntl(2), F_SETLK): that ends with the process,
however it ends, and a forked child does not inherit it. A child gets a spool of its own, named
after its process id, beside the parent's.

Nothing here is on the way of a record.
"""
from __future__ import annotations

import contextlib
import errno
import fcntl
import json
import os
import socket
import stat
import struct
import sys
import threading

TYPE_CHECKING = False  # importing typing takes as long as all of fastlog
if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence
    from typing import NoReturn

MAGIC = b"fastlog\0"
VERSION = 1

# Magic, version, page size, capacity, bytes of the destination; that follows, as JSON.
_HEADER = struct.Struct("=8sIIQI")
_HEADER_SIZE = 512
_PAGE = os.sysconf("SC_PAGE_SIZE")
_CAPACITIES = [1 << n for n in range(_PAGE.bit_length() - 1, 31)]

# What this process holds: a second lock on the same file would be granted, and to close a second
# descriptor would give the first one's lock up (fcntl(2), "Advisory record locking").
_held: dict[tuple[int, int], tuple[int, int]] = {}  # (device, inode): process id, id(Spool)
_lock = threading.RLock()     # a handler of a Python signal may log, and so come here, anywhere


def _renew_lock() -> None:
    global _lock
    _lock = threading.RLock()


# In the child nobody would release a lock that another thread of the parent held.
os.register_at_fork(after_in_child=_renew_lock)


def destination(paths: Sequence[str], host: str, port: int, socktype: int,
                framing: int = 0) -> dict[str, object]:
    """Where records go and how they are written, as a spool's header keeps it. Numbers as Engine's.
    """
    return {"paths": list(paths), "host": host, "port": port, "socktype": socktype,
            "framing": framing}


def is_stream(where: dict[str, object]) -> bool:
    """Whether records for this destination are such that they can follow each other."""
    return where.get("socktype") == socket.SOCK_STREAM


def _refuse(number: int, path: str, why: str) -> NoReturn:
    raise OSError(number, f"the spool {path} {why}")


class Spool:
    """The file of one ring. Engine calls open(), in a forked child that of another().

    path: of the file, which need not exist. destination: where the records go, for who
        recovers them.
    Raises OSError that says what is wrong with the file.
    """

    read_only = False

    def __init__(self, path: str | os.PathLike[str], capacity: int,
                 destination: dict[str, object]) -> None:
        self.base = self.path = os.path.abspath(os.fsdecode(path))
        self.capacity = capacity
        self.destination = destination
        self._use_pid_suffix = False      # the file's name is to be another than `base`
        self._is_new = False
        self._descriptor = -1
        self._inode = (0, 0)

    @classmethod
    def open_existing(cls, path: str, read_only: bool = False) -> Spool:
        """A file that is there, locked; its capacity and destination are what it says.

        A capacity of 0: the file is empty, its process ended before it had made it.
        """
        self = cls(path, 0, {})
        self.read_only = read_only
        self._descriptor = self._claim(self.path, create=False)
        return self

    @property
    def size(self) -> int:
        """Bytes of the file."""
        return _PAGE + self.capacity if self.capacity else 0

    def for_child(self) -> Spool:
        """For a file of its own, beside this one, as a forked child needs it."""
        spool = Spool(self.base, self.capacity, self.destination)
        spool._use_pid_suffix = True
        return spool

    def open(self) -> int:
        """The descriptor of the file, checked and locked. It is the caller's.

        -1 in a forked child that cannot have a file of its own: that must not stop it.
        """
        descriptor, self._descriptor = self._descriptor, -1
        if descriptor >= 0:
            return descriptor
        if not self._use_pid_suffix:
            return self._claim(self.path, create=True)
        for name in self._own_names():
            try:
                descriptor = self._claim(name, create=True)
            except BlockingIOError:
                continue
            except OSError as error:
                with contextlib.suppress(AttributeError, OSError, ValueError):  # none, or closed
                    sys.stderr.write(f"fastlog: no spool for process {os.getpid()}: {error}\n")
                return -1
            self.path = name
            return descriptor
        return -1

    def remove(self) -> None:
        """Delete the file, if the path still means it."""
        with contextlib.suppress(OSError):
            if self.is_there():
                os.unlink(self.path)

    def is_there(self) -> bool:
        """Whether the path still means the file: somebody may have removed or moved it."""
        with contextlib.suppress(OSError):
            return _identity(os.lstat(self.path)) == self._inode
        return False

    def discard(self, descriptor: int) -> None:
        """Undo open(); what was in the file before stays there."""
        if self._is_new:
            self.remove()
        os.close(descriptor)
        self.release()

    def release(self) -> None:
        """The engine has closed the descriptor, and with it the lock is gone."""
        # Since the file was closed, its inode may be that of another.
        if _held.get(self._inode) == (os.getpid(), id(self)):
            _held.pop(self._inode, None)

    def __del__(self) -> None:
        self.release()
        if self._descriptor >= 0:
            os.close(self._descriptor)

    def _own_names(self) -> Iterator[str]:
        stem = f"{self.base}.{os.getpid()}"
        yield stem
        for number in range(1, 100):
            yield f"{stem}.{number}"

    # --- opening -----------------------------------------------------------------------------

    def _claim(self, path: str, create: bool) -> int:
        with _lock:
            while True:
                descriptor = self._open(path, create)
                try:
                    found = self._check(path, descriptor)
                    if found is None:      # replaced meanwhile
                        os.close(descriptor)
                        continue
                    if not self._prepare(path, descriptor, found):
                        os.close(descriptor)
                        continue
                except BaseException:
                    os.close(descriptor)
                    raise
                self._inode = _identity(found)
                _held[self._inode] = os.getpid(), id(self)
                return descriptor

    def _open(self, path: str, create: bool) -> int:
        with contextlib.suppress(FileNotFoundError):
            there = os.lstat(path)
            if stat.S_ISLNK(there.st_mode):
                _refuse(errno.ELOOP, path, "is a symbolic link, which is not followed")
            if not stat.S_ISREG(there.st_mode):
                _refuse(errno.EINVAL, path, "is not a regular file")
            if _held.get(_identity(there), (0, 0))[0] == os.getpid():
                _refuse(errno.EAGAIN, path, "is in use by another handler of this process")
        return os.open(path, os.O_RDWR | os.O_NOFOLLOW | os.O_CLOEXEC
                       | (os.O_CREAT if create else 0), 0o600)

    @staticmethod
    def _check(path: str, descriptor: int) -> os.stat_result | None:
        """Whose it is, and that nobody uses it."""
        found = os.fstat(descriptor)
        if found.st_uid != os.geteuid():
            _refuse(errno.EPERM, path, f"belongs to user {found.st_uid}, not to this process's, "
                                       f"{os.geteuid()}")
        if found.st_mode & 0o077:
            _refuse(errno.EPERM, path, "can be opened by other users (mode "
                                       f"{stat.S_IMODE(found.st_mode):04o}, should be 0600)")
        try:
            fcntl.lockf(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            if error.errno not in (errno.EAGAIN, errno.EACCES):
                raise
            holder = _lock_holder(descriptor)
            _refuse(errno.EAGAIN, path, "is in use by "
                    + (f"process {holder}" if holder else "another process")
                    + "; each process needs a path of its own")
        with contextlib.suppress(FileNotFoundError):
            there = os.lstat(path)            # its size, now that nobody else can change it
            if _identity(there) == _identity(found):
                return there
        return None

    def _prepare(self, path: str, descriptor: int, found: os.stat_result) -> bool:
        """Make a new file whole, or check what one that exists says of itself.

        False: it was set aside, because it cannot be used as it is.
        """
        raw = os.pread(descriptor, _HEADER_SIZE, 0)
        if not any(raw) and found.st_size in (0, self.size):
            self._is_new = True
            if self.capacity:
                self._allocate(path, descriptor)
            return True
        capacity, where = _read_header(path, raw)
        if self.capacity and not self._is_compatible(capacity, where):
            os.rename(path, _free_name(f"{path}.{os.getpid()}", capacity))
            return False
        self.capacity = capacity
        self.destination = self.destination or where
        if self.read_only:
            if found.st_size < self.size:
                _refuse(errno.EINVAL, path, f"is truncated: it has {found.st_size} bytes of "
                                            f"{self.size}")
        elif self.destination != where or found.st_blocks * 512 < self.size:
            # The configuration has another one now; or somebody has cut the file off, or has
            # copied it with holes: what is left can be read, if there is memory behind all of it.
            self._allocate(path, descriptor)
        return True

    def _is_compatible(self, capacity: int, where: dict[str, object]) -> bool:
        """Whether a ring that was another process's is one for our records, too."""
        return (self.capacity == capacity
                and self.destination["framing"] == where.get("framing")
                and is_stream(self.destination) == is_stream(where)
                # PATH means what the configuration says; the name of a child means nothing.
                and (not self._use_pid_suffix or self.destination == where))

    def _header(self) -> bytes:
        where = json.dumps(self.destination).encode()
        header = _HEADER.pack(MAGIC, VERSION, _PAGE, self.capacity, len(where)) + where
        if len(header) > _HEADER_SIZE:
            raise OSError(errno.ENAMETOOLONG, "for the address there is no room in its header")
        return header.ljust(_HEADER_SIZE, b"\0")

    def _allocate(self, path: str, descriptor: int) -> None:
        try:
            # First, so that a process that is killed in between leaves what the next one knows.
            os.pwrite(descriptor, self._header(), 0)
            # All of it now: a full disk is an error here, and not a SIGBUS in a logging call.
            os.posix_fallocate(descriptor, 0, self.size)
        except OSError as error:
            if self._is_new:
                os.unlink(path)
            _refuse(error.errno or errno.EIO, path,
                    f"cannot be made with {self.size} bytes: {error.strerror}")


def _free_name(stem: str, number: int) -> str:
    """A name beside others that nothing has: what is there may be full of records."""
    while os.path.lexists(f"{stem}.{number}"):
        number += 1
    return f"{stem}.{number}"


def _identity(found: os.stat_result) -> tuple[int, int]:
    return found.st_dev, found.st_ino


def _lock_holder(descriptor: int) -> int:
    """The process id that F_GETLK tells; 0: none, or one of another pid namespace."""
    flock = struct.Struct("hhqqi4x")  # l_type, l_whence, l_start, l_len, l_pid: fcntl(2)
    with contextlib.suppress(OSError):
        asked = flock.pack(fcntl.F_WRLCK, os.SEEK_SET, 0, 0, 0)
        holder: int = flock.unpack(fcntl.fcntl(descriptor, fcntl.F_GETLK, asked))[4]
        return holder
    return 0


def _read_header(path: str, raw: bytes) -> tuple[int, dict[str, object]]:
    if len(raw) < _HEADER_SIZE or raw[:len(MAGIC)] != MAGIC:
        _refuse(errno.EINVAL, path, "is not one: it is another file, which is left as it is")
    _, version, page, capacity, size = _HEADER.unpack_from(raw)
    if version != VERSION:
        _refuse(errno.EINVAL, path, f"has format {version}, and this version of fastlog knows "
                f"{VERSION}: recover it with the version that wrote it, or remove it")
    if page != _PAGE:
        _refuse(errno.EINVAL, path, f"was written with pages of {page} bytes; here they have "
                                    f"{_PAGE}")
    try:
        where = json.loads(raw[_HEADER.size:_HEADER.size + size])
    except ValueError:
        where = None
    if capacity not in _CAPACITIES or not isinstance(where, dict):
        _refuse(errno.EINVAL, path, "is damaged: its header makes no sense")
    return capacity, where
