"""python -m fastlog doctor: diagnose syslog logging on this machine."""
from __future__ import annotations

import io
import os
import re
import socket
import sys
from typing import TYPE_CHECKING, Any

import fastlog
from fastlog import _validation
from fastlog._spool.printable import printable
from fastlog.cli.arguments import parse_address
from fastlog.cli.doctor import daemon_checks, daemon_conf, socket_checks, socket_probe
from fastlog.cli.doctor.findings import Finding, as_text, summary
from fastlog.cli.doctor.roundtrip import check_round_trip
from fastlog.cli.terminal import as_json

if TYPE_CHECKING:
    import argparse
    from collections.abc import Callable, Iterator

    from fastlog.cli.doctor.socket_probe import Socket

_CONNECT_TIMEOUT = 3.0  # seconds


def add_parser(commands: Any) -> None:
    parser = commands.add_parser(
        "doctor", help="diagnose syslog logging on this machine and suggest fixes",
        description="Check the syslog sockets and the processes that listen on them, the kernel's "
                    "limits and the daemon's configuration. Send one record and look for it where "
                    "the daemon writes. The command changes nothing. It finds more if it runs as "
                    "root. The exit status is 0 if there is no problem, 1 if there is one, and 2 "
                    "if an argument is invalid.")
    parser.add_argument("--address", metavar="A",
                        help="destination: a socket's path, HOST:PORT or udp:HOST:PORT, or "
                             "tcp:HOST:PORT (default: the destination of SysLogHandler())")
    parser.add_argument("--facility", default="user", metavar="F",
                        help="facility of the record that is sent (default: %(default)s)")
    parser.add_argument("--no-send", action="store_true", help="do not send a record")
    parser.add_argument("--json", action="store_true", help="print JSON instead of text")
    parser.set_defaults(run=run)


def run(options: argparse.Namespace) -> int:
    """Run the command. Return 0 if there is no problem, 1 if there is, 2 for a bad argument."""
    try:
        destination = (_parse_destination(options.address) if options.address is not None
                       else None)
        facility = (int(options.facility) if options.facility.isdecimal() else options.facility)
        _validation.facility(facility, fastlog.SysLogHandler.facility_names)
    except (TypeError, ValueError) as error:
        print(f"fastlog doctor: {printable(str(error))}", file=sys.stderr)
        return 2
    # A path may contain bytes that stdout cannot encode.
    if isinstance(sys.stdout, io.TextIOWrapper):
        sys.stdout.reconfigure(errors="backslashreplace")
    findings = list(Doctor(destination, facility, not options.no_send).findings())
    if options.json:
        print(as_json({"fastlog": fastlog.__version__,
                       "findings": [finding._asdict() for finding in findings]}))
    else:
        print(as_text(findings))
        print(summary(findings))
    return int(any(finding.status == "problem" for finding in findings))


def _parse_destination(text: str) -> dict[str, Any]:
    """Parse an address that may also be HOST:PORT, for UDP, or have an IPv6 address in brackets."""
    if re.fullmatch(r"[^/]+:\d+", text) and not text.startswith(("udp:", "tcp:")):
        text = "udp:" + text
    return parse_address(re.sub(r"\[(.*)\](?=:\d+$)", r"\1", text))  # [::1]:514


class Doctor:
    """Run the checks in order. A check uses the results of earlier checks.

    destination: where the program logs to, in the form that parse_address() returns. None for the
        destination of SysLogHandler().
    """

    def __init__(self, destination: dict[str, Any] | None, facility: int | str,
                 send: bool) -> None:
        self.is_default = destination is None
        self.paths: tuple[str, ...] = _validation.DEFAULT_PATHS
        self.host: tuple[str, int] | None = None
        self.socktype: int | None = None
        if destination is not None:
            self.paths = tuple(destination["paths"])
            self.socktype = destination["socktype"] or None
            if destination["host"]:
                self.host = destination["host"], destination["port"]
        self.facility = facility
        self.send = send
        self.socket: Socket | None = None           # the socket that receives the records
        self.rsyslog: daemon_conf.RsyslogConf | None = None
        self.has_journald = False
        self.reachable = True                       # false once a check has found a problem

    def findings(self) -> Iterator[Finding]:
        checks: list[Callable[[], Iterator[Finding]]] = [
            self._check_network if self.host else self._check_sockets,
            self._check_kernel, self._check_daemon, self._check_round_trip]
        for check in checks:
            try:
                for finding in check():
                    self.reachable = self.reachable and finding.status != "problem"
                    yield finding
            except Exception as error:  # an unforeseen condition must not prevent other checks
                name = check.__name__.removeprefix("_check_")
                yield Finding("warning", "failed-check", f"The check of {name} failed: "
                              f"{type(error).__name__}: {error}")

    # --- the destination ------------------------------------------------------------------------

    def _check_sockets(self) -> Iterator[Finding]:
        sockets = [socket_checks.guess_listener(socket_probe.probe_socket(path))
                   for path in self.paths]
        # The writer also uses the first socket that accepts a connection.
        self.socket = next((probed for probed in sockets if probed.state in ("ok", "full")), None)
        all_absent = all(probed.state == "absent" for probed in sockets)
        for i, probed in enumerate(sockets):
            if probed.target in [previous.target for previous in sockets[:i]]:
                continue   # /dev/log is often a link to journald's socket
            is_fallback = self.is_default and probed is not self.socket and (
                self.socket is not None or probed.state == "absent")
            yield socket_checks.check_socket(probed, is_fallback)
        if self.is_default and os.path.exists(socket_checks.NATIVE):
            yield self._check_native_socket()
        if self.is_default and all_absent:
            yield Finding("problem", "destination", "SysLogHandler() finds no syslog socket here. "
                          "It stores records in its ring and drops records that do not fit.",
                          "Start rsyslogd or systemd-journald, or log to another machine: "
                          "SysLogHandler((host, 514)).")
        if all(probed.state in ("absent", "dead") for probed in sockets):
            yield from socket_checks.check_container()

    def _check_native_socket(self) -> Finding:
        probed = socket_checks.guess_listener(socket_probe.probe_socket(socket_checks.NATIVE))
        finding = socket_checks.check_socket(probed, is_fallback=False)
        return Finding("ok" if finding.status == "ok" else "warning", "native-socket",
                       f"For JournalHandler: {finding.found}", finding.todo)

    def _check_network(self) -> Iterator[Finding]:
        assert self.host is not None
        name = "{}:{}".format(*self.host)
        try:
            results = socket.getaddrinfo(*self.host, type=self.socktype or socket.SOCK_DGRAM)
        except (OSError, UnicodeError) as error:   # UnicodeError: an invalid name such as a..b
            reason = error.strerror if isinstance(error, OSError) else str(error)
            yield Finding("problem", "destination", f"The host name {self.host[0]} cannot be "
                          f"resolved: {reason}.", "Check the name, or use an IP address.")
            return
        addresses = ", ".join(dict.fromkeys(str(result[4][0]) for result in results))
        if self.socktype != socket.SOCK_STREAM:
            yield Finding("note", "destination", f"{name} (UDP) resolves to {addresses}. UDP does "
                          "not reveal whether a process listens there and whether records arrive.",
                          "If that matters, use TCP: tcp:HOST:PORT.")
            return
        try:
            socket.create_connection(self.host, _CONNECT_TIMEOUT).close()
        except OSError as error:
            yield Finding("problem", "destination", f"{name} (TCP) resolves to {addresses}, but "
                          f"the connection failed: {error.strerror or error}.",
                          "Check the daemon on that machine, its port, and firewalls.")
            return
        yield Finding("ok", "destination",
                      f"{name} (TCP) resolves to {addresses} and accepts connections.")

    # --- behind the destination -----------------------------------------------------------------

    def _check_kernel(self) -> Iterator[Finding]:
        if self.socket is not None and self.socket.kind == "datagram":
            yield from socket_checks.check_kernel()

    def _check_daemon(self) -> Iterator[Finding]:
        if self.socket is None:
            return
        listeners = self.socket.listeners
        rsyslogd = next((process for process in listeners if process.name == "rsyslogd"), None)
        self.has_journald = any(process.name == "systemd-journald" for process in listeners)
        path = self.socket.target
        if self.has_journald:
            conf = daemon_conf.JournaldConf()
            rsyslogds = daemon_checks.rsyslogds_behind_journald()
            yield from daemon_checks.check_journald(conf)
            yield from daemon_checks.check_forwarding(conf, rsyslogds)
            if rsyslogds:
                self.rsyslog, path = rsyslogds[0][1], daemon_checks.FORWARDED
        elif rsyslogd:
            self.rsyslog = daemon_conf.RsyslogConf(daemon_conf.configuration_of(rsyslogd))
        if self.rsyslog:
            yield from daemon_checks.check_rsyslog(self.rsyslog, path, self.has_journald)

    def _check_round_trip(self) -> Iterator[Finding]:
        if not (self.send and self.reachable):
            yield Finding("note", "round-trip", "No record was sent"
                          + (", because it would not arrive." if self.send else " (--no-send)."))
            return
        options: dict[str, Any] = {"facility": self.facility, "socktype": self.socktype}
        if self.host and self.socktype == socket.SOCK_STREAM:
            options["framing"] = "octet-counting"
        address = self.host or (None if self.is_default else self.paths[0])
        yield check_round_trip(address, options, self.rsyslog.files if self.rsyslog else [],
                               self.has_journald)
