"""The spool: a file that contains the ring, so that its records survive the process.

    first page   the header, from byte 512 the positions of the ring (_backend/ring.pxd), and
                 from byte 1024 the owner, the process that uses the file (owner.py)
    the rest     the memory of the ring

A process that uses a spool holds a lock on the file (fcntl(2), F_SETLK). The kernel releases the
lock when the process ends, however it ends. A forked child does not inherit the lock. It gets its
own spool beside the parent's, named PATH.PID after the parent's path and the child's process id.
The lock is also released if other code of the process opens and closes the file. The file is
therefore in use, too, as long as its owner lives. Files of earlier versions of fastlog name none.

Nothing in this file is on the data path of a record.
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

from fastlog._spool import owner
from fastlog._spool.printable import printable

TYPE_CHECKING = False  # importing typing takes as long as importing all of fastlog
if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence
    from typing import NoReturn

MAGIC = b"fastlog\0"
VERSION = 1

# Magic, version, page size, capacity and the size of the destination, which follows as JSON.
_HEADER = struct.Struct("=8sIIQI")
_HEADER_SIZE = 512
_OWNER_OFFSET = 1024
_PAGE = os.sysconf("SC_PAGE_SIZE")
_CAPACITIES = [1 << n for n in range(_PAGE.bit_length() - 1, 31)]

# The files that this process has locked: (device, inode) -> (process id, id of the Spool). The
# kernel would grant this process a second lock on the same file, and closing a second descriptor
# of the file would release the first lock: fcntl(2), "Advisory record locking".
_locked_files: dict[tuple[int, int], tuple[int, int]] = {}

# Reentrant, because a Python signal handler may log, and thus open a spool, at any point.
_lock = threading.RLock()


def _replace_lock() -> None:
    global _lock
    _lock = threading.RLock()


# If another thread of the parent holds the lock, no thread of the child would ever release it.
os.register_at_fork(after_in_child=_replace_lock)


def destination(paths: Sequence[str], host: str, port: int, socktype: int,
                framing: int = 0) -> dict[str, object]:
    """Return a destination in the form that the header of a spool stores.

    socktype: as in the socket module. framing: a number of _core.FRAMINGS.
    """
    return {"paths": list(paths), "host": host, "port": port, "socktype": socktype,
            "framing": framing}


def is_stream(destination: dict[str, object]) -> bool:
    """Return whether records for this destination are encoded for a byte stream."""
    return destination.get("socktype") == socket.SOCK_STREAM


def _refuse(number: int, path: str, reason: str) -> NoReturn:
    raise OSError(number, f"the spool {printable(path)} {reason}")


def _warn(text: str) -> None:
    # stderr may be None or closed.
    with contextlib.suppress(AttributeError, OSError, ValueError):
        sys.stderr.write(f"fastlog: {printable(text)}\n")


class Spool:
    """The file of one ring.

    Engine calls open(). In a forked child it calls for_child().open().

    path: path of the file, which need not exist.
    destination: where the records are to be sent. `fastlog recover` reads it from the header.

    Raises an OSError that describes the problem if the file cannot be used.
    """

    read_only = False
    is_orphan = False                     # made by open_existing()

    def __init__(self, path: str | os.PathLike[str], capacity: int,
                 destination: dict[str, object]) -> None:
        self.base = self.path = os.path.abspath(os.fsdecode(path))
        self.capacity = capacity
        self.destination = destination
        self._use_pid_suffix = False      # whether to append the process id to `base`
        self._is_new = False
        self._descriptor = -1
        self._inode = (0, 0)
        self._owner = owner.NOBODY        # this process, while the file names it
        self._previous_owner = owner.NOBODY

    @classmethod
    def open_existing(cls, path: str, read_only: bool = False) -> Spool:
        """Open and lock an existing file. The capacity and the destination are read from it.

        A capacity of 0 means that the file is empty, because its process ended before it had
        written the header.
        """
        spool = cls(path, 0, {})
        spool.read_only = read_only
        spool.is_orphan = True
        spool._descriptor = spool._open_and_lock(spool.path, create=False)
        return spool

    @property
    def size(self) -> int:
        """Size of the file in bytes."""
        return _PAGE + self.capacity if self.capacity else 0

    def for_child(self) -> Spool:
        """Return a spool for a forked child, with a file of its own beside this one."""
        spool = Spool(self.base, self.capacity, self.destination)
        spool._use_pid_suffix = True
        return spool

    def open(self) -> int:
        """Return a descriptor of the file, checked and locked. The caller owns it.

        Return -1 in a forked child that cannot have a file of its own. The child must still be
        able to log.
        """
        descriptor, self._descriptor = self._descriptor, -1
        if descriptor >= 0:
            return descriptor
        if not self._use_pid_suffix:
            return self._open_and_lock(self.path, create=True)
        for path in self._child_paths():
            try:
                descriptor = self._open_and_lock(path, create=True)
            except BlockingIOError:
                continue
            except OSError as error:
                _warn(f"no spool for process {os.getpid()}: {error}")
                return -1
            self.path = path
            return descriptor
        return -1

    def reopen(self) -> int:
        """Open the file again after close(). Return -1, and say why, if that is impossible."""
        self._is_new = False
        try:
            return self.open()
        except OSError as error:
            _warn(f"records after close() are not in a spool: {error}")
            return -1

    def remove(self) -> None:
        """Delete the file if the path still refers to it."""
        with contextlib.suppress(OSError):
            if self.is_there():
                os.unlink(self.path)

    def is_there(self) -> bool:
        """Return whether the path still refers to the file. Somebody may have moved it."""
        with contextlib.suppress(OSError):
            return _file_id(os.lstat(self.path)) == self._inode
        return False

    def discard(self, descriptor: int) -> None:
        """Undo open(). A file that existed before keeps its contents."""
        if self._is_new:
            self.remove()
        self.close(descriptor)

    def close(self, descriptor: int) -> None:
        """Close the descriptor from open(), which releases the lock, and forget the file."""
        # Other code of the process may have closed the descriptor and opened a file of its own.
        with contextlib.suppress(OSError):
            if _file_id(os.fstat(descriptor)) == self._inode:
                self._clear_owner(descriptor)
                os.close(descriptor)
        self.release()

    def release(self) -> None:
        """Forget the file. The engine has closed the descriptor, which released the lock."""
        # After the file was closed and removed, another file can get its inode.
        if _locked_files.get(self._inode) != (os.getpid(), id(self)):
            return
        _locked_files.pop(self._inode, None)
        if any(self._owner):
            with contextlib.suppress(OSError):
                descriptor = os.open(self.path, os.O_RDWR | os.O_NOFOLLOW | os.O_CLOEXEC)
                try:
                    self._clear_owner(descriptor)
                finally:
                    os.close(descriptor)

    def _clear_owner(self, descriptor: int) -> None:
        """If the file names this process, let it name the one before, which has ended.

        A file in which no record has changed is then the same as before.
        """
        if any(self._owner) and _read_owner(descriptor) == self._owner:
            os.pwrite(descriptor, self._previous_owner, _OWNER_OFFSET)
        self._owner = owner.NOBODY

    def __del__(self) -> None:
        self.release()
        if self._descriptor >= 0:
            os.close(self._descriptor)

    def _child_paths(self) -> Iterator[str]:
        """Yield the paths that a child tries: PATH.PID, then PATH.PID.1 to PATH.PID.99."""
        stem = f"{self.base}.{os.getpid()}"
        yield stem
        for number in range(1, 100):
            yield f"{stem}.{number}"

    # --- opening -----------------------------------------------------------------------------

    def _open_and_lock(self, path: str, create: bool) -> int:
        """Return a descriptor of the file, which is locked, checked and allocated."""
        with _lock:
            while True:
                descriptor = self._open_file(path, create)
                try:
                    status = self._check_and_lock(path, descriptor)
                    if status is None:      # the file was replaced before it was locked
                        os.close(descriptor)
                        continue
                    if not self._prepare_file(path, descriptor, status):
                        os.close(descriptor)
                        continue
                except BaseException:
                    os.close(descriptor)
                    raise
                return self._claim(descriptor, status)

    def _claim(self, descriptor: int, status: os.stat_result) -> int:
        """Note that this process uses the file, here and in the file. Return the descriptor."""
        self._inode = _file_id(status)
        _locked_files[self._inode] = os.getpid(), id(self)
        if self.capacity and not self.read_only:
            self._owner, previous = owner.current(self._inode), _read_owner(descriptor)
            self._previous_owner = owner.NOBODY if previous == self._owner else previous
            with contextlib.suppress(OSError):
                os.pwrite(descriptor, self._owner, _OWNER_OFFSET)
        return descriptor

    def _open_file(self, path: str, create: bool) -> int:
        with contextlib.suppress(FileNotFoundError):
            status = os.lstat(path)
            if stat.S_ISLNK(status.st_mode):
                _refuse(errno.ELOOP, path, "is a symbolic link, which fastlog does not follow")
            if not stat.S_ISREG(status.st_mode):
                _refuse(errno.EINVAL, path, "is not a regular file")
            if _locked_files.get(_file_id(status), (0, 0))[0] == os.getpid():
                _refuse(errno.EAGAIN, path, "is in use by another handler of this process")
        return os.open(path, os.O_RDWR | os.O_NOFOLLOW | os.O_CLOEXEC
                       | (os.O_CREAT if create else 0), 0o600)

    @staticmethod
    def _check_and_lock(path: str, descriptor: int) -> os.stat_result | None:
        """Check whose file it is and who can open it, and lock it.

        Return its status, or None if another file has replaced it in the meantime.
        """
        status = os.fstat(descriptor)
        _check_access(path, status)
        try:
            fcntl.lockf(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            if error.errno not in (errno.EAGAIN, errno.EACCES):
                raise
            _refuse_in_use(path, _find_lock_holder(descriptor))
        # The lock is this process's, but an owner whose lock was released still uses the file.
        holder = owner.find(_read_owner(descriptor), _file_id(status))
        if holder:
            _refuse_in_use(path, holder)
        with contextlib.suppress(FileNotFoundError):
            # Read the status again: the size cannot change any more once the file is locked.
            locked_status = os.lstat(path)
            if _file_id(locked_status) == _file_id(status):
                return locked_status
        return None

    def _prepare_file(self, path: str, descriptor: int, status: os.stat_result) -> bool:
        """Allocate a new file, or check that the header of an existing file is usable.

        Return False if the file was renamed because its ring is not compatible.
        """
        raw = os.pread(descriptor, _HEADER_SIZE, 0)
        if not any(raw) and status.st_size in (0, self.size):
            self._is_new = True
            if self.capacity:
                self._allocate(path, descriptor)
            return True
        capacity, destination = _read_header(path, raw)
        if self.capacity and not self._is_compatible(capacity, destination):
            os.rename(path, _unused_name(f"{path}.{os.getpid()}", capacity))
            return False
        self.capacity = capacity
        self.destination = self.destination or destination
        if self.read_only:
            if status.st_size < self.size:
                _refuse(errno.EINVAL, path, f"is truncated: it has {status.st_size} of "
                                            f"{self.size} bytes")
        elif self.destination != destination or status.st_blocks * 512 < self.size:
            # Either the configuration has another destination, which the header must store. Or
            # the file was truncated, or copied with holes. The records that are left can be read
            # only if every page of the file has a block on the disk.
            self._allocate(path, descriptor)
        return True

    def _is_compatible(self, capacity: int, destination: dict[str, object]) -> bool:
        """Return whether the ring of an earlier process can hold the records of this one."""
        return (self.capacity == capacity
                and self.destination["framing"] == destination.get("framing")
                and is_stream(self.destination) == is_stream(destination)
                # A file at PATH is for the destination that is configured for PATH. A file at
                # PATH.PID belonged to an unrelated process that had the same process id.
                and (not self._use_pid_suffix or self.destination == destination))

    def _header(self) -> bytes:
        text = json.dumps(self.destination).encode()
        header = _HEADER.pack(MAGIC, VERSION, _PAGE, self.capacity, len(text)) + text
        if len(header) > _HEADER_SIZE:
            raise OSError(errno.ENAMETOOLONG, "the address does not fit in its header")
        return header.ljust(_HEADER_SIZE, b"\0")

    def _allocate(self, path: str, descriptor: int) -> None:
        """Write the header and allocate all blocks of the file."""
        try:
            # The header is written first. If the process is killed between the two calls, the
            # next process still recognizes the file.
            os.pwrite(descriptor, self._header(), 0)
            # A full disk must be an error here, not a SIGBUS in a logging call.
            os.posix_fallocate(descriptor, 0, self.size)
        except OSError as error:
            if self._is_new:
                os.unlink(path)
            _refuse(error.errno or errno.EIO, path,
                    f"cannot be created with {self.size} bytes: {error.strerror}")


def _check_access(path: str, status: os.stat_result) -> None:
    """Refuse a file that others own, can open, or know by another path."""
    if status.st_uid != os.geteuid():
        _refuse(errno.EPERM, path, f"belongs to user {status.st_uid}, but this process runs as "
                                   f"user {os.geteuid()}")
    if status.st_mode & 0o077:
        _refuse(errno.EPERM, path, "can be opened by other users (mode "
                                   f"{stat.S_IMODE(status.st_mode):04o}, should be 0600)")
    if status.st_nlink > 1:
        _refuse(errno.EMLINK, path, f"has {status.st_nlink} hard links: remove the other paths of "
                                    "the file, or copy it")


def _refuse_in_use(path: str, holder: int) -> NoReturn:
    """Refuse a file that a process uses. holder: its process id, or 0 if that is unknown."""
    _refuse(errno.EAGAIN, path, "is in use by "
            + (f"process {holder}" if holder else "another process")
            + "; each process needs its own path")


def _read_owner(descriptor: int) -> bytes:
    """Return the owner that the file names, which is NOBODY in a file that is too short."""
    return os.pread(descriptor, owner.SIZE, _OWNER_OFFSET).ljust(owner.SIZE, b"\0")


def _unused_name(stem: str, number: int) -> str:
    """Return the first unused name from STEM.NUMBER on. An existing file may contain records."""
    while os.path.lexists(f"{stem}.{number}"):
        number += 1
    return f"{stem}.{number}"


def _file_id(status: os.stat_result) -> tuple[int, int]:
    return status.st_dev, status.st_ino


def _find_lock_holder(descriptor: int) -> int:
    """Return the process id that F_GETLK reports.

    0 means that no process holds the lock, or one of another PID namespace.
    """
    flock = struct.Struct("hhqqi4x")  # l_type, l_whence, l_start, l_len, l_pid: fcntl(2)
    with contextlib.suppress(OSError):
        query = flock.pack(fcntl.F_WRLCK, os.SEEK_SET, 0, 0, 0)
        holder: int = flock.unpack(fcntl.fcntl(descriptor, fcntl.F_GETLK, query))[4]
        return holder
    return 0


def _read_header(path: str, raw: bytes) -> tuple[int, dict[str, object]]:
    """Return the capacity and the destination."""
    if len(raw) < _HEADER_SIZE or raw[:len(MAGIC)] != MAGIC:
        _refuse(errno.EINVAL, path, "is a file of another kind, which was left unchanged")
    _, version, page, capacity, size = _HEADER.unpack_from(raw)
    if version != VERSION:
        _refuse(errno.EINVAL, path, f"has format {version}, but this version of fastlog reads "
                f"format {VERSION}: recover it with the version that wrote it, or remove it")
    if page != _PAGE:
        _refuse(errno.EINVAL, path, f"was written with a page size of {page} bytes, but the page "
                                    f"size here is {_PAGE} bytes")
    try:
        destination = json.loads(raw[_HEADER.size:_HEADER.size + size])
    except ValueError:
        destination = None
    if capacity not in _CAPACITIES or not isinstance(destination, dict):
        _refuse(errno.EINVAL, path, "is damaged: its header is invalid")
    return capacity, destination
