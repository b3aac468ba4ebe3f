"""A seccomp filter that refuses one system call, as sandboxes do. For programs that tests start.

This file is read as source text and run in the program, so it imports nothing of the project.
"""
from __future__ import annotations

import ctypes
import os
import platform
import struct

#: Numbers of system calls by machine: Linux, arch/x86/entry/syscalls/syscall_64.tbl and
#: include/uapi/asm-generic/unistd.h.
_NUMBERS = {
    "x86_64": {
        "clone3": 435, "fcntl": 72, "ftruncate": 77,
        "getsockopt": 55, "madvise": 28, "memfd_create": 319, "mremap": 25,
        "ppoll": 271, "prctl": 157, "recvfrom": 45, "sendmmsg": 307, "sendmsg": 46, "sendto": 44,
        "setsockopt": 54},
    "aarch64": {
        "clone3": 435, "fcntl": 25, "ftruncate": 46,
        "getsockopt": 209, "madvise": 233, "memfd_create": 279, "mremap": 216,
        "ppoll": 73, "prctl": 167, "recvfrom": 207, "sendmmsg": 269, "sendmsg": 211,
        "sendto": 206, "setsockopt": 208},
}
NUMBERS = _NUMBERS.get(platform.machine(), {})

_LOAD, _SKIP_UNLESS_EQUAL, _RETURN = 0x20, 0x15, 0x06   # linux/bpf_common.h
_RET_ERRNO, _RET_ALLOW = 0x00050000, 0x7fff0000         # linux/seccomp.h
_PR_SET_NO_NEW_PRIVS, _PR_SET_SECCOMP, _MODE_FILTER = 38, 22, 2


def refuse(error: int, *names: str) -> None:
    """Let these system calls fail with the errno `error` in this process and its children."""
    rules: list[tuple[int, int, int, int]] = [(_LOAD, 0, 0, 0)]
    for name in names:
        rules += [(_SKIP_UNLESS_EQUAL, 0, 1, NUMBERS[name]), (_RETURN, 0, 0, _RET_ERRNO | error)]
    rules.append((_RETURN, 0, 0, _RET_ALLOW))
    code = ctypes.create_string_buffer(b"".join(struct.pack("=HBBI", *rule) for rule in rules))
    program = struct.pack("HxxxxxxP", len(rules), ctypes.addressof(code))
    libc = ctypes.CDLL(None, use_errno=True)
    if (libc.prctl(_PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) != 0
            or libc.prctl(_PR_SET_SECCOMP, _MODE_FILTER, program, 0, 0) != 0):
        raise OSError(ctypes.get_errno(), os.strerror(ctypes.get_errno()))
