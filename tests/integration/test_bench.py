"""The parts of the benchmarks, and the figures in README.md. `.ci/run` runs the benchmarks."""
import json
import re
import socket
import subprocess
import sys
from pathlib import Path

import pytest

BENCH = Path(__file__).parents[2] / "bench"


@pytest.fixture(scope="module")
def bench():
    """Makes the benchmarks' modules importable. Those that tests use need no further packages."""
    sys.path.insert(0, str(BENCH))
    yield
    sys.path.remove(str(BENCH))


def test_figures_of_the_readme(repository):
    """Each table row in README's section "Figures" occurs in bench/results."""
    readme = (repository / "README.md").read_text()
    figures = readme.partition("## Figures")[2].partition("\n## ")[0]
    measured = "".join(path.read_text() for path in (repository / "bench/results").glob("*.md"))
    rows = re.findall(r"^\| .* \|$", figures, re.MULTILINE)
    assert len(rows) >= 8
    for row in rows:
        assert row in measured, row
    machine = re.search(r"CPU .*, fastlog [\d.]+", measured)[0]
    assert machine in figures.replace("\n", " ")


def test_charts_of_the_readme(repository):
    """Each file of bench/results that README shows exists."""
    for name in re.findall(r"\((bench/results/[^)]+)\)", (repository / "README.md").read_text()):
        assert (repository / name).is_file(), name


@pytest.mark.parametrize("text, arrived", [
    ("", (0, 0)),
    ("<134>ServerLog: call some_func 0 from w0\ncall some_func 1 from w0xxx\nother\n", (2, 0)),
    ("call some_func 1 from w0\ncall some_func 0 from w1\ncall some_func 0 from w0\n", (3, 1)),
    ("call some_func 5 from w2\ncall some_func 5 from w2\n", (2, 1)),
])
def test_check_counts_records_and_disorder(bench, text, arrived):
    """The check counts records, and those that are late or arrive twice."""
    import sinks

    assert sinks.check(text) == arrived


def test_c_sink_counts_like_the_others(bench, directory, gcc):
    """sink.c ignores other data, and counts records that are late or arrive twice."""
    import sinks

    sink = sinks.CSink(directory, sinks.compile_c(BENCH / "sink.c", directory))
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as client:
        client.connect(sink.address)
        for text in ("0 from w0", "2 from w0", "0 from w1x", "1 from w0", "2 from w0", "x", "9"):
            client.send(b"<134>ServerLog: call some_func " + text.encode() + b"\0")
    sinks.wait_until(lambda: sink.seen() == 5, 20, "the records")
    assert sink.arrived() == (5, 2)
    sink.stop()  # compares the counters with the output of sink.c


def test_c_loop_sends_the_same_as_the_handlers(bench, directory, gcc, make_sink):
    """sendto_loop.c sends the same bytes as the handlers and prints its times."""
    import sinks

    sink = make_sink()
    program = sinks.compile_c(BENCH / "sendto_loop.c", directory)
    done = subprocess.run([program, sink.path, "2", "<134>ServerLog: ", "w0"], check=True,
                          capture_output=True, text=True)
    assert sink.take(2) == [b"<134>ServerLog: call some_func %d from w0\0" % i for i in range(2)]
    times = json.loads(done.stdout)
    assert times["begin"] < times["end"] and times["cpu"] > 0


@pytest.mark.parametrize("sizes", ["FULL", "QUICK"])
def test_workloads(bench, sizes):
    """Each workload has a unique name, a known suite and known handlers.

    Its count is divisible by its number of threads.
    """
    import subjects
    import workloads

    sizes = getattr(workloads, sizes)
    known = {*subjects.FACTORIES, workloads.C_LOOP, workloads.DRAIN}
    all_workloads = workloads.all_workloads(sizes)
    assert len({workload.name for workload in all_workloads}) == len(all_workloads)
    for workload in all_workloads:
        assert workload.suite in workloads.SUITES
        assert set(workload.subjects) <= known <= set(workloads.SETUPS)
        assert workload.count % workload.threads == 0
        assert workload.rounds >= 1
    assert sizes.burst * 200 < 4 * 1024 * 1024 / 2  # bytes, so fastlog's ring holds a burst
    assert sizes.trouble_seconds * 5 / 6 > sizes.stall
