"""What to do about an import of the native part that failed. Imported only then."""
from __future__ import annotations

import os

_SECOND_INTERPRETER = (
    "It can be used in one interpreter of a process, and only until that is finalized: not in "
    "subinterpreters, nor after a second Py_Initialize(). Use it in the main interpreter (for "
    "mod_wsgi, set `WSGIApplicationGroup %{GLOBAL}`), and logging.handlers.SysLogHandler in all "
    "others.")
_SOURCE_TREE = (
    "In a source tree, install the package (`pip install .`) and run from another directory, or "
    "build it in place (`python setup.py build_ext --inplace`).")
_ARCHIVE = "{} is an archive, which cannot contain native modules. Unpack it."
_NO_EXEC = (
    "{} cannot be executed. Is the file system that it is on mounted with noexec? (PyInstaller's "
    "--onefile unpacks to TMPDIR.)")
_OTHER_PYTHON = (
    "{} was built for another Python or another machine. Install the package with the Python that "
    "runs the program (`python -m pip install --force-reinstall fastlog-syslog`).")


def advice(error: ImportError) -> str:
    """Return what to do about the error of `from fastlog import _core`."""
    # Cython: "Interpreter change detected". CPython: "does not support loading in subinterpreters".
    if "interpreter" in str(error).lower():
        return _SECOND_INTERPRETER
    folder = os.path.dirname(__file__)
    if not os.path.isdir(folder):
        return _ARCHIVE.format(os.path.dirname(folder))
    built = [os.path.join(folder, name) for name in sorted(os.listdir(folder))
             if name.startswith("_core.") and name.endswith(".so")]
    if not built:
        return _SOURCE_TREE
    # glibc, elf/dl-map-segments.h, where mmap(2) fails with EPERM.
    if "failed to map segment" in str(error):
        return _NO_EXEC.format(error.path or built[0])
    return _OTHER_PYTHON.format(error.path or built[0])
