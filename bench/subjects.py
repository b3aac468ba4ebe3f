"""The handlers compared, each set up as its own documentation says.

A factory takes the daemon's address and whether records carry the time, and
returns a Subject. Libraries are imported by their factory: the process that is
measured has only its own.
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


def _nothing() -> None:
    pass


@dataclass
class Subject:
    """What is timed, and how to make all of its records leave the process."""

    info: Info
    drain: Callable[[], object] = _nothing
    message: str = MESSAGE
    #: What the handler itself knows of records that it dropped.
    dropped: Callable[[], int] = lambda: 0


def _formatter(asctime: bool) -> logging.Formatter | None:
    return logging.Formatter(FORMAT) if asctime else None


def _set_up(handler: logging.handlers.SysLogHandler, asctime: bool) -> None:
    handler.ident = f"{IDENT}: "
    handler.setFormatter(_formatter(asctime))


def _stdlib_handler(address: str, asctime: bool) -> logging.handlers.SysLogHandler:
    handler = logging.handlers.SysLogHandler(address, facility="local0")
    _set_up(handler, asctime)
    return handler


def _logger(*handlers: logging.Handler) -> logging.Logger:
    log = logging.Logger("bench", logging.INFO)
    for handler in handlers:
        log.addHandler(handler)
    return log


# --- the floors ----------------------------------------------------------------------------------

def make_percent(address: str, asctime: bool) -> Subject:
    """The call of a function that does `message % args` and nothing else."""
    def info(message: str, *args: object) -> None:
        message % args
    return Subject(info)


def make_null(address: str, asctime: bool) -> Subject:
    return Subject(_logger(logging.NullHandler()).info)


# --- ours ----------------------------------------------------------------------------------------

def make_fastlog(address: str, asctime: bool, own_logger: bool = False,
                 **options: Any) -> Subject:
    import fastlog

    handler = fastlog.SysLogHandler(address, facility="local0", **options)
    _set_up(handler, asctime)
    log = fastlog.Logger("bench", logging.INFO) if own_logger else _logger()
    log.addHandler(handler)

    def lost() -> int:
        stats = handler.stats()
        return stats.dropped + stats.discarded
    return Subject(log.info, lambda: handler.flush(60), dropped=lost)


def make_fastlog_logger(address: str, asctime: bool) -> Subject:
    return make_fastlog(address, asctime, own_logger=True)


def make_fastlog_spool(address: str, asctime: bool) -> Subject:
    """With its ring in a file on a tmpfs, as docs/crash-safety.md recommends."""
    with tempfile.TemporaryDirectory(prefix="fl-", dir="/dev/shm") as directory:
        # The file's name goes at once; the file as long as the process.
        return make_fastlog(address, asctime, own_logger=True, spool=f"{directory}/spool")


def make_fastlog_journal(address: str, asctime: bool, own_logger: bool = False) -> Subject:
    """On journald's own socket, whatever the address."""
    import fastlog

    handler = fastlog.JournalHandler(ident=IDENT, facility="local0")
    handler.setFormatter(_formatter(asctime))
    log = fastlog.Logger("bench", logging.INFO) if own_logger else _logger()
    log.addHandler(handler)
    return Subject(log.info, lambda: handler.flush(60), dropped=lambda: handler.stats().dropped)


# --- the others ----------------------------------------------------------------------------------

def make_stdlib(address: str, asctime: bool) -> Subject:
    return Subject(_logger(_stdlib_handler(address, asctime)).info)


def make_queue(address: str, asctime: bool) -> Subject:
    """As in the standard library's "Logging Cookbook", "Dealing with handlers that block"."""
    import queue

    waiting: queue.Queue[logging.LogRecord] = queue.Queue(-1)
    listener = logging.handlers.QueueListener(waiting, _stdlib_handler(address, asctime))
    listener.start()
    return Subject(_logger(logging.handlers.QueueHandler(waiting)).info, waiting.join)


def make_backgroundlog(address: str, asctime: bool) -> Subject:
    """With its defaults: a queue of 1,000 records; below ERROR a full one drops."""
    from backgroundlog.handlers.thread_handler import ThreadHandler

    handler = ThreadHandler(_stdlib_handler(address, asctime))
    waiting = vars(handler)["_ThreadHandler__queue"]

    def drain() -> None:
        while not waiting.empty():  # it has no flush, and its queue no join
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
    """Its Logger in front of the standard library's handler: it has no SysLogHandler.

    The formatter is the standard library's, too: picologging's writes freed
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
    "fastlog JournalHandler, Logger": partial(make_fastlog_journal, own_logger=True),
    "fastlog Logger, spool": make_fastlog_spool,
    "fastlog Logger, drop_new": partial(make_fastlog, own_logger=True, overflow="drop_new"),
    "fastlog Logger, drop_oldest": partial(make_fastlog, own_logger=True, overflow="drop_oldest"),
}
