"""Forwarding to another machine: real rsyslogds run the configurations in examples/rsyslog.

With root privileges, the sending and the receiving rsyslogd have a network namespace each, and a
veth pair connects them. Where namespaces are not allowed, they use the loopback interface.
"""
import contextlib
import glob
import logging
import os
import re
import signal
import socket
import subprocess
from pathlib import Path

import pytest
from support import wait_until
from support.daemons import Rsyslogd
from support.namespaces import Namespaces, Network, find_ip

from fastlog._daemons.rsyslogd import LineCount, find_rsyslogd

TIMEOUT = 40  # seconds that a test waits for something that must happen
WINDOW = 128  # records that are sent ahead of their acknowledgements, by librelp's default

# If a queue's batch contains a single record when rsyslogd detects that the receiver is gone, the
# record returns to the end of the queue, and is sent twice (rsyslog 8.2302).
REQUEUED = 1
MODULE_DIRECTORIES = ["/usr/lib/*/rsyslog", "/usr/lib*/rsyslog"]  # of Debian, of others
EXAMPLES = sorted(path.name for path in
                  (Path(__file__).parents[2] / "examples/rsyslog").glob("*.conf"))

LISTEN, ESTABLISHED = 0x0A, 0x01  # states in proc_net_tcp(5)

# Settings of a private rsyslogd, which users do not need.
PREAMBLE = """\
global(workDirectory="{directory}")
module(load="imuxsock" SysSock.Use="off")
"""
# A rule that writes all records, which shows how many the daemon has processed.
REST = """\
action(type="omfile" file="{rest_log}")
"""

pytestmark = pytest.mark.timeout(120)


# --- two machines ---------------------------------------------------------------------------------

def find_module(name):
    """Return the path of a module of rsyslog, or None if it is not installed."""
    paths = (path for directory in MODULE_DIRECTORIES
             for path in glob.glob(f"{directory}/{name}.so"))
    return next(paths, None)


@pytest.fixture
def network(require):
    """The network of two machines, with namespaces if they are allowed."""
    with contextlib.ExitStack() as stack:
        network = Network()
        if os.geteuid() == 0:
            require("iproute2", find_ip())
            with contextlib.suppress(PermissionError):
                network = stack.enter_context(Namespaces())
        yield network


# --- rsyslogds that run the examples --------------------------------------------------------------

@pytest.fixture
def example(repository):
    """Reads an example and replaces constants. Each must occur exactly once."""

    def read(name, constants):
        text = (repository / "examples" / "rsyslog" / name).read_text()
        for old, new in constants.items():
            assert text.count(old) == 1, f"{old} must be in {name} once"
            text = text.replace(old, new)
        return text

    return read


class Machine(Rsyslogd):
    """A private rsyslogd in a namespace.

    Its `server_log` takes the place of /var/log/app.log in the example.

    configuration: rsyslog's configuration, which is not a format string.
    """

    def __init__(self, directory, configuration, network, namespace):
        directory.mkdir()
        self.network = network
        self.namespace = namespace
        super().__init__(directory, configuration=(
            PREAMBLE + configuration.replace("{", "{{").replace("}", "}}") + REST))

    def start(self):
        with self.network.inside(self.namespace):
            super().start()

    def sockets(self, protocol):
        """Yield (local port, state, unread bytes) of the TCP or UDP sockets of this machine.

        The source is /proc/net/tcp or /proc/net/udp: proc(5).
        """
        with self.network.inside(self.namespace):
            lines = Path(f"/proc/thread-self/net/{protocol}").read_text().splitlines()[1:]
        for line in lines:
            _, local, _, state, queues, *_ = line.split()
            yield int(local.split(":")[1], 16), int(state, 16), int(queues.split(":")[1], 16)

    def end_at_once(self):
        """Kill the daemon without letting a stopped one run again."""
        os.kill(self.pid, signal.SIGKILL)
        self.kill()


class Receiver(Machine):
    """The rsyslogd that receives records from the network."""

    def __init__(self, *arguments, protocol, port):
        super().__init__(*arguments)
        self.protocol = protocol
        self.port = port

    def start(self):
        super().start()
        wait_until(lambda: any(
            port == self.port and (self.protocol == "udp" or state == LISTEN)
            for port, state, _ in self.sockets(self.protocol)), TIMEOUT, f"port {self.port}")

    def unread(self):
        """Return the number of bytes in the kernel that rsyslogd has not read from connections."""
        return sum(size for port, state, size in self.sockets("tcp")
                   if port == self.port and state == ESTABLISHED)

    def numbers(self):
        """Return the numbers of the records in the file, in the order of the file."""
        return [int(line.rpartition(" ")[2]) for line in self.server_lines()]

    def wait_for(self, numbers):
        """Wait until the file contains all these records."""
        numbers = set(numbers)
        count = LineCount(self.server_log)
        try:
            wait_until(lambda: count.update() >= len(numbers) and numbers <= set(self.numbers()),
                       TIMEOUT, "the records")
        except TimeoutError:
            lost = sorted(numbers - set(self.numbers()))
            pytest.fail(f"{len(lost)} of {len(numbers)} records did not arrive: {lost[:10]} ...")


@pytest.fixture
def start_sender(example, directory, network, start_rsyslogd):
    """Starts the sending machine with socket.conf and another example."""
    machines = []

    def start(name, constants, socket_constants=None):
        machine_directory = directory / "s"
        configuration = (
            example("socket.conf", {
                'Socket="/run/app/log"': f'Socket="{machine_directory}/log"',
                **(socket_constants or {})})
            + example(name, constants).replace("/var/log/app.log",
                                               f"{machine_directory}/server.log"))
        machines.append(Machine(machine_directory, configuration, network, network.sender))
        machines[-1].start()
        return machines[-1]

    yield start
    for machine in machines:
        machine.kill()


@pytest.fixture
def make_pair(example, directory, network, start_sender, request, require):
    """Makes the two machines of a transport. Only the sender is started."""
    usual_ports = {"udp": 514, "tcp": 10514, "relp": 2514}

    def make(transport):
        if transport == "relp":
            require("rsyslog-relp", find_module("omrelp"))
        port = network.port(usual_ports[transport])
        machine_directory = directory / "r"
        old, new = f'port="{usual_ports[transport]}"', f'port="{port}"'
        configuration = example(f"{transport}-receive.conf", {
            'address="10.99.0.2"': f'address="{network.address}"', old: new,
            '"/var/log/app.log"': f'"{machine_directory}/server.log"'})
        receiver = Receiver(
            machine_directory,
            f'input(type="imuxsock" Socket="{machine_directory}/log")\n{configuration}', network,
            network.receiver, protocol="udp" if transport == "udp" else "tcp", port=port)
        request.addfinalizer(receiver.kill)
        sender = start_sender(f"{transport}-send.conf", {
            'target="10.99.0.2"': f'target="{network.address}"', old: new})
        return sender, receiver

    return make


class Program:
    """A program that logs numbered records to a machine's socket."""

    def __init__(self, handler, logger):
        self.handler = handler
        self.logger = logger
        self.logged = 0

    def log(self, count):
        """Log `count` records and return their numbers."""
        first, self.logged = self.logged, self.logged + count
        for number in range(first, self.logged):
            self.logger.info("record %d", number)
        assert self.handler.flush(30)
        return range(first, self.logged)


@pytest.fixture
def program_on(make_handler, logger_for):
    """Makes programs that log to a machine."""
    def make(machine):
        handler = make_handler(machine.socket, facility="local0", ident="app: ")
        return Program(handler, logger_for(handler))

    return make


def in_order(numbers, expected):
    """Return whether exactly the expected numbers occur, first in the expected order."""
    return list(dict.fromkeys(numbers)) == list(expected)


def wait_for_rest_log(machine, count):
    """Wait until a machine has written `count` lines to its common file with its last rule."""
    lines = LineCount(machine.rest_log)
    wait_until(lambda: lines.update() >= count, TIMEOUT, f"{count} lines in {machine.rest_log}")


def spool_files(machine, name):
    """Return the files of a disk-assisted queue."""
    return list(machine.directory.glob(f"{name}.0*"))


# --- one machine ----------------------------------------------------------------------------------

@pytest.mark.daemon
@pytest.mark.parametrize("name", EXAMPLES)
def test_rsyslogd_accepts_the_example(name, repository, directory, require):
    """`rsyslogd -N1` accepts each example."""
    text = (repository / "examples" / "rsyslog" / name).read_text()
    for module in re.findall(r'^module\(load="(\w+)"', text, re.MULTILINE):
        require(f"rsyslog's module {module}", find_module(module))
    program = require("rsyslogd", find_rsyslogd())
    configuration = directory / "rsyslog.conf"
    configuration.write_text((PREAMBLE + REST).format(
        directory=directory, rest_log=directory / "rest.log") + text)
    done = subprocess.run([program, "-N1", "-f", configuration], capture_output=True, text=True,
                          timeout=TIMEOUT)
    errors = [line for line in done.stderr.splitlines() if "onfig validation run" not in line]
    assert (done.returncode, errors) == (0, [])


def test_routing(start_sender, make_handler, logger_for, directory):
    """With route.conf, the file contains only the records of facility local0 with tag app."""
    machine = start_sender("route.conf", {'"/var/log/app.log"': f'"{directory}/s/server.log"'})
    handler = make_handler(machine.socket, facility="local0", ident="app: ")
    log = logger_for(handler)
    log.info("first")
    handler.ident = "app[123]: "
    log.info("with a process id")
    handler.ident = "application: "
    log.info("another tag")
    handler.ident, handler.facility = "app: ", "local1"
    log.info("another facility")
    handler.facility = "local0"
    log.info("last")
    wait_for_rest_log(machine, 2)
    machine.wait_for_lines(3, TIMEOUT)
    assert machine.server_lines() == ["first", "with a process id", "last"]
    rest = machine.rest_log.read_text()
    assert "application: another tag" in rest and "app: another facility" in rest


def test_long_messages_and_many(start_sender, make_handler, logger_for, directory):
    """With socket.conf, 60,000 bytes are not truncated, and no rate limit drops 5,000 records."""
    machine = start_sender("route.conf", {'"/var/log/app.log"': f'"{directory}/s/server.log"'})
    handler = make_handler(machine.socket, facility="local0", ident="app: ")
    log = logger_for(handler)
    log.info("x" * 60_000)
    for number in range(5000):
        log.info("record %d", number)
    machine.wait_for_lines(5001, TIMEOUT)
    assert machine.server_lines() == ["x" * 60_000, *(f"record {n}" for n in range(5000))]


def test_socket_for_rfc3164(start_sender, make_handler, directory):
    """With socket.conf changed as its comments say, the tag is the program's name.

    Without these changes, it would be the host name.
    """
    machine = start_sender("route.conf", {'"/var/log/app.log"': f'"{directory}/s/server.log"'}, {
        '\n      IgnoreTimestamp="on"': '\n      IgnoreTimestamp="off"',
        '\n      UseSpecialParser="on"': '\n      UseSpecialParser="off"',
        '\n      ParseHostname="off"': '\n      ParseHostname="on"'})
    handler = make_handler(machine.socket, "local0", protocol="rfc3164", app_name="app")
    handler.handle(logging.makeLogRecord({"msg": "text", "levelname": "INFO"}))
    machine.wait_for_lines(1, TIMEOUT)
    assert machine.server_lines() == ["text"]


# --- two machines: every transport ----------------------------------------------------------------

@pytest.mark.parametrize("transport", ["udp", "tcp", "relp"])
def test_forwarding(transport, make_pair, program_on):
    """Records arrive once, in order, with time, host and tag.

    With UDP only 100 are sent, which certainly fit into the receive buffer of the socket.
    """
    sender, receiver = make_pair(transport)
    receiver.start()
    program = program_on(sender)
    records = program.log(100 if transport == "udp" else 3000)
    receiver.wait_for(records)
    assert receiver.numbers() == list(records)
    assert re.fullmatch(rf"\S+T\S+ {socket.gethostname().split('.')[0]} app: record 0",
                        receiver.server_lines()[0])


def test_udp_outage(make_pair, program_on):
    """UDP loses the records that are sent without a receiver, and delays nothing."""
    sender, receiver = make_pair("udp")
    program = program_on(sender)
    program.log(100)
    wait_for_rest_log(sender, 100)  # written by the rule after the one that forwards
    receiver.start()
    records = program.log(100)
    receiver.wait_for(records)
    assert receiver.numbers() == list(records)


@pytest.mark.parametrize("transport", ["tcp", "relp"])
def test_outage(transport, make_pair, program_on):
    """Records that are logged before the receiver starts wait in memory and arrive in order."""
    sender, receiver = make_pair(transport)
    program = program_on(sender)
    records = program.log(5000)
    wait_for_rest_log(sender, 5000)
    assert not spool_files(sender, f"app_{transport}")
    receiver.start()
    receiver.wait_for(records)
    numbers = receiver.numbers()
    assert in_order(numbers, records)
    assert len(numbers) <= len(records) + REQUEUED


@pytest.mark.parametrize("transport", ["tcp", "relp"])
def test_long_outage(transport, make_pair, program_on):
    """Records that do not fit into memory wait on disk. All arrive, but their order is lost."""
    sender, receiver = make_pair(transport)
    program = program_on(sender)
    records = program.log(12_000)
    wait_until(lambda: spool_files(sender, f"app_{transport}"), TIMEOUT, "the queue's files")
    receiver.start()
    receiver.wait_for(records)
    assert set(receiver.numbers()) == set(records)


@pytest.mark.slow
@pytest.mark.parametrize("transport", ["tcp", "relp"])
def test_sender_restarted_during_an_outage(transport, make_pair, program_on):
    """A sender that shuts down cleanly saves its queue. The order of the records is lost."""
    sender, receiver = make_pair(transport)
    program = program_on(sender)
    records = program.log(1000)
    wait_for_rest_log(sender, 1000)
    sender.stop()
    assert spool_files(sender, f"app_{transport}")
    sender.start()
    receiver.start()
    receiver.wait_for(records)
    assert set(receiver.numbers()) == set(records)


# --- two machines: records in transit -------------------------------------------------------------

@pytest.mark.parametrize("transport", ["tcp", "relp"])
def test_killed_with_records_in_transit(transport, make_pair, program_on):
    """TCP loses the records that a killed receiver had not read, and RELP sends them again."""
    sender, receiver = make_pair(transport)
    receiver.start()
    program = program_on(sender)
    receiver.wait_for(program.log(100))
    receiver.pause()
    in_transit = program.log(100)
    size = len(f"<134>app: record {program.logged - 1}")
    wait_until(lambda: receiver.unread() >= 50 * size, TIMEOUT, "records in the kernel")
    receiver.end_at_once()
    receiver.start()
    receiver.wait_for(program.log(100))
    numbers = receiver.numbers()
    lost = set(range(program.logged)) - set(numbers)
    assert in_order(numbers, sorted(set(numbers)))
    if transport == "relp":
        assert not lost
    else:
        assert lost and lost <= set(in_transit)


def test_relp_receiver_killed_under_load(make_pair, program_on):
    """With RELP, a receiver that is killed under load loses no record, and the order is preserved.

    Only the last records that it wrote can arrive twice, at most as many as the window.
    """
    sender, receiver = make_pair("relp")
    receiver.start()
    program = program_on(sender)
    arrived = LineCount(receiver.server_log)
    while arrived.update() < 1000:
        if program.logged - arrived.lines < 1000:
            program.log(100)
    receiver.pause()
    program.log(2000)
    receiver.end_at_once()
    before = receiver.numbers()
    assert before == list(range(len(before))) and len(before) < program.logged
    program.log(1000)
    receiver.start()
    program.log(100)
    receiver.wait_for(range(program.logged))
    after = receiver.numbers()[len(before):]
    assert in_order(after, range(after[0], program.logged))
    assert len(after) <= program.logged - after[0] + REQUEUED
    assert len(before) - WINDOW <= after[0] <= len(before)


@pytest.mark.root
def test_relp_repeats_unacknowledged_records(make_pair, program_on, network):
    """With RELP, a record arrives twice if its acknowledgement was lost."""
    if network.receiver is None:
        pytest.skip("needs network namespaces")
    sender, receiver = make_pair("relp")
    receiver.start()
    program = program_on(sender)
    receiver.wait_for(program.log(1))
    with network.one_way():
        [written] = program.log(1)
        receiver.wait_for([written])
        receiver.pause()
        # Send more than a packet, because TCP holds a smaller one back while acknowledgements are
        # missing. Unread data makes the kernel forget the connection when its process ends.
        program.log(50)
        wait_until(lambda: receiver.unread() > 0, TIMEOUT, "records in the kernel")
        receiver.end_at_once()
    receiver.start()
    # omrelp only checks its connection when it has a record to send. So the next record must not
    # be logged before the connection is gone.
    wait_until(lambda: not any(state == ESTABLISHED for _, state, _ in sender.sockets("tcp")),
               TIMEOUT, "the end of the old connection")
    program.log(1)
    receiver.wait_for(range(program.logged))
    numbers = receiver.numbers()
    assert numbers.count(written) == 2
    assert in_order(numbers, range(program.logged))
