"""Several hosts on one machine: network namespaces on a bridge, an address each. Linux, root and iproute2 only.

The machine itself is on the bridge too, with `gateway` as its address: servers that listen there are reached by all
hosts. The hosts reach nothing beyond the bridge.
"""

import os
import shutil
import socket
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from ipaddress import IPv4Network

from paystorm.errors import StackError

NETWORKS = IPv4Network("198.18.0.0/15")
"""Set aside for trials of networks (RFC 2544): nobody's own network is among them."""
PREFIX = 24
MAX_HOSTS = 64
COMMAND_SECONDS = 60.0


@dataclass(frozen=True, slots=True)
class Host:
    """A network namespace, and the cable between it and the bridge."""

    name: str
    """The namespace's, and that of the cable's end at the bridge."""
    address: str

    @property
    def prefix(self) -> tuple[str, ...]:
        """What a command is run with to run on this host; its pid stays the command's own."""
        return ("ip", "netns", "exec", self.name)

    def cut(self) -> None:
        """Pull the cable: from now on packets are lost, and nobody hears that a connection has ended."""
        _run("ip", "link", "set", self.name, "down")


@dataclass(frozen=True, slots=True)
class Network:
    """Hosts that see each other, and this machine at `gateway`."""

    gateway: str
    hosts: tuple[Host, ...]


def why_none() -> str:
    """Why no network can be made here; empty where one can."""
    if os.geteuid() != 0:
        return "network namespaces need root"
    if shutil.which("ip") is None:
        return "iproute2 is missing (Debian: apt-get install iproute2)"
    try:
        _run("ip", "netns", "add", _name())
    except StackError as error:
        return f"network namespaces cannot be made here: {error}"
    _run("ip", "netns", "delete", _name())
    return ""


@contextmanager
def network(count: int) -> Iterator[Network]:
    """A bridge and so many hosts, named after this process; all of it is gone on leaving.

    Processes in a namespace keep it: end them before. Raises StackError.
    """
    if not 1 <= count <= MAX_HOSTS:
        raise ValueError(f"hosts must be 1 to {MAX_HOSTS}, got {count}")
    bridge, free = _name(), _free_network()
    gateway, *addresses = [str(address) for address, _ in zip(free.hosts(), range(count + 1), strict=False)]
    hosts = tuple(Host(f"{bridge}h{n}", address) for n, address in enumerate(addresses, 1))
    try:
        _run("ip", "link", "add", bridge, "type", "bridge")
        _run("ip", "address", "add", f"{gateway}/{PREFIX}", "dev", bridge)
        _run("ip", "link", "set", bridge, "up")
        for host in hosts:
            _add(host, bridge)
        yield Network(gateway, hosts)
    finally:
        for host in hosts:  # its end of the cable goes with it, the other one by the first command
            _run("ip", "link", "delete", host.name, check=False)
            _run("ip", "netns", "delete", host.name, check=False)
        _run("ip", "link", "delete", bridge, check=False)


def _add(host: Host, bridge: str) -> None:
    inside = ("ip", "-n", host.name)
    _run("ip", "netns", "add", host.name)
    _run("ip", "link", "add", host.name, "type", "veth", "peer", "name", "eth0", "netns", host.name)
    _run("ip", "link", "set", host.name, "master", bridge, "up")
    _run(*inside, "address", "add", f"{host.address}/{PREFIX}", "dev", "eth0")
    for device in ("lo", "eth0"):
        _run(*inside, "link", "set", device, "up")


def _name() -> str:
    """Of the bridge, at most ten letters: the names of devices have fifteen at most."""
    return f"ps{os.getpid()}"


def _free_network() -> IPv4Network:
    """A network of which this machine has no address yet. Two processes look at different ones first."""
    networks = list(NETWORKS.subnets(new_prefix=PREFIX))
    for n in range(len(networks)):
        found = networks[(os.getpid() + n) % len(networks)]
        if not _is_own(str(found[1])):
            return found
    raise StackError(f"no network of {NETWORKS} is free: ip link shows what has them")


def _is_own(address: str) -> bool:
    with socket.socket() as probe, suppress(OSError):
        probe.bind((address, 0))
        return True
    return False


def _run(*command: str, check: bool = True) -> None:
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=COMMAND_SECONDS, check=False)
    except (OSError, subprocess.TimeoutExpired) as error:
        raise StackError(f"{' '.join(command)}: {error}") from error
    if check and done.returncode != 0:
        raise StackError(f"{' '.join(command)}: {done.stderr.strip() or f'code {done.returncode}'}")
