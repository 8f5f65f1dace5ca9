"""One stack of real servers for the whole test session, on free ports; each server starts when a test first asks."""

import os
from collections.abc import Iterator
from pathlib import Path
from typing import TypeVar

import pytest
from tests.stack.servers import KAFKA_4, HBaseServers, RunningServer, Servers, StormCluster, all_servers, require

from paystorm.stack import Stack

ServerT = TypeVar("ServerT", bound=RunningServer)
KEPT = "PAYSTORM_TEST_STACK"
"""The folder of a stack that is used in the place of a new one, and left running: to try a test often."""


@pytest.fixture(scope="session")
def stack(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Stack]:
    """The stack; nothing in it runs yet. At the end of the session everything in it is ended."""
    if KEPT in os.environ:
        yield Stack(Path(os.environ[KEPT]), all_servers(), tell=print)
        return
    made = Stack(tmp_path_factory.mktemp("stack") / "servers", all_servers(), tell=print)
    try:
        yield made
    finally:
        made.down()


@pytest.fixture(scope="session")
def kafka_server(stack: Stack) -> RunningServer:
    """Kafka 3.9."""
    return _started(stack, RunningServer(stack, "kafka"))


@pytest.fixture(scope="session")
def kafka4_server(stack: Stack) -> RunningServer:
    """Kafka 4.3."""
    return _started(stack, RunningServer(stack, KAFKA_4))


@pytest.fixture(scope="session")
def hbase_server(stack: Stack) -> HBaseServers:
    """HBase and its Thrift server, which the address is of."""
    return _started(stack, HBaseServers(stack, "hbase-thrift"))


@pytest.fixture(scope="session")
def hive_server(stack: Stack) -> RunningServer:
    """HiveServer2."""
    return _started(stack, RunningServer(stack, "hive"))


@pytest.fixture(scope="session")
def storm_cluster(stack: Stack) -> StormCluster:
    """ZooKeeper, Nimbus and a supervisor with four slots; the address is that of Nimbus."""
    cluster = StormCluster(stack, "nimbus")
    _started(stack, cluster)
    cluster.supervisor.start()
    return cluster


@pytest.fixture(scope="session")
def servers(stack: Stack) -> Servers:
    """All that a topology needs: Storm, Kafka 3.9, HBase, Hive; started together, since most of it is waiting."""
    names = ["supervisor", "kafka", "hbase-thrift", "hive"]
    require([stack.servers[name].pom for name in stack.needed(names)])
    stack.up(names)
    return Servers(stack)


def _started(stack: Stack, server: ServerT) -> ServerT:
    require([stack.servers[name].pom for name in stack.needed([server.name])])
    server.start()
    return server
