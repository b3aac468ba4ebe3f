"""python -m fastlog doctor: what a log line would meet here and now."""
from __future__ import annotations

import io
import json
import os
import re
import socket
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

import fastlog
from fastlog import _validation
from fastlog.cli.doctor import daemon_checks, daemon_conf, socket_probe
from fastlog.cli.doctor.findings import Finding, as_text, summary
from fastlog.cli.doctor.roundtrip import check_round_trip
from fastlog.cli.recover import parse_address

if TYPE_CHECKING:
    import argparse
    from collections.abc import Callable, Iterator

    from fastlog.cli.doctor.socket_probe import Process, Socket

#: Where journald takes its own protocol: systemd-journald.service(8).
_NATIVE = "/run/systemd/journal/socket"
_CONNECT_TIMEOUT = 3.0  # seconds
_QUEUE_ENOUGH = 128     # records; systemd raises max_dgram_qlen to 512 when it boots


def add_parser(commands: Any) -> None:
    parser = commands.add_parser(
        "doctor", help="tell what a log line would meet here and now",
        description="Looks at the syslog sockets, who listens, the kernel's limits and the "
                    "daemon's configuration, sends one record and looks for it. Changes nothing. "
                    "As root it sees more. Exit status: 0 if there is no problem, 1 if there is.")
    parser.add_argument("--address", metavar="A",
                        help="where you log to: a socket's path, HOST:PORT or udp:HOST:PORT, or "
                             "tcp:HOST:PORT; default: where SysLogHandler() would")
    parser.add_argument("--facility", default="user", metavar="F",
                        help="of the record that is sent (default: %(default)s)")
    parser.add_argument("--no-send", action="store_true", help="send no record")
    parser.add_argument("--json", action="store_true", help="findings as JSON")
    parser.set_defaults(run=run)


def run(options: argparse.Namespace) -> int:
    """Returns 1 if there is a problem, else 0; 2 for a bad argument."""
    try:
        where = _parse_address(options.address) if options.address is not None else None
        facility = (int(options.facility) if options.facility.isdecimal() else options.facility)
        _validation.facility(facility, fastlog.SysLogHandler.facility_names)
    except (TypeError, ValueError) as error:
        print(f"fastlog doctor: {error}", file=sys.stderr)
        return 2
    # Of paths that are no text: whatever stdout cannot print.
    if isinstance(sys.stdout, io.TextIOWrapper):
        sys.stdout.reconfigure(errors="backslashreplace")
    findings = list(Doctor(where, facility, not options.no_send).findings())
    if options.json:
        print(json.dumps({"fastlog": fastlog.__version__,
                          "findings": [finding._asdict() for finding in findings]}, indent=1))
    else:
        print(as_text(findings))
        print(summary(findings))
    return int(any(finding.status == "problem" for finding in findings))


def _parse_address(text: str) -> dict[str, Any]:
    if re.fullmatch(r"[^/]+:\d+", text) and not text.startswith(("udp:", "tcp:")):
        text = "udp:" + text
    return parse_address(re.sub(r"\[(.*)\](?=:\d+$)", r"\1", text))  # [::1]:514


class Doctor:
    """The checks, in order; each uses what those before it found."""

    def __init__(self, where: dict[str, Any] | None, facility: int | str, send: bool) -> None:
        self.default = where is None
        self.paths: tuple[str, ...] = (_validation.DEFAULT_PATHS if where is None
                                       else tuple(where["paths"]))
        self.host = (where["host"], where["port"]) if where and where["host"] else None
        self.socktype: int | None = where["socktype"] or None if where else None
        self.facility = facility
        self.send = send
        self.socket: Socket | None = None           # that records go to
        self.missing = False                        # no socket that anybody listens on
        self.rsyslog: daemon_conf.RsyslogConf | None = None
        self.journald = False
        self.reachable = True                       # as far as is known

    def findings(self) -> Iterator[Finding]:
        checks: list[Callable[[], Iterator[Finding]]] = [
            self._network] if self.host else [self._sockets, self._container]
        for check in [*checks, self._kernel, self._daemon, self._round_trip]:
            try:
                for finding in check():
                    self.reachable = self.reachable and finding.status != "problem"
                    yield finding
            except Exception as error:  # a machine can be odd in ways nobody foresaw
                name = check.__name__.strip("_")
                yield Finding("warning", "failed-check", f"The check of {name} failed: "
                              f"{type(error).__name__}: {error}")

    # --- the destination ------------------------------------------------------------------------

    def _sockets(self) -> Iterator[Finding]:
        seen = [_guess_listener(socket_probe.probe_socket(path)) for path in self.paths]
        # As the writer does: the first that lets itself be connected to.
        self.socket = next((each for each in seen if each.state in ("ok", "full")), None)
        self.missing = all(each.state in ("absent", "dead") for each in seen)
        for i, each in enumerate(seen):
            if each.target in [earlier.target for earlier in seen[:i]]:
                continue   # /dev/log is often a link to journald's socket
            yield _describe(each, fallback=self.default and each is not self.socket
                            and (self.socket is not None or each.state == "absent"))
        if self.default and os.path.exists(_NATIVE):
            native = _describe(_guess_listener(socket_probe.probe_socket(_NATIVE)), fallback=False)
            yield Finding("ok" if native.status == "ok" else "warning", "native-socket",
                          f"For JournalHandler: {native.found}", native.todo)
        if self.default and all(each.state == "absent" for each in seen):
            yield Finding("problem", "destination", "SysLogHandler() finds no syslog here: it "
                          "keeps records in its ring, and drops what does not fit.",
                          "Start rsyslogd or systemd-journald, or log to another machine: "
                          "SysLogHandler((host, 514)).")

    def _container(self) -> Iterator[Finding]:
        mark = socket_probe.container()
        if mark and self.missing:
            yield Finding(
                "note", "container",
                f"This looks like a container ({mark}); most run no syslog of their own.",
                "Mount the directory of the host's socket, not the socket itself, which is dead "
                "once the daemon makes a new one: docker run -v /run/systemd/journal:"
                "/run/systemd/journal, where SysLogHandler() looks, too. Or log to another "
                "machine: SysLogHandler((host, 514)).")

    def _network(self) -> Iterator[Finding]:
        assert self.host is not None
        name = "{}:{}".format(*self.host)
        stream = self.socktype == socket.SOCK_STREAM
        try:
            addresses = socket.getaddrinfo(*self.host, type=self.socktype or socket.SOCK_DGRAM)
        except (OSError, UnicodeError) as error:   # UnicodeError: no name at all, as a..b
            reason = error.strerror if isinstance(error, OSError) else str(error)
            yield Finding("problem", "destination", f"The name {self.host[0]} cannot be looked up: "
                          f"{reason}.", "Check the name, or give an IP address.")
            return
        found = ", ".join(dict.fromkeys(str(each[4][0]) for each in addresses))
        if not stream:
            yield Finding("note", "destination", f"{name} (UDP) is {found}; whether somebody "
                          "listens, and whether records arrive, UDP does not tell.",
                          "Where that matters: tcp:HOST:PORT.")
            return
        try:
            socket.create_connection(self.host, _CONNECT_TIMEOUT).close()
        except OSError as error:
            yield Finding("problem", "destination", f"{name} (TCP) is {found} and cannot be "
                          f"connected to: {error.strerror or error}.",
                          "Check the daemon there, its port, and firewalls.")
            return
        yield Finding("ok", "destination", f"{name} (TCP) is {found} and accepts connections.")

    # --- the kernel -----------------------------------------------------------------------------

    def _kernel(self) -> Iterator[Finding]:
        if self.socket is None or self.socket.kind != "datagram":
            return
        try:
            length = int(Path("/proc/sys/net/unix/max_dgram_qlen").read_text())
        except OSError as error:
            yield Finding("note", "kernel-queue", "How many records the kernel queues is not "
                          f"known: {error.filename}: {error.strerror}.")
        else:
            yield _queue(length)
        before, after = _datagram_sizes()
        yield Finding("ok", "kernel-size", f"A datagram may have {before:,} bytes; "
                      f"SysLogHandler raises its socket's buffer for longer ones, up to {after:,} "
                      "(net.core.wmem_default and wmem_max), and beyond with CAP_NET_ADMIN.")

    # --- the daemon -----------------------------------------------------------------------------

    def _daemon(self) -> Iterator[Finding]:
        if self.socket is None:
            return
        rsyslogd = next((each for each in self._listeners() if each.name == "rsyslogd"), None)
        self.journald = any(each.name == "systemd-journald" for each in self._listeners())
        path = self.socket.target
        if self.journald:
            conf = daemon_conf.JournaldConf()
            behind = daemon_checks.rsyslogds_behind_journald()
            yield from daemon_checks.check_journald(conf)
            yield from daemon_checks.check_forwarding(conf, behind)
            if behind:
                self.rsyslog, path = behind[0][1], daemon_checks.FORWARDED
        elif rsyslogd:
            self.rsyslog = daemon_conf.RsyslogConf(daemon_conf.configuration_of(rsyslogd))
        if self.rsyslog:
            yield from daemon_checks.check_rsyslog(self.rsyslog, path, self.journald)

    def _listeners(self) -> tuple[Process, ...]:
        assert self.socket is not None
        return self.socket.listeners

    def _round_trip(self) -> Iterator[Finding]:
        if not (self.send and self.reachable):
            yield Finding("note", "round-trip", "No record was sent"
                          + (", as it would not arrive." if self.send else " (--no-send)."))
            return
        options: dict[str, Any] = {"facility": self.facility, "socktype": self.socktype}
        if self.host and self.socktype == socket.SOCK_STREAM:
            options["framing"] = "octet-counting"
        where = self.host or (None if self.default else self.paths[0])
        yield check_round_trip(where, options, self.rsyslog.files if self.rsyslog else [],
                               self.journald)


def _guess_listener(found: Socket) -> Socket:
    """If nobody may tell who listens: the daemon that is set up for this socket."""
    if found.listeners or found.state not in ("ok", "full"):
        return found
    if os.path.dirname(found.target) == os.path.dirname(_NATIVE):
        likely = socket_probe.running("systemd-journald")
    else:
        likely = [process for process in socket_probe.running("rsyslogd")
                  if {found.path, found.target} & set(daemon_conf.RsyslogConf(
                      daemon_conf.configuration_of(process)).sockets())]
    return found._replace(listeners=tuple(likely), guessed=bool(likely))


def _describe(found: Socket, fallback: bool) -> Finding:
    """fallback: it is no problem as such that this one is not there."""
    linked = found.target != found.path and found.state != "absent"
    name = found.path + f" (a link to {found.target})" * linked
    if found.state not in ("ok", "full"):
        todo = {"dead": "Start the daemon again.",
                "denied": "Run the program as a user who may, or have the daemon make it with "
                          "mode 0666, as syslog's usually is."}.get(found.state, "")
        if found.state == "absent" and not fallback:
            todo = "Start the daemon that should make it, or give another --address."
        return Finding("note" if fallback else "problem", "socket", f"{name}: {found.reason}.",
                       "" if fallback and found.state == "absent" else todo)
    who = ", ".join(map(str, found.listeners)) or "a daemon that cannot be named from here"
    text = f"{name}: {found.kind} socket{', probably' * found.guessed} of {who}"
    stopped = next((each for each in found.listeners if each.stopped), None)
    if stopped:
        return Finding("problem", "socket", f"{text}, which is stopped (state T)"
                       + ("; its queue is full." if found.state == "full" else "."),
                       f"Let it continue: kill -CONT {stopped.pid}.")
    if found.state == "full":
        return Finding("problem", "socket", f"{text}: {found.reason}.",
                       "The daemon hangs: find out what it waits for (a full disk, the network, a "
                       "debugger), or restart it.")
    return Finding("ok", "socket", f"{text}; it takes records.")


def _queue(length: int) -> Finding:
    # unix_recvq_full in Linux's net/unix/af_unix.c: full is above the limit, not at it.
    found = (f"The kernel queues {length + 1} records in front of a busy daemon "
             f"(net.unix.max_dgram_qlen={length}); ")
    if length >= _QUEUE_ENOUGH:
        return Finding("ok", "kernel-queue", found + "fastlog's ring takes the rest.")
    return Finding("note", "kernel-queue", found + "fastlog's ring takes the rest, other programs "
                   "wait.", "For those: sysctl net.unix.max_dgram_qlen=512, then restart the "
                   "daemon.")


def _datagram_sizes() -> tuple[int, int]:
    """Bytes of the longest datagram to a unix socket, as the buffer is and as far as it goes."""
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as probe:
        # unix_dgram_sendmsg in Linux's net/unix/af_unix.c: 32 fewer than the buffer.
        before = probe.getsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF) - 32
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 1 << 30)
        return before, probe.getsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF) - 32
