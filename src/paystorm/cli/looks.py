"""Looks at sources again and again, as `status --watch` and `metrics` do: what costs much is read now and then only."""

import time
from collections import deque
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

from paystorm.cli.balance import SourceBalance, balance_of, followed
from paystorm.cli.common import Here
from paystorm.errors import ClusterError
from paystorm.nimbus import ComponentState, TopologyState
from paystorm.source import Source
from paystorm.stores.gauges import Gauge, load_gauges

WHOLE_SECONDS = 30.0
"""Seconds after which everything is counted again; longer where that takes long (`SHARE`)."""
SHARE = 0.1
"""Share of the time that counting everything may take, at most."""
KEPT = 10
"""Looks that rates are made of."""


@dataclass(frozen=True, slots=True)
class Look:
    """A source at one moment."""

    source: Source
    balance: SourceBalance
    running: int | str | None
    """The process that runs it, or its topology's id on a cluster."""
    gauges: tuple[Gauge, ...]
    """Of the tasks that run; empty where none has told of itself yet."""
    rates: Mapping[int, float] = field(default_factory=dict)
    """Records committed a second by partition, since some looks ago; empty at the first look."""
    rate: float | None = None
    """Records a second: of all partitions; at the first look what the spout's tasks say. None: not known."""
    topology: TopologyState | None = None
    components: tuple[ComponentState, ...] = ()
    """Of a cluster, as Nimbus has them."""

    @property
    def slowest_ms(self) -> float | None:
        """From the spout's reading a record to its being stored, the slowest of late. None: nothing was stored."""
        return max((g.slowest_ms for g in self.gauges if g.slowest_ms > 0), default=None)


@dataclass(frozen=True, slots=True)
class Cluster:
    """What Nimbus says, or why it says nothing."""

    topologies: Mapping[str, TopologyState] = field(default_factory=dict)
    components: Mapping[str, tuple[ComponentState, ...]] = field(default_factory=dict)
    """By source."""
    running: Mapping[str, int | str] = field(default_factory=dict)
    problem: str | None = None


class Looks:
    """Follows some sources. Not for several threads at once."""

    def __init__(self, here: Here, sources: Mapping[str, Source], *, now: Callable[[], float] = time.monotonic) -> None:
        self.cluster = Cluster()
        """As of the last look."""
        self._here, self._sources, self._now = here, sources, now
        self._counted: dict[str, SourceBalance] = {}
        self._whole_at: float | None = None
        self._whole_took = 0.0
        self._seen: dict[str, deque[tuple[float, dict[int, int]]]] = {n: deque(maxlen=KEPT) for n in sources}

    def look(self) -> list[Look]:
        """Look at every source. Raises TablesError, LogError."""
        begin = self._now()
        wait = max(WHOLE_SECONDS, self._whole_took / SHARE)
        whole = self._whole_at is None or begin - self._whole_at >= wait
        resources = self._here.resources
        for name, source in self._sources.items():
            known = self._counted.get(name)
            if known is None or whole:
                self._counted[name] = balance_of(resources, source)
            else:
                self._counted[name] = followed(resources, source, known)
            now = self._now()
            self._seen[name].append((now, {p.partition: p.read for p in self._counted[name].partitions}))
        if whole:
            self._whole_at, self._whole_took = begin, self._now() - begin
        self.cluster = self._cluster()
        return [self._one(source) for source in self._sources.values()]

    def _one(self, source: Source) -> Look:
        name = source.name
        gauges = tuple(load_gauges(self._here.resources.tables, name, self._here.resources.clock.now()))
        rates = _rates(self._seen[name])
        spouts = self._here.project.topologies()[name].thrift_spouts
        told = [g.records / g.seconds for g in gauges if g.component in spouts and g.seconds > 0]
        return Look(
            source=source,
            balance=self._counted[name],
            running=self.cluster.running.get(name),
            gauges=gauges,
            rates=rates,
            rate=sum(rates.values()) if rates else sum(told) if told else None,
            topology=self.cluster.topologies.get(name),
            components=self.cluster.components.get(name, ()),
        )

    def _cluster(self) -> Cluster:
        """Where the sources run, and what Nimbus has of them. That it cannot be reached hides nothing else."""
        here = self._here
        if here.folder is not None:
            return Cluster(running=here.running())
        try:
            nimbus = here.nimbus()
            there = nimbus.topologies()
            files = here.project.topology_names()
            known = {name: there[files[name]] for name in self._sources if files[name] in there}
            components = {name: tuple(nimbus.components(topology.name)) for name, topology in known.items()}
        except ClusterError as error:
            return Cluster(problem=str(error))
        running = {name: topology.id for name, topology in known.items() if topology.status == "ACTIVE"}
        return Cluster(known, components, running)


def _rates(seen: "deque[tuple[float, dict[int, int]]]") -> dict[int, float]:
    if len(seen) < 2:
        return {}
    (first, before), (last, after) = seen[0], seen[-1]
    passed = last - first
    if passed <= 0:
        return {}
    return {partition: max(0, read - before.get(partition, 0)) / passed for partition, read in after.items()}
