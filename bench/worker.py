"""The process that is measured: one handler, one workload.

It exchanges lines of JSON with measurement.py over stdin and stdout. It reads its task (the
workload, the subject and the sink's address), reports its progress, and requests actions and waits
until they are done. Its last line is the result.
"""
from __future__ import annotations

import json
import os
import statistics
import sys
import threading
import time
from array import array
from pathlib import Path
from typing import TYPE_CHECKING, Any

from subjects import FACTORIES, make_fastlog, make_null
from workloads import DRAIN, FLOORS, Workload

from fastlog.cli.bench import MESSAGE, Times, time_open_loop, time_percent, time_tight

if TYPE_CHECKING:
    from collections.abc import Callable

    from subjects import Subject

WARMUP = 10
WARMUP_WHO = "w63"  # a thread of its own, for the sink
PERCENTILES = {"p50": 50.0, "p90": 90.0, "p99": 99.0, "p99.9": 99.9, "p99.99": 99.99}


def tell(**facts: object) -> None:
    print(json.dumps(facts), flush=True)


def ask(what: str) -> None:
    tell(ask=what)
    sys.stdin.readline()


def resident(field: str = "VmRSS") -> int:
    """Bytes, the shared memory of fastlog's ring included. VmHWM: the most so far.

    (getrusage's ru_maxrss is that of the process which started this one, if that had more.)
    """
    status = Path("/proc/self/status").read_text()
    return int(status.partition(f"{field}:")[2].split(maxsplit=1)[0]) * 1024


def whos(workload: Workload) -> list[str]:
    """The last argument of each thread's records."""
    return [f"w{thread}" + "x" * workload.size for thread in range(workload.threads)]


# --- workloads -----------------------------------------------------------------------------------

class Run:
    """The clocks around a workload: the time and the processor time until all is handed over."""

    def __init__(self, subject: Subject, prepare: Callable[[], object] = lambda: None) -> None:
        self.subject = subject
        time_tight(subject.info, subject.message, WARMUP_WHO, WARMUP)  # connect, start threads
        subject.drain()
        ask("settle")
        self.before = resident()
        prepare()
        tell(started=True)
        self.cpu = time.process_time_ns()
        self.begin = time.perf_counter_ns()

    def finish(self) -> dict[str, Any]:
        logged = time.perf_counter_ns()
        self.subject.drain()
        end, cpu = time.perf_counter_ns(), time.process_time_ns() - self.cpu
        return {"begin": self.begin, "logged": logged, "end": end, "cpu": cpu,
                "resident before": self.before, "resident": resident(),
                "peak": resident("VmHWM")}


def run_tight(workload: Workload, subject: Subject) -> dict[str, Any]:
    """Each thread logs its share without a pause; every call is timed."""
    share = workload.count // workload.threads
    service = [array("q", bytes(8 * share)) for _ in range(workload.threads)]

    def work(thread: int, who: str) -> None:
        info, message, clock = subject.info, subject.message, time.perf_counter_ns
        times = service[thread]
        for i in range(share):
            begin = clock()
            info(message, i, who)
            times[i] = clock() - begin

    run = Run(subject)
    in_threads(workload, work)
    found = run.finish()
    together = sum(service, array("q"))
    # Nothing is due at a time: the two are the same.
    return {**found, "service": summary(together), "response": summary(together)}


def run_open(workload: Workload, subject: Subject) -> dict[str, Any]:
    """Records are due at a rate, whatever the handler does."""
    share = workload.count // workload.threads
    times: list[Times] = []

    def work(thread: int, who: str) -> None:
        times.append(time_open_loop(subject.info, subject.message, who, share,
                                    workload.rate / workload.threads, asleep=workload.asleep))

    run = Run(subject)
    in_threads(workload, work)
    found = run.finish()
    return {**found, "service": summary(sum((t.service for t in times), array("q"))),
            "response": summary(sum((t.response for t in times), array("q")))}


def run_stalled(workload: Workload, subject: Subject) -> dict[str, Any]:
    """A tight loop for some seconds, in the midst of which the daemon stands still."""
    service = array("q")
    info, message, clock = subject.info, subject.message, time.perf_counter_ns
    [who] = whos(workload)
    run = Run(subject)
    end = run.begin + int(workload.seconds * 1e9)
    now = run.begin
    while now < end:
        info(message, len(service), who)
        before, now = now, clock()
        service.append(now - before)
    found = run.finish()
    return {**found, "service": summary(service), "response": summary(service),
            "expected": len(service)}


def in_threads(workload: Workload, work: Callable[[int, str], None]) -> None:
    if workload.threads == 1:
        work(0, whos(workload)[0])
        return
    threads = [threading.Thread(target=work, args=each) for each in enumerate(whos(workload))]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()


def run_loop(workload: Workload, subject: Subject) -> dict[str, Any]:
    """A tight loop with no clock in it."""
    run = Run(subject)
    time_tight(subject.info, subject.message, whos(workload)[0], workload.count)
    return run.finish()


def run_drain(workload: Workload, subject: Subject) -> dict[str, Any]:
    """All records lie in the ring when the clock starts: the writer alone."""
    def fill() -> None:
        ask("pause")
        time_tight(subject.info, subject.message, whos(workload)[0], workload.count)
        ask("resume")
    return Run(subject, fill).finish()


def run_memory(workload: Workload, subject: Subject) -> dict[str, Any]:
    """Resident memory at marks on the way."""
    run = Run(subject)
    done, found = 0, {}
    for mark in workload.marks:
        time_tight(subject.info, subject.message, whos(workload)[0], mark - done, done)
        done = mark
        found[str(mark)] = resident()
    return {**run.finish(), "marks": found}


def run_cost(workload: Workload, subject: Subject) -> dict[str, Any]:
    """Bursts of bare %, of a NullHandler and of the handler in turns; the daemon is idle."""
    burst = workload.count // workload.bursts
    [who] = whos(workload)
    null = make_null("", True)
    bursts: dict[str, list[float]] = {"percent": [], "null": [], "this": []}
    run = Run(subject)
    for n in range(workload.bursts):
        bursts["percent"].append(time_percent(MESSAGE, who, burst) / burst)
        bursts["null"].append(time_tight(null.info, null.message, who, burst) / burst)
        bursts["this"].append(
            time_tight(subject.info, subject.message, who, burst, n * burst) / burst)
        subject.drain()
        ask("settle")
    costs = {name: statistics.median(values) for name, values in bursts.items()}
    return {**run.finish(), "costs": costs,
            "above null": statistics.median(a - b for a, b in zip(bursts["this"], bursts["null"],
                                                                  strict=True)),
            "times percent": statistics.median(
                a / b for a, b in zip(bursts["this"], bursts["percent"], strict=True))}


# --- the process ---------------------------------------------------------------------------------

def summary(times: array[int]) -> dict[str, Any]:
    """Percentiles in ns, and all of it, to be added to other rounds' later."""
    from hdrh.histogram import HdrHistogram

    histogram = HdrHistogram(1, 600_000_000_000, 3)  # ns, three digits
    for ns in times:
        histogram.record_value(max(ns, 1))
    worst = max(times)  # the histogram's values are rounded up
    found = {name: min(histogram.get_value_at_percentile(p), worst)
             for name, p in PERCENTILES.items()}
    return {**found, "max": worst, "histogram": histogram.encode().decode()}


def main() -> None:
    facts, name, address = json.loads(sys.stdin.readline())
    workload = Workload(**facts)
    if name == DRAIN:
        # The standard library waits for the daemon as long as it takes: so shall this.
        subject = make_fastlog(address, workload.asctime, capacity=1 << 26, block_timeout=60.0)
        run = run_drain
    else:
        subject = FACTORIES[name](address, workload.asctime)
        run = globals()[workload.kind]
    found = run(workload, subject)
    expected = 0 if name in FLOORS else workload.count // workload.threads * workload.threads
    tell(result={"expected": expected, **found, "dropped": subject.dropped()})
    # What is left undone is the sink's to find: a peer's exit may hang.
    sys.stdout.flush()
    os._exit(0)


if __name__ == "__main__":
    main()
