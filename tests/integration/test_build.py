"""The installed package is the one under test, and its native code compiles without warnings."""
import re
import shutil
import subprocess
import sys
import sysconfig
from importlib import metadata
from pathlib import Path

import pytest

import fastlog

SOURCES = Path(__file__).parents[2] / "fastlog"


def test_tests_run_on_the_installed_package(repository):
    """The tests import the installed package and not the source tree."""
    assert repository not in Path(fastlog.__file__).parents or "site-packages" in fastlog.__file__


def test_metadata():
    """The distribution has the right name, version, license and files, and no dependencies."""
    distribution = metadata.distribution("fastlog-syslog")
    assert distribution.version == fastlog.__version__
    assert distribution.requires is None
    assert distribution.metadata["License-Expression"] == "MIT"
    files = {str(file) for file in distribution.files}
    assert {"fastlog/py.typed", "fastlog/_core.pyi"} <= files
    assert not [file for file in files if file.endswith((".c", ".pyx", ".pxd", ".h"))]


def test_console_script():
    """The only entry point is the command fastlog."""
    [script] = metadata.distribution("fastlog-syslog").entry_points
    assert (script.name, script.value) == ("fastlog", "fastlog.__main__:main")


def test_missing_native_part(repository, tmp_path):
    """Importing the unbuilt source tree raises an ImportError that says what to do."""
    shutil.copytree(repository / "fastlog", tmp_path / "fastlog",
                    ignore=shutil.ignore_patterns("*.so"))
    done = subprocess.run([sys.executable, "-c", "import fastlog"], cwd=tmp_path,
                          capture_output=True, text=True)
    assert "ImportError: fastlog's native part did not load" in done.stderr
    assert "pip install ." in done.stderr


def test_other_platforms(repository, tmp_path):
    """On other platforms than Linux, the build ends with one clear sentence."""
    done = subprocess.run(
        [sys.executable, "-c", "import runpy, setuptools, sys; sys.platform = 'darwin'; "
                               "runpy.run_path('setup.py')"],
        cwd=repository, capture_output=True, text=True)
    assert done.returncode == 1
    assert re.fullmatch(r"fastlog needs Linux .* no port to darwin yet\.\n", done.stderr)


@pytest.mark.slow
@pytest.mark.parametrize("unit", sorted(
    str(path.relative_to(SOURCES)) for path in SOURCES.rglob("*.pyx")))
def test_native_code_compiles_without_a_warning(repository, tmp_path, gcc, unit):
    """Neither Cython nor gcc prints a warning.

    The output of Cython would include a hint where an exception check requires the GIL.
    """
    translated = subprocess.run(
        [sys.executable, "-m", "cython", "-3", f"fastlog/{unit}",
         "-o", str(tmp_path / "unit.c")], cwd=repository, capture_output=True, text=True)
    assert (translated.returncode, translated.stdout + translated.stderr) == (0, "")
    compiled = subprocess.run(
        [gcc, "-std=gnu11", "-O2", "-Wall", "-Wextra", "-Ifastlog",
         "-I" + sysconfig.get_path("include"), "-c", str(tmp_path / "unit.c"),
         "-o", str(tmp_path / "unit.o")],
        cwd=repository, capture_output=True, text=True)
    assert (compiled.returncode, compiled.stderr) == (0, "")
