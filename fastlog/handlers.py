"""SysLogHandler: the standard library's interface, and its ways to connect."""
from __future__ import annotations

import contextlib
import logging
import logging.handlers
import os
import socket

from fastlog import _validation
from fastlog._base_handler import BaseHandler

TYPE_CHECKING = False  # importing typing takes as long as all of fastlog
if TYPE_CHECKING:
    from collections.abc import Mapping
    from typing import Literal

    from fastlog._frontend.log_record import Encoder

_CONNECT_UNIXSOCKET = vars(logging.handlers.SysLogHandler)["_connect_unixsocket"]


class SysLogHandler(BaseHandler):
    """Send records to syslog without making the logging thread wait for the daemon.

    The bytes sent are those of `logging.handlers.SysLogHandler` (CPython,
    Lib/logging/handlers.py), and all its attributes and methods exist here.
    Thread-safe. While the ring has space, a call takes no lock unless a subclass
    overrides one of its steps or the formatter is not a plain `logging.Formatter`.

    address: path of a unix socket, "unix:///PATH", "udp://HOST:PORT",
        "tcp://HOST:PORT", or (host, port). A path is a PathLike or a str that contains
        a slash. A leading NUL means the abstract namespace. None means /dev/log, or
        /run/systemd/journal/dev-log if that does not exist. Nothing needs to
        listen there yet: records wait in the ring. The writer looks a host's
        name up.
    facility: name or number (0-23), by which daemons route records.
    socktype: socket.SOCK_DGRAM or "udp", socket.SOCK_STREAM or "tcp", or None. None
        means datagram, or stream for a unix socket on which only a stream socket
        listens.
    timeout: seconds that the writer waits for a TCP connect. None means as long as
        the kernel allows. No logging call waits for it.
    protocol: "stdlib" sends `<PRI>`, ident and message, and a NUL if append_nul is
        set. "rfc3164" and "rfc5424" send the header of that RFC in place of ident,
        with the time at which the record was created.
    framing: how records on a stream are separated. None means by the NUL, as in the
        standard library, or for the other protocols by octet counting.
        "octet-counting" and "newline" are those of RFC 6587. append_nul then
        defaults to False, and with "newline" a line feed in a message is sent as
        #012.
    ident: text before each message, with its separator ("shop: "), "" by default. Like
        append_nul, it is an attribute that is read for each record. The other
        protocols have app_name to name the program.
    append_nul: whether a NUL byte ends each message. It defaults to True, for the
        other protocols on unix sockets only.
    hostname, app_name, procid, msgid: header fields of the other protocols.
        Printable ASCII without spaces, and without : [ ] in the tag of RFC 3164. With
        hostname="", a unix socket gets RFC 3164's local form, without a host name. By
        default the name of this machine (in RFC 3164 without its domain), the name
        of the program, the id of the process that logs (even after a fork), and
        "-". A default that contains other characters has "_" in their place. A
        record sets its own msgid by `extra={"msgid": ...}`.
    structured_data: structured data of RFC 5424, {id: {name: value}}, for each record
        that does not bring its own by `extra={"structured_data": ...}`. There, "_"
        replaces characters that are not allowed in a name.
    capacity: size of the ring in bytes, a power of two, 4 MiB by default. Records
        below WARNING may fill seven eighths of it.
    overflow: what happens to a record that finds the ring full. With "block" it waits
        as long as the daemon accepts records. After block_timeout without progress
        it is dropped, and so are all records that find no space until there is
        progress. With "drop_new" it is dropped. With "drop_oldest" the oldest
        records are discarded to make space, whatever their severity.
    block_timeout: seconds that a call waits for a daemon that accepts nothing, 0.2 by
        default.
    linger: seconds until the writer polls again for records while they keep coming,
        0.002 by default. While few come, the interval grows up to 16 times, which
        is the longest that a record below urgent_level is held back. 0 holds no
        record back: each one wakes the writer if it sleeps.
    urgent_level: records of this level and above (number or name) are sent at once,
        logging.ERROR by default.
    close_timeout: seconds that close() and flush() try to deliver pending records, 5
        by default. close() and the exit give up after 0.2 if no connect has ever
        succeeded.
    max_size: the longest record in bytes, including its priority and ident. None
        means what the socket accepts. The socket's buffer is raised if necessary.
    oversize: what happens to a longer record. "shorten" truncates it between
        characters and ends it with " [... cut by fastlog]". "split" sends it as
        several records, each with priority and ident, and max_size defaults to 8192.
    spool: path of a file that stores the ring. Records that were not sent when the
        process ended, in whatever way, are then sent by the next handler with this
        path, or by `fastlog recover`. One process at a time can use it. A forked
        child uses a file of its own, PATH.PID. A tmpfs suits it best (/run,
        /dev/shm), which exists as long as the machine runs.

    A loss is reported in the log itself, by one record of level WARNING from a logger
    named "fastlog", with counts and times.

    Raises TypeError or ValueError, which names the argument, and OSError if
    the ring cannot be allocated or the spool cannot be used.
    """

    def __init__(
        self,
        address: str | os.PathLike[str] | tuple[str, int | str] | None = None,
        facility: int | str = logging.handlers.SysLogHandler.LOG_USER,
        socktype: int | str | None = None,
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
        paths, host, port, kind = _validation.syslog_destination(address, socktype)
        self._destination = (host, port)
        self.unixsocket = bool(paths)
        # Wider than typeshed's types: the standard library takes names and None as well.
        self.facility = _validation.facility(facility, self.facility_names)  # type: ignore[assignment]
        self.socktype = kind  # type: ignore[assignment]
        self.timeout = None if timeout is None else _validation.seconds("timeout", timeout)
        self.protocol = _validation.choice("protocol", protocol, _validation.PROTOCOLS)
        self._encoder = self._make_encoder(
            hostname=hostname, app_name=app_name, procid=procid, msgid=msgid,
            structured_data=structured_data)
        if self._encoder is not None and self.socktype == socket.SOCK_STREAM and framing is None:
            framing = "octet-counting"
        self.framing = framing
        _validation.optional("ident", ident, str)
        if ident is not None and self._encoder is not None:
            raise ValueError(f"ident is for protocol=\"stdlib\"; {protocol} has app_name")
        if hostname == "" and not paths:
            raise ValueError("hostname must not be empty over the network: only the local form of "
                             "RFC 3164 has no host name")
        _validation.optional("append_nul", append_nul, bool)
        split = _validation.choice("oversize", oversize, _validation.OVERSIZES) == "split"
        connects_itself = self._overrides_connect()
        if spool is not None and connects_itself:
            raise ValueError("spool cannot be used where createSocket or _connect_unixsocket is "
                             "overridden: no other process could send what is in it")
        self.socket: socket.socket | None = None
        self._socket_id: tuple[int, int] | None = None      # st_dev and st_ino once handed over
        options = _validation.EngineOptions(
            paths, host, port, socktype=self.socktype, connect_timeout=self.timeout or 0.0,
            adopting=connects_itself,
            framing=_validation.stream_framing(framing, self.socktype),
            capacity=capacity, overflow=overflow, block_timeout=block_timeout, linger=linger,
            max_size=_validation.max_size(max_size, split), split=split)
        super().__init__(options, address=paths[0] if paths else (host, port),
                         urgent_level=urgent_level, close_timeout=close_timeout, spool=spool)
        if ident is not None:
            self.ident = ident
            self._check_ident()
        if append_nul is not None:
            self.append_nul = append_nul
        elif framing is not None or (self._encoder is not None and not paths):
            self.append_nul = False
        if connects_itself:
            self.createSocket()
            self._hand_over_socket()

    def _parse_address(self, value: object) -> tuple[tuple[str, ...], str, int]:
        paths, host, port, _ = _validation.syslog_destination(value, self.socktype)
        self._destination = (host, port)
        self.unixsocket = bool(paths)
        return paths, host, port

    def _make_encoder(self, **fields: object) -> Encoder | None:
        if self.protocol == "stdlib" and all(value is None for value in fields.values()):
            return None
        from fastlog import _encoders

        return _encoders.syslog_encoder(self.protocol, **fields)

    def _check_ident(self) -> None:
        """Report an ident that runs together with the message, as "shop" in "shophello"."""
        if self.ident[-1:].isalnum():
            self._reporting.warn_stderr(
                f"ident={self.ident!r} and the message run together; did you mean "
                f"{self.ident + ': '!r}?")

    def _stop(self, timeout: float) -> None:
        super()._stop(timeout)
        self._close_socket()

    # --- sockets that a subclass connects ----------------------------------------------------

    def _overrides_connect(self) -> bool:
        """Return whether a subclass connects by itself. It is then asked, as by the stdlib."""
        cls = type(self)
        return (cls.createSocket is not SysLogHandler.createSocket
                or cls._connect_unixsocket  # type: ignore[attr-defined]
                is not _CONNECT_UNIXSOCKET)

    def createSocket(self) -> None:
        """Connect `self.socket` here and now, as the standard library's method does.

        Called for subclasses that override this or `_connect_unixsocket`: at construction, and by a
        record that finds no connection. Otherwise the writer connects by itself, and `self.socket`
        stays None. Raises OSError if a network address cannot be connected.
        """
        if self.unixsocket:
            with contextlib.suppress(OSError):
                self._connect_unixsocket(self.address)  # type: ignore[attr-defined]
            return
        host, port = self._destination
        failure: OSError | None = None
        for family, kind, number, _, name in socket.getaddrinfo(host, port, 0, self.socktype):
            candidate = socket.socket(family, kind, number)
            try:
                candidate.settimeout(self.timeout)
                candidate.connect(name)
            except OSError as error:
                candidate.close()
                failure = error
            else:
                self.socket = candidate
                return
        raise failure or OSError("getaddrinfo returns an empty list")

    def _renew_socket(self) -> None:
        """Connect again. If that fails, records wait, and the next record tries again."""
        self._close_socket()
        with contextlib.suppress(OSError):
            self.createSocket()
            self._hand_over_socket()

    def _hand_over_socket(self) -> None:
        """Share the connection with the writer, which owns a descriptor of its own."""
        if self.socket is not None and self.socket.fileno() >= 0:
            status = os.fstat(self.socket.fileno())
            self._socket_id = status.st_dev, status.st_ino
            self._engine.adopt(os.dup(self.socket.fileno()))

    def _close_socket(self) -> None:
        """Close `self.socket`, unless the program has closed it by number and reused the number."""
        connected, self.socket = self.socket, None
        known, self._socket_id = self._socket_id, None
        if connected is None:
            return
        if known is not None and connected.fileno() >= 0:
            with contextlib.suppress(OSError):
                status = os.fstat(connected.fileno())
                if known == (status.st_dev, status.st_ino):
                    known = None
            if known is not None:
                connected.detach()
        connected.close()
