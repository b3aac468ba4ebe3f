"""Two machines on one: network namespaces that a veth pair connects, or the loopback interface."""
import contextlib
import ctypes
import itertools
import os
import shutil
import socket
import subprocess

CLONE_NEWNET = 0x40000000
TIMEOUT = 40  # seconds that a command of ip(8) may take


class Network:
    """Two machines that share the loopback interface.

    Attributes:
        sender, receiver: the names of their network namespaces, or None.
        address: the receiver's IP address.
    """

    sender = receiver = None
    address = "127.0.0.1"

    def port(self, usual):
        """Return a free port of the receiver, which is the usual one if it has a namespace."""
        if self.receiver is not None:
            return usual
        with socket.socket() as probe:
            probe.bind((self.address, 0))
            return probe.getsockname()[1]

    @contextlib.contextmanager
    def inside(self, namespace):
        """Move this thread, and the processes that it starts, into a namespace."""
        if namespace is None:
            yield
            return
        previous = os.open("/proc/thread-self/ns/net", os.O_RDONLY)
        other = os.open(f"/run/netns/{namespace}", os.O_RDONLY)
        try:
            set_namespace(other)
            yield
        finally:
            set_namespace(previous)
            os.close(previous)
            os.close(other)


class Namespaces(Network):
    """Two network namespaces that a veth pair connects."""

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
        """Discard all packets from the receiver to the sender."""
        ip("-n", self.receiver, "route", "add", "blackhole", "10.99.0.1/32")
        try:
            yield
        finally:
            ip("-n", self.receiver, "route", "delete", "blackhole", "10.99.0.1/32")


def set_namespace(descriptor):
    """Move this thread into the network namespace of a descriptor."""
    if ctypes.CDLL(None, use_errno=True).setns(descriptor, CLONE_NEWNET) != 0:
        raise OSError(ctypes.get_errno(), "setns")


def find_ip():
    """Return the path of ip(8), or None if it is not installed."""
    return shutil.which("ip", path=os.environ.get("PATH", "") + ":/usr/sbin:/sbin")


def ip(*arguments):
    """Run ip(8). Raises PermissionError where namespaces are not allowed."""
    done = subprocess.run([find_ip(), *arguments], capture_output=True, text=True,
                          timeout=TIMEOUT)
    if "Operation not permitted" in done.stderr:
        raise PermissionError(done.stderr)
    assert done.returncode == 0, (arguments, done.stderr)
