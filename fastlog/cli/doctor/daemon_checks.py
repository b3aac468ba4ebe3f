"""Findings about the configuration of journald and rsyslogd."""
from __future__ import annotations

import os
from typing import TYPE_CHECKING

from fastlog.cli.doctor import daemon_conf
from fastlog.cli.doctor.daemon_conf import JournaldConf, RsyslogConf
from fastlog.cli.doctor.findings import Finding
from fastlog.cli.doctor.processes import find_processes
from fastlog.cli.doctor.socket_probe import probe_socket

if TYPE_CHECKING:
    from collections.abc import Iterator

    from fastlog.cli.doctor.processes import Process

_DROP_IN = "/etc/systemd/journald.conf.d/"
#: The socket that journald forwards records to, if it forwards: journald.conf(5).
FORWARDED = "/run/systemd/journal/syslog"


def is_off(value: str) -> bool:
    """Return whether a boolean setting of journald or rsyslog is off."""
    return value.lower() in ("off", "no", "false", "0", "n", "f")


def check_journald(conf: JournaldConf) -> Iterator[Finding]:
    for line in conf.unreadable:
        yield Finding("note", "journald-conf", "Part of journald's configuration is unknown: "
                      f"{line}.",
                      "Run fastlog doctor as root.")
    yield _journald_rate_limit(conf)
    yield _journald_storage(conf)
    level = conf.get("MaxLevelStore", "debug")
    if level.value not in ("debug", "7"):
        yield Finding("warning", "journald-level",
                      f"journald drops records less severe than MaxLevelStore={level}.",
                      f"Set MaxLevelStore=debug in a file in {_DROP_IN}.")


def _journald_rate_limit(conf: JournaldConf) -> Finding:
    interval = conf.get("RateLimitIntervalSec", "30s")
    burst = conf.get("RateLimitBurst", "10000")
    if daemon_conf.seconds(interval.value) == 0 or burst.value == "0":
        return Finding("ok", "journald-rate-limit",
                       "journald does not limit the rate of a service: "
                       f"RateLimitIntervalSec={interval}, RateLimitBurst={burst}.")
    return Finding(
        "warning", "journald-rate-limit",
        f"journald accepts RateLimitBurst={burst} records from a service (more if there is much "
        f"free space) in RateLimitIntervalSec={interval} and drops the rest. fastlog counts the "
        "dropped records as sent.",
        "If your service can log more, set LogRateLimitIntervalSec=0 in its unit or "
        f"RateLimitIntervalSec=0 in a file in {_DROP_IN}.")


def _journald_storage(conf: JournaldConf) -> Finding:
    storage = conf.get("Storage", "auto")
    if storage.value == "none":
        return Finding("warning", "journald-storage",
                       f"journald stores no records and only forwards them: Storage={storage}.",
                       f"Set Storage=persistent in a file in {_DROP_IN}, unless a syslog daemon "
                       "receives the records.")
    if storage.value == "volatile" or (storage.value == "auto"
                                       and not os.path.isdir("/var/log/journal")):
        return Finding("note", "journald-storage",
                       f"The journal is stored in memory and lost at a reboot: Storage={storage}"
                       + (", and /var/log/journal does not exist." if storage.value == "auto"
                          else "."),
                       f"To keep the journal, set Storage=persistent in a file in {_DROP_IN}.")
    return Finding("ok", "journald-storage", f"The journal is stored on disk: Storage={storage}.")


def check_forwarding(conf: JournaldConf, rsyslogds: list[tuple[Process, RsyslogConf]]
                     ) -> Iterator[Finding]:
    """Check how records get from journald to a syslog daemon, if one runs."""
    forward = conf.get("ForwardToSyslog", "no")
    reads_journal = [process for process, rsyslog in rsyslogds if rsyslog.loads("imjournal")]
    if reads_journal:
        yield Finding("ok", "forwarding",
                      f"{reads_journal[0]} reads the journal through imjournal.")
        return
    target = probe_socket(FORWARDED)
    names = ", ".join(map(str, target.listeners)) or "a syslog daemon"
    if is_off(forward.value):
        if rsyslogds:
            yield Finding("warning", "forwarding",
                          f"{rsyslogds[0][0]} runs, but journald forwards nothing to it: "
                          f"ForwardToSyslog={forward}.",
                          f"Set ForwardToSyslog=yes in a file in {_DROP_IN}, or load imjournal in "
                          f"{rsyslogds[0][1].path}.")
    # journald does not wait: forward_syslog_iovec in systemd's src/journal/journald-syslog.c.
    elif target.state == "full" or any(process.stopped for process in target.listeners):
        yield Finding("warning", "forwarding",
                      f"journald forwards to {names} (ForwardToSyslog={forward}), which accepts "
                      "no records at present. journald drops records that it cannot forward.",
                      "Check that daemon.")
    elif target.state == "ok":
        yield Finding("ok", "forwarding",
                      f"journald forwards to {names}: ForwardToSyslog={forward}.")
    elif target.state != "absent":
        yield Finding("warning", "forwarding",
                      f"journald is configured to forward records (ForwardToSyslog={forward}), "
                      f"but cannot. {FORWARDED}: {target.reason}.", "Check the syslog daemon.")


def rsyslogds_behind_journald() -> list[tuple[Process, RsyslogConf]]:
    """Return the rsyslogds that read the journal or the system's socket."""
    rsyslogds = [(process, RsyslogConf(daemon_conf.configuration_of(process)))
                 for process in find_processes("rsyslogd")]
    return [(process, conf) for process, conf in rsyslogds
            if conf.loads("imjournal") or {"/dev/log", FORWARDED} & set(conf.sockets())]


def check_rsyslog(conf: RsyslogConf, path: str, behind_journald: bool) -> Iterator[Finding]:
    """Check the settings of rsyslogd that affect records from one socket.

    path: the socket from which rsyslogd receives the records. The defaults are from rsyslog's
        documentation of global(), imuxsock and imjournal.
    """
    for line in conf.unreadable:
        yield Finding("note", "rsyslog-conf", "Part of rsyslogd's configuration is unknown: "
                      f"{line}.",
                      "Run fastlog doctor as root.")
    size = conf.get_global("maxmessagesize", "8k")
    yield Finding(
        "note", "rsyslog-size", f"rsyslogd truncates records longer than maxMessageSize={size}.",
        'If your records are longer, raise it with global(maxMessageSize="...") at the top of '
        f'{conf.path}, or use SysLogHandler(..., oversize="split").')
    if behind_journald and conf.loads("imjournal"):
        yield _rate_limit("imjournal", "Ratelimit", "from all programs together",
                          conf.get_module("imjournal", "ratelimit.interval", "600"),
                          conf.get_module("imjournal", "ratelimit.burst", "20000"))
    else:
        prefix = "RateLimit" if conf.is_added(path) else "SysSock.RateLimit"
        yield _rate_limit("imuxsock", prefix, "from one process",
                          conf.get_socket(path, "ratelimit.interval", "0"),
                          conf.get_socket(path, "ratelimit.burst", "200"))
    if not behind_journald:
        yield _headers(conf, path)
    yield _control_characters(conf)


def _rate_limit(module: str, prefix: str, scope: str, interval: daemon_conf.Setting,
                burst: daemon_conf.Setting) -> Finding:
    if interval.value == "0":
        return Finding("ok", "rsyslog-rate-limit",
                       f"{module} does not limit the rate of a program: "
                       f"{prefix}.Interval={interval}.")
    return Finding(
        "warning", "rsyslog-rate-limit",
        f"{module} accepts {prefix}.Burst={burst} records {scope} in {prefix}.Interval={interval} "
        "seconds and drops the rest. fastlog counts the dropped records as sent.",
        f'If your program can log more, set {prefix}.Interval="0" where {module} is configured.')


def _headers(conf: RsyslogConf, path: str) -> Finding:
    special = conf.get_socket(path, "usespecialparser", "on")
    ignore = conf.get_socket(path, "ignoretimestamp", "on")
    settings = f"UseSpecialParser={special}, IgnoreTimestamp={ignore}"
    if is_off(special.value) and is_off(ignore.value):
        return Finding("ok", "rsyslog-headers", 'rsyslogd uses the headers of protocol="rfc3164" '
                       f'and "rfc5424", including their timestamps: {settings}.')
    return Finding(
        "note", "rsyslog-headers",
        f'rsyslogd is configured for protocol="stdlib" and the time of arrival: {settings}.',
        'For the headers of "rfc3164" and "rfc5424", set UseSpecialParser="off" ParseHostname="on" '
        'IgnoreTimestamp="off" (with the prefix "SysSock." for /dev/log).')


def _control_characters(conf: RsyslogConf) -> Finding:
    setting = conf.get_global("parser.escapecontrolcharactersonreceive", "on")
    name = "parser.escapeControlCharactersOnReceive"
    if is_off(setting.value):
        return Finding("warning", "rsyslog-control-characters",
                       "A line feed in a message starts a new line in rsyslogd's files, which can "
                       f"look like another record: {name}={setting}.",
                       f'Set global({name}="on").')
    return Finding("ok", "rsyslog-control-characters",
                   f"A line feed in a message is written as #012: {name}={setting}.")
