"""A FastAPI application under uvicorn. uvicorn's own log also goes to syslog.

Run: uvicorn fastapi_app:app --workers 2    (set SYSLOG_SOCKET to use a socket other than /dev/log)
"""
import logging
import logging.config
import os

from fastapi import FastAPI

# In each worker, uvicorn configures its loggers before it imports this module, so this
# configuration takes precedence.
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
