"""The fast Logger, and functions that install it in place of the standard library's."""
from __future__ import annotations

import logging

from fastlog._frontend import logger as _logger


class Logger(logging.Logger):
    """A logging.Logger whose calls make a LogRecord only if something needs it.

    A call does without a LogRecord if it reaches only one handler, which is fastlog's and has a
    plain logging.Formatter that needs none, if no filters are set, and if the call has neither
    `extra`, `exc_info` nor `stack_info`. All other calls make one natively and handle it as usual.
    If a subclass or a patch replaces a step of a call, the standard library's code runs.

    name: str, the name of the logger.
    level: number or name.

    Thread-safe like logging.Logger. install() makes getLogger() return instances of this class.
    """

    __setattr__ = _logger.logger_set_attribute
    __delattr__ = _logger.logger_delete_attribute


_logger.install_native_methods(Logger)


class RootLogger(Logger, logging.RootLogger):
    """A fast logger for the root of the hierarchy."""


_UPGRADES: dict[type[logging.Logger], type[logging.Logger]] = {
    logging.Logger: Logger,
    logging.RootLogger: RootLogger,
}


def install() -> None:
    """Make fastlog.Logger the class of all loggers, including existing ones.

    Existing loggers of a class other than logging.Logger do not change. Idempotent, thread-safe.

    Raises RuntimeError, and changes nothing, if another class was set with
    logging.setLoggerClass(). Let that class inherit from fastlog.Logger instead.
    """
    current = logging.getLoggerClass()
    if current is not logging.Logger and not issubclass(current, Logger):
        raise RuntimeError(
            f"logging's logger class is {current.__module__}.{current.__qualname__}: "
            "fastlog.install() would take its place; let it inherit from fastlog.Logger instead")
    if current is logging.Logger:
        logging.setLoggerClass(Logger)
    _change_classes(_UPGRADES)


def uninstall() -> None:
    """Undo install(), so that all loggers are the standard library's again."""
    if logging.getLoggerClass() is Logger:
        logging.setLoggerClass(logging.Logger)
    _change_classes({fast: stdlib for stdlib, fast in _UPGRADES.items()})


def _change_classes(changes: dict[type[logging.Logger], type[logging.Logger]]) -> None:
    manager = logging.Logger.manager
    for logger in [manager.root, *manager.loggerDict.copy().values()]:
        if type(logger) in changes:
            logger.__class__ = changes[type(logger)]  # type: ignore[index]
    _logger.invalidate_plans()
