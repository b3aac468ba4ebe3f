"""One measurement: one subject in one workload, in front of a private sink."""
from __future__ import annotations

import json
import subprocess
import sys
import tempfile
import threading
import time
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

from sinks import CSink, JournaldSink, RsyslogdSink, Sink, compile_c, cpu_seconds
from worker import WARMUP
from workloads import BASELINES, C_LOOP

if TYPE_CHECKING:
    from collections.abc import Callable

    from workloads import Sizes, Workload

BENCH = Path(__file__).parent
FREEZE_TIMEOUT = 90.0  # seconds beyond the workload's duration, then a subject counts as frozen
IDLE_TIMEOUT = 1.0  # seconds without a new record, then the missing records count as lost
C_PREFIX = {True: "<134>ServerLog: 2025-01-01 00:00:00,000 - bench - INFO - ",
            False: "<134>ServerLog: "}  # by Workload.asctime


class Measurement:
    def __init__(self, workload: Workload, subject: str, sizes: Sizes, programs: Path) -> None:
        """`programs` is the directory of compiled C programs."""
        self.workload, self.subject, self.sizes = workload, subject, sizes
        self.programs = programs
        self.directory = Path()
        self.fault_thread: threading.Thread | None = None

    def run(self) -> dict[str, Any]:
        """Return the measured values, or {"failed": reason} if there are none."""
        with tempfile.TemporaryDirectory(prefix="fl-") as name:
            self.directory = Path(name)
            sink = self._start_sink()
            arrivals = ArrivalMonitor(sink, continuous=self.workload.rate == 0)
            try:
                return self._measure(sink, arrivals)
            finally:
                arrivals.stop()
                self._join_fault_thread()
                sink.stop()

    def _start_sink(self) -> Sink:
        if self.workload.sink == "journald":
            return JournaldSink(self.directory)
        if self.workload.sink == "C":
            return CSink(self.directory, compile_c(BENCH / "sink.c", self.programs))
        return RsyslogdSink(self.directory, rfc5424=self.subject == "rfc5424")

    def _measure(self, sink: Sink, arrivals: ArrivalMonitor) -> dict[str, Any]:
        daemon_cpu_before = cpu_seconds(sink.pid)
        run = self._run_c_loop if self.subject == C_LOOP else self._run_worker
        result = run(sink, arrivals)
        self._join_fault_thread()
        if "failed" in result:
            return result
        expected = result["expected"]
        arrivals.wait_for(expected + result["warmup"])
        arrived = sink.arrived()
        count = max(0, arrived.count - result["warmup"])
        if not self.workload.fault:  # a restarted daemon's CPU time begins at zero
            result["daemon cpu"] = (cpu_seconds(sink.pid) - daemon_cpu_before) * 1e9
        end = (arrivals.last_arrival if arrivals.continuous and arrivals.last_arrival
               else result["end"])
        logged = count if expected else self.workload.count
        return {**result, "arrived": count, "missing": expected - count,
                "disorder": arrived.disorder,
                "rate": logged / ((max(end, result["begin"] + 1) - result["begin"]) / 1e9)}

    def _run_c_loop(self, sink: Sink, arrivals: ArrivalMonitor) -> dict[str, Any]:
        program = compile_c(BENCH / "sendto_loop.c", self.programs)
        process = subprocess.run(
            [*sink.enter, program, sink.address, str(self.workload.count),
             C_PREFIX[self.workload.asctime], "w0"],
            capture_output=True, text=True, check=True, timeout=FREEZE_TIMEOUT)
        return {**json.loads(process.stdout), "expected": self.workload.count, "warmup": 0,
                "dropped": 0}

    def _run_worker(self, sink: Sink, arrivals: ArrivalMonitor) -> dict[str, Any]:
        stderr_path = self.directory / "stderr"
        # The task is sent over stdin, because journald stores the command line with each record
        # and compresses a long one.
        task = [asdict(self.workload), self.subject, sink.address]
        command = [*sink.enter, sys.executable, str(BENCH / "worker.py")]
        with open(stderr_path, "wb") as stderr, subprocess.Popen(
                command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=stderr,
                text=True) as worker:
            frozen = threading.Event()

            def kill_frozen() -> None:
                frozen.set()
                worker.kill()

            timer = threading.Timer(self._expected_seconds() + FREEZE_TIMEOUT, kill_frozen)
            timer.start()
            result = self._serve_worker(worker, json.dumps(task), sink, arrivals)
            timer.cancel()
        if result is not None:
            return {**result, "warmup": 0 if self.subject in BASELINES else WARMUP}
        if frozen.is_set():
            return {"failed": "frozen"}
        errors = stderr_path.read_text(errors="replace").strip().splitlines()
        return {"failed": errors[-1] if errors else "no result"}

    def _expected_seconds(self) -> float:
        return self.workload.count / (self.workload.rate or 50_000)

    def _serve_worker(self, worker: subprocess.Popen[str], task: str, sink: Sink,
                      arrivals: ArrivalMonitor) -> dict[str, Any] | None:
        """Send the task, then act on the worker's messages until its result arrives.

        Return None if the worker exits without a result.
        """
        assert worker.stdout is not None and worker.stdin is not None
        actions: dict[str, Callable[[], None]] = {
            "settle": arrivals.settle, "pause": sink.pause, "resume": sink.resume}
        worker.stdin.write(f"{task}\n")
        worker.stdin.flush()
        for line in worker.stdout:
            message = json.loads(line)
            if "ask" in message:
                actions[message["ask"]]()
                worker.stdin.write("\n")
                worker.stdin.flush()
            elif "started" in message:
                self._start_fault(sink)
            else:
                result: dict[str, Any] = message["result"]
                return result
        return None

    def _start_fault(self, sink: Sink) -> None:
        faults = {"stall": self._stall, "restart": self._restart}
        if self.workload.fault:
            self.fault_thread = threading.Thread(target=faults[self.workload.fault], args=(sink,))
            self.fault_thread.start()

    def _join_fault_thread(self) -> None:
        if self.fault_thread is not None:
            self.fault_thread.join()

    def _stall(self, sink: Sink) -> None:
        time.sleep(self.sizes.trouble_seconds / 6)
        sink.pause()
        time.sleep(self.sizes.stall)
        sink.resume()

    def _restart(self, sink: Sink) -> None:
        time.sleep(self.sizes.trouble_seconds / 6)
        sink.restart(self.sizes.gap)


class ArrivalMonitor(threading.Thread):
    """Counts the records at the sink and notes when the last one arrived.

    If `continuous` is true and the sink can count while it runs, a thread polls it every 2 ms.
    Polling would disturb the calls of a paced workload, where the sink is only polled outside the
    timed part.
    """

    def __init__(self, sink: Sink, continuous: bool) -> None:
        super().__init__(daemon=True)
        self.sink = sink
        self.continuous = continuous and sink.seen() is not None
        self.count = 0
        self.last_arrival = 0  # ns of time.perf_counter_ns, a clock shared with the worker
        self.stopped = threading.Event()
        if self.continuous:
            self.start()

    def run(self) -> None:
        while not self.stopped.wait(0.002):
            self._poll()

    def _poll(self) -> None:
        count = self.sink.seen()
        if count is not None and count != self.count:
            self.count, self.last_arrival = count, time.perf_counter_ns()

    def _current_count(self) -> int:
        if not self.continuous:
            self._poll()
        return self.count

    def settle(self) -> None:
        """Wait until the count has not changed for 25 ms."""
        previous, unchanged = -1, 0
        while unchanged < 5:
            count = self._current_count()
            unchanged = unchanged + 1 if count == previous else 0
            previous = count
            time.sleep(0.005)

    def wait_for(self, count: int) -> None:
        """Wait until `count` records have arrived, or none for IDLE_TIMEOUT, and stop polling."""
        last_change, previous = time.monotonic(), self._current_count()
        if self.sink.seen() is None:
            time.sleep(0.2)  # at most a dozen datagrams are in the socket's queue
        else:
            while ((current := self._current_count()) < count
                   and time.monotonic() < last_change + IDLE_TIMEOUT):
                if current != previous:
                    last_change, previous = time.monotonic(), current
                time.sleep(0.002)
        self.stop()

    def stop(self) -> None:
        self.stopped.set()
        if self.continuous:
            self.join()
