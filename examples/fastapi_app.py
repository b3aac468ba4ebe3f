"""A FastAPI application under uvicorn, whose own log goes to syslog, too.

Run: uvicorn fastapi_app:app --workers 2    (SYSLOG_SOCKET names another socket than /dev/log)
"""
import logging
import logging.config
import os

from fastapi import FastAPI

# In each worker uvicorn configures its loggers, then imports this: this has the last word.
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
    "loggers": {
        "uvicorn": {"handlers": [], "propagate": True},
        "uvicorn.access": {"handlers": [], "propagate": True},
    },
})
log = logging.getLogger("shop.orders")
app = FastAPI()


@app.get("/pay/{number}")
async def pay(number: int):
    log.info("order %d paid", number)
    return {"paid": number}
