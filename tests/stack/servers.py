"""Real servers for tests: which there are, and handles that a test can stop, kill and start again."""

import os
import signal
from collections.abc import Callable, Mapping
from dataclasses import dataclass

import pytest

from paystorm.errors import StackError
from paystorm.stack import Kafka, Server, Stack, standard
from paystorm.stack.jars import cache_folder, folder_of, pom_of
from paystorm.stack.machine import find_java, find_maven
from paystorm.stack.server import Site

KAFKA_4 = "kafka4"
"""A broker of the newest version, beside the one of the default version."""


SHUT_OUT_KAFKA = "kafka-shut-out"
SECOND_SUPERVISOR = "supervisor-2"
SHUT_OUT_SECONDS = 4
"""How long it is let in each time, and how long it is shut out then."""
_SHUT_OUT = {
    "broker.session.timeout.ms": SHUT_OUT_SECONDS * 1000,
    "broker.heartbeat.interval.ms": 2 * SHUT_OUT_SECONDS * 1000,
}


@dataclass(frozen=True, kw_only=True)
class ShutOutKafka(Kafka):
    """A broker that tells its controller too seldom that it lives: for half of the time the cluster has no broker."""

    def files(self, site: Site) -> Mapping[str, str]:
        """As any broker's, but for the time of a session and of a heart-beat."""
        files = dict(super().files(site))
        lines = [line for line in files["server.properties"].splitlines() if not line.startswith(tuple(_SHUT_OUT))]
        told = [f"{name}={value}" for name, value in _SHUT_OUT.items()]
        files["server.properties"] = "\n".join([*lines, *told, ""])
        return files


def all_servers() -> list[Server]:
    """The standard ones on free ports, two more of Kafka and a second supervisor, started where a test needs them."""
    return [*standard(supervisors=2), Kafka(name=KAFKA_4, version="4.3"), ShutOutKafka(name=SHUT_OUT_KAFKA)]


@dataclass(frozen=True)
class RunningServer:
    """A server of the stack, by the name under which the stack knows it."""

    stack: Stack
    name: str

    @property
    def host(self) -> str:
        """Where clients find it."""
        return self.stack.servers[self.name].host

    @property
    def port(self) -> int:
        """The port for clients."""
        return int(self.address.rpartition(":")[2])

    @property
    def address(self) -> str:
        """As host:port."""
        return self.stack.address(self.name)

    @property
    def pid(self) -> int:
        """Its process."""
        return self.stack.pid(self.name)

    def start(self) -> None:
        """Start it again, with what it needs, and wait until it is ready; nothing where it runs."""
        self.stack.up([self.name])

    def stop(self) -> None:
        """End it in order."""
        self.stack.down([self.name])

    def kill(self, number: signal.Signals = signal.SIGKILL) -> None:
        """As `kill -9` does, or send another signal: SIGSTOP and SIGCONT halt it and let it go on."""
        self.stack.kill(self.name, number)


@dataclass(frozen=True)
class HBaseServers(RunningServer):
    """HBase as its clients see it: the address is the Thrift server's. `kill` and `stop` are for that one."""

    @property
    def tables(self) -> RunningServer:
        """Master and region server, which hold the tables."""
        return RunningServer(self.stack, "hbase")


@dataclass(frozen=True)
class StormCluster(RunningServer):
    """Storm: the address is that of Nimbus."""

    @property
    def supervisor(self) -> RunningServer:
        """What starts the workers."""
        return RunningServer(self.stack, "supervisor")

    @property
    def zookeeper(self) -> RunningServer:
        """Where Nimbus keeps what it knows."""
        return RunningServer(self.stack, "zookeeper")


def require(poms: list[str]) -> None:
    """Skip where the machine cannot run servers; on CI that is a failure."""
    missing = [text for text, find in _TOOLS if not _is_there(find)]
    have_jars = all(folder_of(pom_of(pom), cache_folder()).is_dir() for pom in poms)
    if not missing or (missing == ["Maven"] and have_jars):
        return
    text = f"{' and '.join(missing)} {'are' if len(missing) > 1 else 'is'} missing"
    if os.environ.get("CI") == "true":
        pytest.fail(f"{text}: CI must run the tests of real servers")
    pytest.skip(f"{text}: the tests of real servers are left out")


_TOOLS: list[tuple[str, Callable[[], object]]] = [("Java 17", find_java), ("Maven", find_maven)]


def _is_there(find: Callable[[], object]) -> bool:
    try:
        find()
    except StackError:
        return False
    return True


@dataclass(frozen=True)
class Servers:
    """All servers of a real stack, running."""

    stack: Stack

    @property
    def addresses(self) -> dict[str, str]:
        """host:port of those that clients know, by name."""
        return {name: self.stack.address(name) for name in ("nimbus", "kafka", "hbase-thrift", "hive")}
