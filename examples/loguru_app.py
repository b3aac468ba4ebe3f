"""loguru with a fastlog handler as its sink. enqueue=True would only add a second queue.

Run: python loguru_app.py    (set SYSLOG_SOCKET to use a socket other than /dev/log)
"""
import os

from loguru import logger

import fastlog

logger.remove()
logger.add(
    fastlog.SysLogHandler(os.environ.get("SYSLOG_SOCKET"), "local0", ident="shop: "),
    format="{level}: {message}", level="INFO")

for number in range(100):
    logger.info("order {} paid", number)
