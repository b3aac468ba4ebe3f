"""A WSGI application under gunicorn. gunicorn's own log also goes to syslog (gunicorn_conf.py).

Run: gunicorn -c gunicorn_conf.py gunicorn_app:application
"""
import logging

log = logging.getLogger("shop.orders")
log.info("application loaded")


def application(environ, start_response):
    log.info("order %s paid", environ["PATH_INFO"].rpartition("/")[2])
    start_response("200 OK", [("Content-Type", "text/plain"), ("Content-Length", "5")])
    return [b"paid\n"]
