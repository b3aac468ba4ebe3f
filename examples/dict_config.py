"""A program that configures logging with a dict, the most common way.

Run: python dict_config.py    (set SYSLOG_SOCKET to use a socket other than /dev/log)
"""
import logging
import logging.config
import os

logging.config.dictConfig({
    "version": 1,
    "formatters": {"plain": {"format": "%(name)s: %(levelname)s: %(message)s"}},
    "handlers": {
        "syslog": {
            "class": "fastlog.SysLogHandler",
            "address": os.environ.get("SYSLOG_SOCKET"),  # None: /dev/log
            "facility": "local0",
            "ident": "shop: ",
            "formatter": "plain",
        },
    },
    "root": {"handlers": ["syslog"], "level": "INFO"},
})
log = logging.getLogger("shop.orders")

for number in range(100):
    log.info("order %d paid", number)
try:
    int("12,50")
except ValueError:
    log.exception("order 100 failed")
