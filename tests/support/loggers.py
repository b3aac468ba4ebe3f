"""Loggers for tests."""
from __future__ import annotations

import logging


def make_logger(*handlers, level=logging.DEBUG):
    """Return a new logger that no other test can reach."""
    logger = logging.Logger("test", level)
    for handler in handlers:
        logger.addHandler(handler)
    return logger
