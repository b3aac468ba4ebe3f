"""Findings about unix sockets and the kernel's limits for them."""
from __future__ import annotations

import os
import socket
from pathlib import Path
from typing import TYPE_CHECKING

from fastlog.cli.doctor import daemon_conf
from fastlog.cli.doctor.findings import Finding
from fastlog.cli.doctor.processes import find_processes

if TYPE_CHECKING:
    from collections.abc import Iterator

    from fastlog.cli.doctor.socket_probe import Socket

#: The socket where journald receives its native protocol: systemd-journald.service(8).
NATIVE = "/run/systemd/journal/socket"
_QUEUE_ENOUGH = 128  # records. systemd raises max_dgram_qlen to 512 when it boots.


def guess_listener(probed: Socket) -> Socket:
    """If the listener is unknown, add the daemon that is configured for the socket."""
    if probed.listeners or probed.state not in ("ok", "full"):
        return probed
    if os.path.dirname(probed.target) == os.path.dirname(NATIVE):
        daemons = find_processes("systemd-journald")
    else:
        daemons = [process for process in find_processes("rsyslogd")
                   if {probed.path, probed.target} & set(daemon_conf.RsyslogConf(
                       daemon_conf.configuration_of(process)).sockets())]
    return probed._replace(listeners=tuple(daemons), guessed=bool(daemons))


def check_socket(probed: Socket, is_fallback: bool) -> Finding:
    """Return the finding for a socket.

    is_fallback: whether records have another destination, so that it is not a problem if this
        socket cannot be used.
    """
    is_link = probed.target != probed.path and probed.state != "absent"
    name = probed.path + f" (a link to {probed.target})" * is_link
    if probed.state not in ("ok", "full"):
        todo = {"dead": "Restart the daemon.",
                "denied": "Run the program as a user who may write to the socket, or configure "
                          "the daemon to create it with mode 0666, as is usual for syslog.",
                }.get(probed.state, "")
        if probed.state == "absent" and not is_fallback:
            todo = "Start the daemon that creates it, or pass another --address."
        return Finding("note" if is_fallback else "problem", "socket", f"{name}: {probed.reason}.",
                       todo)
    daemons = ", ".join(map(str, probed.listeners)) or "an unknown daemon"
    text = f"{name}: {probed.kind} socket{', probably' * probed.guessed} of {daemons}"
    stopped = next((process for process in probed.listeners if process.stopped), None)
    if stopped:
        return Finding("problem", "socket", f"{text}, which is stopped (state T)"
                       + ("; its queue is full." if probed.state == "full" else "."),
                       f"Resume it: kill -CONT {stopped.pid}.")
    if probed.state == "full":
        return Finding("problem", "socket", f"{text}: {probed.reason}.",
                       "The daemon hangs. Find out what it waits for (a full disk, the network, a "
                       "debugger), or restart it.")
    return Finding("ok", "socket", f"{text}; it accepts records.")


def check_container() -> Iterator[Finding]:
    """Explain how to log from a container. The caller has found that no process listens."""
    evidence = _find_container_evidence()
    if evidence:
        yield Finding(
            "note", "container",
            f"This looks like a container ({evidence}). Most containers run no syslog daemon.",
            "Mount the directory of the host's socket, where SysLogHandler() also looks: docker "
            "run -v /run/systemd/journal:/run/systemd/journal. Do not mount the socket itself, "
            "because it is dead once the daemon has created a new one. Or log to another "
            "machine: SysLogHandler((host, 514)).")


def _find_container_evidence() -> str:
    """Return what indicates that this is a container, or an empty string."""
    # The files of systemd, podman and docker: systemd.io/CONTAINER_INTERFACE, podman-run(1).
    for path in ("/run/systemd/container", "/run/.containerenv", "/.dockerenv"):
        if os.path.exists(path):
            return f"{path} exists"
    return "$KUBERNETES_SERVICE_HOST is set" if "KUBERNETES_SERVICE_HOST" in os.environ else ""


def check_kernel() -> Iterator[Finding]:
    """Report the kernel's limits for datagram sockets."""
    try:
        length = int(Path("/proc/sys/net/unix/max_dgram_qlen").read_text())
    except OSError as error:
        yield Finding("note", "kernel-queue", "It is unknown how many records the kernel queues: "
                      f"{error.filename}: {error.strerror}.")
    else:
        yield _check_queue_length(length)
    default, limit = _datagram_sizes()
    yield Finding("ok", "kernel-size", f"A datagram may have {default:,} bytes "
                  "(net.core.wmem_default). For longer ones SysLogHandler raises its socket's "
                  f"buffer, up to {limit:,} bytes (wmem_max), and further with CAP_NET_ADMIN.")


def _check_queue_length(length: int) -> Finding:
    # unix_recvq_full in Linux's net/unix/af_unix.c: the queue is full above the limit, not at it.
    found = (f"The kernel queues {length + 1} records for a busy daemon "
             f"(net.unix.max_dgram_qlen={length}). fastlog's ring stores the rest")
    if length >= _QUEUE_ENOUGH:
        return Finding("ok", "kernel-queue", f"{found}.")
    return Finding("note", "kernel-queue", f"{found}, but other programs wait.",
                   "For other programs: sysctl net.unix.max_dgram_qlen=512, then restart the "
                   "daemon.")


def _datagram_sizes() -> tuple[int, int]:
    """Return the maximum size of a datagram in bytes, with the default and the largest buffer."""
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as probe:
        # unix_dgram_sendmsg in Linux's net/unix/af_unix.c: 32 bytes less than the buffer.
        default = probe.getsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF) - 32
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 1 << 30)
        return default, probe.getsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF) - 32
