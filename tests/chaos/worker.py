"""The process that logs in a chaos run: `worker.py PLAN`. What it does is in the plan, as JSON.

Each process, forked ones too, leaves a ledger of its calls, and if it ends well its counters.
"""
from __future__ import annotations

import atexit

# The first exit function to be registered is the last to be called, after logging's.
_at_the_end = []
atexit.register(lambda: [call() for call in _at_the_end])

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
BURSTS = (1, 3, 20, 100)
PAUSE = 0.02  # seconds between bursts, at most


class Handler(fastlog.SysLogHandler):
    """Notes which records are dropped."""

    process = None

    def handleError(self, record):
        error = sys.exc_info()[1]
        if not isinstance(error, BlockingIOError):
            self.process.problems.append(f"handleError was called for {error!r}")
        elif record.name != "fastlog":
            thread, number, _ = record.args
            self.process.ledger.set(thread, number, records.DROPPED)


class Process:
    """This process: it logs, and keeps account of that."""

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
            time.sleep(drawn.random() * PAUSE)

    def watch_sums(self):
        """Look at the counters all the time."""
        before = self.handler.stats()
        while not self._is_over.wait(0.001):
            now = self.handler.stats()
            self._check_sums(before, now)
            before = now

    def _check_sums(self, before, now):
        losses = sum(sum(each.values()) for each in now.losses.values())
        for holds, what in (
                (now.submitted == now.accepted + now.dropped, "submitted == accepted + dropped"),
                (now.accepted == now.sent + now.discarded + now.pending,
                 "accepted == sent + discarded + pending"),
                (now.dropped + now.discarded == losses, "dropped + discarded == losses"),
                (now.pending >= 0, "pending >= 0"),
                (0 <= now.pending_bytes <= now.capacity, "pending_bytes <= capacity"),
                (now.high_watermark <= now.capacity, "high_watermark <= capacity"),
                (all(getattr(now, each) >= getattr(before, each) for each in (
                    "submitted", "accepted", "sent", "dropped", "discarded")), "counters grow")):
            if not holds:
                self.problems.append(f"not true: {what}: {now} after {before}")

    def finish_watching(self):
        self._is_over.set()

    def write_result(self):
        """The counters at the end."""
        stats = self.handler.stats()._asdict()
        path = self._directory / f"{self.name}.result"
        path.with_suffix(".new").write_text(json.dumps({"stats": stats, "problems": self.problems}))
        path.with_suffix(".new").rename(path)

    def drain(self):
        if not self.handler.flush(TIMEOUT):
            self.problems.append(f"flush() did not end: {self.handler.stats()}")

    def end(self, how):
        """End this process; does not return."""
        if how == "kill":
            os.kill(os.getpid(), signal.SIGKILL)
        if how == "close":
            self.drain()
            self.handler.close(TIMEOUT)
        if how in ("close", "_exit"):
            self.write_result()
            os._exit(0)
        _at_the_end[:] = [self.write_result]
        sys.exit(0)


def start_thread(target, *args):
    thread = threading.Thread(target=target, args=args)
    thread.start()
    return thread


def run_child(parent, name, how):
    """What a forked child does: one thread of its own besides the one that forked."""
    _at_the_end.clear()
    child = Process(parent.plan, name, parent.handler, 2)
    second = start_thread(child.log_bursts, 1)
    child.log_bursts(0)
    if how != "kill":
        second.join()
    if how == "multiprocessing":     # its own exit functions flush: ours runs after them
        multiprocessing.util.Finalize(None, child.write_result, exitpriority=-1000)
    else:
        child.end(how)


def fork(process, name, how):
    """Start a child; returns what waits for it."""
    if how == "multiprocessing":
        child = multiprocessing.get_context("fork").Process(target=run_child,
                                                            args=(process, name, how))
        child.start()
        return child.join
    pid = os.fork()
    if pid == 0:
        multiprocessing.process._children.clear()   # as in children of its own
        run_child(process, name, how)
    return lambda: os.waitpid(pid, 0)


def act(process, action, waits):
    what = action["what"]
    if what == "fork":
        waits.append(fork(process, action["name"], action["how"]))
    elif what == "flush":
        process.handler.flush(action["timeout"])
    elif what == "close":            # the records that come after it open it again
        process.handler.close(action["timeout"])
    elif what == "kill":
        os.kill(os.getpid(), signal.SIGKILL)


def await_bursts(process, count):
    deadline = time.monotonic() + TIMEOUT
    while sum(process.done) < count:
        if time.monotonic() > deadline:
            raise TimeoutError(f"only {process.done} bursts were logged: some call waits")
        time.sleep(0.001)


def main(plan):
    logging.raiseExceptions = False      # outages are told on stderr
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
    sys.stdin.readline()                 # until the daemon is well
    for wait in waits:
        wait()
    process.finish_watching()
    watcher.join()
    process.end(plan["end"])


if __name__ == "__main__":
    main(json.loads(Path(sys.argv[1]).read_text()))
