"""What is measured: the workloads, the handlers in each, and how much of it."""
from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple


class Sizes(NamedTuple):
    """How much is measured. `rounds` are of A B C, A B C, …"""

    cost_rounds: int
    bursts: int             # of each: bare %, NullHandler, the handler; in turns
    burst: int              # records in a burst; must leave fastlog's ring half empty
    paced_rounds: int
    asleep_rounds: int
    seconds: float          # of paced records
    slow_seconds: float     # the same at 100 records/s
    tight_rounds: int
    tight: int              # records of a tight loop, of all threads together
    claim_rounds: int       # of what the summary says of few calls, or of small differences
    many: int               # records of a longer one, for one thread against several
    throughput_rounds: int
    throughput: int          # records
    journal: int             # records where journald is the sink, which takes fewer a second
    trouble_rounds: int
    stall: float            # seconds that the daemon is stopped
    gap: float              # seconds that it is away
    trouble_rate: int
    trouble_seconds: float
    memory: tuple[int, ...]  # resident memory after so many records
    imports: int             # processes


FULL = Sizes(
    cost_rounds=7, bursts=15, burst=2_000,
    paced_rounds=5, asleep_rounds=3, seconds=1.0, slow_seconds=1.5,
    tight_rounds=3, tight=24_000, claim_rounds=9, many=100_000,
    throughput_rounds=7, throughput=80_000, journal=20_000,
    trouble_rounds=1, stall=3.0, gap=1.0, trouble_rate=1_000, trouble_seconds=6.0,
    memory=(100_000, 1_000_000, 10_000_000), imports=40)

QUICK = Sizes(
    cost_rounds=1, bursts=2, burst=1_000,
    paced_rounds=1, asleep_rounds=1, seconds=0.05, slow_seconds=0.1,
    tight_rounds=1, tight=1_600, claim_rounds=1, many=3_200,
    throughput_rounds=1, throughput=2_000, journal=1_000,
    trouble_rounds=1, stall=0.3, gap=0.1, trouble_rate=1_000, trouble_seconds=0.8,
    memory=(1_000, 5_000, 20_000), imports=2)


FLOORS = ("bare %", "NullHandler")
OURS = ("fastlog", "fastlog Logger")
SPOOL = "fastlog Logger, spool"
DROP_NEW = "fastlog Logger, drop_new"
DROP_OLDEST = "fastlog Logger, drop_oldest"
COST = "cost of a call"
STALLED = "daemon stalled, tight loop"
PEERS = ("SysLogHandler", "QueueHandler", "backgroundlog", "loguru", "picologging", "rfc5424")
JOURNAL_PEERS = ("systemd-python", "cysystemd")
JOURNAL_OURS = ("fastlog JournalHandler", "fastlog JournalHandler, Logger")
SYSLOG = (*PEERS, *OURS)
ALL = (*FLOORS, *SYSLOG)
JOURNAL = (*FLOORS, *PEERS, *JOURNAL_PEERS, *OURS, *JOURNAL_OURS)
C_LOOP, DRAIN = "C sendto", "fastlog drain"
THROUGHPUT = (C_LOOP, DRAIN, "fastlog", "fastlog Logger", "SysLogHandler")

#: Shown beneath the tables in which they are not a row.
ABSENT = dict.fromkeys((*JOURNAL_PEERS, *JOURNAL_OURS),
                       "speaks journald's own protocol only: see the tables of journald")
SETUPS = {
    "bare %": "`message % args` in a function, and nothing else: the floor",
    "NullHandler": "the standard library's Logger with nothing behind it",
    "SysLogHandler": "the standard library's",
    "QueueHandler": "the standard library's, with QueueListener and SysLogHandler behind it",
    "backgroundlog": "its ThreadHandler around SysLogHandler, with its defaults: below ERROR a "
                     "full queue (1,000 records) drops",
    "loguru": "SysLogHandler as its sink, enqueue=True",
    "picologging": "its Logger with SysLogHandler: it has none of its own",
    "rfc5424": "rfc5424-logging-handler",
    "systemd-python": "its JournalHandler",
    "cysystemd": "its JournaldLogHandler",
    "fastlog": "fastlog.SysLogHandler behind the standard library's Logger",
    "fastlog Logger": "fastlog.SysLogHandler behind fastlog.Logger",
    JOURNAL_OURS[0]: "fastlog.JournalHandler behind the standard library's Logger",
    JOURNAL_OURS[1]: "fastlog.JournalHandler behind fastlog.Logger",
    SPOOL: "fastlog Logger with its ring in a file on a tmpfs",
    DROP_NEW: "fastlog Logger with this overflow policy",
    DROP_OLDEST: "fastlog Logger with this overflow policy",
    C_LOOP: "a C loop of blocking sendto",
    DRAIN: "fastlog's writer alone: all records lie in its ring when the clock starts",
}


@dataclass(frozen=True)
class Workload:
    name: str
    suite: str
    kind: str  # a function of worker.py
    subjects: tuple[str, ...]
    rounds: int
    count: int               # records, of all threads together
    rate: int = 0            # records a second, of all threads together; 0: a tight loop
    asleep: bool = False     # between two paced records
    threads: int = 1
    size: int = 0            # bytes added to the message
    asctime: bool = True
    sink: str = "rsyslogd"   # or "journald" or "C"
    trouble: str = ""        # "stall" or "restart"
    bursts: int = 0
    seconds: float = 0.0     # of a loop whose number of records is not known before
    marks: tuple[int, ...] = ()


RATES = (100, 1_000, 10_000, 50_000)
BETWEEN = {"busy": False, "asleep": True}
THREADS = (1, 2, 4, 8)
MESSAGES = {"short, with asctime": (0, True), "short, without asctime": (0, False),
            "2 KB, with asctime": (2_000, True), "2 KB, without asctime": (2_000, False)}
SINKS = {"rsyslogd": ALL, "journald": JOURNAL, "C": ALL}


def paced_name(rate: int, between: str) -> str:
    return f"{rate:,} records/s, {between} in between"


def threads_name(threads: int) -> str:
    return f"tight, {threads} thread{'s' if threads > 1 else ''}"


def many_name(threads: int) -> str:
    return f"{threads_name(threads)}, many records"


def paced_threads_name(threads: int) -> str:
    return f"10,000 records/s, {threads} thread{'s' if threads > 1 else ''}, asleep in between"


def _paced(sizes: Sizes) -> list[Workload]:
    found = []
    for rate in RATES:
        seconds = sizes.slow_seconds if rate == 100 else sizes.seconds
        for between, asleep in BETWEEN.items():
            found.append(Workload(
                paced_name(rate, between), "paced", "run_open", (*ALL, SPOOL),
                sizes.asleep_rounds if asleep else
                sizes.claim_rounds if rate == 10_000 else sizes.paced_rounds,
                max(5, int(rate * seconds)), rate, asleep))
    return found


def _threads(sizes: Sizes) -> list[Workload]:
    tight = [Workload(threads_name(n), "threads", "run_tight", ALL, sizes.tight_rounds,
                      sizes.tight, threads=n) for n in THREADS]
    many = [Workload(many_name(n), "threads", "run_tight", ("NullHandler", *OURS),
                     sizes.claim_rounds, sizes.many, threads=n) for n in (1, 4)]
    paced = [Workload(paced_threads_name(n), "threads", "run_open",
                      ("NullHandler", "SysLogHandler", *OURS), sizes.tight_rounds,
                      int(10_000 * sizes.seconds), 10_000, True, threads=n) for n in (1, 4)]
    return tight + many + paced


def _trouble(sizes: Sizes) -> list[Workload]:
    count = int(sizes.trouble_rate * sizes.trouble_seconds)
    names = {"stall": f"the daemon stalled for {sizes.stall:g} s",
             "restart": f"the daemon restarted, away for {sizes.gap:g} s"}
    return [Workload(f"{name}, {sizes.trouble_rate:,} records/s", "trouble", "run_open", SYSLOG,
                     sizes.trouble_rounds, count, sizes.trouble_rate, True, trouble=trouble)
            for trouble, name in names.items()] + [
        Workload(STALLED, "trouble", "run_stalled",
                 ("SysLogHandler", "fastlog Logger", DROP_NEW, DROP_OLDEST),
                 sizes.tight_rounds, 0, asctime=False, trouble="stall",
                 seconds=sizes.trouble_seconds)]


def _messages(sizes: Sizes) -> list[Workload]:
    found = []
    for name, (size, asctime) in MESSAGES.items():
        if name == "short, with asctime":  # the other suites'
            continue
        found.append(Workload(f"tight, {name}", "messages", "run_tight", ALL, sizes.tight_rounds,
                              sizes.tight // 2, size=size, asctime=asctime))
        found.append(Workload(
            f"10,000 records/s, {name}", "messages", "run_open", ALL, sizes.tight_rounds,
            int(10_000 * sizes.seconds), 10_000, size=size, asctime=asctime))
    return found


def _sinks(sizes: Sizes) -> list[Workload]:
    found = []
    for sink, subjects in SINKS.items():
        if sink == "rsyslogd":  # the other suites'
            continue
        title = {"journald": "journald", "C": "the C sink"}[sink]
        count = sizes.journal if sink == "journald" else sizes.tight
        found.append(Workload(f"tight, {title}", "sinks", "run_tight", subjects,
                              sizes.tight_rounds, count, sink=sink))
        found.append(Workload(
            f"10,000 records/s, {title}", "sinks", "run_open", subjects, sizes.tight_rounds,
            int(10_000 * sizes.seconds), 10_000, sink=sink))
    return found


def all_workloads(sizes: Sizes) -> list[Workload]:
    cost = Workload(COST, "cost", "run_cost", (*SYSLOG, SPOOL), sizes.cost_rounds,
                    sizes.bursts * sizes.burst, bursts=sizes.bursts)
    throughput = [Workload(f"throughput, {sink}", "throughput", "run_loop", THROUGHPUT,
                           sizes.throughput_rounds * (1 if sink == "C" else 2),
                           sizes.journal if sink == "journald" else sizes.throughput, sink=sink)
                  for sink in SINKS]
    memory = Workload("memory", "memory", "run_memory", OURS, 1, sizes.memory[-1], sink="C",
                      marks=sizes.memory)
    return [cost, *_paced(sizes), *_threads(sizes), *_trouble(sizes), *_messages(sizes),
            *_sinks(sizes), *throughput, memory]


SUITES = ("cost", "paced", "threads", "trouble", "messages", "sinks", "throughput", "memory",
          "imports")
