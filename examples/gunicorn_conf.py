"""Settings for gunicorn: everything is logged to syslog, by the master and by the workers.

The handler is made in the master and the application is loaded there (preload_app); the
workers are forked later, and fastlog takes care of that.
SYSLOG_SOCKET names another socket than /dev/log.
"""
import os

preload_app = True
workers = 2

logconfig_dict = {
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
        "gunicorn.error": {"handlers": [], "level": "INFO", "propagate": True},
        "gunicorn.access": {"handlers": [], "level": "INFO", "propagate": True},
    },
}
