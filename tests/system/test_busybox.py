"""BusyBox syslogd, as on Alpine and OpenWrt, which splits a datagram at each NUL."""
import os
import shutil
import subprocess
import sys

import pytest

# syslogd listens at /dev/log only, so that it gets a /dev of its own.
IN_OWN_DEV = """
mount -t tmpfs tmpfs /dev || exit 77
mknod -m 666 /dev/null c 1 3 && mknod -m 666 /dev/urandom c 1 9 || exit 77
busybox syslogd -n -O "$1" &
daemon=$!
shift
"$@"
status=$?
kill $daemon
wait $daemon
exit $status
"""
LOG = r"""
import logging, os, time, fastlog
deadline = time.monotonic() + 20
while not os.path.exists("/dev/log") and time.monotonic() < deadline:
    time.sleep(0.01)
handler = fastlog.SysLogHandler("/dev/log", ident="shop: ")
log = logging.Logger("x")
log.addHandler(handler)
log.info("a\0<80>sshd[1]: forged")
log.info("b\n<80>sshd[1]: forged")
log.info("last")
assert handler.flush()
deadline = time.monotonic() + 20
import sys
while b"last" not in open(sys.argv[1], "rb").read() and time.monotonic() < deadline:
    time.sleep(0.01)
"""


def test_no_message_forges_a_record(tmp_path, require):
    """Neither a NUL nor a line feed in a message makes a second record of any facility."""
    require("busybox", shutil.which("busybox"))
    if os.geteuid() != 0:
        pytest.skip("only root may mount a /dev")
    messages = tmp_path / "messages"
    done = subprocess.run(["unshare", "-m", "sh", "-c", IN_OWN_DEV, "sh", messages,
                           sys.executable, "-c", LOG, messages],
                          capture_output=True, text=True, timeout=50)
    if done.returncode == 77:
        pytest.skip(f"this root may not mount a /dev: {done.stderr}")
    assert done.returncode == 0, done.stderr
    lines = [line.split(maxsplit=5)[-1] for line in messages.read_text().splitlines()
             if "syslogd" not in line]
    assert lines == ["shop: a#000<80>sshd[1]: forged", "shop: b <80>sshd[1]: forged", "shop: last"]
