"""The logging handler: the standard library's interface in front of an Engine."""
from __future__ import annotations

import contextlib
import errno
import logging
import logging.handlers
import os
import socket
import sys

from fastlog import _emit, _lifecycle, _options
from fastlog._core import Engine

TYPE_CHECKING = False  # importing typing takes as long as all of fastlog
if TYPE_CHECKING:
    from typing import Literal

    from fastlog._stats import Stats

_CONNECT_UNIXSOCKET = vars(logging.handlers.SysLogHandler)["_connect_unixsocket"]


class SysLogHandler(logging.handlers.SysLogHandler):
    """Sends records to syslog without making the logging thread wait for it.

    The bytes are those of `logging.handlers.SysLogHandler` (CPython,
    Lib/logging/handlers.py), whose attributes and methods are all here.
    Thread-safe; the call takes no lock unless a subclass overrides `emit`, or
    the formatter is not a plain `logging.Formatter`.

    address: path of a unix socket (str or PathLike; a leading NUL means the
        abstract namespace), or (host, port). None: /dev/log, else
        /run/systemd/journal/dev-log. It need not exist or answer yet: records
        wait in the ring until it does. A host's name is looked up by the writer.
    facility: name or number (0-23).
    socktype: socket.SOCK_DGRAM, socket.SOCK_STREAM, or None: datagram, and for
        a unix socket stream if that is what listens.
    timeout: seconds that the writer gives a TCP connect; None: what the kernel
        allows. No call waits for it.
    protocol: "stdlib": `<PRI>` + ident + message, + NUL if append_nul.
    framing: of records on a stream. None: the standard library's, which is none.
        "octet-counting" or "newline": as in RFC 6587; append_nul is then False
        by default, and with "newline" a line feed in a message becomes #012.
    ident: put before each message, "" by default. An attribute, read at each
        record, like append_nul.
    append_nul: end each message with a NUL byte, True by default.
    capacity: bytes of the ring, a power of two; default 4 MiB. Records below
        WARNING may fill seven eighths of it.
    overflow: what a record meets that finds the ring full. "block": it waits
        while the daemon takes records; after block_timeout without progress it
        and all that follow are dropped, until there is progress. "drop_new":
        it is dropped.
    block_timeout: seconds; default 0.2.
    linger: seconds after which the writer looks again for records while they
        keep coming, default 0.002. While none come this grows up to 16 times,
        which is the longest that a record below urgent_level is held back. 0:
        never hold a record back; each costs a wake-up when the writer sleeps.
    urgent_level: records of this level and above (number or name) leave at
        once; default logging.ERROR.
    close_timeout: seconds that close() and flush() try to deliver what is
        pending; default 5.

    Raises TypeError or ValueError, which names the argument, and OSError if
    the ring cannot be allocated.
    """

    def __init__(
        self,
        address: str | os.PathLike[str] | tuple[str, int] | None = None,
        facility: int | str = logging.handlers.SysLogHandler.LOG_USER,
        socktype: int | None = None,
        timeout: float | None = None,
        *,
        protocol: Literal["stdlib"] = "stdlib",
        framing: Literal["octet-counting", "newline"] | None = None,
        ident: str | None = None,
        append_nul: bool | None = None,
        capacity: int = 4 * 1024 * 1024,
        overflow: Literal["block", "drop_new"] = "block",
        block_timeout: float = 0.2,
        linger: float = 0.002,
        urgent_level: int | str = logging.ERROR,
        close_timeout: float = 5.0,
    ) -> None:
        paths: tuple[str, ...] = ()
        host, port = "", 0
        if address is None:
            paths = _options.DEFAULT_PATHS
        elif isinstance(address, (str, os.PathLike)):
            paths = (_options.socket_path(address),)
        else:
            host, port = _options.host_and_port(address)
        self._destination = (host, port)
        self.address = paths[0] if paths else self._destination
        self.unixsocket = bool(paths)
        # Wider than typeshed's types: the standard library takes names and None as well.
        self.facility = _options.facility(facility, self.facility_names)  # type: ignore[assignment]
        self.socktype = _options.socktype(socktype)  # type: ignore[assignment]
        if host and socktype is None:
            self.socktype = socket.SOCK_DGRAM
        self.timeout = None if timeout is None else _options.seconds("timeout", timeout)
        self.protocol = _options.choice("protocol", protocol, ("stdlib",))
        self.framing = framing
        _options.optional("ident", ident, str)
        _options.optional("append_nul", append_nul, bool)
        self.urgent_level = _options.level("urgent_level", urgent_level)
        self.close_timeout = _options.seconds("close_timeout", close_timeout)
        self._engine = Engine(
            [_options.connectable(path) for path in paths],
            host=_options.encoded_host(host),
            service=str(port).encode(),
            socktype=self.socktype or 0,
            connect_timeout=self.timeout or 0.0,
            adopting=self._makes_sockets(),
            framing=_options.framing(framing, self.socktype),
            capacity=_options.capacity(capacity),
            block=_options.choice("overflow", overflow, ("block", "drop_new")) == "block",
            block_timeout=_options.seconds("block_timeout", block_timeout),
            linger=_options.seconds("linger", linger),
        )
        self._gave_up_at: int | None = None
        # Not the parent's __init__: it would connect, here and now.
        logging.Handler.__init__(self)
        self.socket: socket.socket | None = None
        if ident is not None:
            self.ident = ident
        if append_nul is not None:
            self.append_nul = append_nul
        elif framing is not None:
            self.append_nul = False
        if self._makes_sockets():
            self.createSocket()
            self._hand_over_socket()
        _lifecycle.watch(self)

    handle = _emit.handle
    emit = _emit.emit
    __setattr__ = _emit.set_attribute
    __delattr__ = _emit.delete_attribute

    def flush(self, timeout: float | None = None) -> bool:  # type: ignore[override]
        """Wait until every record accepted before the call was handed to the kernel.

        timeout: seconds, None: close_timeout. Returns False if it passed first.
        Ctrl-C interrupts it. Thread-safe.
        """
        done = self._engine.flush(self._seconds(timeout))
        self._gave_up_at = None if done else self._progress()
        return done

    def close(self, timeout: float | None = None) -> None:
        """Flush, then stop the writer thread and close the socket. Thread-safe, idempotent.

        timeout: seconds, None: close_timeout. Records that could not be
        delivered by then are reported on stderr if logging.raiseExceptions is
        set; they stay in the ring. A record logged later starts the writer
        again, as the standard library's handler opens a new socket.
        """
        self._stop(self._seconds(timeout))
        made, self.socket = self.socket, None
        if made is not None:
            made.close()
        logging.Handler.close(self)

    def __del__(self) -> None:
        # A handler that was dropped and not closed must deliver all the same.
        if hasattr(self, "_gave_up_at"):
            self._stop(self.close_timeout)

    def __reduce__(self) -> str:
        raise TypeError("a fastlog.SysLogHandler cannot be pickled or copied in depth: it has a "
                        "thread and a socket; make one in each process")

    def _stop(self, timeout: float) -> None:
        # logging.shutdown() calls flush() first: do not wait twice for a daemon that hangs.
        hopeless = self._gave_up_at is not None and self._gave_up_at == self._progress()
        pending = self._engine.close(0.0 if hopeless else timeout)
        if pending:
            self._tell(f"{pending} records were not delivered to {self.address}")

    # --- sockets that a subclass makes -------------------------------------------------------

    def _makes_sockets(self) -> bool:
        """Whether a subclass has its own way to connect. Then it is asked, as by the stdlib."""
        cls = type(self)
        return (cls.createSocket is not SysLogHandler.createSocket
                or cls._connect_unixsocket  # type: ignore[attr-defined]
                is not _CONNECT_UNIXSOCKET)

    def createSocket(self) -> None:
        """Connect `self.socket` here and now, as the standard library's method does.

        Called for subclasses that override this or `_connect_unixsocket`: when
        the handler is made, and by a record that finds no connection. Otherwise
        the writer connects by itself and `self.socket` stays None.
        """
        if self.unixsocket:
            with contextlib.suppress(OSError):
                self._connect_unixsocket(self.address)  # type: ignore[attr-defined]
            return
        host, port = self._destination
        failure: OSError | None = None
        for family, kind, number, _, name in socket.getaddrinfo(host, port, 0, self.socktype):
            made = socket.socket(family, kind, number)
            try:
                made.settimeout(self.timeout)
                made.connect(name)
            except OSError as error:
                made.close()
                failure = error
            else:
                self.socket = made
                return
        raise failure or OSError("getaddrinfo returns an empty list")

    def _renew_socket(self) -> None:
        """Connect again; if that fails, the records wait and the next one tries again."""
        if self.socket is not None:
            self.socket.close()
        with contextlib.suppress(OSError):
            self.createSocket()
            self._hand_over_socket()

    def _hand_over_socket(self) -> None:
        """Give the writer the connection. The descriptor is its own, the connection is shared."""
        if self.socket is not None and self.socket.fileno() >= 0:
            self._engine.adopt(os.dup(self.socket.fileno()))

    # --- what goes wrong -----------------------------------------------------------------------

    def _follow_up(self, record: logging.LogRecord, outcome: int) -> None:
        """After Engine.put returned more than "accepted": see Put in _core.pxd."""
        accepted, news, flush = outcome & 1, outcome & 2, outcome & 4
        if flush and accepted and self._gave_up_at != self._progress():
            self.flush()
        own = getattr(self.handleError, "__func__", None) is not logging.Handler.handleError
        if not accepted and own:      # somebody has a place for records that cannot be sent
            try:
                raise BlockingIOError(errno.EAGAIN, "the ring is full and nothing is sent",
                                      str(self.address))
            except BlockingIOError:
                self.handleError(record)
        if news:
            self._tell_news()

    def _tell_news(self) -> None:
        news = self._engine.news()
        if news is None:
            return
        over, dropped, error = news
        if over:
            self._tell(f"{self.address} takes records again"
                       + (f"; {dropped} were dropped" if dropped else ""))
        elif dropped:
            self._tell(f"{self.address} takes no records and the ring is full: they are dropped")
        else:
            self._tell(f"{self.address} cannot be reached ({os.strerror(error)}): records wait")

    def _tell(self, text: str) -> None:
        """A line on stderr, unless logging.raiseExceptions says that nobody wants to know."""
        if logging.raiseExceptions and sys.stderr is not None:
            with contextlib.suppress(OSError, ValueError):  # stderr may be closed
                sys.stderr.write(f"fastlog: {text}\n")

    def stats(self) -> Stats:
        """The handler's counters. Thread-safe; no lock is taken."""
        return self._engine.stats()

    def _seconds(self, timeout: float | None) -> float:
        return self.close_timeout if timeout is None else _options.seconds("timeout", timeout)

    def _progress(self) -> int:
        stats = self._engine.stats()
        return stats.sent + stats.discarded
