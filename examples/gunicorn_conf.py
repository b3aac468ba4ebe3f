"""Settings for gunicorn: the master and the workers log everything to syslog.

The master creates the handler and loads the application (preload_app) before it forks the
workers. fastlog handles the fork. Set SYSLOG_SOCKET to use a socket other than /dev/log.
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
