"""One stack of real servers for the whole test session, on free ports; each server starts when a test first asks."""

import os
import re
from collections.abc import Generator, Iterator
from pathlib import Path
from typing import TypeVar

import pytest
from tests.stack.servers import (
    KAFKA_4,
    SHUT_OUT_KAFKA,
    HBaseServers,
    RunningServer,
    Servers,
    StormCluster,
    all_servers,
    require,
)

from paystorm.stack import Stack

ServerT = TypeVar("ServerT", bound=RunningServer)
KEPT = "PAYSTORM_TEST_STACK"
"""The folder of a stack that is used in the place of a new one, and left running: to try a test often."""
MADE = pytest.StashKey[Stack]()
SAID_LINES = 60


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(
    item: pytest.Item, call: pytest.CallInfo[None]
) -> Generator[None, pytest.TestReport, pytest.TestReport]:
    """Show with a failure the errors that Storm's workers have written: nothing else says why a topology stands."""
    report = yield
    if report.failed and MADE in item.config.stash:
        logs = {name: path for name, path in item.config.stash[MADE].logs().items() if name.startswith("worker ")}
        for name, path in logs.items():
            lines = path.read_text(errors="replace").splitlines()
            said = [line for line in lines if "[ERROR]" in line or re.match(r"[\w.]*Error: ", line)]
            if said:
                report.sections.append((f"{name}: its last errors", "\n".join(said[-SAID_LINES:])))
    return report


@pytest.fixture(scope="session")
def stack(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Stack]:
    """The stack; nothing in it runs yet. At the end of the session everything in it is ended."""
    if KEPT in os.environ:
        kept = request.config.stash[MADE] = Stack(Path(os.environ[KEPT]), all_servers(), tell=print)
        yield kept
        return
    made = Stack(tmp_path_factory.mktemp("stack") / "servers", all_servers(), tell=print)
    request.config.stash[MADE] = made
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


@pytest.fixture(scope="module")
def shut_out_kafka(stack: Stack) -> Iterator[RunningServer]:
    """Kafka 3.9 whose controller shuts the only broker out for seconds at a time."""
    server = _started(stack, RunningServer(stack, SHUT_OUT_KAFKA))
    yield server
    server.stop()


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
