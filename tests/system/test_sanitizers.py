"""The ring and the writer under ThreadSanitizer, AddressSanitizer and UBSanitizer.

tests/native/stress.pyx is built from a copy of the package's native sources,
with a sanitizer, and run in an interpreter of its own. So that a clean run
means something, memory orders are then weakened one by one: that must be seen.
"""
import subprocess
import sys

import pytest

pytestmark = pytest.mark.timeout(300)

CHECKS = {
    "thread": (["-fsanitize=thread"], "libtsan.so",
               {"TSAN_OPTIONS": "exitcode=66 report_signal_unsafe=0"}),
    "address": (["-fsanitize=address,undefined", "-fno-sanitize-recover=undefined"], "libasan.so",
                {"ASAN_OPTIONS": "detect_leaks=0"}),  # CPython keeps what it has until the end
}

RING = "stress.run_ring(4, 4000, 4096)"
WRITER = """
stress.run_writer(b"a", 4, 3000, 4096, 0)
stress.run_writer(b"b", 4, 3000, 65536, 100_000)
stress.run_writer(b"c", 1, 500, 4096, 0, paced=True)
stress.run_writer(b"d", 3, 2000, 4096, 50_000, disturbed=True)
stress.run_writer(b"e", 4, 2000, 4096, 0, disturbed=True, evicting=True)
stress.run_orphans(b"f", 100, 10)
"""


def build(build_native, directory, gcc, check, edit=None):
    """Build the stress module; returns the command that runs code with it, and where."""
    flags, library, environment = CHECKS[check]
    build_native(directory, "stress", gcc, flags, edit)
    path = subprocess.run([gcc, "-print-file-name=" + library], capture_output=True, text=True,
                          check=True).stdout.strip()
    # Without address randomization: ThreadSanitizer's memory layout has no room for much of it.
    return ["setarch", "--addr-no-randomize", "env", "LD_PRELOAD=" + path,
            *(f"{name}={value}" for name, value in environment.items()),
            sys.executable, "-c"], directory


def run(built, code):
    command, directory = built
    for name in "abcdef":
        (directory / name).unlink(missing_ok=True)
    return subprocess.run([*command, "import stress\n" + code], cwd=directory,
                          capture_output=True, text=True, timeout=250)


@pytest.fixture(scope="module", params=list(CHECKS))
def sanitized(request, tmp_path_factory, build_native, gcc):
    return build(build_native, tmp_path_factory.mktemp("s"), gcc, request.param)


@pytest.mark.parametrize("code", [RING, WRITER], ids=["ring", "writer"])
def test_clean(sanitized, code):
    """One-page and larger rings, native producers, restarts, flushes and orphaned writers pass."""
    done = run(sanitized, code)
    assert done.stderr == "" and done.returncode == 0


@pytest.mark.parametrize("label, file, old, new", [
    ("C1", "_backend/ring.pxd", "store_seq_cst(&record.header, COMMITTED",
     "store_relaxed(&record.header, COMMITTED"),
    ("P1", "_backend/ring.pxd", "load_acquire(&ring_at(ring, position).header)     # P1",
     "load_relaxed(&ring_at(ring, position).header)     # P1"),
    ("R1", "_backend/ring.pxd", "store_seq_cst(&ring.positions.tail.value, position)",
     "store_relaxed(&ring.positions.tail.value, position)"),
    ("A1", "_backend/ring.pxd", "head + span - load_acquire(&ring.positions.tail.value)",
     "head + span - load_relaxed(&ring.positions.tail.value)"),
])
def test_weakened_order_is_reported(tmp_path, build_native, gcc, label, file, old, new):
    """With one acquire or release made relaxed, ThreadSanitizer reports a data race."""
    mutant = build(build_native, tmp_path, gcc, "thread", (file, old, new))
    done = run(mutant, RING)
    assert "WARNING: ThreadSanitizer: data race" in done.stderr, label
    assert done.returncode == 66
