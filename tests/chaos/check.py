"""The properties that must hold after a round of chaos."""
from __future__ import annotations

import json
from collections import defaultdict
from pathlib import Path
from typing import NamedTuple

import records

#: Records that the writer may have sent but not yet released when its process is killed.
BATCH = 64

Key = tuple[int, int]  # thread, number; (-1, n): a notice


class Violation(Exception):
    """A property does not hold."""


def require(holds: bool, what: str) -> None:
    if not holds:
        raise Violation(what)


class Ending(NamedTuple):
    """How a process ended."""

    is_orderly: bool     # with all its records sent, as far as it can know
    is_abrupt: bool      # by SIGKILL, so its counters are not known
    is_recovered: bool   # its spool was sent by others


class Process(NamedTuple):
    """What is known of one process."""

    name: str
    ending: Ending
    ledger: records.Ledger
    result: dict
    received: list[records.Received]


def check_round(directory: Path, plan: dict, endings: dict[str, Ending], came: list[bytes],
                may_lose: int) -> int:
    """Raises Violation; returns the number of records that came."""
    by_process = defaultdict(list)
    for data in came:
        try:
            record = records.parse(data, plan["plain"])
        except ValueError as error:
            raise Violation(str(error)) from None
        by_process[record.process].append(record)
    require(set(by_process) <= set(endings), f"unknown processes: {set(by_process)}")
    gone = 0
    for name, ending in endings.items():
        path = directory / f"{name}.result"
        result = json.loads(path.read_text()) if path.exists() else {}
        require(bool(result) or ending.is_abrupt, f"{name} left no result")
        threads = plan["threads"] if name == plan["name"] else 2
        size = (directory / f"{name}.ledger").stat().st_size // threads
        process = Process(name, ending, records.Ledger(directory / f"{name}.ledger", threads, size),
                          result, by_process[name])
        gone += check_process(process, plan["options"], may_lose)
    require(gone <= may_lose, f"{gone} records are missing that nobody counted, "
                              f"and at most {may_lose} can be lost in the kernel")
    return len(came)


def check_process(process: Process, options: dict, may_lose: int) -> int:
    """Returns how many records are missing that the process did not count as lost."""
    name, ending, ledger, result, _ = process
    require(not result.get("problems"), f"{name}: {result.get('problems')}")
    keys = check_order(process)
    check_ledger(name, ledger, keys)
    missing = [key for key in ledger.all(records.ACCEPTED) if key not in keys]
    if result:
        check_counters(process)
        if options["overflow"] == "block" and options["block_timeout"] >= 10:
            require(result["stats"]["dropped"] == 0, f"{name} dropped records of a slow daemon")
    if ending.is_orderly:
        return check_complete(process, missing, may_lose)
    if options["overflow"] == "drop_oldest":
        # How many were evicted up to the end is not known.
        return 0
    if ending.is_recovered:
        return len(missing)
    check_suffix(name, ledger, keys, missing, may_lose)
    return 0


def check_order(process: Process) -> set[Key]:
    """Of each thread; and nothing comes twice, but for a batch of a process that was killed."""
    notices = 0
    stream: list[Key] = []
    for record in process.received:
        if record.thread < 0:
            notices += 1
        stream.append((record.thread, record.number if record.thread >= 0 else notices))
    first: dict[Key, int] = {}
    for position, key in enumerate(stream):
        if key in first:
            stream = check_repeated(process, stream, first[key], position)
            break
        first[key] = position
    # What a close() that did not deliver all left in the spool comes after all else.
    late = process.result["stats"]["pending"] if process.result and process.ending.is_orderly else 0
    for part in (stream[:len(stream) - late], stream[len(stream) - late:]):
        check_growing(process.name, part)
    return {key for key in stream if key[0] >= 0}


def check_growing(name: str, stream: list[Key]) -> None:
    last: dict[int, int] = {}
    for thread, number in stream:
        require(number > last.get(thread, -1), f"{name}: record {number} of thread {thread} came "
                                               f"twice or too late, after {last.get(thread)}")
        last[thread] = number


def check_repeated(process: Process, stream: list[Key], begin: int, end: int) -> list[Key]:
    """What is sent again after a crash is the end of what was sent before it. Returns the rest."""
    count = end - begin
    require(process.ending.is_recovered, f"{process.name}: {stream[begin]} came twice")
    require(count <= BATCH, f"{process.name}: {count} records were sent twice")
    again = [key for key in stream[end:] if key[0] >= 0][:count]
    before = [key for key in stream[begin:end] if key[0] >= 0]
    require(again[:len(before)] == before,
            f"{process.name}: {again} was sent again after a crash, not {before}")
    return stream[:begin] + stream[end:]


def check_ledger(name: str, ledger: records.Ledger, keys: set[Key]) -> None:
    for key in sorted(keys):
        state = ledger.get(*key)
        require(state != records.UNUSED, f"{name}: {key} came and was never logged")
        require(state != records.DROPPED, f"{name}: {key} came and was said to be dropped")


def check_counters(process: Process) -> None:
    """Those of the producers' side against the ledger."""
    name, _, ledger, result, received = process
    stats = result["stats"]
    calls = len(ledger.all(records.CALLED, records.ACCEPTED, records.DROPPED))
    dropped = len(ledger.all(records.DROPPED))
    notices_lost = count_notices_lost(stats)
    notices_dropped = notices_lost - stats["losses"].get("evicted", {}).get(
        records.NOTICE_SEVERITY, 0)
    require(stats["dropped"] == dropped + notices_dropped,
            f"{name}: {dropped} records and {notices_dropped} notices were dropped: {stats}")
    notices = stats["submitted"] - calls
    came = sum(record.thread < 0 for record in received)
    require(notices >= came + notices_lost,
            f"{name}: {calls} calls, {came} notices came and {notices_lost} were lost: {stats}")


def count_notices_lost(stats: dict) -> int:
    return sum(each.get(records.NOTICE_SEVERITY, 0) for each in stats["losses"].values())


def check_complete(process: Process, missing: list[Key], may_lose: int) -> int:
    """A process that ended well has sent all, or counted it, and told of it."""
    name, ending, _, result, received = process
    stats = result["stats"]
    notices = [record for record in received if record.thread < 0]
    if not ending.is_recovered:
        require(stats["pending"] == 0 and stats["pending_bytes"] == 0,
                f"{name} left records: {stats}")
    evicted = stats["discarded"] - stats["losses"].get("evicted", {}).get(
        records.NOTICE_SEVERITY, 0)
    gone = len(missing) - evicted
    require(gone >= 0, f"{name}: {evicted} records were counted as evicted, and only "
                       f"{len(missing)} are missing")
    require(may_lose > 0 or gone == 0,
            f"{name}: {len(missing)} records are missing, {evicted} were counted as evicted; "
            f"the first is {missing[:1]}")
    cut = sum(not record.is_whole for record in received)
    require(stats["truncated"] >= cut, f"{name}: {cut} records came shortened: {stats}")
    told = sum(record.lost for record in notices)
    lost = stats["dropped"] + stats["discarded"]
    require(told <= lost, f"{name}: {lost} records were lost, and notices tell of {told}")
    if count_notices_lost(stats) == 0 and may_lose == 0:
        require(told == lost, f"{name}: {lost} records were lost, and notices tell of {told}")
    return gone


def check_suffix(name: str, ledger: records.Ledger, keys: set[Key], missing: list[Key],
                 may_lose: int) -> None:
    """What dies with a process is what it logged last."""
    latest: dict[int, int] = {}
    for thread, number in keys:
        latest[thread] = max(number, latest.get(thread, -1))
    inside = [key for key in missing if key[1] < latest.get(key[0], -1)]
    require(len(inside) <= may_lose, f"{name}: {inside[:3]} are missing, and later records came")
