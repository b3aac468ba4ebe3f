"""The state of a unix socket: whether it accepts records, and which process listens."""
from __future__ import annotations

import errno
import os
import select
import socket
import stat
from pathlib import Path
from typing import NamedTuple

from fastlog.cli.doctor.processes import Process, find_socket_owners

_ACCEPTS = 1 << 16  # Flags in /proc/net/unix, proc(5): __SO_ACCEPTCON, a listening stream socket
_KINDS = {1: "stream", 2: "datagram", 5: "seqpacket"}  # enum sock_type, include/linux/net.h
_TIMEOUT_MS = 500  # for a busy daemon to accept one record


class Socket(NamedTuple):
    """A unix socket as a program that logs to it sees it."""

    path: str
    target: str  # the path that symbolic links lead to
    state: str   # "ok", "absent", "dead", "denied", "full", or "odd". `reason` gives the cause.
    kind: str    # "datagram" or "stream", or "" if it is unknown
    reason: str
    listeners: tuple[Process, ...]  # empty if unknown
    guessed: bool = False           # whether `listeners` is derived from configurations


def probe_socket(path: str) -> Socket:
    """Connect to a socket without sending anything, and find out which process listens."""
    target = os.path.realpath(path)
    state, kind, reason = _probe_path(path)
    listeners: tuple[Process, ...] = ()
    if state in ("ok", "full", "denied"):
        listeners = tuple(find_socket_owners(_find_inodes(target)))
    return Socket(path, target, state, kind, reason, listeners)


def _probe_path(path: str) -> tuple[str, str, str]:
    """Return the state, the kind and the reason of a Socket."""
    try:
        mode = os.stat(path).st_mode
    except FileNotFoundError:
        if os.path.islink(path):
            return "absent", "", f"is a symbolic link to {os.readlink(path)}, which does not exist"
        return "absent", "", "does not exist"
    except PermissionError:
        return "denied", "", "cannot be reached, as this user may not enter a directory of its path"
    except OSError as error:
        return "odd", "", f"cannot be examined: {error.strerror}"
    if not stat.S_ISSOCK(mode):
        return "odd", "", "is not a socket"
    return _connect(path)


def _connect(path: str) -> tuple[str, str, str]:
    """Return the state, the kind and the reason of a Socket."""
    for kind, socktype in (("datagram", socket.SOCK_DGRAM), ("stream", socket.SOCK_STREAM)):
        with socket.socket(socket.AF_UNIX, socktype | socket.SOCK_NONBLOCK) as probe:
            try:
                probe.connect(path)
            except OSError as error:
                if error.errno == errno.EPROTOTYPE:  # unix(7): a socket of another type
                    continue
                return _explain_refusal(error, kind, path)
            return _check_space(probe, kind)
    return "odd", "", "is neither a datagram nor a stream socket"


def _explain_refusal(error: OSError, kind: str, path: str) -> tuple[str, str, str]:
    if error.errno == errno.ECONNREFUSED:
        return "dead", "", "no process listens: the daemon that created this socket has ended"
    if error.errno in (errno.EACCES, errno.EPERM):
        return "denied", "", f"this user (uid {os.geteuid()}) may not write to it: {_mode(path)}"
    if error.errno == errno.EAGAIN:
        return "full", kind, "its queue of pending connections is full"
    return "odd", kind, f"the connection failed: {error.strerror}"


def _mode(path: str) -> str:
    status = os.stat(path)
    return f"{stat.filemode(status.st_mode)} of uid {status.st_uid}, gid {status.st_gid}"


def _check_space(probe: socket.socket, kind: str) -> tuple[str, str, str]:
    """Wait for space in the peer's queue. poll(2) reports it if the socket is connected."""
    poll = select.poll()
    poll.register(probe, select.POLLOUT)
    if poll.poll(_TIMEOUT_MS):
        return "ok", kind, ""
    return "full", kind, "its queue is full, and no record was accepted for half a second"


def _find_inodes(path: str) -> set[str]:
    """Return the inodes of the sockets in this network namespace that listen at a path."""
    inodes = set()
    try:
        # Only a line feed ends a line: a path may contain any other character.
        lines = os.fsdecode(Path("/proc/net/unix").read_bytes()).split("\n")[1:]
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
