"""A Celery application. Its broker is a folder, SHOP_QUEUE, so that it runs without a server.

Run: celery -A celery_app worker    and then, to ask for 100 tasks: python celery_app.py
(SYSLOG_SOCKET names another socket than /dev/log)
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
    """Called instead of Celery's own set-up, once, before the worker forks its pool."""
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
