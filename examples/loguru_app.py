"""loguru: a fastlog handler is a sink. It needs no enqueue=True, which would add a second queue.

Run: python loguru_app.py    (SYSLOG_SOCKET names another socket than /dev/log)
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
