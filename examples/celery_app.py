"""A Celery application. Its broker is the folder SHOP_QUEUE, so it needs no broker server.

Run: celery -A celery_app worker    (then request 100 tasks: python celery_app.py)
(Set SYSLOG_SOCKET to use a socket other than /dev/log.)
"""
import logging
import logging.config
import os

from celery import Celery
from celery.signals import setup_logging

queue = os.path.abspath(os.environ.get("SHOP_QUEUE", "shop-queue"))
os.makedirs(queue, exist_ok=True)
app = Celery("shop", broker="filesystem://", broker_transport_options={
    "data_folder_in": queue, "data_folder_out": queue, "control_folder": queue})
log = logging.getLogger("shop.orders")


@setup_logging.connect
def configure(**_):
    """Configure logging in place of Celery's own setup, once, before the worker forks its pool."""
    logging.config.dictConfig({
        "version": 1,
        "disable_existing_loggers": False,
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


@app.task(name="shop.pay")
def pay(number):
    log.info("order %d paid", number)
    return number


if __name__ == "__main__":
    for order in range(100):
        pay.delay(order)
