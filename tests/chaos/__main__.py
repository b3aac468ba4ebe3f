"""Chaos: the real handler with daemons that stop, die and recover. `make chaos`.

Threads and forked processes log numbered records to rings that are too small, and end in every
way. Every lost record must be reported. All decisions come from the seed, so a round can be
repeated, but the timing is up to the operating system.

The exit status is 0 if all properties of check.py held, and otherwise 1.
"""
from __future__ import annotations

import argparse
import json
import random
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import check
import soak
from rounds import Round


def parse_arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser("chaos", description=__doc__.partition("\n")[0])
    parser.add_argument("--seed", type=int, default=random.SystemRandom().randrange(10**6),
                        help="default: a random number")
    parser.add_argument("--seconds", type=float, default=120,
                        help="start no new round after this time (default: %(default)s)")
    parser.add_argument("--first", type=int, default=0, metavar="N",
                        help="start with round N, to repeat it")
    parser.add_argument("--rounds", type=int, metavar="N",
                        help="run N rounds, however long they take")
    parser.add_argument("--bursts", type=int, default=100, metavar="N",
                        help="bursts of records from each thread in a round (default: %(default)s)")
    parser.add_argument("--soak", type=int, default=0, metavar="N",
                        help="first send N records and check memory and descriptors")
    parser.add_argument("--keep", action="store_true", help="keep the files of a failed round")
    return parser.parse_args()


def run_round(options: argparse.Namespace, number: int) -> bool:
    """Run a round, print its outcome, and return whether all properties held."""
    directory = Path(tempfile.mkdtemp(prefix="fl-"))
    chaos_round = Round(options.seed, number, directory, options.bursts)
    began = time.monotonic()
    failure = ""
    try:
        count = chaos_round.run()
    except (check.Violation, subprocess.SubprocessError, OSError) as error:
        failure = f"{type(error).__name__}: {error}"
    if failure:
        plan = json.dumps(chaos_round.plan, indent=1)
        print(f"\nround {number} FAILED: {failure}\n\nplan: {plan}\n"
              f"\ndaemon events: {', '.join(chaos_round.log)}\n\nrepeat it with: "
              f"--seed {options.seed} --bursts {options.bursts} --first {number} --rounds 1")
        if options.keep:
            print(f"files: {directory}")
            return False
    else:
        plan = chaos_round.plan
        print(f"round {number}: {count} records in {time.monotonic() - began:.1f} s, "
              f"{plan['options']['overflow']}, {plan['options']['capacity']} bytes"
              f"{', spool' * ('spool' in plan['options'])}{', rsyslogd' * plan['plain']}; "
              f"{[action['kind'] for action in plan['actions']]}; "
              f"{len(chaos_round.log)} daemon events", flush=True)
    shutil.rmtree(directory)
    return not failure


def main() -> int:
    options = parse_arguments()
    print(f"seed {options.seed}", flush=True)
    if options.soak and not soak.run(options.soak):
        return 1
    end = time.monotonic() + options.seconds
    number = options.first
    while (number < options.first + options.rounds if options.rounds is not None
           else time.monotonic() < end):
        if not run_round(options, number):
            return 1
        number += 1
    print(f"{number - options.first} rounds: every lost record was reported")
    return 0


if __name__ == "__main__":
    sys.exit(main())
