"""The stack that is started where nothing else is said: one server of each kind."""

from collections.abc import Mapping
from types import MappingProxyType
from typing import Any

from paystorm.stack.hbase import HBase, HBaseThrift
from paystorm.stack.hive import Hive
from paystorm.stack.kafka import Kafka
from paystorm.stack.server import LOOPBACK, Server
from paystorm.stack.storm import SLOTS, WORKER_HEAP_MIB, Nimbus, Supervisor, ZooKeeper

Addresses = Mapping[str, tuple[str, int]]
"""Host and port for clients, by server."""


def standard(
    kafka: str = "3.9",
    addresses: Addresses = MappingProxyType({}),
    *,
    slots: int = SLOTS,
    worker_heap: int = WORKER_HEAP_MIB,
    supervisors: int = 1,
    storm: Mapping[str, Any] = MappingProxyType({}),
) -> list[Server]:
    """One server of each kind, in the order in which they start; of supervisors several where that is said.

    `addresses`: host and port for clients, by server; all other ports are chosen free. ZooKeeper and the supervisor
    are where Nimbus is, HBase where its Thrift server is. `worker_heap`: MiB of each of a supervisor's `slots`.
    `storm`: settings of storm.yaml.
    """

    def host(name: str) -> str:
        return addresses[name][0] if name in addresses else LOOPBACK

    def port(server: type[Server]) -> dict[str, int]:
        return {server.port_names[0]: addresses[server.kind][1]} if server.kind in addresses else {}

    at, hbase = host(Nimbus.kind), host(HBaseThrift.kind)
    return [
        ZooKeeper(host=at),
        Nimbus(host=at, given=port(Nimbus), more=storm),
        *(
            Supervisor(name=name, host=of_another(at, n), slots=slots, worker_heap=worker_heap, more=storm)
            for n, name in enumerate(supervisor_names(supervisors))
        ),
        Kafka(host=host(Kafka.kind), given=port(Kafka), version=kafka),
        HBase(host=hbase),
        HBaseThrift(host=hbase, given=port(HBaseThrift)),
        Hive(host=host(Hive.kind), given=port(Hive)),
    ]


def supervisor_names(count: int) -> list[str]:
    """Names of so many supervisors: supervisor, supervisor-2, …"""
    return [Supervisor.kind, *(f"{Supervisor.kind}-{n}" for n in range(2, count + 1))]


def of_another(host: str, n: int) -> str:
    """The host of the nth supervisor: Storm takes those of one host for one machine, so on loopback they differ."""
    return f"127.0.0.{n + 1}" if host == LOOPBACK else host
