"""The fast Logger, and how it takes the place of the standard library's."""
from __future__ import annotations

import logging

from fastlog._frontend import logger as _logger


class Logger(logging.Logger):
    """A logging.Logger whose calls make no LogRecord where no one needs it.

    No LogRecord is made if the one handler that the call meets is fastlog's, with
    a plain logging.Formatter that needs none, there are no filters, and the call
    has neither `extra`, `exc_info` nor `stack_info`. In all other cases one is
    made, natively, and handled as always. Subclasses and patches that replace
    steps of a call get the standard library's code.

    name: str, the channel's name; level: number or name.

    Thread-safe like logging.Logger. See install() to have getLogger() make these.
    """

    __setattr__ = _logger.logger_set_attribute
    __delattr__ = _logger.logger_delete_attribute


_logger.install_native_methods(Logger)


class RootLogger(Logger, logging.RootLogger):
    """The root of the hierarchy, likewise."""


_UPGRADES: dict[type[logging.Logger], type[logging.Logger]] = {
    logging.Logger: Logger,
    logging.RootLogger: RootLogger,
}


def install() -> None:
    """Make fastlog.Logger the class of all loggers, those that exist included.

    Loggers of other classes stay as they are. Idempotent, thread-safe.

    Raises RuntimeError, and changes nothing, if another class was set with
    logging.setLoggerClass(): let that inherit from fastlog.Logger instead.
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
    """Undo install(): all loggers are the standard library's again."""
    if logging.getLoggerClass() is Logger:
        logging.setLoggerClass(logging.Logger)
    _change_classes({ours: stock for stock, ours in _UPGRADES.items()})


def _change_classes(changes: dict[type[logging.Logger], type[logging.Logger]]) -> None:
    manager = logging.Logger.manager
    for logger in [manager.root, *manager.loggerDict.copy().values()]:
        if type(logger) in changes:
            logger.__class__ = changes[type(logger)]  # type: ignore[index]
    _logger.invalidate_plans()
