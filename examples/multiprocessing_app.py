"""A pool of processes that log. Forked processes inherit the handler. Others create their own.

Run: python multiprocessing_app.py [fork | spawn | forkserver]
"""
import logging
import multiprocessing
import os
import sys

import fastlog

log = logging.getLogger("shop.orders")


def configure():
    """Configure logging unless the configuration was inherited.

    Set SYSLOG_SOCKET to use a socket other than /dev/log.
    """
    if not logging.getLogger().handlers:
        handler = fastlog.SysLogHandler(os.environ.get("SYSLOG_SOCKET"), "local0", ident="shop: ")
        logging.basicConfig(level=logging.INFO, handlers=[handler],
                            format="%(name)s: %(levelname)s: %(message)s")


def pay(number):
    log.info("order %d paid", number)


if __name__ == "__main__":
    configure()
    context = multiprocessing.get_context(*sys.argv[1:])
    with context.Pool(4, initializer=configure) as pool:
        pool.map(pay, range(100), chunksize=5)
        pool.close()
        pool.join()
    log.info("all paid")
