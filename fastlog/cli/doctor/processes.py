"""Processes that fastlog doctor looks up in /proc."""
from __future__ import annotations

import os
import re
from pathlib import Path
from typing import NamedTuple


class Process(NamedTuple):
    pid: int
    name: str
    stopped: bool  # by a signal or a debugger

    def __str__(self) -> str:
        return f"{self.name} (pid {self.pid})"


def find_processes(name: str) -> list[Process]:
    """Return the processes with this name, except those in containers, which have other sockets."""
    return [process for pid in _pids()
            if (process := _read_process(pid)) and process.name == name and not _is_nested(pid)]


def find_socket_owners(inodes: set[str]) -> list[Process]:
    """Return the processes that have one of these sockets open.

    An ordinary user sees only the user's own processes, and root sees all of them.
    """
    links = {f"socket:[{inode}]" for inode in inodes}
    owners = [process for pid in _pids() if links and _has_open(pid, links)
              and (process := _read_process(pid))]
    # systemd keeps the sockets open that it creates for a daemon: systemd.socket(5).
    return [process for process in owners if process.pid != 1] or owners


def _pids() -> list[int]:
    try:
        return sorted(int(name) for name in os.listdir("/proc") if name.isdecimal())
    except OSError:  # /proc is not mounted
        return []


def _has_open(pid: int, links: set[str]) -> bool:
    try:
        for descriptor in os.scandir(f"/proc/{pid}/fd"):
            try:
                if os.readlink(descriptor.path) in links:
                    return True
            except OSError:  # closed in the meantime
                continue
    except OSError:  # the process has ended, or belongs to another user
        pass
    return False


def _read_process(pid: int) -> Process | None:
    """Return None if the process has ended or is not visible to this user."""
    try:
        text = Path(f"/proc/{pid}/stat").read_text(errors="replace")
    except OSError:
        return None
    # proc(5): "pid (name) state". The name is truncated to 15 bytes, and it can contain spaces and
    # parentheses.
    name = text[text.index("(") + 1:text.rindex(")")]
    state = text[text.rindex(")") + 2]
    return Process(pid, "systemd-journald" if name == "systemd-journal" else name, state in "Tt")


def _is_nested(pid: int) -> bool:
    """Return whether a process is in a PID namespace below this one.

    proc_pid_status(5): NSpid has the process id in each of the namespaces.
    """
    try:
        status = Path(f"/proc/{pid}/status").read_text(errors="replace")
    except OSError:  # the process has ended
        return False
    match = re.search(r"^NSpid:\t(.*)$", status, re.MULTILINE)
    return match is not None and len(match[1].split()) > 1
