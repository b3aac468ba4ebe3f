"""Logging to syslog without waiting for the daemon.

`fastlog.SysLogHandler` replaces `logging.handlers.SysLogHandler`. The bytes of a record go into a
ring buffer, and a native thread sends them. `fastlog.JournalHandler` does the same for journald,
with its fields.
"""
try:
    from fastlog import _core as _core
    if getattr(_core, "Engine", None) is None:   # cleared by Py_Finalize(), and never loaded again
        raise ImportError("Interpreter was initialized a second time")
except ImportError as _error:
    from fastlog._import_advice import advice as _advice

    raise ImportError(
        f"fastlog's native part did not load ({_error}). {_advice(_error)}") from _error

from fastlog._exit_hooks import disable_crash_drain, enable_crash_drain
from fastlog.handlers import SysLogHandler

TYPE_CHECKING = False
if TYPE_CHECKING:
    from fastlog._stats import Stats as Stats
    from fastlog.journal import JournalHandler as JournalHandler
    from fastlog.loggers import Logger as Logger, install as install, uninstall as uninstall

__all__ = [
    "JournalHandler",
    "Logger",
    "Stats",
    "SysLogHandler",
    "disable_crash_drain",
    "enable_crash_drain",
    "install",
    "uninstall",
]
__version__ = "0.1.0"


# Imported on first use, because `import fastlog` delays the start of a program.
_LAZY = {
    "JournalHandler": "journal",
    "Logger": "loggers",
    "Stats": "_stats",
    "install": "loggers",
    "uninstall": "loggers",
}


def __getattr__(name: str) -> object:
    if name not in _LAZY:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from importlib import import_module

    value = globals()[name] = getattr(import_module(f"{__name__}.{_LAZY[name]}"), name)
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})


def _imports_for_freezers() -> None:
    """Import what native modules import, and what is imported by name. Never called.

    PyInstaller and other freezers find only the imports in Python code.
    """
    import signal  # noqa: F401
    import string  # noqa: F401
    import struct  # noqa: F401
    import threading  # noqa: F401
    import types  # noqa: F401

    from fastlog import _stats, journal, loggers  # noqa: F401
    from fastlog._engine import crash_drain, reports, spool_reader  # noqa: F401
    from fastlog._frontend import (  # type: ignore[attr-defined]  # noqa: F401
        dict_guard,
        emit,
        format_parser,
        formatter,
        journal_entry,
        log_record,
        logger,
        percent,
        rfc_header,
    )
