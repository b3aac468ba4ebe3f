"""The workloads, the subjects measured in each, and the size of each measurement.

A subject is one logging setup that is compared, which is one row of the tables.
"""
from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple


class Sizes(NamedTuple):
    """How much to measure. In each round every subject has one turn: A B C, A B C, and so on.

    Records are counted over all threads together.
    """

    cost_rounds: int
    bursts: int              # per round, of each of bare %, the NullHandler and the handler
    burst: int               # records in a burst, which must leave fastlog's ring half empty
    paced_rounds: int
    asleep_rounds: int       # paced rounds of a program that sleeps between records
    seconds: float           # duration of a paced workload
    slow_seconds: float      # its duration at 100 records/s
    tight_rounds: int
    tight: int               # records in a tight loop
    claim_rounds: int        # for claims in the summary about few calls or small differences
    many: int                # records in the longer tight loop that compares 1 and 4 threads
    throughput_rounds: int
    throughput: int          # records
    journal: int             # records sent to journald, which accepts fewer per second
    trouble_rounds: int
    stall: float             # seconds for which the daemon is stopped
    gap: float               # seconds between the daemon's exit and its restart
    trouble_rate: int        # records/s
    trouble_seconds: float
    memory: tuple[int, ...]  # numbers of records after which to read the resident memory
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


BASELINES = ("bare %", "NullHandler")  # they send nothing
FASTLOG = ("fastlog", "fastlog Logger")
SPOOL = "fastlog Logger, spool"
DROP_NEW = "fastlog Logger, drop_new"
DROP_OLDEST = "fastlog Logger, drop_oldest"
COST = "cost of a call"
STALLED = "daemon stalled, tight loop"
PEERS = ("SysLogHandler", "QueueHandler", "backgroundlog", "loguru", "picologging", "rfc5424")
JOURNAL_PEERS = ("systemd-python", "cysystemd")
JOURNAL_FASTLOG = ("fastlog JournalHandler", "fastlog JournalHandler, Logger")
#: Subjects that cannot send to a syslog socket.
JOURNAL_ONLY = (*JOURNAL_PEERS, *JOURNAL_FASTLOG)
SYSLOG = (*PEERS, *FASTLOG)
ALL = (*BASELINES, *SYSLOG)
JOURNAL = (*BASELINES, *PEERS, *JOURNAL_PEERS, *FASTLOG, *JOURNAL_FASTLOG)
C_LOOP, DRAIN = "C sendto", "fastlog drain"
THROUGHPUT = (C_LOOP, DRAIN, "fastlog", "fastlog Logger", "SysLogHandler")

#: A description of each subject, printed beneath the tables.
SETUPS = {
    "bare %": "`message % args` in a function that does nothing else, which is the lower bound",
    "NullHandler": "the standard library's Logger with a NullHandler",
    "SysLogHandler": "the standard library's handler",
    "QueueHandler": "the standard library's QueueHandler and QueueListener in front of "
                    "SysLogHandler",
    "backgroundlog": "its ThreadHandler around SysLogHandler, with its defaults. When its queue of "
                     "1,000 records is full, it drops records below ERROR",
    "loguru": "SysLogHandler as its sink, with `enqueue=True`",
    "picologging": "its Logger with SysLogHandler, because it has no syslog handler of its own",
    "rfc5424": "the handler of rfc5424-logging-handler",
    "systemd-python": "its JournalHandler",
    "cysystemd": "its JournaldLogHandler",
    "fastlog": "fastlog.SysLogHandler behind the standard library's Logger",
    "fastlog Logger": "fastlog.SysLogHandler behind fastlog.Logger",
    JOURNAL_FASTLOG[0]: "fastlog.JournalHandler behind the standard library's Logger",
    JOURNAL_FASTLOG[1]: "fastlog.JournalHandler behind fastlog.Logger",
    SPOOL: "fastlog Logger with its ring in a file on a tmpfs",
    DROP_NEW: 'fastlog Logger with `overflow="drop_new"`',
    DROP_OLDEST: 'fastlog Logger with `overflow="drop_oldest"`',
    C_LOOP: "a C loop of blocking `sendto` calls",
    DRAIN: "fastlog's writer alone. All records are in its ring when the clock starts",
}


@dataclass(frozen=True)
class Workload:
    name: str                # a key in results/*.json
    suite: str
    runner: str              # the function of worker.py that runs it
    subjects: tuple[str, ...]
    rounds: int
    count: int               # records, of all threads together
    rate: int = 0            # records/s of all threads together, or 0 for a tight loop
    asleep: bool = False     # whether the program sleeps between paced records
    threads: int = 1
    size: int = 0            # bytes added to each message
    asctime: bool = True     # whether the format includes the time
    sink: str = "rsyslogd"   # or "journald" or "C"
    fault: str = ""          # what happens to the daemon: "stall", "restart" or ""
    bursts: int = 0          # of the cost suite
    seconds: float = 0.0     # duration of a loop whose number of records is not known in advance
    marks: tuple[int, ...] = ()  # numbers of records after which to read the resident memory


RATES = (100, 1_000, 10_000, 50_000)
ASLEEP = {"busy": False, "asleep": True}
THREAD_COUNTS = (1, 2, 4, 8)
#: The bytes added to each message, and whether the format includes the time.
MESSAGES = {"short, with asctime": (0, True), "short, without asctime": (0, False),
            "2 KB, with asctime": (2_000, True), "2 KB, without asctime": (2_000, False)}
SINKS = {"rsyslogd": ALL, "journald": JOURNAL, "C": ALL}


def paced_name(rate: int, between: str) -> str:
    return f"{rate:,} records/s, {between} in between"


def tight_name(threads: int) -> str:
    return f"tight, {threads} thread{'s' if threads > 1 else ''}"


def long_tight_name(threads: int) -> str:
    return f"{tight_name(threads)}, many records"


def paced_threads_name(threads: int) -> str:
    return f"10,000 records/s, {threads} thread{'s' if threads > 1 else ''}, asleep in between"


def _paced_workloads(sizes: Sizes) -> list[Workload]:
    workloads = []
    for rate in RATES:
        seconds = sizes.slow_seconds if rate == 100 else sizes.seconds
        for between, asleep in ASLEEP.items():
            workloads.append(Workload(
                paced_name(rate, between), "paced", "run_open_loop", (*ALL, SPOOL),
                sizes.asleep_rounds if asleep else
                sizes.claim_rounds if rate == 10_000 else sizes.paced_rounds,
                max(5, int(rate * seconds)), rate, asleep))
    return workloads


def _thread_workloads(sizes: Sizes) -> list[Workload]:
    tight = [Workload(tight_name(n), "threads", "run_tight_loop", ALL, sizes.tight_rounds,
                      sizes.tight, threads=n) for n in THREAD_COUNTS]
    long_tight = [Workload(long_tight_name(n), "threads", "run_tight_loop",
                           ("NullHandler", *FASTLOG), sizes.claim_rounds, sizes.many, threads=n)
                  for n in (1, 4)]
    paced = [Workload(paced_threads_name(n), "threads", "run_open_loop",
                      ("NullHandler", "SysLogHandler", *FASTLOG), sizes.tight_rounds,
                      int(10_000 * sizes.seconds), 10_000, True, threads=n) for n in (1, 4)]
    return tight + long_tight + paced


def _trouble_workloads(sizes: Sizes) -> list[Workload]:
    count = int(sizes.trouble_rate * sizes.trouble_seconds)
    names = {"stall": f"the daemon stalled for {sizes.stall:g} s",
             "restart": f"the daemon restarted, away for {sizes.gap:g} s"}
    paced = [Workload(f"{name}, {sizes.trouble_rate:,} records/s", "trouble", "run_open_loop",
                      SYSLOG, sizes.trouble_rounds, count, sizes.trouble_rate, True, fault=fault)
             for fault, name in names.items()]
    stalled = Workload(STALLED, "trouble", "run_stalled",
                       ("SysLogHandler", "fastlog Logger", DROP_NEW, DROP_OLDEST),
                       sizes.tight_rounds, 0, asctime=False, fault="stall",
                       seconds=sizes.trouble_seconds)
    return [*paced, stalled]


def _message_workloads(sizes: Sizes) -> list[Workload]:
    workloads = []
    for name, (size, asctime) in MESSAGES.items():
        if name == "short, with asctime":  # measured by the other suites
            continue
        workloads.append(Workload(f"tight, {name}", "messages", "run_tight_loop", ALL,
                                  sizes.tight_rounds, sizes.tight // 2, size=size,
                                  asctime=asctime))
        workloads.append(Workload(
            f"10,000 records/s, {name}", "messages", "run_open_loop", ALL, sizes.tight_rounds,
            int(10_000 * sizes.seconds), 10_000, size=size, asctime=asctime))
    return workloads


def _sink_workloads(sizes: Sizes) -> list[Workload]:
    workloads = []
    for sink, subjects in SINKS.items():
        if sink == "rsyslogd":  # measured by the other suites
            continue
        title = {"journald": "journald", "C": "the C sink"}[sink]
        count = sizes.journal if sink == "journald" else sizes.tight
        workloads.append(Workload(f"tight, {title}", "sinks", "run_tight_loop", subjects,
                                  sizes.tight_rounds, count, sink=sink))
        workloads.append(Workload(
            f"10,000 records/s, {title}", "sinks", "run_open_loop", subjects, sizes.tight_rounds,
            int(10_000 * sizes.seconds), 10_000, sink=sink))
    return workloads


def all_workloads(sizes: Sizes) -> list[Workload]:
    """Return the workloads of all suites but "imports", which has none."""
    cost = Workload(COST, "cost", "run_cost", (*SYSLOG, SPOOL), sizes.cost_rounds,
                    sizes.bursts * sizes.burst, bursts=sizes.bursts)
    throughput = [Workload(f"throughput, {sink}", "throughput", "run_untimed_loop", THROUGHPUT,
                           sizes.throughput_rounds * (1 if sink == "C" else 2),
                           sizes.journal if sink == "journald" else sizes.throughput, sink=sink)
                  for sink in SINKS]
    memory = Workload("memory", "memory", "run_memory", FASTLOG, 1, sizes.memory[-1], sink="C",
                      marks=sizes.memory)
    return [cost, *_paced_workloads(sizes), *_thread_workloads(sizes), *_trouble_workloads(sizes),
            *_message_workloads(sizes), *_sink_workloads(sizes), *throughput, memory]


SUITES = ("cost", "paced", "threads", "trouble", "messages", "sinks", "throughput", "memory",
          "imports")
