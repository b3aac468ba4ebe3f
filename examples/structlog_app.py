"""structlog: it renders JSON, and the standard library's logger passes the line to fastlog.

Run: python structlog_app.py    (set SYSLOG_SOCKET to use a socket other than /dev/log)
"""
import logging
import os

import structlog

import fastlog

handler = fastlog.SysLogHandler(os.environ.get("SYSLOG_SOCKET"), "local0", ident="shop: @cee: ")
logging.basicConfig(level=logging.INFO, handlers=[handler], format="%(message)s")
structlog.configure(
    processors=[
        structlog.contextvars.merge_contextvars,
        structlog.stdlib.filter_by_level,
        structlog.stdlib.add_logger_name,
        structlog.stdlib.add_log_level,
        structlog.processors.format_exc_info,
        structlog.processors.JSONRenderer(),
    ],
    logger_factory=structlog.stdlib.LoggerFactory(),
    wrapper_class=structlog.stdlib.BoundLogger,
    cache_logger_on_first_use=True)
log = structlog.get_logger("shop.orders").bind(till=3)

for number in range(100):
    log.info("paid", order=number)
