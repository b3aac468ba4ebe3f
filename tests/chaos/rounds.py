"""One round of chaos: a plan drawn from a seed, a daemon in trouble, a process that logs."""
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
_ORDERLY_ENDS = ("exit", "close")
_CHILDREN_ENDS = (*_ORDERLY_ENDS, "multiprocessing", "_exit", "kill")
_TROUBLE_MAX = 0.4  # seconds


def draw_plan(seed: int, number: int, directory: Path, bursts: int) -> dict:
    """All that is decided beforehand. Policies and spools take turns, all else is drawn."""
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
            "end": drawn.choice(_ORDERLY_ENDS), "actions": []}
    whats = ["flush", "fork"] if is_killed else ["flush", "fork", "fork", "close"]
    total = threads * bursts
    for after in sorted(drawn.randrange(total) for _ in range(drawn.randrange(6))):
        action = {"after": after, "what": drawn.choice(whats),
                  "timeout": drawn.choice((0.0, 0.01, 1.0))}
        if action["what"] == "fork":
            action.update(name=f"p{number}.{after}.{len(plan['actions'])}",
                          how=drawn.choice(_CHILDREN_ENDS))
        plan["actions"].append(action)
    if is_killed:
        plan["actions"].append({"after": drawn.randrange(total // 2, total), "what": "kill"})
        plan["actions"].sort(key=lambda action: action["after"])
        del plan["actions"][[action["what"] for action in plan["actions"]].index("kill") + 1:]
    return plan


def endings_of(plan: dict) -> dict[str, check.Ending]:
    """How each process of the plan ends."""
    def ending(how: str) -> check.Ending:
        is_abrupt = how == "kill"
        return check.Ending(how not in ("kill", "_exit"), is_abrupt, "spool" in plan["options"])

    is_killed = any(action["what"] == "kill" for action in plan["actions"])
    found = {plan["name"]: ending("kill" if is_killed else plan["end"])}
    for action in plan["actions"]:
        if action["what"] == "fork":
            found[action["name"]] = ending(action["how"])
    return found


class Round:
    """Runs a plan. `log` is what was done, in order."""

    def __init__(self, seed: int, number: int, directory: Path, bursts: int) -> None:
        self.directory = directory
        self.log: list[str] = []
        self._drawn = random.Random(f"daemon {seed} {number}")
        self.plan = draw_plan(seed, number, directory, bursts)
        self.daemon = (RealDaemon if self.plan["plain"] else SimulatedDaemon)(directory)
        self.plan["address"] = self.daemon.path

    def run(self) -> int:
        """Returns the number of records that came. Raises check.Violation."""
        try:
            self.daemon.start()
            self._log_in_trouble()
            if "spool" in self.plan["options"]:
                self._recover()
            came = self.daemon.finish()
        finally:
            self.daemon.close()
        return check.check_round(self.directory, self.plan, endings_of(self.plan), came,
                                 self.daemon.may_lose)

    def _log_in_trouble(self) -> None:
        """Returns when the process and all of its children are gone."""
        plan = self.directory / "plan"
        plan.write_text(json.dumps(self.plan))
        alive, held = os.pipe()      # the other end is closed by the last of them
        process = subprocess.Popen([sys.executable, worker.__file__, str(plan)], text=True,
                                   stdin=subprocess.PIPE, stdout=subprocess.PIPE,
                                   pass_fds=[held])
        os.close(held)
        try:
            self._make_trouble(process)
            said = process.communicate("finish\n" if self._is_alive(process) else None,
                                       timeout=TIMEOUT)
            check.require(not said[0], f"the process said {said[0]!r}")
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

    def _make_trouble(self, process: subprocess.Popen[str]) -> None:
        """Until the process says that it has logged all, or is gone."""
        troubles = self.daemon.hard_troubles if self.plan["hard"] else self.daemon.troubles
        while not self._says_something(process, self._drawn.random() * _TROUBLE_MAX):
            trouble = self._drawn.choice(troubles)
            self.log.append(trouble)
            getattr(self.daemon, trouble)()
            self._says_something(process, self._drawn.random() * _TROUBLE_MAX)
            self.daemon.recover()
        process.stdout.readline()

    @staticmethod
    def _says_something(process: subprocess.Popen[str], seconds: float) -> bool:
        return select.select([process.stdout], [], [], seconds)[0] != []

    def _recover(self) -> None:
        """By the command, or by a new process with the same spool, which then logs nothing."""
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
        left = list(self.directory.glob("spool*"))
        check.require(left == [], f"recovery left files: {left}")
