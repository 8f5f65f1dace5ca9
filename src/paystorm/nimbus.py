"""Nimbus, the master of a Storm cluster, over Thrift: which topologies run, with which options, and how they do."""

import json
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

from streamparse.thrift import GetInfoOptions, KillOptions, Nimbus, NumErrorsChoice
from thriftpy2.protocol import TBinaryProtocolFactory
from thriftpy2.rpc import make_client
from thriftpy2.thrift import TException
from thriftpy2.transport import TFramedTransportFactory

from paystorm.connections import address_of
from paystorm.errors import ClusterError

PORT = 6627
TIMEOUT = 20.0
"""Seconds that Nimbus may take to answer: one that has just become the leader is slow."""
ALL_TIME = ":all-time"
WINDOW = "600"
"""The window of the figures that are not for all time: the last ten minutes."""


@dataclass(frozen=True, slots=True)
class TopologyState:
    """A topology as Nimbus lists it."""

    id: str
    name: str
    status: str
    """ACTIVE, INACTIVE, KILLED or REBALANCING."""
    uptime: int
    """Seconds."""
    tasks: int
    executors: int
    workers: int


@dataclass(frozen=True, slots=True)
class ComponentState:
    """What Nimbus knows of a component, over all its executors. Latencies are in milliseconds, None: not known yet."""

    name: str
    is_spout: bool
    executors: int
    tasks: int
    emitted: int
    acked: int
    failed: int
    latency: float | None
    """Spout: from a tuple to its ack. Bolt: from a tuple's arrival to its ack. Of the last ten minutes."""
    errors: tuple[tuple[int, str], ...]
    """The last ones: time (seconds since 1970-01-01 UTC) and first line."""


@dataclass(frozen=True, slots=True)
class Master:
    """One of the cluster's Nimbus servers."""

    host: str
    port: int
    version: str
    leads: bool


@dataclass(frozen=True, slots=True)
class Supervisor:
    """What starts workers on a machine."""

    host: str
    version: str
    slots: int
    """Workers that it may have."""
    used: int


@dataclass(frozen=True, slots=True)
class ClusterState:
    """The servers of a cluster."""

    masters: tuple[Master, ...]
    supervisors: tuple[Supervisor, ...]


class NimbusClient:
    """A cluster's Nimbus. Each call connects anew, to the first of `seeds` that answers."""

    def __init__(self, seeds: str | Sequence[str], timeout: float = TIMEOUT) -> None:
        """`seeds`: host or host:port of one or several. Raises ConfigError for what is neither."""
        texts = [seeds] if isinstance(seeds, str) else list(seeds)
        self._seeds = [address_of(text, PORT, "nimbus") for text in texts]
        self._timeout = timeout

    def topologies(self) -> dict[str, TopologyState]:
        """The topologies of the cluster by name. Raises ClusterError."""
        with self._client() as client:
            found = client.getClusterInfo().topologies or []
        return {
            t.name: TopologyState(t.id, t.name, t.status, t.uptime_secs, t.num_tasks, t.num_executors, t.num_workers)
            for t in found
        }

    def cluster(self) -> ClusterState:
        """The servers of the cluster. Raises ClusterError."""
        with self._client() as client:
            found = client.getClusterInfo()
        return ClusterState(
            tuple(Master(n.host, n.port, str(n.version), bool(n.isLeader)) for n in found.nimbuses or ()),
            tuple(
                Supervisor(s.host, str(s.version), s.num_workers, s.num_used_workers) for s in found.supervisors or ()
            ),
        )

    def configuration(self, name: str) -> dict[str, Any]:
        """The options that a topology runs with. Raises ClusterError, also where there is none of the name."""
        topology = self._one(name)
        with self._client() as client:
            configuration: dict[str, Any] = json.loads(client.getTopologyConf(topology.id))
        return configuration

    def components(self, name: str) -> list[ComponentState]:
        """The components of a topology, spouts first, without Storm's own. Raises ClusterError as `configuration`."""
        topology = self._one(name)
        with self._client() as client:
            choice = GetInfoOptions(num_err_choice=NumErrorsChoice.ONE)
            info = client.getTopologyInfoWithOpts(topology.id, choice)
        by_name: dict[str, list[Any]] = {}
        for executor in info.executors:
            if not executor.component_id.startswith("__"):
                by_name.setdefault(executor.component_id, []).append(executor)
        states = [_component(name, executors, info.errors) for name, executors in by_name.items()]
        return sorted(states, key=lambda state: (not state.is_spout, state.name))

    def places(self, name: str) -> set[tuple[str, int]]:
        """Host and port of the workers that a topology is placed on. Raises ClusterError as `configuration`."""
        topology = self._one(name)
        with self._client() as client:
            info = client.getTopologyInfoWithOpts(topology.id, GetInfoOptions(num_err_choice=NumErrorsChoice.NONE))
        return {(executor.host, executor.port) for executor in info.executors}

    def kill(self, name: str, wait: int) -> None:
        """Kill a topology after it has been inactive for `wait` seconds. Raises ClusterError where there is none."""
        self._one(name)
        with self._client(self._leader_first()) as client:
            client.killTopologyWithOpts(name, KillOptions(wait_secs=wait))

    def _one(self, name: str) -> TopologyState:
        there = self.topologies()
        if name not in there:
            raise ClusterError(
                f"no topology {name} on the cluster; there are {', '.join(sorted(there)) or 'none'}: "
                f"sparse submit -n {name}"
            )
        return there[name]

    def _leader_first(self) -> list[tuple[str, int]]:
        """The seeds behind the leader, the only one that takes orders. It may be known here under another name."""
        with self._client() as client:
            leader = client.getLeader()
        return [(leader.host, leader.port), *self._seeds]

    @contextmanager
    def _client(self, addresses: Sequence[tuple[str, int]] = ()) -> Iterator[Any]:
        client = self._connected(addresses or self._seeds)
        try:
            yield client
        except (TException, OSError) as error:
            raise ClusterError(f"Nimbus: {_text(error)}") from error
        finally:
            client.close()

    def _connected(self, addresses: Sequence[tuple[str, int]]) -> Any:
        refused = []
        for host, port in addresses:
            try:
                return make_client(
                    Nimbus,
                    host=host,
                    port=port,
                    proto_factory=TBinaryProtocolFactory(),  # type: ignore[no-untyped-call]
                    trans_factory=TFramedTransportFactory(),
                    timeout=int(self._timeout * 1000),
                )
            except (TException, OSError) as error:
                refused.append(f"{host}:{port}: {_text(error)}")
        raise ClusterError(f"Nimbus cannot be reached: {'; '.join(refused)}: is it up, is config.json's nimbus right?")


def _component(name: str, executors: Sequence[Any], errors: Mapping[str, Sequence[Any]]) -> ComponentState:
    stats = [executor.stats for executor in executors if executor.stats is not None]
    spouts = [s.specific.spout for s in stats if s.specific.spout is not None]
    bolts = [s.specific.bolt for s in stats if s.specific.bolt is not None]
    own = spouts or bolts
    latencies = [s.complete_ms_avg for s in spouts] or [b.process_ms_avg for b in bolts]
    known = [ms for latency in latencies for ms in latency.get(WINDOW, {}).values() if ms > 0]
    return ComponentState(
        name=name,
        is_spout=bool(spouts),
        executors=len(executors),
        tasks=sum(e.executor_info.task_end - e.executor_info.task_start + 1 for e in executors),
        emitted=sum(_all(s.emitted) for s in stats),
        acked=sum(_all(s.acked) for s in own),
        failed=sum(_all(s.failed) for s in own),
        latency=sum(known) / len(known) if known else None,
        errors=tuple((e.error_time_secs, e.error.splitlines()[0]) for e in errors.get(name, ())),
    )


def _all(counts: Mapping[str, Mapping[Any, int]]) -> int:
    """The figure for all time, over all streams but Storm's own."""
    streams = counts.get(ALL_TIME, {})
    return sum(n for stream, n in streams.items() if not str(getattr(stream, "streamId", stream)).startswith("__"))


def _text(error: Exception) -> str:
    """What an error says, in one line."""
    return " ".join(str(getattr(error, "msg", None) or getattr(error, "message", None) or error).split())
