"""Soak: many records through one handler; memory and descriptors must stay what they were."""
from __future__ import annotations

import logging
import os
import socket
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import fastlog

_WARM_UP = 100_000
_STEP = 100_000
_GROWTH_MAX = 1 << 20  # bytes: a tenth of a byte for each of ten million records
_PATIENCE = 60  # seconds

# Counts, and looks whether each record follows the one before it. Ends with the last.
_RECEIVER = """
import socket, sys
listener, count = socket.socket(fileno=int(sys.argv[1])), int(sys.argv[2])
listener.settimeout(float(sys.argv[3]))
buffer = bytearray(256)
for number in range(count):
    size = listener.recv_into(buffer)
    if int(buffer[4:14]) != number:
        sys.exit(f"{bytes(buffer[:size])} came in place of {number}")
"""


def resident_bytes() -> int:
    """VmRSS of this process: proc(5)."""
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith("VmRSS:"):
            return int(line.split()[1]) * 1024
    raise LookupError("VmRSS")


def use() -> tuple[int, int]:
    """Memory, and open descriptors."""
    return resident_bytes(), len(os.listdir("/proc/self/fd"))


def run(count: int) -> bool:
    """Send `count` records. Says what it found; returns whether all is well."""
    began = time.monotonic()
    with tempfile.TemporaryDirectory(prefix="fl-") as directory:
        path = directory + "/log"
        with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as listener:
            listener.bind(path)
            receiver = subprocess.Popen(
                [sys.executable, "-I", "-S", "-c", _RECEIVER, str(listener.fileno()), str(count),
                 str(_PATIENCE)], pass_fds=[listener.fileno()])
        try:
            problem = _send(path, count)
            if receiver.wait(_PATIENCE) != 0:
                problem = problem or "the receiver did not get all, in order"
        finally:
            receiver.kill()
            receiver.wait()
    print(f"soak: {count} records in {time.monotonic() - began:.0f} s: {problem or 'flat'}",
          flush=True)
    return not problem


def _send(path: str, count: int) -> str:
    """Returns what is wrong."""
    # Small, so that all of the ring is in use when memory is first looked at.
    handler = fastlog.SysLogHandler(path, capacity=1 << 16, block_timeout=_PATIENCE)
    log = fastlog.Logger("soak", logging.DEBUG)
    log.addHandler(handler)
    before = None
    for number in range(count):
        log.info("%010d %s", number, "x" * (number % 100))
        if number % _STEP == 0 and number >= _WARM_UP:
            now = use()
            before = before or now
            if now[0] > before[0] + _GROWTH_MAX or now[1] != before[1]:
                return f"after {number} records bytes and descriptors grew from {before} to {now}"
    delivered = handler.flush(_PATIENCE)
    stats = handler.stats()
    handler.close()
    if not delivered or stats.sent != count or stats.dropped:
        return f"not all were sent: {stats}"
    return ""
