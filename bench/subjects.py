"""The subjects, which are the logging setups that the benchmarks compare.

Each is set up as its documentation says. A factory takes the daemon's address and whether the
format includes the time, and returns a Subject. Each factory imports its own library, so that the
measured process loads no other.
"""
from __future__ import annotations

import logging
import logging.handlers
import tempfile
import time
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING

from fastlog.cli.bench import FORMAT, MESSAGE

if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Any

    from fastlog.cli.bench import Info

IDENT = "ServerLog"


def _no_op() -> None:
    pass


@dataclass
class Subject:
    """A logging setup that is ready to log."""

    #: The function to time.
    info: Info
    #: Waits until all records have left the process.
    drain: Callable[[], object] = _no_op
    message: str = MESSAGE
    #: Returns the number of lost records that the handler itself reports.
    dropped: Callable[[], int] = lambda: 0


def _formatter(asctime: bool) -> logging.Formatter | None:
    return logging.Formatter(FORMAT) if asctime else None


def _configure(handler: logging.handlers.SysLogHandler, asctime: bool) -> None:
    handler.ident = f"{IDENT}: "
    handler.setFormatter(_formatter(asctime))


def _stdlib_handler(address: str, asctime: bool) -> logging.handlers.SysLogHandler:
    handler = logging.handlers.SysLogHandler(address, facility="local0")
    _configure(handler, asctime)
    return handler


def _logger(*handlers: logging.Handler) -> logging.Logger:
    log = logging.Logger("bench", logging.INFO)
    for handler in handlers:
        log.addHandler(handler)
    return log


# --- baselines -----------------------------------------------------------------------------------

def make_percent(address: str, asctime: bool) -> Subject:
    """Time a function that evaluates `message % args` and does nothing else."""
    def info(message: str, *args: object) -> None:
        message % args
    return Subject(info)


def make_null(address: str, asctime: bool) -> Subject:
    return Subject(_logger(logging.NullHandler()).info)


# --- fastlog -------------------------------------------------------------------------------------

def make_fastlog(address: str, asctime: bool, fast_logger: bool = False,
                 **options: Any) -> Subject:
    import fastlog

    handler = fastlog.SysLogHandler(address, facility="local0", **options)
    _configure(handler, asctime)
    log = fastlog.Logger("bench", logging.INFO) if fast_logger else _logger()
    log.addHandler(handler)

    def lost() -> int:
        stats = handler.stats()
        return stats.dropped + stats.discarded
    return Subject(log.info, lambda: handler.flush(60), dropped=lost)


def make_fastlog_logger(address: str, asctime: bool) -> Subject:
    return make_fastlog(address, asctime, fast_logger=True)


def make_fastlog_spool(address: str, asctime: bool) -> Subject:
    """Create the ring in a file on a tmpfs, as docs/crash-safety.md recommends."""
    with tempfile.TemporaryDirectory(prefix="fl-", dir="/dev/shm") as directory:
        # The directory is removed at once. The unlinked file exists until the process exits.
        return make_fastlog(address, asctime, fast_logger=True, spool=f"{directory}/spool")


def make_fastlog_journal(address: str, asctime: bool, fast_logger: bool = False) -> Subject:
    """Send to journald's native socket, whatever the address."""
    import fastlog

    handler = fastlog.JournalHandler(ident=IDENT, facility="local0")
    handler.setFormatter(_formatter(asctime))
    log = fastlog.Logger("bench", logging.INFO) if fast_logger else _logger()
    log.addHandler(handler)
    return Subject(log.info, lambda: handler.flush(60), dropped=lambda: handler.stats().dropped)


# --- other libraries -----------------------------------------------------------------------------

def make_stdlib(address: str, asctime: bool) -> Subject:
    return Subject(_logger(_stdlib_handler(address, asctime)).info)


def make_queue(address: str, asctime: bool) -> Subject:
    """Follow "Dealing with handlers that block" in the standard library's Logging Cookbook."""
    import queue

    records: queue.Queue[logging.LogRecord] = queue.Queue(-1)
    listener = logging.handlers.QueueListener(records, _stdlib_handler(address, asctime))
    listener.start()
    return Subject(_logger(logging.handlers.QueueHandler(records)).info, records.join)


def make_backgroundlog(address: str, asctime: bool) -> Subject:
    """Use its defaults. When its queue of 1,000 records is full, it drops records below ERROR."""
    from backgroundlog.handlers.thread_handler import ThreadHandler

    handler = ThreadHandler(_stdlib_handler(address, asctime))
    records = vars(handler)["_ThreadHandler__queue"]

    def drain() -> None:
        while not records.empty():  # the handler has no flush(), and its queue has no join()
            time.sleep(0.001)
    return Subject(_logger(handler).info, drain, dropped=lambda: handler.dropped_log_record_count)


def make_loguru(address: str, asctime: bool) -> Subject:
    from loguru import logger

    logger.remove()
    text = "{time:YYYY-MM-DD HH:mm:ss,SSS} - {name} - {level} - {message}"
    logger.add(_stdlib_handler(address, False), enqueue=True,
               format=text if asctime else "{message}")
    return Subject(logger.info, logger.complete, "call some_func {} from {}")


def make_picologging(address: str, asctime: bool) -> Subject:
    """Put its Logger in front of the standard library's handler, as it has no SysLogHandler.

    The formatter is the standard library's, too, because picologging's Formatter writes freed
    memory in place of asctime on CPython 3.11.
    """
    import picologging

    log = picologging.Logger("bench", picologging.INFO)
    log.addHandler(_stdlib_handler(address, asctime))
    return Subject(log.info)


def make_rfc5424(address: str, asctime: bool) -> Subject:
    from rfc5424logging import Rfc5424SysLogHandler

    handler = Rfc5424SysLogHandler(address, facility=16, appname=IDENT)  # 16: local0
    handler.setFormatter(_formatter(asctime))
    return Subject(_logger(handler).info)


def make_systemd_python(address: str, asctime: bool) -> Subject:
    from systemd.journal import JournalHandler

    handler = JournalHandler(SYSLOG_IDENTIFIER=IDENT)
    handler.setFormatter(_formatter(asctime))
    return Subject(_logger(handler).info)


def make_cysystemd(address: str, asctime: bool) -> Subject:
    from cysystemd.journal import Facility, JournaldLogHandler

    handler = JournaldLogHandler(IDENT, Facility.LOCAL0)
    handler.setFormatter(_formatter(asctime))
    return Subject(_logger(handler).info)


FACTORIES: dict[str, Callable[[str, bool], Subject]] = {
    "bare %": make_percent,
    "NullHandler": make_null,
    "SysLogHandler": make_stdlib,
    "QueueHandler": make_queue,
    "backgroundlog": make_backgroundlog,
    "loguru": make_loguru,
    "picologging": make_picologging,
    "rfc5424": make_rfc5424,
    "systemd-python": make_systemd_python,
    "cysystemd": make_cysystemd,
    "fastlog": make_fastlog,
    "fastlog Logger": make_fastlog_logger,
    "fastlog JournalHandler": make_fastlog_journal,
    "fastlog JournalHandler, Logger": partial(make_fastlog_journal, fast_logger=True),
    "fastlog Logger, spool": make_fastlog_spool,
    "fastlog Logger, drop_new": partial(make_fastlog, fast_logger=True, overflow="drop_new"),
    "fastlog Logger, drop_oldest": partial(make_fastlog, fast_logger=True, overflow="drop_oldest"),
}
