"""The test kit for people who write sources, bolts and sinks: a topology whose time and failures you command.

Everything runs in one thread, in memory, under a seed and a clock that only you move: a test that fails once fails
always. `docs/testing.md` has an example of everything.
"""

import copy
import json
import tempfile
from collections.abc import Callable, Iterable, Iterator, Mapping
from datetime import UTC, datetime, timedelta
from pathlib import Path
from types import SimpleNamespace
from typing import Any, Literal, Self

import polars as pl

from paystorm import exports
from paystorm.clock import SECOND
from paystorm.errors import ConfigError
from paystorm.exports import utc
from paystorm.local.faults import FaultPlan
from paystorm.log.base import OutRecord
from paystorm.project import SOURCE
from paystorm.settings import with_options
from paystorm.sink import SinkBolt
from paystorm.source import ID_MAX, Source
from paystorm.stores import lists
from paystorm.stores.retry import all_parked
from paystorm.testing.checking import balance, check, verified
from paystorm.testing.faulty import Faults, What, When, Write, WriteFault
from paystorm.testing.world import Process, World
from paystorm.verdicts import verdict_topic

Record = Mapping[str, Any] | str | bytes
"""What can be fed: a `data` object, a whole envelope, or the raw text or bytes of a record."""
Place = tuple[int, int]
"""(partition, offset) of a record."""
Row = dict[str, Any]
Part = Literal["log", "tables", "warehouse", "sink"]
"""What can be out of order: the log, the tables, the warehouse, the media of sinks made of `SinkBolt`."""

SECONDS_DONE_STEP_BY_STEP = 120.0
"""A longer wait is skipped but for its end: nothing falls due in it except retries, which are then late."""
TAIL = 20.0
"""Seconds at the end of a long wait that are done step by step."""


class Kit:
    """A topology under test, from the first record to what became of it.

        with Kit(Purchase) as kit:
            kit.feed([{"event_time": "2025-12-31T10:00:00Z", "from_party": "u1", "to_party": "u2"}])
            kit.run_until_idle()
            assert [row["outcome"] for row in kit.outcomes()] == ["accepted"]
            kit.verify()

    Where it stands still nothing happens: `run_until_idle` and `advance` let it go on.
    """

    def __init__(
        self,
        topology: Any,
        *,
        options: Mapping[str, Any] | None = None,
        partitions: int = 1,
        now: str | datetime = "2026-01-01T00:00:00Z",
        seed: int = 0,
        messages: FaultPlan | None = None,
    ) -> None:
        """Make the world and start the topology in it.

        topology: a streamparse Topology class whose config is of `topology_config`. options: as config.json has them,
        over small defaults (chunks of 7 records, 3 shards). partitions: of the source's topic. now: when the test
        begins; a record fed without `received_at` is received at the time of the kit's clock. seed: decides the order
        of all that may happen in any order. messages: what becomes of messages between components
        (`paystorm.local.faults`). Raises ConfigError.
        """
        declared = topology.config.get(SOURCE)
        if declared is None:
            raise ConfigError(f"{topology.__name__} has no source; write config = topology_config(SOURCE)")
        source = with_options(Source.from_dict(declared), options or {})
        self.world = World(seed, source=source, partitions=partitions)
        """What outlives the topology; its parts are those of `paystorm.testing`."""
        began = datetime.fromisoformat(now) if isinstance(now, str) else now
        began = began if began.tzinfo is not None else began.replace(tzinfo=UTC)
        self.world.clock.jump((began - self.now).total_seconds())
        self._topology, self._options, self._messages = topology, dict(options or {}), messages
        self._process = self._start()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exc: object) -> None:
        self.kill()

    # Time.

    @property
    def source(self) -> Source:
        """The source of the topology, with the options."""
        return self.world.source

    @property
    def now(self) -> datetime:
        """The time of the kit's clock, UTC."""
        found = utc(self.world.clock.now())
        assert found is not None
        return found

    @property
    def alive(self) -> bool:
        """Whether the topology runs: not killed, and not dead of a `spoil`."""
        return not self._process.dead

    def run_until_idle(self, seconds: float = 900.0) -> bool:
        """Let it go on until all is read and committed and no retry is due; False: it died of what was spoilt.

        Raises Stuck (an AssertionError) where that takes longer than `seconds` of the kit's clock.
        """
        return self._process.run(seconds=seconds)

    def advance(self, seconds: float) -> bool:
        """Let time pass, doing what falls due; False: it died.

        Of more than two minutes only the last 20 s are done step by step, after what is under way.
        """
        if seconds <= SECONDS_DONE_STEP_BY_STEP:
            return self._process.wait(seconds)
        end = self.world.clock.monotonic() + seconds
        if not self.run_until_idle():
            return False
        self._process.skip(max(end - TAIL - self.world.clock.monotonic(), 0.0))
        return self._process.wait(max(end - self.world.clock.monotonic(), 0.0))

    # What comes in.

    def feed(self, records: Iterable[Record], *, partition: int | None = None) -> list[Place]:
        """Append records to the source's topic: where each stands.

        An object without `data` is wrapped in an envelope of the source's first application (else `test`). Without
        `partition` a record goes where its first party says, as with `paystorm send`.
        """
        made = [self._record(record, partition) for record in records]
        return self.world.log.append(self.source.topic, made) if made else []

    def feed_file(self, path: Path) -> list[Place]:
        """Feed the lines of an NDJSON file, as they are or wrapped."""
        return self.feed(
            json.loads(line) if line.startswith(b"{") else line for line in path.read_bytes().splitlines() if line
        )

    def _record(self, record: Record, partition: int | None) -> OutRecord:
        if isinstance(record, bytes | str):
            return OutRecord(record if isinstance(record, bytes) else record.encode(), None, partition)
        envelope = record
        if "ApplicationRef" not in record or not isinstance(record.get("data"), Mapping):
            envelope = {"ApplicationRef": next(iter(self.source.applications), "test"), "data": record}
        data = envelope["data"]
        parties = (data.get(party.field) for party in self.source.parties)
        key = next((p[:ID_MAX].encode() for p in parties if isinstance(p, str)), None)
        return OutRecord(json.dumps(envelope, default=_plain).encode(), key, partition)

    def blacklist(self, kind: str, party: str, *, by: str = "test", expires_after: float | None = None) -> None:
        """Put a party on the blacklist, as a person; `expires_after` seconds, or never."""
        self._list(lists.add_entry, kind, party, by, expires_after)

    def allow(self, kind: str, party: str, *, by: str = "test", expires_after: float | None = None) -> None:
        """Put a party on the allowlist, as a person."""
        self._list(lists.allow, kind, party, by, expires_after)

    def _list(self, do: Callable[..., Any], kind: str, party: str, by: str, expires_after: float | None) -> None:
        now = self.world.clock.now()
        expires_at = None if expires_after is None else now + round(expires_after * SECOND)
        made = do(self.world.tables, now=now, by=by, kind=kind, party=party, reason="test", expires_at=expires_at)
        self.world.act(made)

    # What goes wrong.

    def kill(self, component: str | None = None) -> None:
        """Kill every task of a component, with all that waits for it: the engine replaces them. None: everything.

        Nobody hears of it: tuples time out. After a kill of everything `restart` goes on. Raises ConfigError.
        """
        if component is None:
            self._process.kill()
            return
        engine = self._process.driver.engine
        tasks = [task for task in engine.tasks.values() if task.plan.name == component]
        if not tasks:
            there = ", ".join(sorted({task.plan.name for task in engine.tasks.values()}))
            raise ConfigError(f"kill: no component {component!r}; there are {there}")
        for task in tasks:
            engine.lose(task, inbox=True)

    def stop(self) -> None:
        """Stop everything in order: what is under way is finished first."""
        self._process.stop()

    def restart(self, topology: Any = None, *, options: Mapping[str, Any] | None = None) -> None:
        """Start again after a kill (what still runs is killed): the same, or another topology of the source."""
        self.kill()
        self._topology = self._topology if topology is None else topology
        self._options = self._options if options is None else dict(options)
        self._process = self._start()

    def spoil(self, number: int, *, when: When = "after", what: What = "crash") -> None:
        """Spoil the write of this number, counted from 1 over all that is written: see `writes`.

        when: `before` it is done, `after` it (the reply is lost), or `half` through its rows. what: `error` (the call
        raises), `kill` (the component dies), `crash` (everything dies; `restart` goes on).
        """
        self.spoil_if(lambda write: WriteFault(when, what) if write.number == number else None)

    def spoil_if(self, plan: Callable[[Write], WriteFault | None] | None) -> None:
        """Ask `plan` of every write what becomes of it. None: nothing is spoilt any more."""
        self.world.faults.plan = plan

    def outage(self, *parts: Part) -> None:
        """From now on every call to these parts fails; with none, all is well again."""
        self.world.faults.down = lambda what, name, write: what.partition(".")[0] in parts

    @property
    def writes(self) -> int:
        """How many writes have been done or spoilt so far."""
        return self.world.faults.writes

    @property
    def errors(self) -> list[str]:
        """What components raised that is no failure of storage: most often a bug of a bolt."""
        return list(self.world.surprises)

    # What came of it. Columns are those of `paystorm export` (docs/commands.md).

    def outcomes(self) -> list[Row]:
        """A row for every record that has an outcome: accepted, denied or dead-lettered."""
        return _rows(exports.outcomes(self._resources(), self.source))

    def outcome(self, place: Place) -> str | None:
        """The outcome of the record at (partition, offset); None: it has none yet."""
        return {(row["partition"], row["offset"]): row["outcome"] for row in self.outcomes()}.get(place)

    def events(self) -> list[Row]:
        """The stored events with all their columns, by partition and offset."""
        frames = self.world.warehouse.events(self.source.name)
        rows = [row for frame in frames for row in frame.iter_rows(named=True)]
        return sorted(rows, key=lambda row: (row["log_partition"], row["log_offset"]))

    def counts(self) -> list[Row]:
        """What the rules have counted: a row for each rule, party, interval and currency."""
        return _rows(exports.counts(self._resources(), self.source))

    def hits(self) -> list[Row]:
        """Every hit, standing or withdrawn."""
        return _rows(exports.hits(self._resources(), self.source))

    def entries(self) -> list[Row]:
        """Every entry of the lists, with its state now."""
        return _rows(exports.lists(self._resources()))

    def dead_letters(self) -> list[Row]:
        """Every record that is not valid or was given up, with field and code."""
        return _rows(exports.dead_letters(self._resources(), self.source))

    def parked(self) -> list[Row]:
        """Every record that waits for its next retry: partition, offset, attempts, error."""
        return [
            {"partition": p.partition, "offset": p.offset, "attempts": p.attempts, "error": p.error}
            for p in all_parked(self.world.tables, self.source.name)
        ]

    def verdicts(self) -> list[Row]:
        """What was told to those who sent, in order of the topic <source>-verdicts; repeats included."""
        return [json.loads(value) for _, value in self.world.log.keyed(verdict_topic(self.source.name))]

    def verify(self, *, errors_allowed: bool = False) -> None:
        """Run until idle, compute everything again from the raw records, and compare row by row.

        Raises AssertionError with a line for each difference, and for each of `errors` unless they are allowed.
        """
        assert self.alive, "verify: everything was killed; restart first"
        assert self.run_until_idle(), "verify: it died of what was spoilt"
        found = [line for line in check(self.world) if not line.startswith("surprise: ")]
        found += balance(self.world)
        with tempfile.TemporaryDirectory() as folder:
            found += verified(self.world, Path(folder))
        if not errors_allowed:
            found += [f"a component raised: {text}" for text in self.errors]
        assert not found, "\n".join(found)

    # Private

    def _start(self) -> Process:
        topology = SimpleNamespace(
            config=self._topology.config,
            specs=[_spoilable(spec, self.world.faults) for spec in self._topology.specs],
        )
        return self.world.start(topology=topology, options=self._options, faults=self._messages)

    def _resources(self) -> Any:
        return SimpleNamespace(tables=self.world.tables, warehouse=self.world.warehouse, clock=self.world.clock)


def _spoilable(spec: Any, faults: Faults) -> Any:
    """The component's declaration, with a sink's writes to its medium numbered among all others."""
    declared = spec.component_cls
    if not issubclass(declared, SinkBolt):
        return spec

    class Spoilable(declared):  # type: ignore[misc, valid-type]
        """The sink, whose medium fails as it is told."""

        def stage(self, name: str, events: pl.DataFrame) -> None:
            """As the sink's own; spoilt `half` through it, half of the events are staged."""
            self._spoilable("stage", events, lambda some: super(Spoilable, self).stage(name, some))

        def place(self, name: str) -> None:
            """As the sink's own."""
            self._spoilable("place", [name], lambda _: super(Spoilable, self).place(name))

        def discard(self, prefix: str) -> None:
            """As the sink's own."""
            self._spoilable("discard", [prefix], lambda _: super(Spoilable, self).discard(prefix))

        def _spoilable(self, what: str, rows: Any, do: Callable[[Any], Any]) -> None:
            faults.write(f"sink.{what}", self.component_name, rows, do)

    made = copy.copy(spec)
    made.component_cls = Spoilable
    return made


def _rows(frames: Iterator[pl.DataFrame]) -> list[Row]:
    return [row for frame in frames for row in frame.iter_rows(named=True)]


def _plain(value: Any) -> str:
    """A value that JSON does not have: a time as RFC 3339, else its text."""
    if isinstance(value, datetime):
        utc_time = value.astimezone(UTC) if value.tzinfo is not None else value
        return utc_time.replace(tzinfo=None).isoformat() + "Z"
    if isinstance(value, timedelta):
        raise TypeError(f"feed: a record cannot hold {value!r}")
    return str(value)
