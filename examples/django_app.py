"""A Django site in one file. Copy LOGGING into your settings.py.

Run: python django_app.py runserver    (set SYSLOG_SOCKET to use a socket other than /dev/log)
"""
import logging
import os
import sys

from django.conf import settings
from django.core.management import execute_from_command_line
from django.core.wsgi import get_wsgi_application
from django.http import HttpResponse
from django.urls import path

LOGGING = {
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
    # Django's own loggers have console and mail handlers. Without these, they use the root's.
    "loggers": {
        "django": {"handlers": [], "level": "INFO"},
        "django.server": {"handlers": [], "propagate": True},
    },
}

settings.configure(
    ALLOWED_HOSTS=["localhost", "127.0.0.1"], LOGGING=LOGGING, ROOT_URLCONF=__name__,
    SECRET_KEY=os.environ.get("SECRET_KEY", "only for trying it out"))
log = logging.getLogger("shop.orders")


def pay(request, number):
    log.info("order %d paid", number)
    return HttpResponse("paid\n")


urlpatterns = [path("pay/<int:number>", pay)]
application = get_wsgi_application()  # for a WSGI server: gunicorn django_app:application

if __name__ == "__main__":
    execute_from_command_line(sys.argv)
