"""The warehouse bolt: what it acknowledges, and when."""

import io
import logging
from pathlib import Path
from random import Random
from types import SimpleNamespace
from typing import Any

import pytest
from writer_world import PARTITION, SOURCE, VALID, Storage, answer, chunk, crash, refusal, run, stored

from bolts.warehouse import WarehouseBolt
from paystorm.chunk import EventChunk, Refusal
from paystorm.resources import HANDED_OVER, Resources
from paystorm.stores.retry import Parked, put_parked
from paystorm.storm import topology_config


@pytest.fixture
def bolt(tmp_path: Path) -> WarehouseBolt:
    storage = Storage(tmp_path / "warehouse")
    made = WarehouseBolt(input_stream=io.BytesIO(), output_stream=io.BytesIO(), rdb_signal=None)
    made.component_name = "warehouse"
    made.logger = logging.getLogger("test")
    made.storage = storage
    made.outcome = []
    made.ack = lambda tup: made.outcome.append(("ack", tup.id))
    made.fail = lambda tup: made.outcome.append(("fail", tup.id))
    resources = Resources(
        clock=storage.clock, log=storage.log, tables=storage.tables, warehouse=storage.warehouse, random=Random(1)
    )  # type: ignore[arg-type]
    conf = {**topology_config(SOURCE), HANDED_OVER: resources, "flushRecords": 12, "flushMs": 100}
    made.initialize(conf, {"task->component": {}})
    return made


def tup(name: str, chunk: EventChunk | Refusal, stream: str = "default") -> Any:
    return SimpleNamespace(id=name, values=[PARTITION, chunk], stream=stream)


def test_the_bolt_acknowledges_only_what_is_written(bolt: WarehouseBolt) -> None:
    bolt.process(tup("a", chunk(0, 7, 1)))
    assert bolt.outcome == []
    bolt.process(tup("b", chunk(7, 15, 1)))
    assert bolt.outcome == [("ack", "a"), ("ack", "b")]
    assert sorted(stored(bolt.storage)) == [o for o in VALID if o < 15]


def test_the_bolt_writes_what_has_waited_long_enough_at_a_tick(bolt: WarehouseBolt) -> None:
    bolt.process(tup("a", chunk(0, 7, 1)))
    bolt.clock.advance(0.05)
    bolt.process_tick(tup("tick", chunk(0, 0, 1)))
    assert bolt.outcome == [("ack", "tick")]
    bolt.clock.advance(0.06)
    bolt.process_tick(tup("tick", chunk(0, 0, 1)))
    assert bolt.outcome[1:] == [("ack", "a"), ("ack", "tick")]


def test_the_bolt_fails_every_tuple_once_when_a_write_fails_and_begins_anew(
    bolt: WarehouseBolt, monkeypatch: pytest.MonkeyPatch
) -> None:
    with monkeypatch.context() as patch:
        patch.setattr(bolt.storage.log, "append", lambda *_: crash())
        bolt.process(tup("a", chunk(0, 7, 1)))
        bolt.process(tup("b", chunk(7, 20, 1)))
    assert bolt.outcome == [("fail", "a"), ("fail", "b")]
    bolt.process(tup("c", chunk(0, 20, 2)))
    assert bolt.outcome[2:] == [("ack", "c")]
    assert len(bolt.storage.log.records) == len([o for o in VALID if o < 20])


def test_the_bolt_of_another_task_fails_its_tuples_when_it_is_not_the_owner_any_more(bolt: WarehouseBolt) -> None:
    bolt.process(tup("a", chunk(0, 15, 1)))
    run(bolt.storage.writer(), [[chunk(15, 20, 2)]])
    bolt.process(tup("b", chunk(15, 40, 1)))
    bolt.process(tup("c", chunk(15, 40, 3)))
    assert bolt.outcome == [("ack", "a"), ("fail", "b"), ("ack", "c")]
    assert sorted(stored(bolt.storage)) == [o for o in VALID if o < 40]


def asked_for(bolt: WarehouseBolt, offset: int) -> None:
    row = Parked(
        partition=PARTITION,
        offset=offset,
        error="",
        attempts=1,
        first_failed=0,
        last_failed=0,
        epoch=0,
        state="giving_up",
    )
    put_parked(bolt.storage.tables, "purchase", row)


def test_the_bolt_answers_a_refusal_at_once_behind_what_it_holds(bolt: WarehouseBolt) -> None:
    asked_for(bolt, 31)
    bolt.process(tup("a", chunk(31, 32, 1)))
    bolt.process(tup("r", refusal(31), "refusals"))
    assert bolt.outcome == [("ack", "a"), ("ack", "r")]
    assert answer(bolt.storage, 31) == b"held"


def test_the_bolt_leaves_a_question_that_nobody_asks_any_more_unanswered(bolt: WarehouseBolt) -> None:
    bolt.process(tup("r", refusal(31), "refusals"))
    assert bolt.outcome == [("ack", "r")]
    assert answer(bolt.storage, 31) is None


def test_the_bolt_fails_a_tuple_that_it_cannot_read_and_nothing_else(bolt: WarehouseBolt) -> None:
    bolt.process(tup("a", chunk(0, 7, 1)))
    bolt.process(SimpleNamespace(id="x", values=[PARTITION, "?"], stream="default"))
    assert bolt.outcome == [("fail", "x")]
    bolt.process(tup("b", chunk(7, 20, 1)))
    assert bolt.outcome == [("fail", "x"), ("ack", "a"), ("ack", "b")]
