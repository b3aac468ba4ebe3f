"""The package's layout: which folder imports which, how large files are, and where the tests are.

The rules are the tables at the top. Each check is a function that takes a directory, so that the
rules are also tested on small trees that break them.
"""
import re
import sys
from collections import defaultdict
from typing import NamedTuple

import pytest

# --- the rules -----------------------------------------------------------------------------------

# Folder: the parts of the package that its files may import. "shell" stands for the files directly
# in fastlog/ except _core.pyx and _core.pxd.
MAY_IMPORT = {
    "_backend": ["_backend"],
    "_engine": ["_backend", "_core", "_engine"],
    "_core": ["_backend", "_core", "_engine"],
    "_frontend": ["_core", "_engine", "_frontend",
                  # the parts of _backend without a socket and without a thread:
                  "_backend.atomics", "_backend.clock", "_backend.framing"],
    "_spool": ["_core", "_engine", "_spool"],
    "shell": ["_core", "_frontend", "_spool", "shell",
              "_engine.crash_drain", "_engine.process_ends", "_engine.reports",
              "_engine.spool_reader"],
    "_daemons": ["_daemons"],
    "cli": ["_backend", "_core", "_daemons", "_engine", "_frontend", "_spool", "cli", "shell"],
}

# File: the parts that it may import in addition.
EXCEPTIONS = {"__main__.py": ["cli"]}

# What `import fastlog` does not load, directly or through other modules, because it is part of the
# start of every program. A function imports these parts when it needs them.
LAZY = ["_encoders", "_engine.crash_drain", "_engine.process_ends", "_engine.reports",
        "_engine.spool_reader", "_reporting", "_spool", "_stats", "cli", "journal", "loggers"]

# The top-level modules outside the package that it may import: the standard library without
# CPython's own tests, and the modules that Cython provides.
OUTSIDE = sys.stdlib_module_names - {"test"} | {"cpython", "cython", "libc", "posix"}
OUTSIDE_FOR_TYPES = OUTSIDE | {"typing_extensions"}  # below `if TYPE_CHECKING`, not at run time

# _backend runs without the GIL, so it has no Python objects.
OUTSIDE_BACKEND = {"libc", "posix"}
PYTHON_HEADER = r'(?:include|from)\s*["<]Python\.h[">]'
PYTHON_OBJECT = r"\bobject\b"

# Headers that are compiled into one module, as parts of it, may use that module's class.
PART_OF = {"fastlog._engine.life_cycle": "fastlog._core",
           "fastlog._engine.overflow": "fastlog._core"}

MAX_SHELL_FILES = 20  # .py, .pyi, .pyx and .h files directly in fastlog/
MAX_LINES = 550       # of any source file

# --- reading a tree ------------------------------------------------------------------------------

SOURCES = (".py", ".pyx", ".pxd")
STRING_OR_COMMENT = re.compile(
    r'"""[\s\S]*?"""|' r"'''[\s\S]*?'''|"
    r'"(?:\\.|[^"\\\n])*"|' r"'(?:\\.|[^'\\\n])*'|" r"#[^\n]*")
IMPORT = re.compile(r"""
    ^[ ]*(?:from\s+(?P<module>[\w.]+)\s+c?import\b\s*(?P<names>\([^)]*\)|[^\n;]+)
         |c?import\s+(?P<modules>\w[^\n;]*))""", re.VERBOSE | re.MULTILINE)
FUNCTION = re.compile(r"(async\s+)?(def|cpdef|cdef(?!\s+(class|extern)))\b")
TYPE_CHECKING = re.compile(r"if\s+(typing\.)?TYPE_CHECKING\b")


class Import(NamedTuple):
    path: str               # the importing file, relative to the root of the tree
    line: int
    module: str             # the full name of the imported module
    is_in_function: bool
    is_for_types: bool      # below `if TYPE_CHECKING`

    @property
    def importer(self):
        """The full name of the importing module."""
        return module_name(self.path)

    @property
    def folder(self):
        """The importing file's row in MAY_IMPORT."""
        _, *folders, name = self.path.split("/")
        return folders[0] if folders else "_core" if name.startswith("_core.") else "shell"

    @property
    def imported_folder(self):
        part = f"{self.module}.".split(".")[1]
        return part if part in MAY_IMPORT else "shell"

    @property
    def is_internal(self):
        return self.module.split(".")[0] == "fastlog"

    def __str__(self):
        return f"{self.path}:{self.line}: import of {self.module}"


def module_name(path):
    return path.rsplit(".", 1)[0].replace("/", ".").removesuffix(".__init__")


def source_paths(root):
    """Return the paths, relative to the root, of the files that can have imports."""
    return sorted(str(path.relative_to(root)) for path in (root / "fastlog").rglob("*")
                  if path.suffix in SOURCES)


def read_code(path):
    """Return a file's text without comments and docstrings. Line numbers do not change."""
    def blank(match):
        text = match[0]
        return "\n" * text.count("\n") if text[0] == "#" or text[:3] in ('"""', "'''") else text

    return STRING_OR_COMMENT.sub(blank, path.read_text())


def enclosing_headers(lines, index):
    """Yield the first lines of the blocks around a line, the innermost first."""
    indent = len(lines[index]) - len(lines[index].lstrip())
    for line in reversed(lines[:index]):
        text = line.lstrip()
        if text and text[0] != ")" and len(line) - len(text) < indent:
            indent = len(line) - len(text)
            yield text


def read_imports(root):
    """Return every import below fastlog/. A name that is a module counts as that module."""
    paths = source_paths(root)
    modules = {module_name(path) for path in paths}
    imports = []
    for path in paths:
        code = read_code(root / path)
        lines = code.splitlines()
        for match in IMPORT.finditer(code):
            line = code.count("\n", 0, match.start()) + 1
            headers = list(enclosing_headers(lines, line - 1))
            names = re.findall(r"(?:^|,)[\s(]*([\w.*]+)", match["names"] or match["modules"])
            if match["module"]:
                members = [f"{match['module']}.{name}" for name in names]
                names = {name if name in modules else match["module"] for name in members}
            imports += [Import(path, line, name,
                               any(FUNCTION.match(header) for header in headers),
                               any(TYPE_CHECKING.match(header) for header in headers))
                        for name in sorted(names)]
    return imports


# --- the checks. Each yields one message for every violation. ------------------------------------

def check_folders(root):
    for statement in read_imports(root):
        if not statement.is_internal:
            continue
        allowed = MAY_IMPORT.get(statement.folder)
        if allowed is None:
            yield f"{statement}; {statement.folder} has no row in MAY_IMPORT"
            continue
        allowed = allowed + EXCEPTIONS.get(statement.path.removeprefix("fastlog/"), [])
        if not {statement.imported_folder, statement.module.removeprefix("fastlog.")} & {*allowed}:
            yield f"{statement}; {statement.folder} may only import {', '.join(allowed)}"


def check_outside(root):
    for statement in read_imports(root):
        top = statement.module.split(".")[0]
        if statement.is_internal:
            continue
        if not top:
            yield f"{statement}; imports are absolute"
        elif top not in (OUTSIDE_FOR_TYPES if statement.is_for_types else OUTSIDE):
            yield f"{statement}; the package imports only itself and the standard library"
        elif statement.folder == "_backend" and top not in OUTSIDE_BACKEND:
            yield (f"{statement}; _backend may only import _backend, "
                   + ", ".join(sorted(OUTSIDE_BACKEND)))


def check_backend_is_native(root):
    for path in sorted((root / "fastlog" / "_backend").rglob("*.*")):
        if path.suffix not in (".pxd", ".pyx", ".h"):
            continue
        patterns = [(path.read_text(), PYTHON_HEADER)]
        if path.suffix != ".h":
            patterns.append((read_code(path), PYTHON_OBJECT))
        for text, pattern in patterns:
            for match in re.finditer(pattern, text):
                line = text.count("\n", 0, match.start()) + 1
                yield (f"{path.relative_to(root)}:{line}: {match[0]}; "
                       "_backend uses neither Python.h nor Python objects")


def imports_at_import_time(root):
    """Return {module: {imported module: the import}} of the imports that run with the module."""
    imports = defaultdict(dict)
    for statement in read_imports(root):
        if (statement.is_internal and statement.module != statement.importer
                and not statement.is_in_function and not statement.is_for_types):
            imports[statement.importer].setdefault(statement.module, statement)
    return imports


def check_lazy(root):
    imports = imports_at_import_time(root)
    loaded = ["fastlog"]
    for module in loaded:
        for imported, statement in imports[module].items():
            part = imported.removeprefix("fastlog.")
            if any(part == lazy or part.startswith(f"{lazy}.") for lazy in LAZY):
                yield f"{statement}; `import fastlog` does not load {part}"
            elif imported not in loaded:
                loaded.append(imported)


def check_circles(root):
    """Check that no modules import each other, directly or by others, when they are imported."""
    imports = imports_at_import_time(root)
    for header, module in PART_OF.items():
        imports.get(header, {}).pop(module, None)
        for importer in set(imports) - {module, *PART_OF}:
            if header in imports[importer]:
                yield f"{imports[importer][header]}; {header} is a part of {module}"
    finished, chain = set(), []

    def visit(module):
        if module in chain:
            circle = [*chain[chain.index(module):], module]
            yield (f"{imports[circle[0]][circle[1]]}; "
                   f"modules do not import each other in a circle: {' -> '.join(circle)}")
        elif module not in finished:
            chain.append(module)
            for imported in sorted(imports[module]):
                yield from visit(imported)
            finished.add(chain.pop())

    for module in sorted(imports):
        yield from visit(module)


def check_sizes(root):
    package = root / "fastlog"
    shell = [*package.glob("*.py*"), *package.glob("*.h")]
    if len(shell) > MAX_SHELL_FILES:
        yield f"fastlog/: {len(shell)} files; at most {MAX_SHELL_FILES} are directly in fastlog/"
    for path in sorted(package.rglob("*")):
        if path.suffix in (*SOURCES, ".pyi", ".h"):
            count = len(path.read_text().splitlines())
            if count > MAX_LINES:
                yield f"{path.relative_to(root)}: {count} lines; a file has at most {MAX_LINES}"


CHECKS = [check_folders, check_outside, check_backend_is_native, check_lazy, check_circles,
          check_sizes]

# --- the tests -----------------------------------------------------------------------------------


@pytest.mark.parametrize("check", CHECKS)
def test_package(check, repository):
    """The package follows the rule."""
    violations = list(check(repository))
    assert not violations, "\n" + "\n".join(violations)


ALLOWED = "may only import"
STDLIB = "only itself and the standard library"
NATIVE = "neither Python.h nor Python objects"
CIRCLE = "do not import each other in a circle"


BROKEN = [
    (check_folders, {"_backend/ring.pxd": "from fastlog._engine.message cimport Message"},
     "fastlog/_backend/ring.pxd:1: import of fastlog._engine.message", ALLOWED),
    (check_folders, {"_engine/a.pyx": "\n\nfrom fastlog._frontend.emit cimport Encoder"},
     "fastlog/_engine/a.pyx:3: import of fastlog._frontend.emit", ALLOWED),
    (check_folders, {"_core.pyx": "def f():\n    from fastlog._stats import (\n    Stats)",
                     "_stats.py": ""},
     "fastlog/_core.pyx:2: import of fastlog._stats", ALLOWED),
    (check_folders, {"_frontend/a.pyx": "from fastlog._backend.ring cimport Ring"},
     "fastlog/_frontend/a.pyx:1: import of fastlog._backend.ring", ALLOWED),
    (check_folders, {"_frontend/a.pyx": "from fastlog import _spool", "_spool/__init__.py": ""},
     "fastlog/_frontend/a.pyx:1: import of fastlog._spool", ALLOWED),
    (check_folders, {"handlers.py": "def f():\n    import json, fastlog._daemons.daemon"},
     "fastlog/handlers.py:2: import of fastlog._daemons.daemon", ALLOWED),
    (check_folders, {"handlers.py": "def f():\n    from fastlog import cli", "cli/__init__.py": ""},
     "fastlog/handlers.py:2: import of fastlog.cli", ALLOWED),
    (check_folders, {"handlers.py": "def f():\n    from fastlog._engine import message",
                     "_engine/message.pxd": ""},
     "fastlog/handlers.py:2: import of fastlog._engine.message", ALLOWED),
    (check_folders, {"_spool/a.py": "if TYPE_CHECKING:\n    from fastlog.handlers import X",
                     "handlers.py": ""},
     "fastlog/_spool/a.py:2: import of fastlog.handlers", ALLOWED),
    (check_folders, {"_daemons/a.py": "import fastlog"},
     "fastlog/_daemons/a.py:1: import of fastlog", ALLOWED),
    (check_folders, {"_new/a.py": "import fastlog._core"},
     "fastlog/_new/a.py:1: import of fastlog._core", "no row in MAY_IMPORT"),
    (check_outside, {"cli/a.py": "import pytest"},
     "fastlog/cli/a.py:1: import of pytest", STDLIB),
    (check_outside, {"cli/a.py": "from tests.support import Sink"},
     "fastlog/cli/a.py:1: import of tests.support", STDLIB),
    (check_outside, {"cli/a.py": "from support import Sink"},
     "fastlog/cli/a.py:1: import of support", STDLIB),
    (check_outside, {"cli/a.py": "from . import b"},
     "fastlog/cli/a.py:1: import of .", "imports are absolute"),
    (check_outside, {"_backend/ring.pxd": "from cpython.ref cimport Py_INCREF"},
     "fastlog/_backend/ring.pxd:1: import of cpython.ref", "_backend may only import"),
    (check_backend_is_native, {"_backend/a.pxd": 'cdef extern from "Python.h":\n    pass'},
     "fastlog/_backend/a.pxd:1", NATIVE),
    (check_backend_is_native, {"_backend/a.h": "#include <stdint.h>\n#include <Python.h>"},
     "fastlog/_backend/a.h:2", NATIVE),
    (check_backend_is_native, {"_backend/a.pxd": "cdef inline int f(object x) noexcept:"},
     "fastlog/_backend/a.pxd:1", NATIVE),
    (check_lazy, {"__init__.py": "try:\n    from fastlog._engine import crash_drain\nfinally: 0",
                  "_engine/crash_drain.pyx": ""},
     "fastlog/__init__.py:2: import of fastlog._engine.crash_drain", "does not load"),
    (check_lazy, {"__init__.py": "from fastlog.handlers import X",
                  "handlers.py": "from fastlog._spool.file import Spool"},
     "fastlog/handlers.py:1: import of fastlog._spool.file", "does not load _spool.file"),
    (check_circles, {"a.py": "import os\nfrom fastlog import b", "b.py": "import fastlog.c",
                     "c.py": "from fastlog.a import x"},
     "fastlog/a.py:2: import of fastlog.b", "fastlog.a -> fastlog.b -> fastlog.c -> fastlog.a"),
    (check_circles, {"_engine/a.pxd": "from fastlog._engine.b cimport x",
                     "_engine/b.pyx": "from fastlog._engine.a cimport y"},
     "fastlog/_engine/a.pxd:1: import of fastlog._engine.b", CIRCLE),
    (check_sizes, {f"a{number}.py": "" for number in range(MAX_SHELL_FILES + 1)},
     "fastlog/: 21 files", "directly in fastlog/"),
    (check_sizes, {"_core.pyx": "\n" * (MAX_LINES + 1)},
     "fastlog/_core.pyx: 551 lines", "at most 550"),
]


@pytest.mark.parametrize("check, files, place, rule", BROKEN, ids=[row[2] for row in BROKEN])
def test_broken_rule(check, files, place, rule, tmp_path):
    """A tree that breaks one rule in one place gets one message, with the place and the rule."""
    for name, text in files.items():
        path = tmp_path / "fastlog" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    [message] = check(tmp_path)
    assert message.startswith(place)
    assert rule in message


@pytest.mark.parametrize("files", [
    {"_backend/ring.pxd": '"""from fastlog.handlers import X"""\n# object\n'
                          "from libc.stdint cimport uint64_t\n"
                          "from fastlog._backend.clock cimport SECOND  # an object"},
    {"handlers.py": "def f():\n    from fastlog._engine import crash_drain",
     "_engine/crash_drain.pyx": "from fastlog._core cimport live_writers"},
    {"__main__.py": "from fastlog.cli import demo", "cli/demo.py": "import fastlog"},
    {"__init__.py": "from fastlog.handlers import X",
     "handlers.py": "def f():\n    from fastlog import journal",
     "journal.py": "import fastlog._engine.reports"},
    {"a.py": "if TYPE_CHECKING:\n    from fastlog import b", "b.py": "from fastlog import a"},
    {"a.py": "def f():\n    from fastlog import b", "b.py": "from fastlog import a"},
    {"_frontend/a.pxd": "cdef int x", "_frontend/a.pyx": "from fastlog._frontend.a cimport x"},
])
def test_tree_that_follows_the_rules(files, tmp_path):
    """Permitted imports, and text that only looks like a forbidden one, give no message."""
    for name, text in files.items():
        path = tmp_path / "fastlog" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    assert [message for check in CHECKS for message in check(tmp_path)] == []


# --- the map from sources to tests in CONTRIBUTING.md ---------------------------------------------

@pytest.fixture
def rows(repository):
    """The rows of the map: (the names in the first column, the names in the second column)."""
    text = (repository / "CONTRIBUTING.md").read_text()
    table = re.search(r"^\| Source \| Tests \|\n\|[-|]+\|\n((?:\|.*\n)+)", text, re.MULTILINE)
    return [[re.findall(r"`([^`]+)`", cell) for cell in row.strip("|").split(" | ")]
            for row in table[1].splitlines()]


def test_every_source_has_tests(repository, rows):
    """Each source file is in a row, itself or by a folder, and each name in the rows exists."""
    named = {name for sources, _ in rows for name in sources}
    missing = [name for name in named if not (repository / "fastlog" / name).exists()]
    assert not missing, f"CONTRIBUTING.md names sources that do not exist: {missing}"
    package = repository / "fastlog"
    without = []
    for path in sorted(package.rglob("*")):
        name = str(path.relative_to(package))
        folders = {f"{parent}/" for parent in path.relative_to(package).parents}
        if path.suffix in (*SOURCES, ".h") and not ({name} | folders) & named:
            without.append(name)
    assert not without, f"CONTRIBUTING.md names no tests for: {', '.join(without)}"


def test_every_test_in_the_map_exists(repository, rows):
    """Each row names tests, and their files exist."""
    assert all(sources and tests for sources, tests in rows)
    named = {name for _, tests in rows for name in tests}
    missing = [name for name in named if not (repository / "tests" / name).exists()]
    assert not missing, f"CONTRIBUTING.md names tests that do not exist: {missing}"
