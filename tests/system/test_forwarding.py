"""Beyond one machine: the configurations in examples/rsyslog, run by real rsyslogds.

As root the sending and the receiving rsyslogd have a network namespace each, joined by a veth
pair; where namespaces are not allowed they talk over the loopback interface.
"""
import contextlib
import ctypes
import glob
import itertools
import logging
import os
import re
import shutil
import signal
import socket
import subprocess
from pathlib import Path

import pytest
from support import wait_until
from support.daemons import Rsyslogd

from fastlog._daemons.rsyslogd import LineCount, find_rsyslogd

TIMEOUT = 40  # seconds; how long a test waits for something that must come
WINDOW = 128  # librelp's default: so many records are sent ahead of their acknowledgements

# A record that is alone in its queue's batch when the receiver turns out to be gone is put back
# into the queue, behind the others, although it is kept and sent as well (rsyslog 8.2302).
PUT_BACK = 1
MODULE_DIRECTORIES = ["/usr/lib/*/rsyslog", "/usr/lib*/rsyslog"]  # of Debian, of others
EXAMPLES = sorted(path.name for path in
                  (Path(__file__).parents[2] / "examples/rsyslog").glob("*.conf"))

CLONE_NEWNET = 0x40000000
LISTEN, ESTABLISHED = 0x0A, 0x01  # states in proc_net_tcp(5)

# What every private rsyslogd needs and no user copies.
PREAMBLE = """\
global(workDirectory="{directory}")
module(load="imuxsock" SysSock.Use="off")
"""
# All records, to see what the daemon has been through with.
REST = """\
action(type="omfile" file="{rest_log}")
"""

pytestmark = pytest.mark.timeout(120)


# --- two machines ----------------------------------------------------------------------------

class Network:
    """Two machines: network namespaces, or the loopback interface for both.

    `sender` and `receiver` name the namespaces; None: no namespace.
    """

    sender = receiver = None
    address = "127.0.0.1"  # the receiver's

    def port(self, usual):
        """A free port of the receiver's; the usual one if it has a network of its own."""
        if self.receiver is not None:
            return usual
        with socket.socket() as probe:
            probe.bind((self.address, 0))
            return probe.getsockname()[1]

    @contextlib.contextmanager
    def inside(self, namespace):
        """Have this thread, and what it starts meanwhile, in a namespace."""
        if namespace is None:
            yield
            return
        own = os.open("/proc/thread-self/ns/net", os.O_RDONLY)
        other = os.open(f"/run/netns/{namespace}", os.O_RDONLY)
        try:
            set_namespace(other)
            yield
        finally:
            set_namespace(own)
            os.close(own)
            os.close(other)


class Namespaces(Network):
    """Two network namespaces joined by a veth pair."""

    numbers = itertools.count()
    address = "10.99.0.2"

    def __init__(self):
        number = f"{os.getpid()}-{next(self.numbers)}"
        self.sender = f"fastlog-s-{number}"
        self.receiver = f"fastlog-r-{number}"

    def __enter__(self):
        try:
            ip("netns", "add", self.sender)
            ip("netns", "add", self.receiver)
            ip("-n", self.sender, "link", "add", "wire", "type", "veth",
               "peer", "name", "wire", "netns", self.receiver)
            for namespace, address in (self.sender, "10.99.0.1"), (self.receiver, self.address):
                ip("-n", namespace, "address", "add", f"{address}/24", "dev", "wire")
                ip("-n", namespace, "link", "set", "wire", "up")
        except BaseException:
            self.__exit__()
            raise
        return self

    def __exit__(self, *exc_info):
        for namespace in self.sender, self.receiver:
            if os.path.exists(f"/run/netns/{namespace}"):
                ip("netns", "delete", namespace)

    @contextlib.contextmanager
    def one_way(self):
        """Nothing gets from the receiver back to the sender."""
        ip("-n", self.receiver, "route", "add", "blackhole", "10.99.0.1/32")
        try:
            yield
        finally:
            ip("-n", self.receiver, "route", "delete", "blackhole", "10.99.0.1/32")


def set_namespace(descriptor):
    if ctypes.CDLL(None, use_errno=True).setns(descriptor, CLONE_NEWNET) != 0:
        raise OSError(ctypes.get_errno(), "setns")


def find_module(name):
    """Return the path of a module of rsyslog, or None if it is not installed."""
    paths = (path for directory in MODULE_DIRECTORIES
             for path in glob.glob(f"{directory}/{name}.so"))
    return next(paths, None)


def find_ip():
    return shutil.which("ip", path=os.environ.get("PATH", "") + ":/usr/sbin:/sbin")


def ip(*arguments):
    done = subprocess.run([find_ip(), *arguments], capture_output=True, text=True,
                          timeout=TIMEOUT)
    if "Operation not permitted" in done.stderr:
        raise PermissionError(done.stderr)
    assert done.returncode == 0, (arguments, done.stderr)


@pytest.fixture
def network(require):
    with contextlib.ExitStack() as stack:
        network = Network()
        if os.geteuid() == 0:
            require("iproute2", find_ip())
            with contextlib.suppress(PermissionError):
                network = stack.enter_context(Namespaces())
        yield network


# --- rsyslogds that run the examples ---------------------------------------------------------

@pytest.fixture
def example(repository):
    """Reads an example, with other constants; each must be there exactly once."""

    def read(name, constants):
        text = (repository / "examples" / "rsyslog" / name).read_text()
        for old, new in constants.items():
            assert text.count(old) == 1, f"{old} must be in {name} once"
            text = text.replace(old, new)
        return text

    return read


class Machine(Rsyslogd):
    """A private rsyslogd in a namespace; `server_log` is what its example calls /var/log/app.log.

    configuration: Rsyslog's language, no format string.
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
        """(local port, state, bytes to read) of this machine's TCP or UDP sockets, proc(5)."""
        with self.network.inside(self.namespace):
            lines = Path(f"/proc/thread-self/net/{protocol}").read_text().splitlines()[1:]
        for line in lines:
            _, local, _, state, queues, *_ = line.split()
            yield int(local.split(":")[1], 16), int(state, 16), int(queues.split(":")[1], 16)

    def end_at_once(self):
        """SIGKILL, and if it is stopped, without running again before."""
        os.kill(self.pid, signal.SIGKILL)
        self.kill()


class Receiver(Machine):
    """The rsyslogd that collects."""

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
        """How many bytes lie in the kernel, come by a connection and not read by rsyslogd."""
        return sum(size for port, state, size in self.sockets("tcp")
                   if port == self.port and state == ESTABLISHED)

    def numbers(self):
        """The numbers of the records in its file, in the order of the file."""
        return [int(line.rpartition(" ")[2]) for line in self.server_lines()]

    def wait_for(self, numbers):
        """Wait until all these records are in its file."""
        numbers = set(numbers)
        seen = LineCount(self.server_log)
        try:
            wait_until(lambda: seen.update() >= len(numbers) and numbers <= set(self.numbers()),
                       TIMEOUT, "the records")
        except TimeoutError:
            lost = sorted(numbers - set(self.numbers()))
            pytest.fail(f"{len(lost)} of {len(numbers)} records did not arrive: {lost[:10]} ...")


@pytest.fixture
def start_sender(example, directory, network, start_rsyslogd):
    """Starts the machine that logs: socket.conf and another example."""
    machines = []

    def start(name, constants, of_socket=None):
        own = directory / "s"
        configuration = (
            example("socket.conf", {'Socket="/run/app/log"': f'Socket="{own}/log"',
                                    **(of_socket or {})})
            + example(name, constants).replace("/var/log/app.log", f"{own}/server.log"))
        machines.append(Machine(own, configuration, network, network.sender))
        machines[-1].start()
        return machines[-1]

    yield start
    for machine in machines:
        machine.kill()


@pytest.fixture
def make_pair(example, directory, network, start_sender, request, require):
    """Makes the two machines for a transport; the sender runs, the receiver does not yet."""
    usual_ports = {"udp": 514, "tcp": 10514, "relp": 2514}

    def make(transport):
        if transport == "relp":
            require("rsyslog-relp", find_module("omrelp"))
        port = network.port(usual_ports[transport])
        own = directory / "r"
        old, new = f'port="{usual_ports[transport]}"', f'port="{port}"'
        configuration = example(f"{transport}-receive.conf", {
            'address="10.99.0.2"': f'address="{network.address}"', old: new,
            '"/var/log/app.log"': f'"{own}/server.log"'})
        receiver = Receiver(
            own, f'input(type="imuxsock" Socket="{own}/log")\n{configuration}', network,
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
        """Log so many records; their numbers."""
        first, self.logged = self.logged, self.logged + count
        for number in range(first, self.logged):
            self.logger.info("record %d", number)
        assert self.handler.flush(30)
        return range(first, self.logged)


@pytest.fixture
def program_on(make_handler, logger_for):
    def make(machine):
        handler = make_handler(machine.socket, facility="local0", ident="app: ")
        return Program(handler, logger_for(handler))

    return make


def in_order(numbers, expected):
    """Whether exactly these are there and each comes for the first time in this order."""
    return list(dict.fromkeys(numbers)) == list(expected)


def wait_for_own_file(machine, count):
    """Wait until a machine has written so many lines to its common file, the last of its rules."""
    seen = LineCount(machine.rest_log)
    wait_until(lambda: seen.update() >= count, TIMEOUT, f"{count} lines in {machine.rest_log}")


def spool_files(machine, name):
    """What a disk-assisted queue has on disk."""
    return list(machine.directory.glob(f"{name}.0*"))


# --- one machine -----------------------------------------------------------------------------

@pytest.mark.daemon
@pytest.mark.parametrize("name", EXAMPLES)
def test_rsyslogd_takes_the_example(name, repository, directory, require):
    """`rsyslogd -N1` knows each parameter."""
    text = (repository / "examples" / "rsyslog" / name).read_text()
    for module in re.findall(r'^module\(load="(\w+)"', text, re.MULTILINE):
        require(f"rsyslog's module {module}", find_module(module))
    program = require("rsyslogd", find_rsyslogd())
    configuration = directory / "rsyslog.conf"
    configuration.write_text((PREAMBLE + REST).format(
        directory=directory, rest_log=directory / "rest.log") + text)
    done = subprocess.run([program, "-N1", "-f", configuration], capture_output=True, text=True,
                          timeout=TIMEOUT)
    said = [line for line in done.stderr.splitlines() if "onfig validation run" not in line]
    assert (done.returncode, said) == (0, [])


def test_routing(start_sender, make_handler, logger_for, directory):
    """route.conf: facility local0 with tag app has the file to itself; nothing else is in it."""
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
    wait_for_own_file(machine, 2)
    machine.wait_for_lines(3, TIMEOUT)
    assert machine.server_lines() == ["first", "with a process id", "last"]
    rest = machine.rest_log.read_text()
    assert "application: another tag" in rest and "app: another facility" in rest


def test_long_messages_and_many(start_sender, make_handler, logger_for, directory):
    """socket.conf: 60,000 bytes are not cut, and 5,000 records at once meet no rate limit."""
    machine = start_sender("route.conf", {'"/var/log/app.log"': f'"{directory}/s/server.log"'})
    handler = make_handler(machine.socket, facility="local0", ident="app: ")
    log = logger_for(handler)
    log.info("x" * 60_000)
    for number in range(5000):
        log.info("record %d", number)
    machine.wait_for_lines(5001, TIMEOUT)
    assert machine.server_lines() == ["x" * 60_000, *(f"record {n}" for n in range(5000))]


def test_socket_for_rfc3164(start_sender, make_handler, directory):
    """socket.conf, changed as its comments say: the tag is the program's, and not the host name."""
    machine = start_sender("route.conf", {'"/var/log/app.log"': f'"{directory}/s/server.log"'}, {
        '\n      IgnoreTimestamp="on"': '\n      IgnoreTimestamp="off"',
        '\n      UseSpecialParser="on"': '\n      UseSpecialParser="off"',
        '\n      ParseHostname="off"': '\n      ParseHostname="on"'})
    handler = make_handler(machine.socket, "local0", protocol="rfc3164", app_name="app")
    handler.handle(logging.makeLogRecord({"msg": "text", "levelname": "INFO"}))
    machine.wait_for_lines(1, TIMEOUT)
    assert machine.server_lines() == ["text"]


# --- two machines: what every transport does -------------------------------------------------

@pytest.mark.parametrize("transport", ["udp", "tcp", "relp"])
def test_forwarding(transport, make_pair, program_on):
    """Records arrive with time, host and tag, each once, in order.

    Of UDP, 100 are as many as certainly find room in the receiver's socket.
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
    """UDP: what is sent while nobody receives is lost, and nothing holds up."""
    sender, receiver = make_pair("udp")
    program = program_on(sender)
    program.log(100)
    wait_for_own_file(sender, 100)  # the rule after the one that forwards
    receiver.start()
    records = program.log(100)
    receiver.wait_for(records)
    assert receiver.numbers() == list(records)


@pytest.mark.parametrize("transport", ["tcp", "relp"])
def test_outage(transport, make_pair, program_on):
    """What is logged before the receiver is there waits in memory and arrives in order."""
    sender, receiver = make_pair(transport)
    program = program_on(sender)
    records = program.log(5000)
    wait_for_own_file(sender, 5000)
    assert not spool_files(sender, f"app_{transport}")
    receiver.start()
    receiver.wait_for(records)
    numbers = receiver.numbers()
    assert in_order(numbers, records)
    assert len(numbers) <= len(records) + PUT_BACK


@pytest.mark.parametrize("transport", ["tcp", "relp"])
def test_long_outage(transport, make_pair, program_on):
    """What the memory does not hold waits on disk. All arrives; the order is lost."""
    sender, receiver = make_pair(transport)
    program = program_on(sender)
    records = program.log(12_000)
    wait_until(lambda: spool_files(sender, f"app_{transport}"), TIMEOUT, "the queue's files")
    receiver.start()
    receiver.wait_for(records)
    assert set(receiver.numbers()) == set(records)


@pytest.mark.parametrize("transport", ["tcp", "relp"])
def test_sender_restarted_in_an_outage(transport, make_pair, program_on):
    """A sender that is shut down in an orderly way saves its queue. The order is lost."""
    sender, receiver = make_pair(transport)
    program = program_on(sender)
    records = program.log(1000)
    wait_for_own_file(sender, 1000)
    sender.stop()
    assert spool_files(sender, f"app_{transport}")
    sender.start()
    receiver.start()
    receiver.wait_for(records)
    assert set(receiver.numbers()) == set(records)


# --- two machines: what happens to records on their way --------------------------------------

@pytest.mark.parametrize("transport", ["tcp", "relp"])
def test_killed_with_records_on_the_way(transport, make_pair, program_on):
    """The receiver is killed before it reads what was sent: TCP loses that, RELP sends it again."""
    sender, receiver = make_pair(transport)
    receiver.start()
    program = program_on(sender)
    receiver.wait_for(program.log(100))
    receiver.pause()
    on_the_way = program.log(100)
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
        assert lost and lost <= set(on_the_way)


def test_relp_killed_in_mid_flow(make_pair, program_on):
    """A receiver that is killed under load: nothing is lost, the order holds.

    Only the last records that it wrote, no more than the window, can come twice.
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
    assert len(after) <= program.logged - after[0] + PUT_BACK
    assert len(before) - WINDOW <= after[0] <= len(before)


@pytest.mark.root
def test_relp_repeats_what_was_not_acknowledged(make_pair, program_on, network):
    """A record that was written but whose acknowledgement got lost comes twice."""
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
        # More than a packet: TCP holds a smaller rest back while there is no acknowledgement.
        # Unread data makes the kernel forget the connection when its process ends.
        program.log(50)
        wait_until(lambda: receiver.unread() > 0, TIMEOUT, "records in the kernel")
        receiver.end_at_once()
    receiver.start()
    # omrelp looks at its connection when it has a record to send, not before: the next record
    # must find that it is gone.
    wait_until(lambda: not any(state == ESTABLISHED for _, state, _ in sender.sockets("tcp")),
               TIMEOUT, "the end of the old connection")
    program.log(1)
    receiver.wait_for(range(program.logged))
    numbers = receiver.numbers()
    assert numbers.count(written) == 2
    assert in_order(numbers, range(program.logged))
