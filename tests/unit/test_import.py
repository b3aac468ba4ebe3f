"""The import of the package: which modules it names, and what it says when it fails."""
import ast
import re
import subprocess
import sys
import sysconfig
from pathlib import Path

import pytest

import fastlog
from fastlog._import_advice import advice

SOURCES = Path(__file__).parents[2] / "fastlog"
INSTALLED = Path(fastlog.__file__).parent


def imported_by(source):
    """Return the modules that Python source imports, those in functions included."""
    names = set()
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            names |= {node.module} | {f"{node.module}.{alias.name}" for alias in node.names}
    return names


def imported_by_native_module(path):
    """Return the modules that a native module imports, those that it cimports included."""
    text = path.read_text()
    if path.with_suffix(".pxd").exists():
        text += path.with_suffix(".pxd").read_text()
    for package, names in re.findall(r"^ *from (\S+) import (\w+)", text, re.MULTILINE):
        yield from (package, f"{package}.{names}") if package.startswith("fastlog") else [package]
    yield from re.findall(r"^ *import ([\w.]+)", text, re.MULTILINE)
    for module in re.findall(r"^from (fastlog\S*) cimport", text, re.MULTILINE):
        if (SOURCES.parent / module.replace(".", "/")).with_suffix(".pyx").exists():
            yield module


def test_imports_of_native_modules_are_visible():
    """Each module that native code imports is named by an import in Python code.

    A program that is frozen, with PyInstaller for example, contains only those modules.
    """
    visible = set().union(*(imported_by(path.read_text()) for path in INSTALLED.rglob("*.py")
                            if "cli" not in path.parts))
    sources = list(SOURCES.rglob("*.pyx"))
    assert sources
    for path in sources:
        module = str(path.relative_to(SOURCES.parent).with_suffix("")).replace("/", ".")
        assert module in visible, module
        missing = {name for name in imported_by_native_module(path)
                   if name not in visible and name.rpartition(".")[0] not in visible
                   and name not in sys.builtin_module_names}
        assert not missing, f"{module}: {missing}"


def test_modules_that_are_imported_by_name_are_visible():
    """The modules of the lazily imported public names are named by an import, too."""
    visible = imported_by((INSTALLED / "__init__.py").read_text())
    assert {f"fastlog.{module}" for module in fastlog._LAZY.values()} <= visible


SUBINTERPRETERS = """
import sys
try:
    import _interpreters as module
    create = lambda: module.create("legacy")
    run = module.exec
except ImportError:
    import _xxsubinterpreters as module
    create = lambda: module.create(isolated=False)
    run = module.run_string
code = '''
try:
    import fastlog
except ImportError as error:
    print(error, flush=True)
else:
    print("imported", flush=True)
'''
for _ in range(2):
    run(create(), code)
sys.stdout.flush()
import os
os._exit(0)
"""


def test_import_in_a_second_interpreter():
    """The ImportError in a second interpreter says that one interpreter can use the package."""
    done = subprocess.run([sys.executable, "-c", SUBINTERPRETERS], capture_output=True, text=True,
                          timeout=60)
    last = done.stdout.splitlines()[-1]
    assert "fastlog's native part did not load" in last, done
    assert "one interpreter of a process" in last and "WSGIApplicationGroup" in last
    assert "logging.handlers.SysLogHandler" in last and "pip install" not in last


EMBEDDED = """
#include <Python.h>
int main(int argc, char **argv) {
    for (int round = 0; round < 2; round++) {
        Py_Initialize();
        PyRun_SimpleString(argv[1]);
        Py_FinalizeEx();
    }
}
"""


def test_import_after_a_second_initialization(gcc, tmp_path):
    """The ImportError after a second Py_Initialize() says that this is not supported."""
    library = sysconfig.get_config_var("LIBDIR")
    version = sysconfig.get_config_var("LDVERSION")
    if not sysconfig.get_config_var("Py_ENABLE_SHARED"):
        pytest.skip("this Python has no shared library")
    (tmp_path / "embedded.c").write_text(EMBEDDED)
    built = subprocess.run(
        [gcc, "embedded.c", "-o", "embedded", "-I" + sysconfig.get_path("include"),
         "-L" + library, f"-lpython{version}", "-Wl,-rpath," + library],
        cwd=tmp_path, capture_output=True, text=True)
    if built.returncode:
        pytest.skip(f"this Python cannot be embedded: {built.stderr}")
    code = (f"import sys; sys.path.insert(0, {str(INSTALLED.parent)!r})\n"
            "try: import fastlog\nexcept ImportError as error: print(error, flush=True)\n"
            "else: print('imported', flush=True)\n")
    done = subprocess.run([tmp_path / "embedded", code], capture_output=True, text=True,
                          timeout=60)
    first, second = done.stdout.splitlines()
    assert first == "imported"
    assert "second Py_Initialize()" in second and "one interpreter of a process" in second


def test_advice_names_what_was_found(monkeypatch, tmp_path):
    """The advice depends on whether there is a native part, built for another Python perhaps."""
    monkeypatch.setattr("fastlog._import_advice.__file__", str(tmp_path / "_import_advice.py"))
    missing = ImportError("cannot import name '_core' from 'fastlog'")
    assert "In a source tree" in advice(missing)
    (tmp_path / "_core.cpython-27m-x86_64-linux-gnu.so").touch()
    assert "_core.cpython-27m-x86_64-linux-gnu.so was built for another" in advice(missing)
    assert "--force-reinstall" in advice(ImportError("undefined symbol: PyFoo"))
    assert "noexec" in advice(ImportError("_core.so: failed to map segment from shared object"))
    monkeypatch.setattr("fastlog._import_advice.__file__", "/x.zip/fastlog/_import_advice.py")
    assert "/x.zip is an archive" in advice(missing)
    assert "one interpreter" in advice(
        ImportError("module fastlog._core does not support loading in subinterpreters"))
