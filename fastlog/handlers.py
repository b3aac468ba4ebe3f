"""The logging handler: the standard library's interface in front of an Engine."""
from __future__ import annotations

import contextlib
import errno
import functools
import logging
import logging.handlers
import os
import socket
import sys
import time

from fastlog import _emit, _lifecycle, _options
from fastlog._core import Engine

TYPE_CHECKING = False  # importing typing takes as long as all of fastlog
if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence
    from typing import Literal

    from fastlog._spool import Leftovers
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
        "rfc3164" and "rfc5424": with that header in the place of ident, and
        the time at which the record was made.
    framing: of records on a stream. None: the standard library's, which is none
        (with the other protocols octet counting). "octet-counting" or
        "newline": as in RFC 6587; append_nul is then False by default, and with
        "newline" a line feed in a message becomes #012.
    ident: put before each message, "" by default. An attribute, read at each
        record, like append_nul. With the other protocols it is app_name that
        names the program.
    append_nul: end each message with a NUL byte. True by default, for the other
        protocols on unix sockets only.
    hostname, app_name, procid, msgid: fields of the header, for the protocols
        that have them: printable ASCII without spaces. By default the name of
        this machine; of the program; the id of the process that logs, also after
        a fork; "-". Where a default has other characters, "_" stands for them.
        A record has a msgid of its own by `extra={"msgid": ...}`.
    structured_data: RFC 5424's, {id: {name: value}}, for each record that brings
        none by `extra={"structured_data": ...}`, in which "_" stands for what a
        name may not have.
    capacity: bytes of the ring, a power of two; default 4 MiB. Records below
        WARNING may fill seven eighths of it.
    overflow: what a record meets that finds the ring full. "block": it waits
        while the daemon takes records; after block_timeout without progress it
        and all that follow are dropped, until there is progress. "drop_new":
        it is dropped. "drop_oldest": the oldest records are discarded for it,
        whatever their severity.
    block_timeout: seconds; default 0.2.
    linger: seconds after which the writer looks again for records while they
        keep coming, default 0.002. While none come this grows up to 16 times,
        which is the longest that a record below urgent_level is held back. 0:
        never hold a record back; each costs a wake-up when the writer sleeps.
    urgent_level: records of this level and above (number or name) leave at
        once; default logging.ERROR.
    close_timeout: seconds that close() and flush() try to deliver what is
        pending; default 5.
    max_size: bytes of a record, its priority and ident included. None: what the
        socket takes, for which its buffer is raised if need be.
    oversize: what becomes of a longer record. "shorten": it is cut between
        characters and ends with " [... cut by fastlog]". "split": it is sent as
        several, each with priority and ident; max_size is then 8192 by default.
    spool: path of a file in which the ring lives, so that records which were not
        sent when the process ended, however it did, are sent by the next handler
        with this path or by `fastlog recover`. For one process at a time; a
        forked child has a file of its own, PATH.PID. Best on a tmpfs (/run,
        /dev/shm), which lives as long as the machine runs.

    After a loss the stream says so: one record of level WARNING, from a logger
    named "fastlog", with counts and times.

    Raises TypeError or ValueError, which names the argument, and OSError if
    the ring cannot be allocated or the spool cannot be used.
    """

    def __init__(
        self,
        address: str | os.PathLike[str] | tuple[str, int] | None = None,
        facility: int | str = logging.handlers.SysLogHandler.LOG_USER,
        socktype: int | None = None,
        timeout: float | None = None,
        *,
        protocol: Literal["stdlib", "rfc3164", "rfc5424"] = "stdlib",
        framing: Literal["octet-counting", "newline"] | None = None,
        ident: str | None = None,
        append_nul: bool | None = None,
        hostname: str | None = None,
        app_name: str | None = None,
        procid: str | None = None,
        msgid: str | None = None,
        structured_data: Mapping[str, Mapping[str, object]] | None = None,
        capacity: int = 4 * 1024 * 1024,
        overflow: Literal["block", "drop_new", "drop_oldest"] = "block",
        block_timeout: float = 0.2,
        linger: float = 0.002,
        urgent_level: int | str = logging.ERROR,
        close_timeout: float = 5.0,
        max_size: int | None = None,
        oversize: Literal["shorten", "split"] = "shorten",
        spool: str | os.PathLike[str] | None = None,
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
        self.protocol = _options.choice("protocol", protocol, _options.PROTOCOLS)
        self._header = _options.header(self.protocol, hostname=hostname, app_name=app_name,
                                       procid=procid, msgid=msgid,
                                       structured_data=structured_data)
        if self._header is not None and self.socktype == socket.SOCK_STREAM and framing is None:
            framing = "octet-counting"
        self.framing = framing
        _options.optional("ident", ident, str)
        if ident is not None and self._header is not None:
            raise ValueError(f"ident is for protocol=\"stdlib\"; {protocol} has app_name")
        _options.optional("append_nul", append_nul, bool)
        self.urgent_level = _options.level("urgent_level", urgent_level)
        self.close_timeout = _options.seconds("close_timeout", close_timeout)
        split = _options.choice("oversize", oversize, _options.OVERSIZES) == "split"
        make_engine = functools.partial(
            Engine,
            [_options.connectable(path) for path in paths],
            host=_options.encoded_host(host),
            service=str(port).encode(),
            socktype=self.socktype or 0,
            connect_timeout=self.timeout or 0.0,
            adopting=self._makes_sockets(),
            framing=_options.framing(framing, self.socktype),
            overflow=_options.OVERFLOWS.index(
                _options.choice("overflow", overflow, _options.OVERFLOWS)),
            block_timeout=_options.seconds("block_timeout", block_timeout),
            linger=_options.seconds("linger", linger),
            max_size=_options.max_size(max_size, split),
            split=split,
        )
        capacity = _options.capacity(capacity)
        self._leftovers: Leftovers | None = None
        self._spool_path = ""
        if spool is None:
            self._engine = make_engine(capacity=capacity)
        else:
            self._open_spool(spool, capacity, paths, make_engine)
        self._quiet_until = 0.0
        self._gave_up_at: int | None = None
        # Not the parent's __init__: it would connect, here and now.
        logging.Handler.__init__(self)
        self.socket: socket.socket | None = None
        if ident is not None:
            self.ident = ident
        if append_nul is not None:
            self.append_nul = append_nul
        elif framing is not None or (self._header is not None and not paths):
            self.append_nul = False
        if self._makes_sockets():
            self.createSocket()
            self._hand_over_socket()
        _lifecycle.watch(self)

    def _open_spool(self, path: str | os.PathLike[str], capacity: int, paths: Sequence[str],
                    make_engine: Callable[..., Engine]) -> None:
        """Have the ring in a file, and send what others left there and beside it."""
        from fastlog import _spool

        if not isinstance(path, (str, os.PathLike)):
            raise TypeError(f"spool must be a str, os.PathLike or None, not {type(path).__name__}")
        if self._makes_sockets():
            raise ValueError("spool cannot be had with createSocket or _connect_unixsocket "
                             "overridden: others could not send what is in it")
        # As the writer has them: who recovers the records may be in another directory.
        paths = [os.fsdecode(_options.connectable(each)) for each in paths]
        spool = _spool.Spool(path, capacity, _spool.destination(
            paths, *self._destination, self.socktype or 0))
        self._engine = make_engine(capacity=capacity, spool=spool)
        self._spool_path = spool.path
        found = _spool.describe(self._engine)
        if found:
            self._tell(f"{found} in {spool.path}")
            self._engine.start()
        self._leftovers = _spool.Leftovers(
            spool.base, lambda each: make_engine(capacity=each.capacity, spool=each), self._tell)

    def _end_child(self) -> None:
        """At the end of a child that runs no exit functions: deliver; an empty spool is removed."""
        self.flush()
        if self._note_losses(during_trouble=True):
            self.flush()
        if self._spool_path:
            self._engine.close(0.0)

    handle = _emit.handle
    emit = _emit.emit
    __setattr__ = _emit.set_attribute
    __delattr__ = _emit.delete_attribute

    def flush(self, timeout: float | None = None) -> bool:  # type: ignore[override]
        """Wait until every record accepted before the call was handed to the kernel.

        timeout: seconds, None: close_timeout. Returns False if it passed first.
        Ctrl-C interrupts it. Thread-safe.
        """
        seconds = self._seconds(timeout)
        deadline = time.monotonic() + seconds
        self._note_losses()
        done = self._engine.flush(seconds)
        if self._leftovers is not None:
            done = self._leftovers.finish(max(0.0, deadline - time.monotonic())) and done
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
        deadline = time.monotonic() + (0.0 if hopeless else timeout)
        self._note_losses(during_trouble=True)
        pending = self._engine.close(0.0 if hopeless else timeout)
        if self._leftovers is not None:
            self._leftovers.finish(max(0.0, deadline - time.monotonic()))
        if pending:
            self._tell(f"{pending} records were not delivered to {self.address}"
                       + (f"; they are kept in {self._spool_path}" if self._spool_path else ""))

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
        if news and time.monotonic() >= self._quiet_until:
            self._tell_news()

    def _tell_news(self) -> None:
        news = self._engine.news()
        if news is None:
            return
        over, lost, error = news
        if over:
            # A ring that is full, half empty and full again is told of once a second.
            self._quiet_until = time.monotonic() + 1.0
            self._tell(f"{self.address} takes records again"
                       + (f"; {lost} were lost" if lost else ""))
            self._note_losses()
        elif lost:
            self._tell(f"{self.address} takes no records and the ring is full: some are lost")
        else:
            self._tell(f"{self.address} cannot be reached ({os.strerror(error)}): records wait")

    def _note_losses(self, during_trouble: bool = False) -> bool:
        """Say in the stream what was lost since this was last said; whether anything was."""
        losses = self._engine.take_losses(during_trouble)
        if losses is None:
            return False
        counts, first, last = losses
        stats = self._engine.stats()
        total = stats.dropped + stats.discarded
        count = sum(sum(each.values()) for each in counts.values())
        why = "; ".join(f"{reason}: " + ", ".join(f"{n} {severity}" for severity, n in each.items())
                        for reason, each in counts.items())
        record = logging.LogRecord(
            "fastlog", logging.WARNING, __file__, 0,
            "fastlog: %d messages lost (%s), from %s to %s%s",
            (count, why, _local_time(first), _local_time(last),
             # A notice can be lost, too: then the next one makes up for it.
             f"; {total} in all" if total != count else ""), None, "_note_losses")
        _emit.emit(self, record)
        return True

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


def _local_time(seconds: float) -> str:
    """As in RFC 3339, to the millisecond."""
    whole = int(seconds)
    zone = time.strftime("%z", time.localtime(whole))
    return (time.strftime("%Y-%m-%dT%H:%M:%S", time.localtime(whole))
            + f".{int((seconds - whole) * 1000):03d}{zone[:3]}:{zone[3:]}")
