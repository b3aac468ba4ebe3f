"""The process that logs in a chaos run: `worker.py PLAN`. The plan is a JSON file.

Each process, including forked ones, leaves a ledger of its calls. If it ends cleanly, it also
leaves its counters.
"""
from __future__ import annotations

import atexit

# The exit function that is registered first is called last, after that of logging.
_exit_calls = []
atexit.register(lambda: [call() for call in _exit_calls])

# ruff: noqa: E402
import json
import logging
import multiprocessing.process
import multiprocessing.util
import os
import random
import signal
import sys
import threading
import time
from pathlib import Path

import records

import fastlog

TIMEOUT = 60  # seconds
BURSTS = (1, 3, 20, 100)  # records in a burst
PAUSE_MAX = 0.02  # seconds between bursts


class Handler(fastlog.SysLogHandler):
    """Writes into the ledger which records are dropped."""

    process = None

    def handleError(self, record):
        error = sys.exc_info()[1]
        if not isinstance(error, BlockingIOError):
            self.process.problems.append(f"handleError was called for {error!r}")
        elif record.name != "fastlog":
            thread, number, _ = record.args
            self.process.ledger.set(thread, number, records.DROPPED)


class Process:
    """The current process, which logs records and notes the outcome of each call."""

    def __init__(self, plan, name, handler, threads):
        self.plan = plan
        self.name = name
        self.handler = handler
        self.problems = []
        self.done = [0] * threads
        self._is_over = threading.Event()
        self._directory = Path(plan["directory"])
        self.ledger = records.Ledger(self._directory / f"{name}.ledger", threads,
                                     plan["bursts"] * max(BURSTS))
        handler.process = self
        handler.ident = name + " "
        kind = fastlog.Logger if plan["fast"] else logging.Logger
        self.log = kind("chaos", logging.DEBUG)
        self.log.addHandler(handler)

    def log_bursts(self, thread):
        """Log numbered records as thread number `thread`."""
        drawn = random.Random(f"{self.plan['seed']} {self.name} {thread}")
        number = 0
        for _ in range(self.plan["bursts"]):
            for _ in range(drawn.choice(BURSTS)):
                level, text = records.level_and_text(self.name, thread, number, self.plan["plain"])
                self.ledger.set(thread, number, records.CALLED)
                self.log.log(level, "%d %d %s", thread, number, text)
                if self.ledger.get(thread, number) == records.CALLED:
                    self.ledger.set(thread, number, records.ACCEPTED)
                number += 1
            self.done[thread] += 1
            time.sleep(drawn.random() * PAUSE_MAX)

    def watch_sums(self):
        """Check the counters once a millisecond."""
        previous = self.handler.stats()
        while not self._is_over.wait(0.001):
            current = self.handler.stats()
            self._check_sums(previous, current)
            previous = current

    def _check_sums(self, previous, current):
        losses = sum(sum(counts.values()) for counts in current.losses.values())
        for holds, claim in (
                (current.submitted == current.accepted + current.dropped,
                 "submitted == accepted + dropped"),
                (current.accepted == current.sent + current.discarded + current.pending,
                 "accepted == sent + discarded + pending"),
                (current.dropped + current.discarded == losses, "dropped + discarded == losses"),
                (current.pending >= 0, "pending >= 0"),
                (0 <= current.pending_bytes <= current.capacity, "pending_bytes <= capacity"),
                (current.high_watermark <= current.capacity, "high_watermark <= capacity"),
                (all(getattr(current, name) >= getattr(previous, name) for name in (
                    "submitted", "accepted", "sent", "dropped", "discarded")), "counters grow")):
            if not holds:
                self.problems.append(f"not true: {claim}: {current} after {previous}")

    def finish_watching(self):
        self._is_over.set()

    def write_result(self):
        """Store the final counters."""
        stats = self.handler.stats()._asdict()
        path = self._directory / f"{self.name}.result"
        path.with_suffix(".new").write_text(json.dumps({"stats": stats, "problems": self.problems}))
        path.with_suffix(".new").rename(path)

    def deliver_and_write_result(self):
        """Deliver as at the end of a process, then store the final counters."""
        self.handler._deliver_before_end(0.0, ends=True)
        self.write_result()

    def drain(self):
        if not self.handler.flush(TIMEOUT):
            self.problems.append(f"flush() did not end: {self.handler.stats()}")

    def end(self, ending):
        """End this process. Does not return."""
        if ending == "kill":
            os.kill(os.getpid(), signal.SIGKILL)
        if ending == "close":
            self.drain()
            self.handler.close(TIMEOUT)
        if ending in ("close", "_exit"):
            self.write_result()
            os._exit(0)
        _exit_calls[:] = [self.write_result]
        sys.exit(0)


def start_thread(target, *args):
    thread = threading.Thread(target=target, args=args)
    thread.start()
    return thread


def run_child(parent, name, ending):
    """Log from two threads of a forked child, and end it.

    One is the thread that forked, and the other is a new one.
    """
    _exit_calls.clear()
    child = Process(parent.plan, name, parent.handler, 2)
    second = start_thread(child.log_bursts, 1)
    child.log_bursts(0)
    if ending != "kill":
        second.join()
    if ending == "multiprocessing":
        # multiprocessing calls os._exit() after its finalizers, and fastlog delivers there. The
        # counters are needed after that, so the last finalizer delivers first.
        multiprocessing.util.Finalize(None, child.deliver_and_write_result, exitpriority=-1000)
    else:
        child.end(ending)


def fork(process, name, ending):
    """Start a child and return a function that waits for it."""
    if ending == "multiprocessing":
        child = multiprocessing.get_context("fork").Process(target=run_child,
                                                            args=(process, name, ending))
        child.start()
        return child.join
    pid = os.fork()
    if pid == 0:
        multiprocessing.process._children.clear()   # as multiprocessing does in its children
        run_child(process, name, ending)
    return lambda: os.waitpid(pid, 0)


def act(process, action, waits):
    kind = action["kind"]
    if kind == "fork":
        waits.append(fork(process, action["name"], action["ending"]))
    elif kind == "flush":
        process.handler.flush(action["timeout"])
    elif kind == "close":  # the next record starts the writer again
        process.handler.close(action["timeout"])
    elif kind == "kill":
        os.kill(os.getpid(), signal.SIGKILL)


def await_bursts(process, count):
    deadline = time.monotonic() + TIMEOUT
    while sum(process.done) < count:
        if time.monotonic() > deadline:
            raise TimeoutError(f"only {process.done} bursts were logged: a call does not return")
        time.sleep(0.001)


def main(plan):
    logging.raiseExceptions = False  # no outage reports on stderr
    handler = Handler(plan["address"], **plan["options"])
    process = Process(plan, plan["name"], handler, plan["threads"])
    threads = [start_thread(process.log_bursts, i) for i in range(plan["threads"])]
    watcher = start_thread(process.watch_sums)
    waits = []
    for action in plan["actions"]:
        await_bursts(process, action["after"])
        act(process, action, waits)
    for thread in threads:
        thread.join()
    print("logged", flush=True)
    sys.stdin.readline()  # until the daemon has recovered
    for wait in waits:
        wait()
    process.finish_watching()
    watcher.join()
    process.end(plan["ending"])


if __name__ == "__main__":
    main(json.loads(Path(sys.argv[1]).read_text()))
