"""What the daemon's configuration means for a program that logs: findings of fastlog doctor."""
from __future__ import annotations

import os
from typing import TYPE_CHECKING

from fastlog.cli.doctor import daemon_conf
from fastlog.cli.doctor.daemon_conf import JournaldConf, RsyslogConf
from fastlog.cli.doctor.findings import Finding
from fastlog.cli.doctor.socket_probe import probe_socket, running

if TYPE_CHECKING:
    from collections.abc import Iterator

    from fastlog.cli.doctor.socket_probe import Process

_DROP_IN = "/etc/systemd/journald.conf.d/"
#: Where journald hands records on if it forwards: journald.conf(5).
FORWARDED = "/run/systemd/journal/syslog"


def is_off(value: str) -> bool:
    return value.lower() in ("off", "no", "false", "0", "n", "f")


def check_journald(conf: JournaldConf) -> Iterator[Finding]:
    for line in conf.unreadable:
        yield Finding("note", "journald-conf", f"journald's configuration is not all known: {line}",
                      "Run fastlog doctor as root.")
    yield _journald_rate_limit(conf)
    yield _journald_storage(conf)
    level = conf.get("MaxLevelStore", "debug")
    if level.value not in ("debug", "7"):
        yield Finding("warning", "journald-level",
                      f"journald drops records less severe than MaxLevelStore={level}.",
                      f"MaxLevelStore=debug in a file in {_DROP_IN}.")


def _journald_rate_limit(conf: JournaldConf) -> Finding:
    interval = conf.get("RateLimitIntervalSec", "30s")
    burst = conf.get("RateLimitBurst", "10000")
    if daemon_conf.seconds(interval.value) == 0 or burst.value == "0":
        return Finding("ok", "journald-rate-limit", "journald limits no service's rate: "
                       f"RateLimitIntervalSec={interval}, RateLimitBurst={burst}.")
    return Finding(
        "warning", "journald-rate-limit",
        f"journald takes RateLimitBurst={burst} records of a service (more with much free space) "
        f"in RateLimitIntervalSec={interval} and drops the rest; fastlog counts that as sent.",
        "If yours can log more: LogRateLimitIntervalSec=0 in its unit, or RateLimitIntervalSec=0 "
        f"in a file in {_DROP_IN}.")


def _journald_storage(conf: JournaldConf) -> Finding:
    storage = conf.get("Storage", "auto")
    if storage.value == "none":
        return Finding("warning", "journald-storage",
                       f"journald keeps nothing, it only forwards: Storage={storage}.",
                       f"Storage=persistent in a file in {_DROP_IN}, unless a syslog daemon "
                       "gets the records.")
    if storage.value == "volatile" or (storage.value == "auto"
                                       and not os.path.isdir("/var/log/journal")):
        return Finding("note", "journald-storage",
                       f"The journal is in memory and gone after a reboot: Storage={storage}"
                       + (" and no /var/log/journal." if storage.value == "auto" else "."),
                       f"To keep it: Storage=persistent in a file in {_DROP_IN}.")
    return Finding("ok", "journald-storage", f"The journal is kept on disk: Storage={storage}.")


def check_forwarding(conf: JournaldConf, rsyslogds: list[tuple[Process, RsyslogConf]]
                     ) -> Iterator[Finding]:
    """How records get from journald to a syslog daemon, if one runs."""
    forward = conf.get("ForwardToSyslog", "no")
    reads_journal = [process for process, rsyslog in rsyslogds if rsyslog.loads("imjournal")]
    if reads_journal:
        yield Finding("ok", "forwarding",
                      f"{reads_journal[0]} reads the journal by imjournal.")
        return
    behind = probe_socket(FORWARDED)
    if is_off(forward.value):
        if rsyslogds:
            yield Finding("warning", "forwarding",
                          f"{rsyslogds[0][0]} runs, but journald forwards nothing to it: "
                          f"ForwardToSyslog={forward}.",
                          f"ForwardToSyslog=yes in a file in {_DROP_IN}, or imjournal in "
                          f"{rsyslogds[0][1].path}.")
    # That it does not wait: forward_syslog_iovec in systemd's src/journal/journald-syslog.c.
    elif behind.state == "full" or any(each.stopped for each in behind.listeners):
        yield Finding("warning", "forwarding",
                      f"journald forwards (ForwardToSyslog={forward}), but "
                      f"{', '.join(map(str, behind.listeners)) or 'the daemon behind it'} takes "
                      "nothing just now; journald drops what it cannot hand on.",
                      "Check that daemon.")
    elif behind.state == "ok":
        names = ", ".join(map(str, behind.listeners)) or "a syslog daemon"
        yield Finding("ok", "forwarding", f"journald forwards to {names}: "
                      f"ForwardToSyslog={forward}.")
    elif behind.state != "absent":
        yield Finding("warning", "forwarding",
                      f"journald should forward (ForwardToSyslog={forward}), but {FORWARDED}: "
                      f"{behind.reason}.", "Check the syslog daemon.")


def rsyslogds_behind_journald() -> list[tuple[Process, RsyslogConf]]:
    """Those that read the journal, or the system's socket."""
    found = [(process, RsyslogConf(daemon_conf.configuration_of(process)))
             for process in running("rsyslogd")]
    return [(process, conf) for process, conf in found
            if conf.loads("imjournal") or {"/dev/log", FORWARDED} & set(conf.sockets())]


def check_rsyslog(conf: RsyslogConf, path: str, behind_journald: bool) -> Iterator[Finding]:
    """path: the socket that rsyslogd gets the records from.

    The defaults are those of rsyslog's documentation: global(), imuxsock, imjournal.
    """
    for line in conf.unreadable:
        yield Finding("note", "rsyslog-conf", f"rsyslogd's configuration is not all known: {line}",
                      "Run fastlog doctor as root.")
    size = conf.get_global("maxmessagesize", "8k")
    yield Finding(
        "note", "rsyslog-size", f"rsyslogd cuts records longer than maxMessageSize={size}.",
        f'If yours are longer: raise it by global(maxMessageSize="...") at the top of {conf.path}, '
        'or SysLogHandler(..., oversize="split").')
    if behind_journald and conf.loads("imjournal"):
        yield _rate_limit("imjournal", "Ratelimit", "from all programs together",
                          conf.get_module("imjournal", "ratelimit.interval", "600"),
                          conf.get_module("imjournal", "ratelimit.burst", "20000"))
    else:
        name = ("RateLimit" if conf.is_added(path)
                else "SysSock.RateLimit")
        yield _rate_limit("imuxsock", name, "from one process",
                          conf.get_socket(path, "ratelimit.interval", "0"),
                          conf.get_socket(path, "ratelimit.burst", "200"))
    if not behind_journald:
        yield _headers(conf, path)
    yield _control_characters(conf)


def _rate_limit(module: str, prefix: str, whose: str, interval: daemon_conf.Setting,
                burst: daemon_conf.Setting) -> Finding:
    if interval.value == "0":
        return Finding("ok", "rsyslog-rate-limit",
                       f"{module} limits no program's rate: {prefix}.Interval={interval}.")
    return Finding(
        "warning", "rsyslog-rate-limit",
        f"{module} takes {prefix}.Burst={burst} records {whose} in {prefix}.Interval={interval} "
        "seconds and drops the rest; fastlog counts that as sent.",
        f'If yours can log more: {prefix}.Interval="0" where {module} is set up.')


def _headers(conf: RsyslogConf, path: str) -> Finding:
    special = conf.get_socket(path, "usespecialparser", "on")
    ignore = conf.get_socket(path, "ignoretimestamp", "on")
    settings = f"UseSpecialParser={special}, IgnoreTimestamp={ignore}"
    if is_off(special.value) and is_off(ignore.value):
        return Finding("ok", "rsyslog-headers", 'rsyslogd takes the headers of protocol="rfc3164" '
                       f'and "rfc5424", their time included: {settings}.')
    return Finding(
        "note", "rsyslog-headers",
        f'rsyslogd is set up for protocol="stdlib" and the time of arrival: {settings}.',
        'For the headers of "rfc3164" and "rfc5424": UseSpecialParser="off" ParseHostname="on" '
        'IgnoreTimestamp="off" (for /dev/log each with SysSock. in front).')


def _control_characters(conf: RsyslogConf) -> Finding:
    setting = conf.get_global("parser.escapecontrolcharactersonreceive", "on")
    name = "parser.escapeControlCharactersOnReceive"
    if is_off(setting.value):
        return Finding("warning", "rsyslog-control-characters",
                       "A line feed in a message begins a new line in rsyslogd's files, which can "
                       f"look like another record: {name}={setting}.", f'global({name}="on")')
    return Finding("ok", "rsyslog-control-characters",
                   f"A line feed in a message is written as #012: {name}={setting}.")
