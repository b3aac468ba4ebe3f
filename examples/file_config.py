"""A program that configures logging with a file, file_config.ini.

Run: python file_config.py    (set SYSLOG_SOCKET to use a socket other than /dev/log)
"""
import logging
import logging.config
import os
from pathlib import Path

logging.config.fileConfig(
    Path(__file__).with_name("file_config.ini"),
    defaults={"socket": os.environ.get("SYSLOG_SOCKET", "/dev/log")},
    disable_existing_loggers=False)
log = logging.getLogger("shop.orders")

for number in range(100):
    log.info("order %d paid", number)
