"""A scene in which the same program runs once with each kind of logger.

A scenario is a function that logs with the logger of a `Scene`. Both kinds of logger must produce
the same bytes, the same errors and the same result.
"""
import logging
import sys

import fastlog
from fastlog import loggers

FORMAT = ("%(name)s|%(levelname)-8s|%(levelno)d|%(pathname)s|%(filename)s|%(module)s|%(lineno)d|"
          "%(funcName)s|%(threadName)s|%(process)d|%(processName)s|%(message)s")


class Scenarios(dict):
    """Scenarios by name. The names are the parameter ids of the tests."""

    def register(self, scenario):
        """Add a function under its name. For use as a decorator."""
        self[scenario.__name__] = scenario
        return scenario


class Scene:
    """A logger of one class, and a handler whose records and errors are collected.

    Attributes: `cls`, the class of the logger; `log`, the logger; `handler`, its handler;
    `received`, the datagrams that arrived; `errors`, a pair of the record's getMessage and the
    exception's type for each call of handleError.
    """

    def __init__(self, cls, make_handler, sink):
        self.cls = cls
        self.make_handler = make_handler
        self.sink = sink
        self.errors = []
        self.received = []
        scene = self

        class Handler(fastlog.SysLogHandler):
            def handleError(self, record):
                scene.errors.append((record.getMessage, type(sys.exc_info()[1])))

        self.handler = make_handler(sink.path, cls=Handler, linger=0, append_nul=False)
        self.handler.setFormatter(logging.Formatter(FORMAT))
        self.log = cls("scene.x", logging.DEBUG)
        self.log.manager = logging.Manager(self.make_root(cls))
        self.log.addHandler(self.handler)

    @staticmethod
    def make_root(cls):
        return (loggers.RootLogger if cls is fastlog.Logger else logging.RootLogger)(logging.DEBUG)

    def settle(self, *other_handlers):
        """Receive datagrams until all handlers are flushed, because a socket's queue is short."""
        is_flushed = False
        while not is_flushed:
            is_flushed = all([handler.flush(0.01) for handler in (self.handler, *other_handlers)])
            while not self.sink.is_empty():
                self.received.append(self.sink.take_one())


def run_scenario(scenario, cls, make_handler, sink):
    """Run a scenario with a logger of one class; return its result, datagrams and error types."""
    scene = Scene(cls, make_handler, sink)
    result = scenario(scene)
    scene.settle()
    return result, scene.received, [error_type for _, error_type in scene.errors]
