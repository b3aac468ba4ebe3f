"""The command `fastlog doctor` with real daemons and real faults."""
import json
import logging
import os
import re
import socket
import subprocess
import sys

import pytest
from hypothesis import HealthCheck, example, given, settings, strategies as st
from support import wait_until
from support.journald import find_journald

from fastlog.__main__ import main
from fastlog._daemons.rsyslogd import find_rsyslogd
from fastlog.cli.doctor import socket_probe
from fastlog.cli.doctor.daemon_conf import JournaldConf, RsyslogConf, seconds

# Another user may not be able to read the directory of this Python. So the import comes first.
AS_NOBODY = """
import os, sys
from fastlog.__main__ import main
os.setgroups([])
os.setgid(65534)
os.setuid(65534)
sys.exit(main(sys.argv[1:]))
"""


def run_doctor(*arguments, as_nobody=False, **environment):
    program = ["-c", AS_NOBODY] if as_nobody else ["-m", "fastlog"]
    done = subprocess.run([sys.executable, *program, "doctor", *map(str, arguments)],
                          capture_output=True, text=True, timeout=50,
                          env={**os.environ, **environment})
    assert done.stderr == ""
    return done


def findings(*arguments, **options):
    """Return {check: (status, `found` and `todo`)}, and check the exit status.

    It is 1 if there is a problem, and otherwise 0.
    """
    done = run_doctor("--json", *arguments, **options)
    report = json.loads(done.stdout)
    assert set(report) == {"fastlog", "findings"}
    by_check = {}
    for finding in report["findings"]:
        assert set(finding) == {"status", "check", "found", "todo"}
        assert finding["check"] not in by_check
        by_check[finding["check"]] = (finding["status"],
                                      f"{finding['found']} {finding['todo']}".strip())
    assert done.returncode == any(status == "problem" for status, _ in by_check.values())
    return by_check


@pytest.fixture
def as_root():
    """Require root, to become another user or to have a private /dev/log."""
    if os.geteuid() != 0:
        if os.environ.get("CI"):
            pytest.fail("only root can become another user or have a private /dev/log")
        pytest.skip("only root can become another user or have a private /dev/log")


def test_rsyslogd(rsyslogd):
    """Without a problem, the doctor reports the listener, its settings and the test record."""
    checks = findings("--address", rsyslogd.socket)
    assert {check: status for check, (status, _) in checks.items()} == {
        "socket": "ok", "kernel-queue": checks["kernel-queue"][0], "kernel-size": "ok",
        "rsyslog-size": "note", "rsyslog-rate-limit": "ok", "rsyslog-headers": "note",
        "rsyslog-control-characters": "ok", "round-trip": "ok"}
    assert f"datagram socket of rsyslogd (pid {rsyslogd.pid}); it accepts" in checks["socket"][1]
    configuration = rsyslogd.directory / "rsyslog.conf"
    assert f"maxMessageSize=8k ({configuration})" in checks["rsyslog-size"][1]
    assert "RateLimit.Interval=0 (default)" in checks["rsyslog-rate-limit"][1]
    assert f" was found in {rsyslogd.rest_log} after " in checks["round-trip"][1]
    [line] = rsyslogd.rest_log.read_text().splitlines()
    assert "fastlog-doctor: test record " in line


def test_text(rsyslogd):
    """The text output fits into the terminal unless a path is longer, and says what to do."""
    for columns in ("60", "200"):
        done = run_doctor("--address", rsyslogd.socket, COLUMNS=columns)
        lines = done.stdout.splitlines()
        assert done.returncode == 0 and lines[-1] == "no problems, no warnings"
        width = min(int(columns), 96)
        assert all(len(line) <= width or " " not in line.strip() for line in lines)
        assert max(map(len, lines)) > width - 15
    assert {line.split(" ")[0] for line in lines[:-1]} == {"ok", "note", ""}
    assert any(line.startswith("         -> If your records are longer, ") for line in lines)


def test_kernel_limits(rsyslogd, directory):
    """The doctor reports the queue length and the longest datagram of a default send buffer."""
    checks = findings("--address", rsyslogd.socket, "--no-send")
    with open("/proc/sys/net/unix/max_dgram_qlen") as file:
        length = int(file.read())
    assert f"queues {length + 1} records" in checks["kernel-queue"][1]
    size = int(checks["kernel-size"][1].split("may have ")[1].split(" ")[0].replace(",", ""))
    a, b = socket.socketpair(socket.AF_UNIX, socket.SOCK_DGRAM)
    with a, b:
        assert a.send(b"x" * size) == size
        b.recv(1)
        with pytest.raises(OSError, match="too long"):
            a.send(b"x" * (size + 1))


def test_no_send(rsyslogd, make_handler, logger_for):
    """With --no-send, the doctor sends no record."""
    checks = findings("--address", rsyslogd.socket, "--no-send")
    assert checks["round-trip"] == ("note", "No record was sent (--no-send).")
    handler = make_handler(rsyslogd.socket)
    logger_for(handler).info("the first")
    wait_until(lambda: rsyslogd.rest_log.exists() and rsyslogd.rest_log.stat().st_size, 20,
               "the record")
    assert rsyslogd.rest_log.read_text().count("\n") == 1


@pytest.mark.slow
def test_no_rule_for_the_facility(start_rsyslogd):
    """The doctor warns about a record that the rules discard, and finds one of another facility."""
    daemon = start_rsyslogd(configuration=(
        'global(workDirectory="{directory}")\nmodule(load="imuxsock" SysSock.Use="off")\n'
        'input(type="imuxsock" Socket="{socket}")\nlocal3.* -{rest_log}\n'))
    status, text = findings("--address", daemon.socket)["round-trip"]
    assert status == "warning" and f"not in {daemon.rest_log}" in text and "--facility" in text
    status, text = findings("--address", daemon.socket, "--facility", "local3")["round-trip"]
    assert status == "ok" and f"in {daemon.rest_log} after" in text


RAINERSCRIPT = """\
# module(load="imuxsock" SysSock.RateLimit.Interval="99")
global(workDirectory="{directory}" maxMessageSize="64k"
       parser.escapeControlCharactersOnReceive="off")
module(load="imuxsock" SysSock.Use="off")
include(file="{directory}/more/*.conf")
action(type="omfile" file="{rest_log}")
"""
RAINERSCRIPT_MORE = """\
input(type="imuxsock" Socket="{socket}" RateLimit.Interval="60" RateLimit.Burst="7"
      useSpecialParser="off"  # comment
      IgnoreTimestamp="off")
"""
LEGACY = """\
$ModLoad imuxsock
$OmitLocalLogging on
$WorkDirectory {directory}
$MaxMessageSize 1k
$MaxMessageSize 64k
$EscapeControlCharactersOnReceive off
$IncludeConfig {directory}/more/
*.* -{rest_log}
"""
LEGACY_MORE = """\
$IMUXSockRateLimitInterval 60
$IMUXSockRateLimitBurst 7
$InputUnixListenSocketIgnoreMsgTimestamp off
$AddUnixListenSocket {socket}
"""


@pytest.mark.parametrize("configuration, more", [(RAINERSCRIPT, RAINERSCRIPT_MORE),
                                                 (LEGACY, LEGACY_MORE)])
def test_settings_of_rsyslog(start_rsyslogd, directory, make_handler, logger_for, configuration,
                             more):
    """The doctor reads both languages and included files, and rsyslogd behaves as it reports."""
    (directory / "more").mkdir()
    included = directory / "more" / "50.conf"
    included.write_text(more.format(socket=directory / "log"))
    daemon = start_rsyslogd(configuration=configuration)
    checks = findings("--address", daemon.socket, "--no-send")
    main_file = directory / "rsyslog.conf"
    assert f"maxMessageSize=64k ({main_file})" in checks["rsyslog-size"][1]
    status, text = checks["rsyslog-rate-limit"]
    assert status == "warning"
    assert f" RateLimit.Burst=7 ({included}) " in text
    assert f" RateLimit.Interval=60 ({included}) " in text
    status, text = checks["rsyslog-control-characters"]
    assert status == "warning" and f"=off ({main_file})" in text
    status, text = checks["rsyslog-headers"]
    assert f"IgnoreTimestamp=off ({included})" in text
    assert status == ("ok" if configuration is RAINERSCRIPT else "note")

    log = logger_for(make_handler(daemon.socket, ident="shop: "))
    for i in range(50):
        log.info("number %d%s", i, "\nforged" if i == 3 else "x" * 20_000)
    log.handlers[0].flush()
    daemon.stop()
    lines = daemon.rest_log.read_text().splitlines()
    assert sum("number " in line for line in lines) == 7 and "forged" in lines
    assert lines[0].endswith("x" * 20_000)


def test_stopped_daemon(rsyslogd, fill_queue):
    """A stopped daemon is recognized by its process state, and by its queue once that is full."""
    rsyslogd.pause()
    status, text = findings("--address", rsyslogd.socket)["socket"]
    assert status == "problem" and "stopped (state T)." in text
    assert f"kill -CONT {rsyslogd.pid}" in text
    fill_queue(rsyslogd.socket)
    checks = findings("--address", rsyslogd.socket)
    assert checks["socket"][0] == "problem" and "its queue is full" in checks["socket"][1]
    assert checks["round-trip"] == ("note", "No record was sent, because it would not arrive.")
    rsyslogd.resume()
    assert findings("--address", rsyslogd.socket)["socket"][0] == "ok"


def test_hanging_daemon(sink):
    """A daemon that runs but takes no records is a problem."""
    assert findings("--address", sink.path, "--no-send")["socket"][0] == "ok"
    sink.hang()
    status, text = findings("--address", sink.path, "--no-send")["socket"]
    assert status == "problem" and "its queue is full" in text and "state T" not in text
    assert f"(pid {os.getpid()})" in text


@pytest.mark.slow
def test_stream_socket(make_sink):
    """The doctor reports a stream socket and sends its test record through it."""
    sink = make_sink(kind=socket.SOCK_STREAM)
    checks = findings("--address", sink.path)
    assert checks["socket"] == (
        "ok", f"{sink.path}: stream socket of {process_name()} (pid {os.getpid()}); "
              "it accepts records.")
    assert "kernel-queue" not in checks
    status, text = checks["round-trip"]
    assert status == "note" and "cannot be read back" in text
    sink.socket.accept()[0].close()  # the doctor's first connection, which sent nothing
    assert b"<14>fastlog-doctor: test record " in sink.take_bytes(60)


def process_name():
    with open("/proc/self/comm") as file:
        return file.read().strip()


def test_addresses_without_a_listener(directory):
    """The doctor tells apart a missing path, an unused socket, a plain file and a broken link."""
    dead, file, link = (directory / name for name in ("dead", "file", "link"))
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as daemon:
        daemon.bind(str(dead))
    file.write_text("")
    link.symlink_to(directory / "gone")
    for path, words in ((directory / "absent", "does not exist"), (dead, "no process listens"),
                        (file, "is not a socket"), (link, f"link to {directory}/gone, which")):
        checks = findings("--address", path)
        assert checks["socket"][0] == "problem" and words in checks["socket"][1]
        assert checks["round-trip"][0] == "note"


def test_socket_without_write_permission(rsyslogd, as_root):
    """The doctor reports a socket of mode 0600 and a directory that the user may not enter."""
    rsyslogd.directory.chmod(0o755)
    os.chmod(rsyslogd.socket, 0o600)
    status, text = findings("--address", rsyslogd.socket, as_nobody=True)["socket"]
    assert status == "problem"
    assert "uid 65534) may not write to it: srw------- of uid 0" in text
    rsyslogd.directory.chmod(0o700)
    status, text = findings("--address", rsyslogd.socket, as_nobody=True)["socket"]
    assert status == "problem" and "may not enter a directory of its path" in text


@pytest.mark.slow
def test_as_an_ordinary_user(rsyslogd, as_root):
    """For an ordinary user, the doctor infers the listener from the configuration.

    It reports files that the user may not read.
    """
    rsyslogd.directory.chmod(0o755)
    checks = findings("--address", rsyslogd.socket, as_nobody=True)
    assert f"socket, probably of rsyslogd (pid {rsyslogd.pid});" in checks["socket"][1]
    wait_until(rsyslogd.rest_log.exists, 20, "the record")
    rsyslogd.rest_log.chmod(0o600)
    status, text = findings("--address", rsyslogd.socket, as_nobody=True)["round-trip"]
    assert status == "note" and f"may not read {rsyslogd.rest_log}" in text
    (rsyslogd.directory / "rsyslog.conf").chmod(0o600)
    checks = findings("--address", rsyslogd.socket, "--no-send", as_nobody=True)
    assert "an unknown daemon; it accepts records" in checks["socket"][1]


# --- the standard sockets, in private namespaces --------------------------------------------------

PRIVATE_MACHINE = """
import atexit, os, signal, socket, subprocess, sys
from fastlog._daemons.daemon import wait_until

for path in ("/run", "/var/log", "/mnt", "/etc/systemd"):
    subprocess.run(["mount", "-t", "tmpfs", "tmpfs", path], check=True)
for name in ("null", "zero", "random", "urandom"):
    status = os.stat("/dev/" + name)
    os.mknod("/mnt/" + name, status.st_mode, status.st_rdev)
subprocess.run(["mount", "--move", "/mnt", "/dev"], check=True)
if not os.path.exists("/etc/machine-id") or not os.path.getsize("/etc/machine-id"):
    subprocess.run(["systemd-machine-id-setup"], check=True)
os.makedirs("/run/systemd/journal")
os.makedirs("/run/log/journal")

def start(program, ready, *arguments):
    daemon = subprocess.Popen([program, *arguments], stdout=subprocess.DEVNULL,
                              stderr=subprocess.DEVNULL)
    atexit.register(daemon.kill)
    wait_until(lambda: os.path.exists(ready), 20, program)
    return daemon

def doctor(*arguments):
    done = subprocess.run([sys.executable, "-m", "fastlog", "doctor", "--json", *arguments],
                          capture_output=True, text=True)
    assert done.stderr == "", done.stderr
    print(done.stdout.replace("\\n", " "))

doctor()
with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as dead:
    dead.bind("/dev/log")
doctor()
os.unlink("/dev/log")

# The rsyslogd of a container listens on a socket with the same path in another namespace.
with open("/run/container.conf", "w") as file:
    file.write('module(load="imuxsock" SysSock.Name="/run/systemd/journal/syslog")\\n'
               "user.* /var/log/all/container.log\\n")
start("unshare", "/run/container.pid", "--mount", "--pid", "--fork", "--kill-child", "sh", "-c",
      "mount -t tmpfs tmpfs /run/systemd/journal && exec " + sys.argv[2]
      + " -n -f /run/container.conf -i /run/container.pid")

os.symlink("/run/systemd/journal/dev-log", "/dev/log")
with open("/etc/systemd/journald.conf", "w") as file:
    file.write("[Journal]\\nForwardToSyslog=yes\\nRateLimitBurst=77\\n")
journald = start(sys.argv[1], "/run/systemd/journal/dev-log")
doctor()
with open("/run/rsyslog.conf", "w") as file:
    file.write('global(maxMessageSize="9k")\\n'
               'module(load="imuxsock" SysSock.Name="/run/systemd/journal/syslog")\\n'
               "user.* /var/log/all/user.log\\n")
rsyslogd = start(sys.argv[2], "/run/systemd/journal/syslog", "-n", "-f", "/run/rsyslog.conf",
                 "-i", "/run/rsyslogd.pid")
doctor()
rsyslogd.send_signal(signal.SIGSTOP)
os.waitid(os.P_PID, rsyslogd.pid, os.WSTOPPED | os.WNOWAIT)
doctor("--no-send")
rsyslogd.kill()
journald.send_signal(signal.SIGSTOP)
os.waitid(os.P_PID, journald.pid, os.WSTOPPED | os.WNOWAIT)
doctor()
"""


@pytest.mark.daemon
def test_standard_sockets(as_root, require, tmp_path):
    """Without an address, the doctor examines the standard sockets.

    They are missing at first. Then /dev/log is a socket without a listener. After that journald
    listens, then rsyslogd behind it, then rsyslogd is stopped, and at last journald is stopped.
    """
    programs = [require("systemd-journald", find_journald()),
                require("rsyslogd", find_rsyslogd())]
    done = subprocess.run(
        ["unshare", "--mount", "--pid", "--fork", "--kill-child", "--mount-proc",
         sys.executable, "-c", PRIVATE_MACHINE, *programs],
        capture_output=True, text=True, timeout=50, cwd=tmp_path)
    assert (done.stderr, done.returncode) == ("", 0)
    nothing, dead, journald, both, deaf, stopped = (
        [(finding["status"], finding["check"], finding["found"])
         for finding in json.loads(line)["findings"]]
        for line in done.stdout.splitlines())

    assert nothing[:2] == [("note", "socket", f"{path}: does not exist.") for path in
                           ("/dev/log", "/run/systemd/journal/dev-log")]
    assert ("problem", "destination") in [finding[:2] for finding in nothing]

    assert [finding[:2] for finding in dead if finding[0] == "problem"] == [("problem", "socket")]
    assert "no process listens" in dead[0][2]

    status, check, text = journald[0]
    assert (status, check) == ("ok", "socket") and text.startswith(
        "/dev/log (a link to /run/systemd/journal/dev-log): datagram socket of systemd-journald")
    journald = {check: (status, text) for status, check, text in journald}
    assert "forwarding" not in journald  # the rsyslogd of the container does not count
    status, text = journald["journald-rate-limit"]
    assert status == "warning"
    assert "RateLimitBurst=77 (/etc/systemd/journald.conf)" in text
    assert "RateLimitIntervalSec=30s (default)" in text
    assert journald["journald-storage"][0] == "note"
    assert journald["native-socket"][0] == "ok"
    assert "accepts records" in journald["native-socket"][1]
    assert journald["round-trip"][0] == "ok" and "in the journal after" in journald["round-trip"][1]

    both = {check: (status, text) for status, check, text in both}
    assert both["forwarding"][0] == "ok" and "forwards to rsyslogd (pid" in both["forwarding"][1]
    assert "maxMessageSize=9k (/run/rsyslog.conf)" in both["rsyslog-size"][1]
    assert "in /var/log/all/user.log and the journal after" in both["round-trip"][1]

    deaf = {check: (status, text) for status, check, text in deaf}
    assert deaf["socket"][0] == "ok" and deaf["forwarding"][0] == "warning"
    assert "accepts no records at present" in deaf["forwarding"][1]

    assert stopped[0][:2] == ("problem", "socket") and "state T" in stopped[0][2]
    assert ("warning", "native-socket") in [finding[:2] for finding in stopped]
    assert stopped[-1][:2] == ("note", "round-trip")


# --- the network ----------------------------------------------------------------------------------

@pytest.mark.slow
def test_udp():
    """A refused datagram is a problem. Without an error, UDP does not confirm the arrival."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as daemon:
        daemon.bind(("127.0.0.1", 0))
        daemon.settimeout(20)
        address = f"127.0.0.1:{daemon.getsockname()[1]}"
        checks = findings("--address", address)
        assert {status for status, _ in checks.values()} == {"note"}
        assert daemon.recv(1000).startswith(b"<14>fastlog-doctor: test record ")
    checks = findings("--address", address)
    assert checks["destination"][0] == "note"
    assert checks["round-trip"][0] == "problem" and "Connection refused" in checks["round-trip"][1]


@pytest.mark.slow
def test_tcp():
    """A refused connection and a name that cannot be resolved are problems."""
    with socket.create_server(("127.0.0.1", 0)) as daemon:
        address = f"tcp:127.0.0.1:{daemon.getsockname()[1]}"
        checks = findings("--address", address)
        assert checks["destination"][0] == "ok" and checks["round-trip"][0] == "note"
    checks = findings("--address", address)
    assert checks["destination"][0] == "problem"
    assert "Connection refused" in checks["destination"][1]
    assert findings("--address", "tcp:a..b:514")["destination"][0] == "problem"


# --- unusual cases --------------------------------------------------------------------------------

def test_path_that_is_not_text(directory):
    """A path that is not valid UTF-8 is reported with escapes."""
    done = run_doctor("--address", f"{directory}/\udcff", "--no-send")
    assert done.returncode == 1 and r"\udcff: does not exist" in done.stdout


@pytest.mark.parametrize("arguments, words", [
    (["--address", ""], "address must not be empty"),
    (["--address", "/" + "x" * 200], "at most 107 bytes"),
    (["--address", "host:99999"], "port from 1 to 65535"),
    (["--address", "udp:host"], "must be udp:HOST:PORT"),
    (["--facility", "nonsense"], "facility must be"),
    (["--facility", "24"], "facility must be"),
])
def test_bad_arguments(arguments, words, capsys):
    """Bad arguments are reported on stderr, and the exit status is 2."""
    assert main(["doctor", *arguments]) == 2
    output = capsys.readouterr()
    assert output.out == "" and output.err.startswith("fastlog doctor: ") and words in output.err


@pytest.mark.slow
def test_failing_check_is_a_finding(monkeypatch, capsys, sink):
    """An unexpected exception becomes a finding. The other checks run, and logging is unchanged."""
    def probe_socket(path):
        raise RuntimeError("odd")

    monkeypatch.setattr(socket_probe, "probe_socket", probe_socket)
    assert main(["doctor", "--address", sink.path]) == 0
    assert "The check of sockets failed: RuntimeError: odd" in capsys.readouterr().out
    assert b"fastlog-doctor: test record " in sink.take_one()
    assert logging.raiseExceptions


def test_precedence_of_journald_conf(directory):
    """Files of journald.conf(5) take effect in the documented order.

    The main file comes first, then the drop-ins by name. /etc takes precedence over /run and
    /usr/lib.
    """
    for path, text in {
            "etc/systemd/journald.conf":
                "[Journal]\n#Storage=volatile\n#RateLimitBurst=1\nRateLimitBurst=2\n"
                "MaxLevelStore=info\n[Other]\nCompress=no\n",
            "usr/lib/systemd/journald.conf": "[Journal]\nSeal=no\n",
            "etc/systemd/journald.conf.d/30-c.conf": "[Journal]\nRateLimitBurst = 4\\\n5\n",
            "usr/lib/systemd/journald.conf.d/20-b.conf": "[Journal]\nRateLimitBurst=3\n",
            "usr/lib/systemd/journald.conf.d/30-c.conf": "[Journal]\nMaxLevelStore=err\n",
            "run/systemd/journald.conf.d/90-d.conf": "[Journal]\nRateLimitBurst=6\n",
            }.items():
        (directory / path).parent.mkdir(parents=True, exist_ok=True)
        (directory / path).write_text(text)
    (directory / "etc/systemd/journald.conf.d/90-d.conf").symlink_to("/dev/null")
    conf = JournaldConf(str(directory))
    assert conf.get("RateLimitBurst", "")[0] == "4 5"
    assert conf.get("RateLimitBurst", "")[1].endswith("30-c.conf")
    assert conf.get("MaxLevelStore", "debug")[0] == "info"
    assert conf.get("Storage", "auto") == ("volatile", "default")
    assert conf.get("Compress", "yes") == ("yes", "default")
    assert conf.get("Seal", "yes") == ("yes", "default")
    assert conf.unreadable == []


def test_documentation_names_all_checks(repository):
    """docs/doctor.md lists the names of all checks, which occur in the JSON."""
    source = "".join(path.read_text() for path in (repository / "fastlog/cli/doctor").glob("*.py"))
    names = set(re.findall(r'Finding\(\s*"\w+"[^,()]*,\s*"([\w-]+)"', source))
    page = (repository / "docs" / "doctor.md").read_text()
    assert set(re.findall(r"^\| `([a-z][\w-]+)` \|", page, re.MULTILINE)) == names


@pytest.mark.parametrize("text, value", [
    ("30s", 30), ("0", 0), ("5min", 300), ("1h 30s", 3630), ("500ms", 0.5), ("x", None), ("", None),
    ("3 fortnights", None)])
def test_time_spans(text, value):
    """Time spans of journald.conf become seconds."""
    assert seconds(text) == value


def test_debian_rsyslog_conf(directory):
    """The files of a fresh installation's rules are found, and comments are ignored."""
    (directory / "rsyslog.conf").write_text("""\
module(load="imuxsock") # provides support for local system logging
#module(load="imjournal")
$IncludeConfig /etc/rsyslog.d/*.conf
*.*;auth,authpriv.none\t\t-/var/log/syslog
auth,authpriv.*\t\t\t/var/log/auth.log
:msg, contains, "a # (b" /var/log/odd.log;template
if $programname == 'x' then -/var/log/x.log
& /var/log/also.log
*.emerg\t\t\t\t:omusrmsg:*
*.* @@host:514
*.* |/dev/xconsole
""")
    conf = RsyslogConf("/rsyslog.conf", root=str(directory))
    assert conf.files == [f"/var/log/{name}.log" if name != "syslog" else "/var/log/syslog"
                          for name in ("syslog", "auth", "odd", "x", "also")]
    assert conf.loads("imuxsock") and not conf.loads("imjournal")
    assert conf.sockets() == ["/dev/log"] and conf.unreadable == []
    assert RsyslogConf("/none", root=str(directory)).unreadable == [
        "/none: No such file or directory"]


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=2000)
@example(["$IncludeConfig /c", "\0", "/*"])
@given(st.lists(st.sampled_from([
    "module(", "load=", '"imuxsock"', ")", "(", "'", '"', "#", "/*", "*/", "\n",
    "$IncludeConfig /c", "$MaxMessageSize", " -/var/x",
    "include(file=\"/c\")", "\\", "\0", "é"]), max_size=30))
def test_arbitrary_rsyslog_conf(directory, parts):
    """Any text is parsed without an exception, even if a file includes itself."""
    (directory / "c").write_text("".join(parts))
    RsyslogConf("/c", root=str(directory)).sockets()
