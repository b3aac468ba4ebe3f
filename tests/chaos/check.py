"""The properties that must hold after a round of chaos."""
from __future__ import annotations

import json
from collections import defaultdict
from pathlib import Path
from typing import NamedTuple

import records

#: Records that the writer may have sent but not yet released when its process is killed.
BATCH = 64

#: The thread and the number of a record. The n-th loss report has (-1, n).
Key = tuple[int, int]


class Violation(Exception):
    """A property does not hold."""


def require(holds: bool, problem: str) -> None:
    if not holds:
        raise Violation(problem)


class Ending(NamedTuple):
    """How a process ends."""

    is_orderly: bool     # all its records are sent, as far as it can know
    is_abrupt: bool      # by SIGKILL, so its counters are unknown
    is_recovered: bool   # its spool is sent by another process


class Process(NamedTuple):
    """The facts about a process."""

    name: str
    ending: Ending
    ledger: records.Ledger
    result: dict
    received: list[records.Received]


def check_round(directory: Path, plan: dict, endings: dict[str, Ending], datagrams: list[bytes],
                may_lose: int) -> int:
    """Check all properties of a round and return the number of datagrams.

    datagrams: what the daemon received, in order.
    may_lose: the number of records that may be lost in the kernel.

    Raises Violation.
    """
    by_process = defaultdict(list)
    for data in datagrams:
        try:
            record = records.parse(data, plan["plain"])
        except ValueError as error:
            raise Violation(str(error)) from None
        by_process[record.process].append(record)
    require(set(by_process) <= set(endings), f"unknown processes: {set(by_process)}")
    uncounted = 0
    for name, ending in endings.items():
        path = directory / f"{name}.result"
        result = json.loads(path.read_text()) if path.exists() else {}
        require(bool(result) or ending.is_abrupt, f"{name} left no result")
        threads = plan["threads"] if name == plan["name"] else 2
        size = (directory / f"{name}.ledger").stat().st_size // threads
        process = Process(name, ending, records.Ledger(directory / f"{name}.ledger", threads, size),
                          result, by_process[name])
        uncounted += check_process(process, plan["options"], may_lose)
    require(uncounted <= may_lose, f"{uncounted} missing records were not counted, "
                                   f"and at most {may_lose} can be lost in the kernel")
    return len(datagrams)


def check_process(process: Process, options: dict, may_lose: int) -> int:
    """Return the number of missing records that the process did not count as lost."""
    name, ending, ledger, result, _ = process
    require(not result.get("problems"), f"{name}: {result.get('problems')}")
    keys = check_order(process)
    check_ledger(name, ledger, keys)
    missing = [key for key in ledger.all(records.ACCEPTED) if key not in keys]
    if result:
        check_counters(process)
        if options["overflow"] == "block" and options["block_timeout"] >= 10:
            require(result["stats"]["dropped"] == 0,
                    f"{name} dropped records although the daemon was only slow")
    if ending.is_orderly:
        return check_complete(process, missing, may_lose)
    if options["overflow"] == "drop_oldest":
        # The number of records that were evicted up to the end is unknown.
        return 0
    if ending.is_recovered:
        return len(missing)
    check_suffix(name, ledger, keys, missing, may_lose)
    return 0


def check_order(process: Process) -> set[Key]:
    """Check the order within each thread, and return the keys of the received records.

    Nothing arrives twice, except for one batch of a process that was killed.
    """
    reports = 0
    stream: list[Key] = []
    for record in process.received:
        if record.thread < 0:
            reports += 1
        stream.append((record.thread, record.number if record.thread >= 0 else reports))
    first: dict[Key, int] = {}
    for position, key in enumerate(stream):
        if key in first:
            stream = check_repeated(process, stream, first[key], position)
            break
        first[key] = position
    # Records that close() could not deliver stay in the spool and arrive after all others.
    late = process.result["stats"]["pending"] if process.result and process.ending.is_orderly else 0
    for part in (stream[:len(stream) - late], stream[len(stream) - late:]):
        check_growing(process.name, part)
    return {key for key in stream if key[0] >= 0}


def check_growing(name: str, stream: list[Key]) -> None:
    latest: dict[int, int] = {}
    for thread, number in stream:
        require(number > latest.get(thread, -1),
                f"{name}: record {number} of thread {thread} arrived twice or too late, "
                f"after {latest.get(thread)}")
        latest[thread] = number


def check_repeated(process: Process, stream: list[Key], begin: int, end: int) -> list[Key]:
    """Check the records that were sent again after a crash, and return the stream without them.

    They are the last ones that were sent before the crash. `begin` is the position of the first
    repeated record, and `end` that of its repetition.
    """
    count = end - begin
    require(process.ending.is_recovered, f"{process.name}: {stream[begin]} arrived twice")
    require(count <= BATCH, f"{process.name}: {count} records were sent twice")
    repeated = [key for key in stream[end:] if key[0] >= 0][:count]
    originals = [key for key in stream[begin:end] if key[0] >= 0]
    require(repeated[:len(originals)] == originals,
            f"{process.name}: {repeated} was sent again after a crash, and not {originals}")
    return stream[:begin] + stream[end:]


def check_ledger(name: str, ledger: records.Ledger, keys: set[Key]) -> None:
    for key in sorted(keys):
        state = ledger.get(*key)
        require(state != records.UNUSED, f"{name}: {key} arrived but was never logged")
        require(state != records.DROPPED, f"{name}: {key} arrived but was reported as dropped")


def check_counters(process: Process) -> None:
    """Compare the producers' counters with the ledger."""
    name, _, ledger, result, received = process
    stats = result["stats"]
    calls = len(ledger.all(records.CALLED, records.ACCEPTED, records.DROPPED))
    dropped = len(ledger.all(records.DROPPED))
    reports_lost = count_reports_lost(stats)
    reports_dropped = reports_lost - stats["losses"].get("evicted", {}).get(
        records.REPORT_SEVERITY, 0)
    require(stats["dropped"] == dropped + reports_dropped,
            f"{name}: {dropped} records and {reports_dropped} loss reports were dropped: {stats}")
    reports = stats["submitted"] - calls
    arrived = sum(record.thread < 0 for record in received)
    # At the end of a process a last report may follow, after the counters were stored.
    require(reports + 1 >= arrived + reports_lost,
            f"{name}: {calls} calls, {arrived} loss reports arrived and {reports_lost} were lost: "
            f"{stats}")


def count_reports_lost(stats: dict) -> int:
    return sum(counts.get(records.REPORT_SEVERITY, 0) for counts in stats["losses"].values())


def check_complete(process: Process, missing: list[Key], may_lose: int) -> int:
    """Check that a process that ended cleanly has sent, or counted and reported, each record.

    Return the number of missing records that it did not count.
    """
    name, ending, _, result, received = process
    stats = result["stats"]
    reports = [record for record in received if record.thread < 0]
    if not ending.is_recovered:
        require(stats["pending"] == 0 and stats["pending_bytes"] == 0,
                f"{name} left records: {stats}")
    evicted = stats["discarded"] - stats["losses"].get("evicted", {}).get(
        records.REPORT_SEVERITY, 0)
    uncounted = len(missing) - evicted
    require(uncounted >= 0, f"{name}: {evicted} records were counted as evicted, and only "
                            f"{len(missing)} are missing")
    require(may_lose > 0 or uncounted == 0,
            f"{name}: {len(missing)} records are missing, {evicted} were counted as evicted; "
            f"the first is {missing[:1]}")
    truncated = sum(not record.is_whole for record in received)
    require(stats["truncated"] >= truncated,
            f"{name}: {truncated} records arrived truncated: {stats}")
    reported_lost = sum(record.lost for record in reports)
    lost = stats["dropped"] + stats["discarded"]
    problem = f"{name}: {lost} records were lost, and {reported_lost} were reported as lost"
    require(reported_lost <= lost, problem)
    if count_reports_lost(stats) == 0 and may_lose == 0:
        require(reported_lost == lost, problem)
    return uncounted


def check_suffix(name: str, ledger: records.Ledger, keys: set[Key], missing: list[Key],
                 may_lose: int) -> None:
    """Check that only the last records of a thread are lost with their process."""
    latest: dict[int, int] = {}
    for thread, number in keys:
        latest[thread] = max(number, latest.get(thread, -1))
    inside = [key for key in missing if key[1] < latest.get(key[0], -1)]
    require(len(inside) <= may_lose,
            f"{name}: {inside[:3]} are missing, but later records arrived")
