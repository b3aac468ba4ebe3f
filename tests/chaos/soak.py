"""Soak: many records through one handler. Memory and open descriptors must not grow."""
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
_GROWTH_MAX = 1 << 20  # bytes, a tenth of a byte for each of ten million records
_TIMEOUT = 60  # seconds

# Checks that each record follows the previous one, and ends after the last.
_RECEIVER = """
import socket, sys
listener, count = socket.socket(fileno=int(sys.argv[1])), int(sys.argv[2])
listener.settimeout(float(sys.argv[3]))
buffer = bytearray(256)
for number in range(count):
    size = listener.recv_into(buffer)
    if int(buffer[4:14]) != number:
        sys.exit(f"{bytes(buffer[:size])} arrived instead of {number}")
"""


def resident_bytes() -> int:
    """Return VmRSS of this process: proc(5)."""
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith("VmRSS:"):
            return int(line.split()[1]) * 1024
    raise LookupError("VmRSS")


def resources() -> tuple[int, int]:
    """Return the resident memory in bytes and the number of open descriptors."""
    return resident_bytes(), len(os.listdir("/proc/self/fd"))


def run(count: int) -> bool:
    """Send `count` records, print the outcome, and return whether all went well."""
    began = time.monotonic()
    with tempfile.TemporaryDirectory(prefix="fl-") as directory:
        path = directory + "/log"
        with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as listener:
            listener.bind(path)
            receiver = subprocess.Popen(
                [sys.executable, "-I", "-S", "-c", _RECEIVER, str(listener.fileno()), str(count),
                 str(_TIMEOUT)], pass_fds=[listener.fileno()])
        try:
            problem = _send(path, count)
            if receiver.wait(_TIMEOUT) != 0:
                problem = problem or "the receiver did not get all records in order"
        finally:
            receiver.kill()
            receiver.wait()
    print(f"soak: {count} records in {time.monotonic() - began:.0f} s: {problem or 'flat'}",
          flush=True)
    return not problem


def _send(path: str, count: int) -> str:
    """Send `count` records and return a problem, or an empty string."""
    # The ring is small, so that all of it has been used when memory is first measured.
    handler = fastlog.SysLogHandler(path, capacity=1 << 16, block_timeout=_TIMEOUT)
    log = fastlog.Logger("soak", logging.DEBUG)
    log.addHandler(handler)
    baseline = None
    for number in range(count):
        log.info("%010d %s", number, "x" * (number % 100))
        if number % _STEP == 0 and number >= _WARM_UP:
            current = resources()
            baseline = baseline or current
            if current[0] > baseline[0] + _GROWTH_MAX or current[1] != baseline[1]:
                return (f"after {number} records bytes and descriptors changed from {baseline} "
                        f"to {current}")
    delivered = handler.flush(_TIMEOUT)
    stats = handler.stats()
    handler.close()
    if not delivered or stats.sent != count or stats.dropped:
        return f"not all records were sent: {stats}"
    return ""
