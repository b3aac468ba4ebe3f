"""The ring and the writer under ThreadSanitizer, AddressSanitizer and UBSanitizer.

tests/native/stress.pyx is built with a sanitizer from a copy of the package's native sources, and
runs in a separate interpreter. To show that a clean run is significant, memory orders are then
weakened one by one, which ThreadSanitizer must report.
"""
import subprocess
import sys

import pytest

pytestmark = [pytest.mark.slow, pytest.mark.timeout(300)]

CHECKS = {
    "thread": (["-fsanitize=thread"], "libtsan.so",
               {"TSAN_OPTIONS": "exitcode=66 report_signal_unsafe=0"}),
    "address": (["-fsanitize=address,undefined", "-fno-sanitize-recover=undefined"], "libasan.so",
                {"ASAN_OPTIONS": "detect_leaks=0"}),  # CPython does not free all memory at its exit
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
    """Build the stress module.

    Return a command that runs code with the module, and the directory to run it in.
    """
    flags, library, environment = CHECKS[check]
    build_native(directory, "stress", gcc, flags, edit)
    path = subprocess.run([gcc, "-print-file-name=" + library], capture_output=True, text=True,
                          check=True).stdout.strip()
    # ThreadSanitizer's memory layout only tolerates little address randomization.
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
def test_no_error(sanitized, code):
    """The sanitizers report nothing for rings of any size, restarts, flushes and orphans."""
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
    """ThreadSanitizer reports a data race if an acquire or release is made relaxed."""
    mutant = build(build_native, tmp_path, gcc, "thread", (file, old, new))
    done = run(mutant, RING)
    assert "WARNING: ThreadSanitizer: data race" in done.stderr, label
    assert done.returncode == 66
