"""One measurement: a sink, a process with one handler in front of it, and what arrived."""
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
from workloads import C_LOOP, FLOORS

if TYPE_CHECKING:
    from collections.abc import Callable

    from workloads import Sizes, Workload

BENCH = Path(__file__).parent
PATIENCE = 90.0  # seconds, beyond those that the workload takes: then the handler is called frozen
QUIET = 1.0  # seconds without a new record: what has not come by then is lost
C_PREFIX = {True: "<134>ServerLog: 2025-01-01 00:00:00,000 - bench - INFO - ",
            False: "<134>ServerLog: "}


class Measurement:
    def __init__(self, workload: Workload, subject: str, sizes: Sizes, programs: Path) -> None:
        self.workload, self.subject, self.sizes = workload, subject, sizes
        self.programs = programs
        self.directory = Path()
        self.trouble: list[threading.Thread] = []

    def run(self) -> dict[str, Any]:
        """What was measured; {"failed": why} if that was nothing."""
        with tempfile.TemporaryDirectory(prefix="fl-") as name:
            self.directory = Path(name)
            sink = self._start_sink()
            watch = Watch(sink, polling=self.workload.rate == 0)
            try:
                return self._measure(sink, watch)
            finally:
                watch.stop()
                for thread in self.trouble:
                    thread.join()
                sink.stop()

    def _start_sink(self) -> Sink:
        if self.workload.sink == "journald":
            return JournaldSink(self.directory)
        if self.workload.sink == "C":
            return CSink(self.directory, compile_c(BENCH / "sink.c", self.programs))
        return RsyslogdSink(self.directory, rfc5424=self.subject == "rfc5424")

    def _measure(self, sink: Sink, watch: Watch) -> dict[str, Any]:
        daemon_before = cpu_seconds(sink.pid)
        run = self._run_c_loop if self.subject == C_LOOP else self._run_worker
        found = run(sink, watch)
        for thread in self.trouble:
            thread.join()
        if "failed" in found:
            return found
        expected = found["expected"]
        watch.wait_for(expected + found["warmup"])
        arrived = sink.arrived()
        count = max(0, arrived.count - found["warmup"])
        if not self.workload.trouble:  # a new daemon counts anew
            found["daemon cpu"] = (cpu_seconds(sink.pid) - daemon_before) * 1e9
        end = watch.last if watch.polling and watch.last else found["end"]
        logged = count if expected else self.workload.count
        return {**found, "arrived": count, "missing": expected - count,
                "disorder": arrived.disorder,
                "rate": logged / ((max(end, found["begin"] + 1) - found["begin"]) / 1e9)}

    def _run_c_loop(self, sink: Sink, watch: Watch) -> dict[str, Any]:
        program = compile_c(BENCH / "sendto_loop.c", self.programs)
        done = subprocess.run(
            [*sink.enter, program, sink.address, str(self.workload.count),
             C_PREFIX[self.workload.asctime], "w0"],
            capture_output=True, text=True, check=True, timeout=PATIENCE)
        return {**json.loads(done.stdout), "expected": self.workload.count, "warmup": 0,
                "dropped": 0}

    def _run_worker(self, sink: Sink, watch: Watch) -> dict[str, Any]:
        errors = self.directory / "stderr"
        # By stdin: journald stores the command line with each record, a long one compressed.
        task = [asdict(self.workload), self.subject, sink.address]
        command = [*sink.enter, sys.executable, str(BENCH / "worker.py")]
        with open(errors, "wb") as stderr, subprocess.Popen(
                command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=stderr,
                text=True) as worker:
            frozen = threading.Event()

            def give_up() -> None:
                frozen.set()
                worker.kill()

            timer = threading.Timer(self._seconds() + PATIENCE, give_up)
            timer.start()
            found = self._converse(worker, json.dumps(task), sink, watch)
            timer.cancel()
        if found is not None:
            return {**found, "warmup": 0 if self.subject in FLOORS else WARMUP}
        said = errors.read_text(errors="replace").strip().splitlines()
        return {"failed": "frozen" if frozen.is_set() else said[-1] if said else "no result"}

    def _seconds(self) -> float:
        return self.workload.count / (self.workload.rate or 50_000)

    def _converse(self, worker: subprocess.Popen[str], task: str, sink: Sink,
                  watch: Watch) -> dict[str, Any] | None:
        assert worker.stdout is not None and worker.stdin is not None
        answers: dict[str, Callable[[], None]] = {
            "settle": watch.settle, "pause": sink.pause, "resume": sink.resume}
        worker.stdin.write(f"{task}\n")
        worker.stdin.flush()
        for line in worker.stdout:
            said = json.loads(line)
            if "ask" in said:
                answers[said["ask"]]()
                worker.stdin.write("\n")
                worker.stdin.flush()
            elif "started" in said:
                self._begin_trouble(sink)
            else:
                result: dict[str, Any] = said["result"]
                return result
        return None

    def _begin_trouble(self, sink: Sink) -> None:
        actions = {"stall": self._stall, "restart": self._restart}
        if self.workload.trouble:
            self.trouble = [threading.Thread(target=actions[self.workload.trouble], args=(sink,))]
            self.trouble[0].start()

    def _stall(self, sink: Sink) -> None:
        time.sleep(self.sizes.trouble_seconds / 6)
        sink.pause()
        time.sleep(self.sizes.stall)
        sink.resume()

    def _restart(self, sink: Sink) -> None:
        time.sleep(self.sizes.trouble_seconds / 6)
        sink.restart(self.sizes.gap)


class Watch(threading.Thread):
    """Looks how many records the sink has, and when the last one came.

    polling: look all the time. Not where single calls are timed, which that would disturb.
    """

    def __init__(self, sink: Sink, polling: bool) -> None:
        super().__init__(daemon=True)
        self.sink = sink
        self.polling = polling and sink.seen() is not None
        self.count = 0
        self.last = 0  # ns of time.perf_counter_ns, which is that of the measured process
        self.ended = threading.Event()
        if self.polling:
            self.start()

    def run(self) -> None:
        while not self.ended.wait(0.002):
            self._look()

    def _look(self) -> None:
        count = self.sink.seen()
        if count is not None and count != self.count:
            self.count, self.last = count, time.perf_counter_ns()

    def _update(self) -> int:
        if not self.polling:
            self._look()
        return self.count

    def settle(self) -> None:
        """Wait until nothing comes any more."""
        seen, quiet = -1, 0
        while quiet < 5:
            quiet = quiet + 1 if seen == (seen := self._update()) else 0
            time.sleep(0.005)

    def wait_for(self, count: int) -> None:
        """Wait for so many records, or until no more have come for a while."""
        since, before = time.monotonic(), self._update()
        if self.sink.seen() is None:
            time.sleep(0.2)  # at most a dozen datagrams are on their way
        else:
            while (seen := self._update()) < count and time.monotonic() < since + QUIET:
                if seen != before:
                    since, before = time.monotonic(), seen
                time.sleep(0.002)
        self.stop()

    def stop(self) -> None:
        self.ended.set()
        if self.polling:
            self.join()
