"""The measured process, which runs one workload with one subject.

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
from workloads import BASELINES, DRAIN, Workload

from fastlog.cli.bench import MESSAGE, Times, time_open_loop, time_percent, time_tight

if TYPE_CHECKING:
    from collections.abc import Callable

    from subjects import Subject

WARMUP = 10  # records
WARMUP_LABEL = "w63"  # a thread number that no workload uses, for the sink's check of the order
PERCENTILES = {"p50": 50.0, "p90": 90.0, "p99": 99.0, "p99.9": 99.9, "p99.99": 99.99}


def send_message(**fields: object) -> None:
    print(json.dumps(fields), flush=True)


def request(action: str) -> None:
    """Ask measurement.py for an action and wait until it is done."""
    send_message(ask=action)
    sys.stdin.readline()


def resident_memory(field: str = "VmRSS") -> int:
    """Return the resident memory in bytes, including the shared memory of fastlog's ring.

    With the field "VmHWM", return its peak. getrusage(2) would not do, because its ru_maxrss
    starts from the peak of the parent process if that is higher.
    """
    status = Path("/proc/self/status").read_text()
    return int(status.partition(f"{field}:")[2].split(maxsplit=1)[0]) * 1024


def thread_labels(workload: Workload) -> list[str]:
    """Return the last argument of each thread's records, padded to the workload's size."""
    return [f"w{thread}" + "x" * workload.size for thread in range(workload.threads)]


# --- workloads -----------------------------------------------------------------------------------

class Run:
    """Measures wall and processor time from the first record until all have left the process."""

    def __init__(self, subject: Subject, prepare: Callable[[], object] = lambda: None) -> None:
        self.subject = subject
        # Connect, and start the threads of the subject.
        time_tight(subject.info, subject.message, WARMUP_LABEL, WARMUP)
        subject.drain()
        request("settle")
        self.resident_before = resident_memory()
        prepare()
        send_message(started=True)
        self.cpu_begin = time.process_time_ns()
        self.begin = time.perf_counter_ns()

    def finish(self) -> dict[str, Any]:
        logged = time.perf_counter_ns()
        self.subject.drain()
        end, cpu = time.perf_counter_ns(), time.process_time_ns() - self.cpu_begin
        return {"begin": self.begin, "logged": logged, "end": end, "cpu": cpu,
                "resident before": self.resident_before, "resident": resident_memory(),
                "peak": resident_memory("VmHWM")}


def run_tight_loop(workload: Workload, subject: Subject) -> dict[str, Any]:
    """Let each thread log its share without a pause, and time every call."""
    share = workload.count // workload.threads
    service = [array("q", bytes(8 * share)) for _ in range(workload.threads)]

    def log_share(thread: int, label: str) -> None:
        info, message, clock = subject.info, subject.message, time.perf_counter_ns
        times = service[thread]
        for i in range(share):
            begin = clock()
            info(message, i, label)
            times[i] = clock() - begin

    run = Run(subject)
    run_in_threads(workload, log_share)
    result = run.finish()
    all_times = sum(service, array("q"))
    # No record is due at a given time, so response and service times are the same.
    return {**result, "service": summarize(all_times), "response": summarize(all_times)}


def run_open_loop(workload: Workload, subject: Subject) -> dict[str, Any]:
    """Log records that are due at a fixed rate, however long the calls take."""
    share = workload.count // workload.threads
    thread_times: list[Times] = []

    def log_share(thread: int, label: str) -> None:
        thread_times.append(time_open_loop(subject.info, subject.message, label, share,
                                           workload.rate / workload.threads,
                                           asleep=workload.asleep))

    run = Run(subject)
    run_in_threads(workload, log_share)
    result = run.finish()
    return {**result,
            "service": summarize(sum((times.service for times in thread_times), array("q"))),
            "response": summarize(sum((times.response for times in thread_times), array("q")))}


def run_stalled(workload: Workload, subject: Subject) -> dict[str, Any]:
    """Run a tight loop for some seconds. The daemon is stopped for a part of that time."""
    service = array("q")
    info, message, clock = subject.info, subject.message, time.perf_counter_ns
    [label] = thread_labels(workload)
    run = Run(subject)
    deadline = run.begin + int(workload.seconds * 1e9)
    call_end = run.begin
    while call_end < deadline:
        info(message, len(service), label)
        call_begin, call_end = call_end, clock()
        service.append(call_end - call_begin)
    result = run.finish()
    return {**result, "service": summarize(service), "response": summarize(service),
            "expected": len(service)}


def run_in_threads(workload: Workload, function: Callable[[int, str], None]) -> None:
    """Call function(thread number, thread label) in each of the workload's threads."""
    labels = thread_labels(workload)
    if workload.threads == 1:
        function(0, labels[0])
        return
    threads = [threading.Thread(target=function, args=(number, label))
               for number, label in enumerate(labels)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()


def run_untimed_loop(workload: Workload, subject: Subject) -> dict[str, Any]:
    """Run a tight loop without reading the clock in it."""
    run = Run(subject)
    time_tight(subject.info, subject.message, thread_labels(workload)[0], workload.count)
    return run.finish()


def run_drain(workload: Workload, subject: Subject) -> dict[str, Any]:
    """Measure fastlog's writer alone. All records are in the ring when the clock starts."""
    def fill_ring() -> None:
        request("pause")
        time_tight(subject.info, subject.message, thread_labels(workload)[0], workload.count)
        request("resume")
    return Run(subject, fill_ring).finish()


def run_memory(workload: Workload, subject: Subject) -> dict[str, Any]:
    """Read the resident memory each time the number of records reaches one of the marks."""
    run = Run(subject)
    label = thread_labels(workload)[0]
    logged, resident_at = 0, {}
    for mark in workload.marks:
        time_tight(subject.info, subject.message, label, mark - logged, logged)
        logged = mark
        resident_at[str(mark)] = resident_memory()
    return {**run.finish(), "marks": resident_at}


def run_cost(workload: Workload, subject: Subject) -> dict[str, Any]:
    """Let bursts of bare %, of a NullHandler and of the subject take turns.

    The daemon is idle when a burst begins.
    """
    burst = workload.count // workload.bursts
    [label] = thread_labels(workload)
    null = make_null("", True)
    ns_per_call: dict[str, list[float]] = {"percent": [], "null": [], "this": []}
    run = Run(subject)
    for n in range(workload.bursts):
        ns_per_call["percent"].append(time_percent(MESSAGE, label, burst) / burst)
        ns_per_call["null"].append(time_tight(null.info, null.message, label, burst) / burst)
        ns_per_call["this"].append(
            time_tight(subject.info, subject.message, label, burst, n * burst) / burst)
        subject.drain()
        request("settle")
    costs = {name: statistics.median(values) for name, values in ns_per_call.items()}
    above_null = [this - null for this, null in zip(ns_per_call["this"], ns_per_call["null"],
                                                    strict=True)]
    times_percent = [this / percent for this, percent
                     in zip(ns_per_call["this"], ns_per_call["percent"], strict=True)]
    return {**run.finish(), "costs": costs, "above null": statistics.median(above_null),
            "times percent": statistics.median(times_percent)}


# --- the process ---------------------------------------------------------------------------------

def summarize(times: array[int]) -> dict[str, Any]:
    """Return percentiles in ns, and a histogram that can be merged with those of other rounds."""
    from hdrh.histogram import HdrHistogram

    histogram = HdrHistogram(1, 600_000_000_000, 3)  # 1 ns to 600 s with three digits
    for ns in times:
        histogram.record_value(max(ns, 1))
    longest = max(times)  # exact, where the histogram's values are rounded up
    percentiles = {name: min(histogram.get_value_at_percentile(percent), longest)
                   for name, percent in PERCENTILES.items()}
    return {**percentiles, "max": longest, "histogram": histogram.encode().decode()}


def main() -> None:
    fields, name, address = json.loads(sys.stdin.readline())
    workload = Workload(**fields)
    if name == DRAIN:
        # Wait for the daemon as long as necessary, as the standard library's handler does.
        subject = make_fastlog(address, workload.asctime, capacity=1 << 26, block_timeout=60.0)
        runner = run_drain
    else:
        subject = FACTORIES[name](address, workload.asctime)
        runner = globals()[workload.runner]
    result = runner(workload, subject)
    expected = 0 if name in BASELINES else workload.count // workload.threads * workload.threads
    send_message(result={"expected": expected, **result, "dropped": subject.dropped()})
    # Skip the exit hooks, because those of another library may hang. The sink shows what was lost.
    sys.stdout.flush()
    os._exit(0)


if __name__ == "__main__":
    main()
