"""A program frozen with PyInstaller, which finds only the imports that Python code names."""
import importlib.util
import subprocess
import sys
from pathlib import Path

import pytest

import fastlog

PROGRAM = """
import logging, sys
import fastlog
fastlog.install()
fastlog.enable_crash_drain()
log = logging.getLogger("shop")
path, journal, spool = sys.argv[1:]
for options in ({}, {"protocol": "rfc5424", "app_name": "shop"}, {"spool": spool}):
    handler = fastlog.SysLogHandler(path, **options)
    log.handlers[:] = [handler]
    log.warning("frozen %d", 1)
    assert handler.flush() and handler.stats().sent == 1
    handler.close()
handler = fastlog.JournalHandler(journal, ident="shop")
log.handlers[:] = [handler]
log.warning("entry", extra={"a": 1})
handler.close()
"""


@pytest.mark.timeout(300)
def test_pyinstaller(tmp_path, directory, make_sink):
    """A frozen program uses all public classes without a list of hidden imports."""
    if importlib.util.find_spec("PyInstaller") is None:
        pytest.skip("PyInstaller is not installed")
    (tmp_path / "shop.py").write_text(PROGRAM)
    frozen = subprocess.run(
        [sys.executable, "-m", "PyInstaller", "--onedir", "--noconfirm", "--log-level", "ERROR",
         "--paths", str(Path(fastlog.__file__).parents[1]), "shop.py"],
        cwd=tmp_path, capture_output=True, text=True, timeout=240)
    assert frozen.returncode == 0, frozen.stderr
    sink, journal = make_sink(), make_sink(directory / "journal")
    done = subprocess.run(
        [tmp_path / "dist/shop/shop", sink.path, journal.path, directory / "spool"],
        capture_output=True, text=True, timeout=30)
    assert (done.returncode, done.stderr) == (0, "")
    plain, rfc5424, spooled = sink.take(3)
    assert plain == spooled == b"<12>frozen 1\0"
    assert rfc5424.startswith(b"<12>1 ") and rfc5424.endswith(b" frozen 1\0")
    assert b"\nA=1\n" in journal.take_one()
