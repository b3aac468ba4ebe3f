"""Who listens on a unix socket, and whether it takes records: what fastlog doctor looks up."""
from __future__ import annotations

import errno
import os
import re
import select
import socket
import stat
from pathlib import Path
from typing import NamedTuple

_ACCEPTS = 1 << 16  # Flags in /proc/net/unix, proc(5): __SO_ACCEPTCON, a listening stream
_KINDS = {1: "stream", 2: "datagram", 5: "seqpacket"}  # enum sock_type, include/linux/net.h
_PATIENCE_MS = 500  # that a busy daemon has to make room for one record


class Process(NamedTuple):
    pid: int
    name: str
    stopped: bool  # by a signal or a debugger

    def __str__(self) -> str:
        return f"{self.name} (pid {self.pid})"


class Socket(NamedTuple):
    """A unix socket as one sees it who wants to log to it."""

    path: str
    target: str  # the path behind symbolic links
    state: str   # "ok", "absent", "dead", "denied", "full", or "odd": `reason` says why
    kind: str    # "datagram" or "stream"; "": unknown
    reason: str
    listeners: tuple[Process, ...]  # empty: unknown
    guessed: bool = False           # from configurations


def probe_socket(path: str) -> Socket:
    """Connects to it, sends nothing."""
    target = os.path.realpath(path)
    state, kind, reason = _try(path)
    found: tuple[Process, ...] = ()
    if state in ("ok", "full", "denied"):
        found = tuple(_holders(_bound(target)))
    return Socket(path, target, state, kind, reason, found)


def _try(path: str) -> tuple[str, str, str]:
    """The state, the kind and the reason for a Socket."""
    try:
        mode = os.stat(path).st_mode
    except FileNotFoundError:
        if os.path.islink(path):
            return "absent", "", f"is a symbolic link to {os.readlink(path)}, which does not exist"
        return "absent", "", "does not exist"
    except PermissionError:
        return "denied", "", "cannot be reached: a directory on the way is closed to this user"
    except OSError as error:
        return "odd", "", f"cannot be looked at: {error.strerror}"
    if not stat.S_ISSOCK(mode):
        return "odd", "", "is no socket"
    return _connect(path)


def _connect(path: str) -> tuple[str, str, str]:
    for kind, number in (("datagram", socket.SOCK_DGRAM), ("stream", socket.SOCK_STREAM)):
        with socket.socket(socket.AF_UNIX, number | socket.SOCK_NONBLOCK) as probe:
            try:
                probe.connect(path)
            except OSError as error:
                if error.errno == errno.EPROTOTYPE:  # unix(7): of another type
                    continue
                return _refusal(error, kind, path)
            return _room(probe, kind)
    return "odd", "", "is neither a datagram nor a stream socket"


def _refusal(error: OSError, kind: str, path: str) -> tuple[str, str, str]:
    if error.errno == errno.ECONNREFUSED:
        return "dead", "", "nobody listens: the daemon that made this socket is gone"
    if error.errno in (errno.EACCES, errno.EPERM):
        return "denied", "", f"this user (uid {os.geteuid()}) may not write to it: {_mode(path)}"
    if error.errno == errno.EAGAIN:
        return "full", kind, "as many connections wait to be accepted as may wait"
    return "odd", kind, f"cannot be connected to: {error.strerror}"


def _mode(path: str) -> str:
    status = os.stat(path)
    return f"{stat.filemode(status.st_mode)} of uid {status.st_uid}, gid {status.st_gid}"


def _room(probe: socket.socket, kind: str) -> tuple[str, str, str]:
    """Of a connected datagram socket poll(2) tells whether there is room in the peer's queue."""
    poll = select.poll()
    poll.register(probe, select.POLLOUT)
    if poll.poll(_PATIENCE_MS):
        return "ok", kind, ""
    return "full", kind, "its queue is full, and nothing was taken for half a second"


def _bound(path: str) -> set[str]:
    """The inodes of sockets bound to a path, of this network namespace."""
    inodes = set()
    try:
        lines = Path("/proc/net/unix").read_text(errors="surrogateescape").splitlines()[1:]
    except OSError:
        return set()
    for line in lines:
        fields = line.split(maxsplit=7)
        if len(fields) < 8 or os.path.basename(fields[7]) != os.path.basename(path):
            continue
        listens = int(fields[3], 16) & _ACCEPTS or _KINDS.get(int(fields[4], 16)) == "datagram"
        if listens and os.path.realpath(fields[7]) == path:
            inodes.add(fields[6])
    return inodes


def _holders(inodes: set[str]) -> list[Process]:
    """The processes that have such a socket open; only root sees those of other users."""
    wanted = {f"socket:[{inode}]" for inode in inodes}
    found = [process for pid in _pids() if wanted and _has_open(pid, wanted)
             and (process := read_process(pid))]
    # systemd keeps the sockets that it made open, too: systemd.socket(5).
    return [process for process in found if process.pid != 1] or found


def _pids() -> list[int]:
    try:
        return sorted(int(name) for name in os.listdir("/proc") if name.isdecimal())
    except OSError:  # not mounted
        return []


def _has_open(pid: int, wanted: set[str]) -> bool:
    try:
        for descriptor in os.scandir(f"/proc/{pid}/fd"):
            try:
                if os.readlink(descriptor.path) in wanted:
                    return True
            except OSError:  # closed meanwhile
                continue
    except OSError:  # ended meanwhile, or another user's
        pass
    return False


def read_process(pid: int) -> Process | None:
    """None: there is none, or it may not be seen."""
    try:
        text = Path(f"/proc/{pid}/stat").read_text(errors="replace")
    except OSError:
        return None
    # proc(5): pid (name) state; a name can have spaces and parentheses, and has 15 bytes at most.
    name = text[text.index("(") + 1:text.rindex(")")]
    state = text[text.rindex(")") + 2]
    return Process(pid, "systemd-journald" if name == "systemd-journal" else name, state in "Tt")


def running(name: str) -> list[Process]:
    """The processes of that name, those in containers left out: their sockets are elsewhere."""
    return [process for pid in _pids()
            if (process := read_process(pid)) and process.name == name and not _is_nested(pid)]


def _is_nested(pid: int) -> bool:
    """Whether it is of a PID namespace below this one: proc_pid_status(5), a pid in each."""
    try:
        status = Path(f"/proc/{pid}/status").read_text(errors="replace")
    except OSError:  # ended meanwhile
        return False
    found = re.search(r"^NSpid:\t(.*)$", status, re.MULTILINE)
    return found is not None and len(found[1].split()) > 1


def container() -> str:
    """What tells that this is a container; "": nothing does."""
    # systemd's and podman's marks, then docker's: systemd.io/CONTAINER_INTERFACE, podman-run(1).
    for mark in ("/run/systemd/container", "/run/.containerenv", "/.dockerenv"):
        if os.path.exists(mark):
            return f"{mark} exists"
    return "$KUBERNETES_SERVICE_HOST is set" if "KUBERNETES_SERVICE_HOST" in os.environ else ""
