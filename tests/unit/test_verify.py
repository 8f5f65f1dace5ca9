"""`paystorm verify` finds no difference in what the topology made, and names every one that is put there."""

# mypy: disable-error-code="misc"
# (streamparse publishes no types, so its base classes are Any)

import json
import random
import shutil
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any, ClassVar

import msgspec
import polars as pl
import pytest
from hosted import SOURCE as HOSTED
from streamparse import Grouping, Topology

from bolts.blacklist_lookup import BlacklistLookupBolt
from bolts.dead_letters import DeadLettersBolt
from bolts.validation import ValidationBolt
from bolts.warehouse import WarehouseBolt
from bolts.window_count import WindowCountBolt
from paystorm.chunk import frame_from_bytes, frame_to_bytes
from paystorm.cli.main import main
from paystorm.clock import ManualClock
from paystorm.errors import UsageError
from paystorm.generate import purchases
from paystorm.local.step import StepDriver
from paystorm.log.base import OutRecord
from paystorm.named import TransformBolt
from paystorm.project import Project
from paystorm.resources import HANDED_OVER, Resources, open_embedded
from paystorm.rules import Rule
from paystorm.settings import Settings
from paystorm.source import Source
from paystorm.stores import lists
from paystorm.stores.checkpoints import load_checkpoint
from paystorm.stores.control import Hold, load_held, load_hold, put_hold
from paystorm.stores.hits import Hit, load_hits, put_hits
from paystorm.stores.hits import row_key as hit_key
from paystorm.stores.journal import Row
from paystorm.stores.letters import all_letters, put_pruned
from paystorm.stores.retry import Parked, put_parked
from paystorm.storm import topology_config
from paystorm.tables.keys import key, parts
from paystorm.verdicts import verdict_record, verdict_topic
from paystorm.verify.source import Report, verify_source
from paystorm.verify.stored import files_in_place
from spouts.kafka import KafkaSpout

SOURCE = msgspec.structs.replace(
    HOSTED,
    rules=(
        *HOSTED.rules,
        Rule(name="growth", kind="account", role="sender", factor="2", baseline=2, action="review"),
        Rule(name="spent_month", kind="account", measure="sum", field="amount", interval="month", limit={"EUR": "60"}),
        Rule(name="brief", kind="device", limit=4, expires_after=20),
    ),
)
PARTITIONS = 3
STEPS = 200_000


class Picky(TransformBolt):
    """An operator's own bolt: some records fail for a while, some for ever, and some take the whole chunk with them."""

    tries: ClassVar[dict[str, int]] = {}

    def transform(self, events: pl.DataFrame) -> pl.DataFrame:
        for number in events["payer"].to_list():
            if number == "a9" and self.tries.setdefault("a9", 0) < 7:
                self.tries["a9"] += 1
                raise ConnectionError("a service is away")
        return super().transform(events)

    def transform_row(self, row: dict[str, Any]) -> dict[str, Any]:
        tried = self.tries[row["event_id"]] = self.tries.get(row["event_id"], 0) + 1
        if row["payer"] == "a3" or (row["payer"] == "a2" and tried < 3):
            raise ValueError("cannot be done")
        return row


def topology(source: Source, own_bolt: type[TransformBolt] = TransformBolt) -> type[Topology]:
    class Pay(Topology):
        config = topology_config(source)
        spout = KafkaSpout.spec(par=2)
        validation = ValidationBolt.spec(inputs={spout: Grouping.SHUFFLE}, par=1)
        own = own_bolt.spec(inputs={validation: Grouping.SHUFFLE}, par=1)
        lookup = BlacklistLookupBolt.spec(inputs={own: Grouping.SHUFFLE}, par=2)
        warehouse = WarehouseBolt.spec(
            inputs={lookup: Grouping.fields("partition"), spout["refusals"]: Grouping.fields("partition")}, par=2
        )
        counts = WindowCountBolt.spec(
            inputs={lookup["shards"]: Grouping.fields("route"), spout["refusals"]: Grouping.ALL}, par=2
        )
        dead_letters = DeadLettersBolt.spec(inputs={validation["invalid"]: Grouping.fields("partition")}, par=1)

    return Pay


class Running:
    """The topology over a data folder, step by step."""

    def __init__(
        self,
        resources: Resources,
        source: Source = SOURCE,
        seed: int = 1,
        own_bolt: type[TransformBolt] = TransformBolt,
        **options: Any,
    ) -> None:
        clock = resources.clock
        assert isinstance(clock, ManualClock)
        conf = {HANDED_OVER: resources, "chunkRecords": 20, "snapshotRows": 4, **options}
        self.resources, self.clock = resources, clock
        self.driver = StepDriver(topology(source, own_bolt), conf, clock, random.Random(seed))
        self.driver.start()

    def spouts(self) -> list[KafkaSpout]:
        tasks = self.driver.engine.tasks.values()
        return [task.host.component for task in tasks if task.plan.is_spout and task.host is not None]

    def settle(self) -> None:
        """Until everything is processed."""
        assert self.driver.run_until(
            lambda: self.driver.quiet() and all(s.idle() for s in self.spouts()), seconds=120, max_steps=STEPS
        )

    def stop(self) -> None:
        self.settle()
        assert self.driver.stop(60).drained


def payment(rng: random.Random, **changed: Any) -> dict[str, Any]:
    # Heavy-tailed, so that some are listed soon and others never.
    data = {
        "event_time": f"2025-12-{rng.randrange(28, 32)}T{rng.randrange(24):02}:{rng.randrange(60):02}:00Z",
        "payer": f"a{min(int(rng.expovariate(0.08)), 60)}",
        "payee": f"m{rng.randrange(30)}",
        "payee_kind": rng.choice(["account", "merchant", "merchant"]),
        "amount": rng.choice([f"{rng.randrange(900) / 100:.2f}", rng.randrange(9), "1e0"]),
        "currency": rng.choice(["EUR", "EUR", "USD", None]),
        "device": rng.choice([None, f"d{rng.randrange(12)}"]),
        "note": "été, 🦊",
    }
    return {**data, **changed}


BROKEN: tuple[Callable[[bytes], bytes], ...] = (
    lambda value: value[:-1],
    lambda value: value.replace(b'"payer"', b'"payr"'),
    lambda value: value.replace(b'"amount": ', b'"amount": -'),
    lambda value: value.replace(b'"ApplicationRef": "shop"', b'"ApplicationRef": ""'),
    lambda value: value.replace(b'"ApplicationRef": "shop"', b'"id": "mine", "ApplicationRef": 7'),
    lambda value: b"\xff" + value,
    lambda value: b"",
)
"""Ways in which a record is not valid."""


def payments(count: int, seed: int) -> list[OutRecord]:
    rng = random.Random(seed)
    out = []
    for number in range(count):
        value = json.dumps({"ApplicationRef": "shop", "data": payment(rng)}).encode()
        if rng.random() < 0.06:
            value = rng.choice(BROKEN)(value)
        out.append(OutRecord(value, None, number % PARTITIONS))
    return out


def build(folder: Path) -> None:
    """400 records, people's acts between them, a restart with another limit."""
    clock = ManualClock()
    resources = open_embedded(folder, clock)
    tables = resources.tables
    resources.log.create_topic("pay", PARTITIONS)
    running = Running(resources)
    resources.log.append("pay", payments(160, 1))
    running.settle()
    first = next(h for h in load_hits(tables, "pay") if h.action == "deny" and h.status == "standing")
    lists.lift(tables, now=clock.now(), by="eve", kind=first.kind, party=first.party, hits=[first.name()], reason="ok")
    lists.add_entry(tables, now=clock.now(), by="eve", kind="merchant", party="m7", reason="known")
    lists.allow(tables, now=clock.now(), by="eve", kind="account", party="a1", reason="pay day")
    clock.advance(2)
    resources.log.append("pay", payments(140, 2))
    running.settle()
    clock.advance(40)
    resources.log.append("pay", payments(40, 3))
    running.stop()
    rules = tuple(msgspec.structs.replace(r, limit=4) if r.name == "per_day" else r for r in SOURCE.rules)
    again = Running(resources, msgspec.structs.replace(SOURCE, rules=rules), seed=2)
    again.settle()
    quiet = {"payer": "quiet", "payee": "nobody", "payee_kind": "merchant", "device": None}
    value = json.dumps({"ApplicationRef": "shop", "id": "q1", "data": payment(random.Random(4), **quiet)})
    resources.log.append("pay", [*payments(59, 5), OutRecord(value.encode(), None, 2)])
    again.stop()
    resources.close()


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("verify") / "data"
    build(folder)
    return folder


@contextmanager
def opened(folder: Path) -> Iterator[Resources]:
    clock = ManualClock()
    clock.advance(3600)
    resources = open_embedded(folder, clock)
    try:
        yield resources
    finally:
        resources.close()


@pytest.fixture
def resources(built: Path, tmp_path: Path) -> Iterator[Resources]:
    """A copy of the folder that may be spoilt."""
    shutil.copytree(built, tmp_path / "data")
    with opened(tmp_path / "data") as found:
        yield found


def verify(resources: Resources, **options: Any) -> Report:
    return verify_source(resources, SOURCE, hold=False, timeout=1, **options)


def named(report: Report, table: str) -> list[str]:
    return [str(d) for d in report.differences if d.table == table]


def rows(resources: Resources, table: str) -> list[tuple[bytes, bytes]]:
    return list(resources.tables.scan(f"pay.{table}"))


def rewrite(resources: Resources, change: Callable[[pl.DataFrame], pl.DataFrame], having: pl.Expr) -> None:
    """Change the first file that has such an event."""
    for file in sorted(files_in_place(resources.warehouse, "pay"), key=lambda f: f.name):
        events = resources.warehouse.read(file)
        if len(events.filter(having)):
            day, hour = file.hour.split("T")
            folder = next(f for f in resources.warehouse.folders("pay") if f.match(f"dt={day}/hr={hour}"))
            change(events).write_parquet(folder / f"{file.name}.parquet")
            return
    raise AssertionError("no such event")


def republish(resources: Resources, keep: Callable[[int, bytes], bool]) -> None:
    """The verdict topic anew, without some of its records."""
    topic = verdict_topic("pay")
    kept = []
    for partition in range(PARTITIONS):
        batch = resources.log.read(topic, partition, 0, max_records=10_000, max_bytes=10**8, keys=True)
        assert batch is not None
        assert batch.keys is not None
        pairs = zip(batch.keys, batch.all_values(), strict=True)
        kept += [OutRecord(value, name, partition) for name, value in pairs if keep(partition, value)]
    resources.log.delete_topic(topic)
    resources.log.create_topic(topic, PARTITIONS)
    resources.log.append(topic, kept)


# Nothing differs.


def test_what_the_topology_made_has_no_difference(resources: Resources) -> None:
    report = verify(resources)
    assert [str(d) for d in report.differences] == []
    assert report.ok
    assert (report.records, report.parked, report.stood_in, report.notes) == (400, 0, 0, [])
    assert report.events + report.letters == 400
    assert report.letters > 10
    assert report.counts > 100
    assert report.verdicts >= 400


def test_the_folder_holds_every_kind_of_thing(resources: Resources) -> None:
    hits = list(load_hits(resources.tables, "pay"))
    assert {h.rule for h in hits} == {rule.name for rule in SOURCE.rules}
    assert {h.status for h in hits} == {"standing", "withdrawn"}
    assert {h.version for h in hits} == {0, 1}
    assert rows(resources, "cells")
    assert rows(resources, "caught_late")
    denied = [
        row
        for file in files_in_place(resources.warehouse, "pay")
        for row in resources.warehouse.read(file).filter(pl.col("verdict") == "denied").iter_rows(named=True)
    ]
    assert {"pay.per_day", "person"} <= {row["verdict_reason"] for row in denied}


def test_a_source_that_never_ran_has_nothing_to_verify(tmp_path: Path) -> None:
    with opened(tmp_path) as resources:
        report = verify(resources)
    assert report.ok
    assert report.notes == ["it has never read a record"]


def test_records_that_the_log_lost_are_stood_in_for(resources: Resources) -> None:
    class Shorter:
        """The log without the first 30 records of each partition."""

        def __getattr__(self, name: str) -> Any:
            return getattr(resources.log, name)

        def start_offset(self, topic: str, partition: int) -> int:
            return 30 if topic == "pay" else resources.log.start_offset(topic, partition)

        def read(self, topic: str, partition: int, offset: int, **options: Any) -> Any:
            assert topic != "pay" or offset >= 30
            return resources.log.read(topic, partition, offset, **options)

    report = verify(replace(resources, log=Shorter()))
    assert [str(d) for d in report.differences] == []
    assert (report.records, report.stood_in) == (400, 90)
    assert report.notes == ["the log no longer holds 90 of the records: stored events and dead letters stood in"]


# Every planted difference is named.


def test_a_changed_count_is_named(resources: Resources) -> None:
    for row_key, value in rows(resources, "journal"):
        row = msgspec.msgpack.decode(value, type=Row)
        if row.figures:
            figures = frame_from_bytes(row.figures).with_columns(pl.col("v0") + 1)
            changed = msgspec.structs.replace(row, figures=frame_to_bytes(figures))
            resources.tables.put("pay.journal", [(row_key, msgspec.msgpack.encode(changed))])
            break
    else:
        raise AssertionError("no journal row with figures")
    report = verify(resources)
    found = named(report, "counts")
    assert found
    assert all("expected" in line and "held" in line for line in found)


def test_a_removed_cell_is_named(resources: Resources) -> None:
    resources.tables.delete("pay.cells", [row_key for row_key, _ in rows(resources, "cells")])
    assert named(verify(resources), "counts")


def test_a_removed_event_file_is_named_and_so_are_its_events(resources: Resources) -> None:
    path = next(p for f in resources.warehouse.folders("pay") for p in sorted(f.glob("*.parquet")))
    lost = len(pl.read_parquet(path))
    path.unlink()
    report = verify(resources)
    assert len(named(report, "files")) == 1
    assert path.stem in named(report, "files")[0]
    assert report.differing["events"] == report.differing["outcomes"] == lost
    assert named(report, "balance")


def test_a_file_that_the_index_does_not_name_is_named_and_its_events_twice(resources: Resources) -> None:
    path = next(p for f in resources.warehouse.folders("pay") for p in sorted(f.glob("*.parquet")))
    copied = len(pl.read_parquet(path))
    shutil.copy(path, path.with_name("another.parquet"))
    report = verify(resources)
    assert "another" in named(report, "files")[0]
    assert report.differing["stored_once"] == report.differing["events"] == copied


def test_an_event_twice_in_its_file_is_named(resources: Resources) -> None:
    rewrite(resources, lambda events: pl.concat([events, events.head(1)]), pl.lit(True))
    report = verify(resources)
    assert len(named(report, "stored_once")) == 1
    assert "another row" in named(report, "events")[0]
    assert "one twice" in named(report, "index")[0]


def test_a_changed_value_of_an_event_is_named(resources: Resources) -> None:
    rewrite(resources, lambda events: events.with_columns(payer=pl.lit("else")), pl.lit(True))
    assert "'else'" in named(verify(resources), "events")[0]


def test_a_removed_hit_is_named(resources: Resources) -> None:
    hit = next(h for h in load_hits(resources.tables, "pay") if h.status == "standing" and h.kind == "account")
    resources.tables.delete("pay.hits", [hit_key(hit)])
    found = named(verify(resources), "hits")
    assert len(found) == 1
    assert hit.party in found[0]
    assert "held nothing" in found[0]


def changed_hit(resources: Resources, of: Callable[[Hit], bool], **changed: Any) -> Hit:
    hit = next(h for h in load_hits(resources.tables, "pay") if of(h))
    new = msgspec.structs.replace(hit, **changed)
    put_hits(resources.tables, "pay", 10**9, [new])
    return new


def test_a_hit_that_does_not_hold_is_named_with_its_entry(resources: Resources) -> None:
    hit = changed_hit(resources, lambda h: h.status == "standing" and h.rule == "per_day", party="quiet")
    report = verify(resources)
    assert "expected nothing" in named(report, "hits")[0]
    assert any("'quiet'" in line and "expected not in force" in line for line in named(report, "entries"))
    assert any(hit.party in line for line in named(report, "history"))


def test_a_withdrawn_hit_that_holds_is_named_with_its_entry(resources: Resources) -> None:
    changed_hit(resources, lambda h: h.rule == "spent_month" and h.status == "standing", status="withdrawn")
    assert len(named(verify(resources), "withdrawn_hits")) == 1


def test_a_hit_with_another_action_or_version_is_named(resources: Resources) -> None:
    changed_hit(resources, lambda h: h.status == "standing" and h.rule == "payers", action="deny")
    changed_hit(resources, lambda h: h.status == "standing" and h.rule == "spent", version=1)
    found = named(verify(resources), "hits")
    assert any("expected review, held deny" in line for line in found)
    assert any("by version 0" in line and "by version 1" in line for line in found)


def test_a_removed_dead_letter_is_named(resources: Resources) -> None:
    letter = next(all_letters(resources.tables, "pay"))
    resources.tables.delete("pay.letters", [key(letter.partition, letter.offset)])
    report = verify(resources)
    assert f"{letter.field} {letter.code}" in named(report, "outcomes")[0]
    assert named(report, "balance")
    assert "dead_lettered" in named(report, "verdicts")[0]


@pytest.mark.parametrize("changed", [{"code": "missing"}, {"field": "payee"}, {"event_id": "another"}])
def test_a_changed_dead_letter_is_named(resources: Resources, changed: dict[str, str]) -> None:
    letter = next(x for x in all_letters(resources.tables, "pay") if x.field == "ApplicationRef")
    new = msgspec.structs.replace(letter, **changed)
    put_pruned(resources.tables, "pay", new)  # over whatever stands there
    if new != letter:
        assert len(named(verify(resources), "outcomes")) == 1


def test_a_verdict_that_contradicts_the_stored_outcome_is_named(resources: Resources) -> None:
    letter = next(all_letters(resources.tables, "pay"))
    where = {"topic": "pay", "partition": letter.partition, "offset": letter.offset}
    wrong = verdict_record(application="shop", event_id="x", verdict="accepted", **where)
    resources.log.append(verdict_topic("pay"), [wrong])
    found = named(verify(resources), "verdicts")
    assert len(found) == 1
    assert "expected nothing, held accepted" in found[0]


def test_a_repeat_that_differs_is_named(resources: Resources) -> None:
    letter = next(all_letters(resources.tables, "pay"))
    again = msgspec.structs.replace(letter, code="another").verdict("pay")
    same = letter.verdict("pay")
    resources.log.append(verdict_topic("pay"), [same, again])
    found = named(verify(resources), "verdicts")
    assert len(found) == 1
    assert "another" in found[0]


def test_what_is_no_verdict_is_named(resources: Resources) -> None:
    resources.log.append(verdict_topic("pay"), [OutRecord(b"{}", b"x", 0)])
    assert "pay-verdicts/0/" in named(verify(resources), "verdicts")[0]


@pytest.mark.parametrize("verdict", ["accepted", "denied", "dead_lettered", "caught_late"])
def test_a_missing_verdict_is_named(resources: Resources, verdict: str) -> None:
    lost: list[bytes] = []

    def keep(_: int, value: bytes) -> bool:
        wanted = json.loads(value)
        if wanted["verdict"] != verdict or (lost and value not in lost):
            return True
        lost.append(value)
        return False

    republish(resources, keep)
    report = verify(resources)
    assert report.differing == {"verdicts": 1}
    assert "held nothing" in named(report, "verdicts")[0]
    lenient = verify(resources, settings=Settings({"publishAccepted": False}))
    assert lenient.ok == (verdict == "accepted")


def test_a_denied_event_without_an_entry_is_named(resources: Resources) -> None:
    quiet = pl.col("payer") == "quiet"

    def deny(events: pl.DataFrame) -> pl.DataFrame:
        def of(name: str, value: str) -> pl.Expr:
            return pl.when(quiet).then(pl.lit(value)).otherwise(pl.col(name)).alias(name)

        return events.with_columns(
            of("verdict", "denied"), of("entry_kind", "account"), of("entry_party", "quiet"), of("verdict_reason", "x")
        )

    rewrite(resources, deny, quiet)
    report = verify(resources)
    assert "none in force" in named(report, "denied")[0]
    assert named(report, "index")
    assert any("account:quiet" in line for line in named(report, "verdicts"))
    assert "quiet" in named(report, "cases")[0]


def test_a_denied_event_with_the_entry_of_another_party_is_named(resources: Resources) -> None:
    denied = pl.col("verdict") == "denied"
    rewrite(resources, lambda e: e.with_columns(pl.when(denied).then(pl.lit("a50")).alias("entry_party")), denied)
    assert "an entry for a party of the event" in named(verify(resources), "denied")[0]


def test_an_event_after_a_crossing_that_is_neither_denied_nor_caught_late_is_named(resources: Resources) -> None:
    resources.tables.delete("pay.caught_late", [row_key for row_key, _ in rows(resources, "caught_late")])
    report = verify(resources)
    assert named(report, "after_crossing")
    assert all("denied or caught late" in line for line in named(report, "after_crossing"))
    assert named(report, "verdicts")


def test_an_event_of_a_listed_party_that_was_let_through_is_named(resources: Resources) -> None:
    denied = (pl.col("verdict") == "denied") & (pl.col("verdict_reason") == "pay.per_day")

    def accept(events: pl.DataFrame) -> pl.DataFrame:
        nothing = [pl.when(denied).then(None).otherwise(pl.col(n)).alias(n) for n in ("verdict_reason", "entry_kind")]
        verdict = pl.when(denied).then(pl.lit("accepted")).otherwise(pl.col("verdict")).alias("verdict")
        return events.with_columns(verdict, *nothing)

    rewrite(resources, accept, denied)
    report = verify(resources)
    assert "expected denied or caught late, held 'accepted'" in named(report, "after_crossing")[0]
    assert named(report, "index")
    assert named(report, "verdicts")


def test_an_event_accepted_long_after_its_party_was_listed_is_named(resources: Resources) -> None:
    now = resources.clock.now() - 3600 * 1_000_000 - 10**12
    lists.add_entry(resources.tables, now=now, by="eve", kind="account", party="quiet", reason="known")
    found = named(verify(resources), "denied")
    assert len(found) == 1
    assert "'quiet'" in found[0]


def test_a_wrong_read_is_named(resources: Resources) -> None:
    held = load_checkpoint(resources.tables, "pay", "pay", 1)
    assert held is not None
    wrong = msgspec.structs.replace(held, read=held.read + 1)
    resources.tables.put("pay.offsets", [(key("pay", 1), wrong.encode())])
    report = verify(resources)
    assert report.differing == {"read": 1, "balance": 1}
    assert named(report, "read")[0].endswith(f"held {wrong.read}")


def test_a_parked_record_that_is_stored_is_named(resources: Resources) -> None:
    file = min(files_in_place(resources.warehouse, "pay"), key=lambda f: f.name)
    partition, offset = resources.warehouse.read(file).select("log_partition", "log_offset").row(0)
    row = Parked(partition=partition, offset=offset, error="x", attempts=1, first_failed=0, last_failed=0, epoch=0)
    put_parked(resources.tables, "pay", row)
    report = verify(resources)
    assert named(report, "parked")
    assert report.parked == 1
    assert "1 parked records have reached a sink" in report.notes[0]


def test_a_missing_case_and_a_missing_row_of_the_history_are_named(resources: Resources) -> None:
    resources.tables.delete("cases", [row_key for row_key, _ in resources.tables.scan("cases")])
    gone = [row_key for row_key, _ in resources.tables.scan("history") if parts(row_key)[0] == "merchant"]
    resources.tables.delete("history", gone)
    report = verify(resources)
    assert named(report, "cases")
    assert named(report, "history")


def test_only_so_many_differences_are_kept_and_all_are_counted(resources: Resources) -> None:
    resources.tables.delete("pay.hits", [row_key for row_key, _ in rows(resources, "hits")])
    report = verify(resources, keep=2)
    assert len(report.differences) == 2
    assert report.differing["hits"] > 2


# A source that does not stand still.


def test_a_source_stopped_with_records_in_flight_is_not_verified(resources: Resources) -> None:
    held = load_checkpoint(resources.tables, "pay", "pay", 0)
    assert held is not None
    earlier = msgspec.structs.replace(held, committed=held.committed - 1, read=held.read - 1)
    resources.tables.put("pay.offsets", [(key("pay", 0), earlier.encode())])
    with pytest.raises(UsageError, match="stopped with records in flight; let it run"):
        verify(resources)


class SteppingClock(ManualClock):
    """Whoever sleeps lets the topology run."""

    running: Running | None = None

    def sleep(self, seconds: float) -> None:
        if self.running is None:
            self.advance(seconds)
        else:
            self.running.driver.run_until(lambda: False, seconds=seconds)


@pytest.fixture
def live(tmp_path: Path) -> Iterator[Running]:
    clock = SteppingClock()
    resources = open_embedded(tmp_path, clock)
    resources.log.create_topic("pay", PARTITIONS)
    clock.running = Running(resources, maxPendingRecords=40)
    yield clock.running
    resources.close()


def test_a_running_source_holds_is_verified_and_goes_on(live: Running) -> None:
    live.resources.log.append("pay", payments(200, 7))
    live.resources.log.append("pay", payments(200, 8))
    assert live.driver.run_until(lambda: sum(s.progress().read for s in live.spouts()) > 60, seconds=20)
    report = verify_source(live.resources, SOURCE, hold=True, timeout=60)
    assert [str(d) for d in report.differences] == []
    assert 0 < report.records < 400
    assert load_hold(live.resources.tables, "pay") is None
    live.settle()
    assert not load_held(live.resources.tables, "pay")
    assert verify_source(live.resources, SOURCE, hold=True, timeout=60).records == 400


def test_a_source_that_does_not_come_to_rest_in_time_goes_on_too(live: Running) -> None:
    live.settle()
    clock = live.clock
    assert isinstance(clock, SteppingClock)
    clock.running = None
    with pytest.raises(UsageError, match="still in flight after 3 s; allow more time") as error:
        verify_source(live.resources, SOURCE, hold=True, timeout=3)
    assert "\n" not in str(error.value)
    assert load_hold(live.resources.tables, "pay") is None


def test_a_source_that_another_holds_is_left_alone(live: Running) -> None:
    live.settle()
    put_hold(live.resources.tables, "pay", Hold(by="somebody", until=live.clock.now() + 10**7))
    with pytest.raises(UsageError, match="held by somebody"):
        verify_source(live.resources, SOURCE, hold=True, timeout=3)
    assert load_hold(live.resources.tables, "pay") is not None


@pytest.mark.parametrize("seed", range(3))
def test_any_records_in_any_order_of_steps_have_no_difference(tmp_path: Path, seed: int) -> None:
    with opened(tmp_path) as resources:
        resources.log.create_topic("pay", PARTITIONS)
        running = Running(resources, seed=seed)
        for block in batched(payments(240, 100 + seed), 60):
            resources.log.append("pay", block)
            running.driver.run(500)
        running.stop()
        report = verify(resources)
    assert [str(d) for d in report.differences] == []


def test_parked_and_given_up_records_and_ranges_that_fail_have_no_difference(tmp_path: Path) -> None:
    Picky.tries.clear()
    with opened(tmp_path) as resources:
        resources.log.create_topic("pay", PARTITIONS)
        retries = {"retryInitialDelayMs": 500, "retryDelayMultiplier": 2.0, "maxOffsetBehind": 20}
        running = Running(resources, own_bolt=Picky, **retries)
        for block in batched(payments(240, 9), 40):
            resources.log.append("pay", block)
            running.driver.run_until(lambda: False, seconds=1)
        running.driver.run_until(lambda: False, seconds=60)
        running.driver.stop(60)
        report = verify(resources)
        gave_up = [x for x in all_letters(resources.tables, "pay") if x.code == "gave_up"]
    assert [str(d) for d in report.differences] == []
    assert gave_up
    assert report.parked
    assert report.events + report.letters + report.parked == report.records == 240


def batched(records: list[OutRecord], size: int) -> Iterable[list[OutRecord]]:
    return (records[i : i + size] for i in range(0, len(records), size))


# The command.


def test_the_command_prints_every_row_that_differs_and_ends_with_1(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder, clock = tmp_path / "data", ManualClock()
    source = Project.load().sources()["purchase"]
    resources = open_embedded(folder, clock)
    resources.log.create_topic(source.topic, 2)
    running = Running(resources, source)
    made = [value for block in purchases(120, seed=1, parties=20, malformed=0.2) for value in block]
    resources.log.append(source.topic, [OutRecord(value, None, i % 2) for i, value in enumerate(made)])
    running.stop()
    arguments = ["verify", "purchase", "--data", str(folder)]

    assert main(arguments) == 0
    assert "no difference" in capsys.readouterr().out

    letters = list(resources.tables.scan("purchase.letters"))
    resources.tables.delete("purchase.letters", [row for row, _ in letters])
    resources.close()
    assert main([*arguments, "--limit", "3"]) == 1
    lines = capsys.readouterr().out.splitlines()
    assert lines[2].startswith("purchase: outcomes ")
    assert f"{len(letters):,} in outcomes" in lines[3]
    assert "more rows differ" in lines[3]

    assert main([*arguments, "--json"]) == 1
    (told,) = json.loads(capsys.readouterr().out)
    assert told["differing"]["outcomes"] == len(letters)
    assert not told["ok"]
    assert "outcomes" in {row["table"] for row in told["differences"]}

    assert main([*arguments[:1], "nothing", *arguments[2:]]) == 2
    assert "no source 'nothing'" in capsys.readouterr().err
