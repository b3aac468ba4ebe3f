"""Options and fixtures of the benchmarks. Run as bench/README.md says."""
from __future__ import annotations

import contextlib
import shutil
import subprocess
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING

import harness
import pytest

from fastlog.cli.rsyslogd import Rsyslogd, find_rsyslogd

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from types import ModuleType

BENCH = Path(__file__).parent
REPORTS = pytest.StashKey[list[str]]()


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--quick", action="store_true",
                     help="smoke test: see that the benchmarks run; their figures mean nothing")
    parser.addoption("--results", type=Path,
                     help="directory for the tables (default: bench/results; with --quick: none)")


def sizes_of(config: pytest.Config) -> harness.Sizes:
    return harness.QUICK if config.getoption("--quick") else harness.FULL


def repeats_of(config: pytest.Config, module: ModuleType) -> int:
    """How many rounds a suite has: it names the field of Sizes."""
    return int(getattr(sizes_of(config), module.ROUNDS))


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    # The outermost parameter: all cases of a round run before the next round begins.
    if "repeat" in metafunc.fixturenames:
        metafunc.parametrize("repeat", range(repeats_of(metafunc.config, metafunc.module)))


@pytest.fixture(scope="session")
def sizes(pytestconfig: pytest.Config) -> harness.Sizes:
    return sizes_of(pytestconfig)


@pytest.fixture
def start_daemon() -> Iterator[Callable[[], Rsyslogd]]:
    """Starts fresh private rsyslogds."""
    if find_rsyslogd() is None:
        pytest.skip("rsyslogd is not installed")
    with contextlib.ExitStack() as stack:
        # Not tmp_path, which is too long for a socket's path.
        yield lambda: stack.enter_context(
            Rsyslogd(stack.enter_context(tempfile.TemporaryDirectory())))


@pytest.fixture
def daemon(start_daemon: Callable[[], Rsyslogd]) -> Rsyslogd:
    return start_daemon()


@pytest.fixture(scope="session")
def sendto_loop(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The compiled C loop."""
    compiler = shutil.which("cc") or shutil.which("gcc")
    if compiler is None:
        pytest.skip("no C compiler")
    program = tmp_path_factory.mktemp("native") / "sendto_loop"
    subprocess.run([compiler, "-O2", "-o", program, BENCH / "sendto_loop.c"], check=True)
    return program


@pytest.fixture(scope="module")
def results(request: pytest.FixtureRequest, sizes: harness.Sizes) -> Iterator[harness.Results]:
    """The suite's results, written if the suite ran whole and nothing failed.

    The module says its NAME, the CASES it must have, and how to report(results).
    """
    if find_rsyslogd() is None:
        pytest.skip("rsyslogd is not installed")
    config = request.config
    found = harness.Results(sizes, repeats_of(config, request.module))
    yield found
    directory = config.getoption("--results")
    if directory is None and not config.getoption("--quick"):
        directory = BENCH / "results"
    if directory is not None and found.has(request.module.CASES):
        text = found.write(directory, request.module.NAME, request.module.report(found))
        config.stash.setdefault(REPORTS, []).append(text)


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter,
                            config: pytest.Config) -> None:
    for text in config.stash.get(REPORTS, []):
        terminalreporter.write_line("")
        terminalreporter.write(text)
