"""What every sink must do, as tests that anybody can run on a sink of their own; they need pytest.

    class TestMine(SinkContract):
        sink = MyBolt

        def options(self, folder):
            return {"mine.folder": str(folder)}

        def read(self, folder):
            return [(line["log_partition"], line["log_offset"]) for line in ...]

Each test runs a whole topology with the sink behind the look-up, and looks at what the sink shows (docs/testing.md).
"""

from pathlib import Path
from random import Random
from typing import Any, ClassVar

import msgspec
import pytest
from streamparse import Grouping, Topology

from bolts.blacklist_lookup import BlacklistLookupBolt
from bolts.dead_letters import DeadLettersBolt
from bolts.validation import ValidationBolt
from bolts.warehouse import WarehouseBolt
from bolts.window_count import WindowCountBolt
from paystorm.clock import SECOND
from paystorm.local import faults as messages
from paystorm.sink import REFUSALS, by_partition
from paystorm.stores.checkpoints import Checkpoint
from paystorm.stores.letters import letter_at
from paystorm.stores.retry import load_parked
from paystorm.storm import topology_config
from paystorm.tables.keys import parts
from paystorm.testing.faulty import When, Write, WriteFault
from paystorm.testing.kit import Kit, Place
from paystorm.testing.topology import FAILS_FOR, SOURCE, NamingBolt
from paystorm.testing.workload import FOREVER
from spouts.kafka import KafkaSpout

FAILS_BETWEEN = "fails between "
"""A record whose `message` is this and two numbers cannot be processed from so many to so many seconds on."""
WRITES = 400
"""Writes of the small run that is killed at each of them, at most: more takes too long."""


class NotShownError(BaseException):
    """An offset is committed, and the sink does not show its event. No Exception: nothing in the run may catch it."""


class WaveringBolt(NamingBolt):
    """Names records that could be processed before, and will be again."""

    def transform_row(self, row: dict[str, Any]) -> dict[str, Any]:
        """The row as it is; ValueError for one that fails now."""
        text = row["message"] or ""
        if text.startswith(FAILS_BETWEEN):
            first, last = (float(figure) for figure in text.removeprefix(FAILS_BETWEEN).split())
            if first <= self.clock.now() / SECOND - row["received_at"].timestamp() < last:
                raise ValueError(f"{row['payer']} cannot be reached")
        return super().transform_row(row)


def topology_with(bolt: Any = None, *, tasks: int = 1) -> type[Topology]:
    """The whole chain for `paystorm.testing.SOURCE`; with a sink of this class, called `sink`, behind the look-up."""

    class Sunk(Topology):  # type: ignore[misc]  # streamparse is not typed
        config = topology_config(SOURCE)
        spout = KafkaSpout.spec(par=1)
        validation = ValidationBolt.spec(inputs={spout: Grouping.SHUFFLE}, par=1)
        naming = WaveringBolt.spec(inputs={validation: Grouping.SHUFFLE}, par=1)
        lookup = BlacklistLookupBolt.spec(inputs={naming: Grouping.SHUFFLE}, par=1)
        warehouse = WarehouseBolt.spec(inputs=by_partition(lookup, spout), par=1)
        counts = WindowCountBolt.spec(
            inputs={lookup["shards"]: Grouping.fields("route"), spout[REFUSALS]: Grouping.ALL}, par=1
        )
        dead_letters = DeadLettersBolt.spec(inputs={validation["invalid"]: Grouping.fields("partition")}, par=1)
        if bolt is not None:
            sink = bolt.spec(inputs=by_partition(lookup, spout), par=tasks)

    return Sunk


def records(first: int, after: int) -> list[Any]:
    """Records of `paystorm.testing.SOURCE`: valid ones of a few payers, some of whom get listed; every ninth broken."""
    return [
        "{"
        if n % 9 == 8
        else {"event_time": f"2025-12-31T10:00:{n % 60:02}Z", "payer": f"u{n % 4}", "payment": f"p{n}"}
        for n in range(first, after)
    ]


def wavering(message: str) -> dict[str, Any]:
    """A record that the bolt before the look-up names, as `message` says."""
    return {"event_time": "2025-12-31T10:00:00Z", "payer": "w", "message": message}


class SinkContract:
    """The contract of a sink: every accepted or denied event once, and nothing acknowledged before it is there.

    Fill in `sink`, `read`, and `options` where the sink needs any. `folder` is one that each run has for itself.
    """

    sink: ClassVar[Any]
    """The bolt's class. Where it is made of `paystorm.sink.SinkBolt` its medium fails too, as it is told."""

    def options(self, folder: Path) -> dict[str, Any]:
        """The options that the sink needs."""
        return {}

    def read(self, folder: Path) -> list[Place]:
        """(partition, offset) of every event that the sink shows, as often as it shows it."""
        raise NotImplementedError

    # The tests.

    @pytest.mark.parametrize("chunk", [1, 7, 5000])
    @pytest.mark.parametrize("flush", [{"flushMs": 0}, {"flushMs": 700}, {"flushMs": 5000, "flushRecords": 5}])
    def test_every_event_is_shown_once_however_it_is_cut(
        self, tmp_path: Path, chunk: int, flush: dict[str, int]
    ) -> None:
        with self.kit(tmp_path, partitions=3, **flush, chunkRecords=chunk) as kit:
            kit.feed(records(0, 50))
            kit.advance(70)
            self.check(kit, tmp_path, events=45)
            assert {row["outcome"] for row in kit.outcomes()} >= {"accepted", "dead-lettered"}

    @pytest.mark.parametrize("seed", range(4))
    def test_lost_late_and_repeated_messages_change_nothing(self, tmp_path: Path, seed: int) -> None:
        random, spoilt = Random(seed), [True]

        def plan(delivery: messages.Delivery) -> messages.Fault | None:
            if not spoilt or random.random() > 0.06:
                return None
            return random.choice(
                (
                    messages.Drop(),
                    messages.Delay(random.choice((0.3, 5.0, 45.0))),
                    messages.Duplicate(random.choice((0.0, 3.0, 35.0))),
                    messages.FailTree(),
                    messages.Kill(silenced=random.random() < 0.5),
                )
            )

        with self.kit(tmp_path, partitions=2, seed=seed, messages=plan, chunkRecords=4) as kit:
            kit.feed(records(0, 40))
            kit.advance(100)
            spoilt.clear()
            self.check(kit, tmp_path, events=36)

    @pytest.mark.parametrize("seed", range(4))
    def test_a_task_that_was_replaced_and_wakes_again_does_no_harm(self, tmp_path: Path, seed: int) -> None:
        random, spoilt = Random(seed), [True]

        def plan(delivery: messages.Delivery) -> messages.Fault | None:
            wakes = spoilt and delivery.component == "sink" and random.random() < 0.15
            return messages.MakeZombie(random.choice((0.5, 4.0, 40.0))) if wakes else None

        with self.kit(tmp_path, partitions=2, seed=seed, messages=plan, chunkRecords=4) as kit:
            kit.feed(records(0, 40))
            kit.advance(100)
            spoilt.clear()
            kit.advance(60)
            self.check(kit, tmp_path, events=36)

    @pytest.mark.parametrize("when", ["before", "after", "half"])
    def test_a_crash_at_any_write_loses_and_repeats_nothing(self, tmp_path: Path, when: When) -> None:
        number, crashed = 0, 0
        while True:
            number += 1
            folder = tmp_path / str(number)
            folder.mkdir()
            with self.kit(folder, chunkRecords=4, flushMs=0) as kit:
                kit.feed(records(0, 10))
                kit.spoil_if(
                    lambda write, n=number: (  # type: ignore[misc]
                        WriteFault(when, "crash") if write.number == n and (when != "half" or write.rows > 1) else None
                    )
                )
                kit.run_until_idle()
                if kit.writes < number:
                    break
                crashed += not kit.alive
                kit.spoil_if(None)
                kit.restart()
                kit.feed(records(10, 12))
                kit.run_until_idle()
                self.check(kit, folder, events=11, verify=False)
            assert number < WRITES
        assert crashed, "no write was spoilt"

    def test_the_death_of_the_sink_at_any_of_its_writes_loses_and_repeats_nothing(self, tmp_path: Path) -> None:
        number = 0
        while True:
            number += 1
            folder = tmp_path / str(number)
            folder.mkdir()
            seen: list[Write] = []
            with self.kit(folder, chunkRecords=4, flushMs=0) as kit:
                kit.spoil_if(lambda write, n=number, seen=seen: self._nth(write, n, seen))  # type: ignore[misc]
                kit.feed(records(0, 10))
                kit.run_until_idle()
                self.check(kit, folder, events=9, verify=False)
                if len(seen) < number:
                    break
            assert number < WRITES

    @staticmethod
    def _nth(write: Write, number: int, seen: list[Write]) -> WriteFault | None:
        if not (write.what.startswith("sink.") or ".sink." in write.name):
            return None
        seen.append(write)
        return WriteFault("after", "kill") if len(seen) == number else None

    def test_kills_stops_and_another_number_of_tasks_lose_and_repeat_nothing(self, tmp_path: Path) -> None:
        with self.kit(tmp_path, partitions=3, chunkRecords=3) as kit:
            kit.feed(records(0, 20))
            kit.advance(0.5)
            kit.kill()
            kit.restart(topology_with(self.sink, tasks=2))
            kit.feed(records(20, 30))
            kit.advance(0.3)
            kit.kill("sink")
            kit.feed(records(30, 40))
            kit.advance(2)
            kit.stop()
            kit.restart(topology_with(self.sink, tasks=1))
            self.check(kit, tmp_path, events=36)

    def test_an_outage_costs_no_event(self, tmp_path: Path) -> None:
        with self.kit(tmp_path, partitions=2) as kit:
            kit.feed(records(0, 9))
            kit.advance(1)
            for part in ("sink", "tables", "warehouse"):
                kit.outage(part)
                kit.feed(records(9, 12))
                kit.advance(40)
                assert kit.parked() == []
                kit.outage()
                kit.advance(15)
            self.check(kit, tmp_path, events=17)

    def test_a_record_that_was_given_up_is_not_shown(self, tmp_path: Path) -> None:
        with self.kit(tmp_path, maxOffsetBehind=2) as kit:
            (place,) = kit.feed([wavering(f"{FAILS_FOR}{FOREVER}")])
            kit.feed(records(0, 8))
            kit.advance(90)
            assert kit.outcome(place) == "dead-lettered"
            self.check(kit, tmp_path, events=8)

    def test_a_record_that_the_sink_shows_is_never_given_up(self, tmp_path: Path) -> None:
        with self.kit(tmp_path, maxOffsetBehind=2, flushMs=0) as kit:
            # Its first attempt reaches no other sink, and so is not complete.
            kit.world.faults.down = lambda what, name, write: what.startswith("warehouse.") or name == "pay.journal"
            (place,) = kit.feed([wavering(f"{FAILS_BETWEEN} 5 100")])
            kit.advance(4)
            assert self.read(tmp_path) == [place]
            kit.advance(30)
            kit.outage()
            kit.advance(15)
            kit.feed(records(0, 8))
            kit.advance(45)
            assert [row["offset"] for row in kit.parked()] == [place[1]]
            assert self.read(tmp_path).count(place) == 1
            kit.advance(7200)
            assert kit.outcome(place) == "accepted"
            self.check(kit, tmp_path, events=9)

    def test_it_can_be_added_and_removed_and_nothing_else_changes(self, tmp_path: Path) -> None:
        with self.kit(tmp_path, topology=topology_with()) as kit:
            kit.feed(records(0, 20))
            kit.run_until_idle()
            before = kit.outcomes()
            kit.restart(topology_with(self.sink))
            added = kit.feed(records(20, 30))
            kit.run_until_idle()
            shown = self.read(tmp_path)
            assert set(added) - {(r["partition"], r["offset"]) for r in kit.dead_letters()} <= set(shown)
            assert len(shown) == len(set(shown))
            kit.restart(topology_with())
            kit.feed(records(30, 40))
            kit.verify()
            assert kit.outcomes()[: len(before)] == before or set(map(str, before)) <= set(map(str, kit.outcomes()))
            assert self.read(tmp_path) == shown

    # What the tests share.

    def kit(self, folder: Path, *, topology: Any = None, **given: Any) -> Kit:
        """A kit with the sink, watched: it fails where an offset is committed and the sink does not show its event."""
        own = {name: given.pop(name) for name in ("partitions", "seed", "messages") if name in given}
        topology = topology or topology_with(self.sink)
        kit = Kit(topology, options={"shards": 2, **given, **self.options(folder)}, **own)
        if any(spec.name == "sink" for spec in topology.specs):
            kit.world.faults.watches.append(lambda write, rows: self._watch(kit, folder, write, rows))
        return kit

    def check(self, kit: Kit, folder: Path, *, events: int, verify: bool = True) -> None:
        """The sink shows what the warehouse stores, all of it and each once."""
        assert kit.run_until_idle()
        stored = sorted((row["log_partition"], row["log_offset"]) for row in kit.events())
        assert len(stored) == events
        assert sorted(self.read(folder)) == stored
        if verify:
            kit.verify(errors_allowed=True)

    def _watch(self, kit: Kit, folder: Path, write: Write, rows: Any) -> None:
        """Nothing is acknowledged before it is shown: where an offset is committed, all below it is."""
        name = kit.source.name
        if write.what != "tables.replace" or write.name != f"{name}.offsets":
            return
        ((row_key, value),) = rows
        partition = int(parts(row_key)[1])
        committed = msgspec.msgpack.decode(value, type=Checkpoint).committed
        shown = set(self.read(folder))
        tables = kit.world.tables
        for p, offset, _, _ in kit.world.log.records(kit.source.topic):
            if p != partition or offset >= committed or (p, offset) in shown:
                continue
            if not load_parked(tables, name, p, offset) and not letter_at(tables, name, p, offset):
                raise NotShownError(f"{p}/{offset} is committed, and the sink does not show it")
