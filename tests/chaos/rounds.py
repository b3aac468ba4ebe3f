"""One round of chaos: a plan drawn from a seed, a daemon with faults, a process that logs."""
from __future__ import annotations

import json
import os
import random
import select
import subprocess
import sys
from pathlib import Path

import check
import worker
from daemons import TIMEOUT, RealDaemon, SimulatedDaemon

POLICIES = ("block", "drop_new", "drop_oldest")
_ORDERLY_ENDINGS = ("exit", "close")
_CHILD_ENDINGS = (*_ORDERLY_ENDINGS, "multiprocessing", "_exit", "kill")
_FAULT_MAX = 0.4  # seconds, the longest duration of a fault and of the pause before it


def draw_plan(seed: int, number: int, directory: Path, bursts: int) -> dict:
    """Return all decisions of a round. Policies and spools alternate, and the rest is drawn."""
    drawn = random.Random(f"{seed} {number}")
    options = {"overflow": POLICIES[number % 3],
               "capacity": 1 << drawn.choice((12, 13, 14, 16, 18)),
               "block_timeout": drawn.choice((0.0, 0.02, 0.2, 30.0)),
               "linger": drawn.choice((0.0, 0.002, 0.01)),
               "close_timeout": 20.0}
    if number // 3 % 2:
        options["spool"] = str(directory / "spool")
    threads = drawn.choice((1, 2, 4))
    is_killed = drawn.random() < (0.6 if "spool" in options else 0.2)
    real = drawn.random() < 0.15
    plan = {"name": f"p{number}", "seed": f"{seed} {number}", "directory": str(directory),
            "options": options, "threads": threads, "bursts": bursts, "plain": real,
            "fast": drawn.random() < 0.5, "hard": drawn.random() < 0.2,
            "ending": drawn.choice(_ORDERLY_ENDINGS), "actions": []}
    kinds = ["flush", "fork"] if is_killed else ["flush", "fork", "fork", "close"]
    total = threads * bursts
    for after in sorted(drawn.randrange(total) for _ in range(drawn.randrange(6))):
        action = {"after": after, "kind": drawn.choice(kinds),
                  "timeout": drawn.choice((0.0, 0.01, 1.0))}
        if action["kind"] == "fork":
            action.update(name=f"p{number}.{after}.{len(plan['actions'])}",
                          ending=drawn.choice(_CHILD_ENDINGS))
        plan["actions"].append(action)
    if is_killed:
        plan["actions"].append({"after": drawn.randrange(total // 2, total), "kind": "kill"})
        plan["actions"].sort(key=lambda action: action["after"])
        del plan["actions"][[action["kind"] for action in plan["actions"]].index("kill") + 1:]
    return plan


def endings_of(plan: dict) -> dict[str, check.Ending]:
    """Return how each process of the plan ends."""
    def make_ending(name: str) -> check.Ending:
        is_abrupt = name == "kill"
        return check.Ending(name not in ("kill", "_exit"), is_abrupt, "spool" in plan["options"])

    is_killed = any(action["kind"] == "kill" for action in plan["actions"])
    endings = {plan["name"]: make_ending("kill" if is_killed else plan["ending"])}
    for action in plan["actions"]:
        if action["kind"] == "fork":
            endings[action["name"]] = make_ending(action["ending"])
    return endings


class Round:
    """Runs a plan. `log` lists the faults and recoveries in order."""

    def __init__(self, seed: int, number: int, directory: Path, bursts: int) -> None:
        self.directory = directory
        self.log: list[str] = []
        self._drawn = random.Random(f"daemon {seed} {number}")
        self.plan = draw_plan(seed, number, directory, bursts)
        self.daemon = (RealDaemon if self.plan["plain"] else SimulatedDaemon)(directory)
        self.plan["address"] = self.daemon.path

    def run(self) -> int:
        """Run the plan and return the number of datagrams that arrived. Raises check.Violation."""
        try:
            self.daemon.start()
            self._run_process()
            if "spool" in self.plan["options"]:
                self._recover()
            datagrams = self.daemon.finish()
        finally:
            self.daemon.close()
        return check.check_round(self.directory, self.plan, endings_of(self.plan), datagrams,
                                 self.daemon.may_lose)

    def _run_process(self) -> None:
        """Run the logging process while faults occur, until it and all its children have ended."""
        plan = self.directory / "plan"
        plan.write_text(json.dumps(self.plan))
        # Each process inherits the write end. The read end reports when the last one has ended.
        alive, inherited = os.pipe()
        process = subprocess.Popen([sys.executable, worker.__file__, str(plan)], text=True,
                                   stdin=subprocess.PIPE, stdout=subprocess.PIPE,
                                   pass_fds=[inherited])
        os.close(inherited)
        try:
            self._cause_faults(process)
            output, _ = process.communicate("finish\n" if self._is_alive(process) else None,
                                            timeout=TIMEOUT)
            check.require(not output, f"the process printed {output!r}")
            check.require(select.select([alive], [], [], TIMEOUT)[0] != [],
                          "a child of the process did not end")
        except subprocess.TimeoutExpired:
            raise check.Violation("the process did not end") from None
        finally:
            os.close(alive)
            process.kill()
            process.wait()
        is_killed = endings_of(self.plan)[self.plan["name"]].is_abrupt
        check.require(process.returncode == (-9 if is_killed else 0),
                      f"the process ended with {process.returncode}")

    @staticmethod
    def _is_alive(process: subprocess.Popen[str]) -> bool:
        return process.poll() is None

    def _cause_faults(self, process: subprocess.Popen[str]) -> None:
        """Cause faults until the process reports that it has logged everything, or has ended."""
        faults = self.daemon.hard_faults if self.plan["hard"] else self.daemon.faults
        while not self._has_output(process, self._drawn.random() * _FAULT_MAX):
            fault = self._drawn.choice(faults)
            self.log.append(fault)
            getattr(self.daemon, fault)()
            self._has_output(process, self._drawn.random() * _FAULT_MAX)
            self.daemon.recover()
        process.stdout.readline()

    @staticmethod
    def _has_output(process: subprocess.Popen[str], seconds: float) -> bool:
        """Wait for output, or for the end of the process, and return whether that occurred."""
        return select.select([process.stdout], [], [], seconds)[0] != []

    def _recover(self) -> None:
        """Recover the spools with the command, or with a new handler that has the same spool."""
        spool = self.plan["options"]["spool"]
        if self._drawn.random() < 0.5:
            command = ["-m", "fastlog", "recover", spool]
            if not list(self.directory.glob("spool*")):
                return
        else:
            command = ["-c", "import sys, fastlog; fastlog.SysLogHandler(sys.argv[1], "
                             "spool=sys.argv[2], capacity=int(sys.argv[3]), close_timeout=30)",
                       self.daemon.path, spool, str(self.plan["options"]["capacity"])]
        self.log.append(" ".join(command[:3]))
        done = subprocess.run([sys.executable, *command], capture_output=True, text=True,
                              timeout=2 * TIMEOUT)
        self.log.append(done.stdout + done.stderr)
        check.require(done.returncode == 0, f"recovery failed: {done}")
        files = list(self.directory.glob("spool*"))
        check.require(files == [], f"recovery left files: {files}")
