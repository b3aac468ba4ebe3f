"""The process that uses a spool, as the spool's file names it.

The kernel releases a POSIX record lock as soon as the process closes any descriptor of the file,
also one that it opened only to read the file: fcntl(2), "Advisory record locking". The file
therefore names its process, too. A process is told apart from a later one with the same process id
by its start time, and from the program that it replaces by exec by the address of its first stack,
which the kernel chooses at random for each program. Both are in /proc/PID/stat. A copy of the file
names its process, too, but is another file.

Nothing in this file is on the data path of a record.
"""
from __future__ import annotations

import os
import struct

TYPE_CHECKING = False  # importing typing takes as long as importing all of fastlog
if TYPE_CHECKING:
    from collections.abc import Iterable

# Process id, inode of its PID namespace, start time, address of the stack, boot id, and the device
# and the inode of the file.
_OWNER = struct.Struct("=QQQQ16sQQ")
SIZE = _OWNER.size
NOBODY = bytes(SIZE)


def current(file_id: tuple[int, int]) -> bytes:
    """Return the identity of this process as the owner of a file.

    file_id: the file's device and inode. The identity is NOBODY if /proc is not mounted, or
        is that of another PID namespace.
    """
    try:
        stat = _read_stat("self")
        if stat[0] != os.getpid():
            return NOBODY
        return _OWNER.pack(stat[0], _namespace("self"), stat[1], stat[2], _boot_id(),
                           *file_id)
    except (OSError, ValueError, IndexError):
        return NOBODY


def find(identity: bytes, file_id: tuple[int, int]) -> int:
    """Return the id of the process with this identity, or 0 if it has ended or cannot be seen.

    It is also 0 for a copy of the file, and for this process, which knows its own spools.
    """
    pid, namespace, start, stack, boot, *named_file = _OWNER.unpack(identity)
    try:
        if not pid or tuple(named_file) != file_id or boot != _boot_id():
            return 0
        # From outside a container, its processes can be seen, but have other process ids.
        candidates = [pid] if namespace == _namespace("self") else _all_pids()
    except (OSError, ValueError):
        return 0
    return _first_match(candidates, namespace, start, stack)


def _first_match(candidates: Iterable[int], namespace: int, start: int, stack: int) -> int:
    for candidate in candidates:
        try:
            pid, its_start, its_stack = _read_stat(str(candidate))
            # 0 is the address of a stack that this process may not know.
            if (its_start == start and (its_stack in (0, stack) or not stack)
                    and pid != os.getpid() and _namespace(str(candidate)) == namespace):
                return pid
        except (OSError, ValueError, IndexError):    # the process has ended
            continue
    return 0


def _read_stat(name: str) -> tuple[int, int, int]:
    """Return the process id, the start time and the address of the stack: proc(5).

    Raises ProcessLookupError for a process that has ended and is only not yet waited for.
    """
    with open(f"/proc/{name}/stat", "rb") as file:
        pid, _, rest = file.read().partition(b" (")
    fields = rest[rest.rindex(b")") + 2:].split()     # from field 3 on, the state
    # A process lives on when its first thread has ended before the others.
    if fields[0] in (b"Z", b"X") and int(fields[17]) <= 1:
        raise ProcessLookupError
    return int(pid), int(fields[19]), int(fields[25])


def _namespace(name: str) -> int:
    return os.stat(f"/proc/{name}/ns/pid").st_ino


def _all_pids() -> list[int]:
    return [int(name) for name in os.listdir("/proc") if name.isdecimal()]


def _boot_id() -> bytes:
    with open("/proc/sys/kernel/random/boot_id") as file:
        return bytes.fromhex(file.read().strip().replace("-", ""))
