"""Native test modules, built from the package's own native sources."""
from __future__ import annotations

import shutil
import subprocess
import sys
import sysconfig


def build_native(repository, directory, name, gcc, flags=(), edit=None):
    """Build tests/native/NAME.pyx in a directory and return the path of the module.

    The directory gets a copy of the package's native sources.

    flags: further flags for gcc.
    edit: (file, old, new), a replacement in the copy. `old` must occur exactly once.
    """
    package = directory / "fastlog"
    package.mkdir()
    for pattern in ("*.pxd", "*.h", "__init__.py"):
        for source in (repository / "fastlog").rglob(pattern):
            copy = package / source.relative_to(repository / "fastlog")
            copy.parent.mkdir(exist_ok=True)
            shutil.copy(source, copy)
    if edit:
        file, old, new = edit
        text = (package / file).read_text()
        assert text.count(old) == 1, f"{file} contains {old!r} {text.count(old)} times"
        (package / file).write_text(text.replace(old, new))
    shutil.copy(repository / "tests" / "native" / f"{name}.pyx", directory)
    for command in (
            [sys.executable, "-m", "cython", "-3", f"{name}.pyx"],
            [gcc, *flags, "-std=gnu11", "-O1", "-g", "-fPIC", "-shared", "-pthread",
             "-Ifastlog", "-I" + sysconfig.get_path("include"), f"{name}.c",
             "-o", f"{name}.so"]):
        subprocess.run(command, cwd=directory, check=True)
    return directory / f"{name}.so"
