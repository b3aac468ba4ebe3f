"""SysLogHandler: the standard library's interface, and its ways to connect."""
from __future__ import annotations

import contextlib
import logging
import logging.handlers
import os
import socket

from fastlog import _validation
from fastlog._base_handler import EngineHandler

TYPE_CHECKING = False  # importing typing takes as long as all of fastlog
if TYPE_CHECKING:
    from collections.abc import Mapping
    from typing import Literal

_CONNECT_UNIXSOCKET = vars(logging.handlers.SysLogHandler)["_connect_unixsocket"]


class SysLogHandler(EngineHandler):
    """Sends records to syslog without making the logging thread wait for it.

    The bytes are those of `logging.handlers.SysLogHandler` (CPython,
    Lib/logging/handlers.py), whose attributes and methods are all here.
    Thread-safe; while there is room the call takes no lock, unless a subclass
    overrides a step of it or the formatter is not a plain `logging.Formatter`.

    address: path of a unix socket (str or PathLike; a leading NUL means the
        abstract namespace), or (host, port). None: /dev/log, else
        /run/systemd/journal/dev-log. It need not exist or answer yet: records
        wait in the ring until it does. A host's name is looked up by the writer.
    facility: name or number (0-23), by which daemons route records.
    socktype: socket.SOCK_DGRAM, socket.SOCK_STREAM, or None: datagram, and for
        a unix socket stream if that is what listens.
    timeout: seconds that the writer waits for a TCP connect; None: as long as the
        kernel allows. No logging call waits for it.
    protocol: "stdlib": `<PRI>` + ident + message, + NUL if append_nul.
        "rfc3164" and "rfc5424": with that header in the place of ident, and
        the time at which the record was made.
    framing: how records are kept apart on a stream. None: by the NUL, as the
        standard library does (with the other protocols: octet counting).
        "octet-counting" or "newline": as in RFC 6587; append_nul is then False
        by default, and with "newline" a line feed in a message becomes #012.
    ident: put before each message, "" by default. An attribute, read at each
        record, like append_nul. With the other protocols it is app_name that
        names the program.
    append_nul: end each message with a NUL byte. True by default, for the other
        protocols on unix sockets only.
    hostname, app_name, procid, msgid: fields of the header, for the protocols
        that have them: printable ASCII without spaces, and in RFC 3164's tag
        without : [ ]. By default the name of this machine (in RFC 3164 without
        its domain); of the program; the id of the process that logs, also after
        a fork; "-". Where a default has other characters, "_" stands for them.
        A record has a msgid of its own by `extra={"msgid": ...}`.
    structured_data: RFC 5424's, {id: {name: value}}, for each record that does not
        bring its own by `extra={"structured_data": ...}`, in which "_" stands for
        what a name may not have.
    capacity: bytes of the ring, a power of two; default 4 MiB. Records below
        WARNING may fill seven eighths of it.
    overflow: what happens to a record that finds the ring full. "block": it waits
        as long as the daemon takes records; after block_timeout without progress
        it is dropped, and so is each that then finds no room, until there is
        progress. "drop_new": it is dropped. "drop_oldest": the oldest records are
        discarded for it, whatever their severity.
    block_timeout: seconds that a call waits for a daemon that takes nothing;
        default 0.2.
    linger: seconds after which the writer looks again for records while they
        keep coming, default 0.002. While few come this grows up to 16 times,
        which is the longest that a record below urgent_level is held back. 0:
        never hold a record back; each one wakes the writer if it sleeps.
    urgent_level: records of this level and above (number or name) leave at
        once; default logging.ERROR.
    close_timeout: seconds that close() and flush() try to deliver what is
        pending; default 5.
    max_size: the longest record in bytes, its priority and ident included. None:
        what the socket takes, whose buffer is raised if need be.
    oversize: what happens to a longer record. "shorten": it is cut between
        characters and ends with " [... cut by fastlog]". "split": it is sent as
        several, each with priority and ident; max_size is then 8192 by default.
    spool: path of a file in which the ring lives, so that records which were not
        sent when the process ended, however it did, are sent by the next handler
        with this path or by `fastlog recover`. For one process at a time; a
        forked child has a file of its own, PATH.PID. Best on a tmpfs (/run,
        /dev/shm), which lives as long as the machine runs.

    After a loss the log says so: one record of level WARNING, from a logger named
    "fastlog", with counts and times.

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
            paths = _validation.DEFAULT_PATHS
        elif isinstance(address, (str, os.PathLike)):
            paths = (_validation.socket_path(address),)
        else:
            host, port = _validation.host_and_port(address)
        self._destination = (host, port)
        self.unixsocket = bool(paths)
        # Wider than typeshed's types: the standard library takes names and None as well.
        self.facility = _validation.facility(facility, self.facility_names)  # type: ignore[assignment]
        self.socktype = _validation.socktype(socktype)  # type: ignore[assignment]
        if host and socktype is None:
            self.socktype = socket.SOCK_DGRAM
        self.timeout = None if timeout is None else _validation.seconds("timeout", timeout)
        self.protocol = _validation.choice("protocol", protocol, _validation.PROTOCOLS)
        self._encoder = _validation.header(self.protocol, hostname=hostname, app_name=app_name,
                                       procid=procid, msgid=msgid,
                                       structured_data=structured_data)
        if self._encoder is not None and self.socktype == socket.SOCK_STREAM and framing is None:
            framing = "octet-counting"
        self.framing = framing
        _validation.optional("ident", ident, str)
        if ident is not None and self._encoder is not None:
            raise ValueError(f"ident is for protocol=\"stdlib\"; {protocol} has app_name")
        _validation.optional("append_nul", append_nul, bool)
        split = _validation.choice("oversize", oversize, _validation.OVERSIZES) == "split"
        if spool is not None and self._makes_sockets():
            raise ValueError("spool cannot be had with createSocket or _connect_unixsocket "
                             "overridden: others could not send what is in it")
        self.socket: socket.socket | None = None
        super().__init__(
            paths, address=paths[0] if paths else (host, port), host=host, port=port,
            socktype=self.socktype, capacity=capacity, overflow=overflow,
            block_timeout=block_timeout, linger=linger, urgent_level=urgent_level,
            close_timeout=close_timeout, spool=spool,
            connect_timeout=self.timeout or 0.0,
            adopting=self._makes_sockets(),
            framing=_validation.framing(framing, self.socktype),
            max_size=_validation.max_size(max_size, split),
            split=split,
        )
        if ident is not None:
            self.ident = ident
        if append_nul is not None:
            self.append_nul = append_nul
        elif framing is not None or (self._encoder is not None and not paths):
            self.append_nul = False
        if self._makes_sockets():
            self.createSocket()
            self._hand_over_socket()

    def _stop(self, timeout: float) -> None:
        super()._stop(timeout)
        made, self.socket = self.socket, None
        if made is not None:
            made.close()

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
