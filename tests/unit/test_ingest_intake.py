"""The intake on a log that does not take everything: who is refused, and that nobody else is."""

import asyncio
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
from tests.unit.hosted import SOURCE

from paystorm.clock import SystemClock
from paystorm.errors import LogError
from paystorm.ingest.envelope import Prepared, Preparer, Route
from paystorm.ingest.ids import IdStore
from paystorm.ingest.intake import Accepted, Answer, Intake
from paystorm.ingest.metrics import Metrics
from paystorm.ingest.problems import Problem
from paystorm.ingest.settings import IngestSettings
from paystorm.log.embedded import EmbeddedLog

LIMIT = 2000


@pytest.fixture
def log(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> EmbeddedLog:
    monkeypatch.setattr("paystorm.log.embedded.MAX_VALUE", LIMIT)
    made = EmbeddedLog(tmp_path / "log", SystemClock())
    made.create_topic("pay", 3)
    return made


def prepared(events: Sequence[dict[str, Any]]) -> list[Prepared]:
    preparer = Preparer({"shop": Route("shop", SOURCE)}, 1 << 20, lambda: "made")
    read = preparer.prepare([json.dumps(e).encode() for e in events], "2026-01-01T00:00:00.000000Z", None)
    return [event for event in read if isinstance(event, Prepared)]


def event(event_id: str, size: int = 10, **data: Any) -> dict[str, Any]:
    return {"ApplicationRef": "shop", "id": event_id, "data": {"payer": "u1", "text": "x" * size, **data}}


def answers(log: EmbeddedLog, folder: Path, *groups: Sequence[dict[str, Any]]) -> list[list[Answer]]:
    """What the intake answers to groups of events, one after the other; it must be ready after each."""

    async def run() -> list[list[Answer]]:
        clock = SystemClock()
        store = IdStore(folder / "ids", clock, limit=1000, hours=1)
        routes = {"shop": Route("shop", SOURCE)}
        intake = Intake(log, clock, store, routes, IngestSettings(), Metrics())
        await intake.start()
        out = []
        for group in groups:
            out.append(await asyncio.wait_for(intake.submit(prepared(group)), 60))
            assert intake.down is None
        await intake.stop()
        store.close()
        return out

    return asyncio.run(run())


@pytest.mark.parametrize("keyed", [True, False])
def test_a_record_that_is_too_long_for_the_log_is_refused_alone(log: EmbeddedLog, tmp_path: Path, keyed: bool) -> None:
    party = {} if keyed else {"payer": None}
    group = [event(f"e{i}", 3 * LIMIT if i in (1, 4) else 10, **party) for i in range(6)]
    (found,) = answers(log, tmp_path, group)
    assert [a.status if isinstance(a, Problem) else 202 for a in found] == [202, 413, 202, 202, 413, 202]
    assert {a.code for a in found if isinstance(a, Problem)} == {"too_large"}
    for answer, sent in zip(found, group, strict=True):
        if isinstance(answer, Accepted):
            batch = log.read("pay", answer.partition, answer.offset, max_records=1, max_bytes=10**6)
            assert batch is not None
            assert json.loads(batch.value(0))["id"] == sent["id"]
    assert sum(log.end_offset("pay", p) for p in range(3)) == 4


def test_a_group_of_nothing_else_is_refused_and_the_next_is_taken(log: EmbeddedLog, tmp_path: Path) -> None:
    long = [event("a", 3 * LIMIT), event("a", 3 * LIMIT), event("b", 3 * LIMIT)]
    refused, taken, again = answers(log, tmp_path, long, [event("a")], long[:1])
    assert [a.status for a in refused if isinstance(a, Problem)] == [413] * 3
    assert isinstance(taken[0], Accepted), "an id that was refused is free"
    assert isinstance(again[0], Problem)
    assert again[0].code == "conflict"


def test_an_id_that_the_first_of_a_group_did_not_get_is_no_conflict_for_the_second(
    log: EmbeddedLog, tmp_path: Path
) -> None:
    ((first, second),) = answers(log, tmp_path, [event("a", 3 * LIMIT), event("a")])
    assert isinstance(first, Problem)
    assert first.code == "too_large"
    assert isinstance(second, Problem)
    assert second.code == "unavailable", "it is to be sent again, and will be taken then"


def test_a_repeat_in_another_writing_is_no_conflict_while_the_log_cannot_be_read(
    log: EmbeddedLog, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    ((taken,),) = answers(log, tmp_path, [event("a", amount=1.0)])
    assert isinstance(taken, Accepted)
    other = event("a", amount=1.00)
    other["data"] = dict(reversed(list(other["data"].items())))

    def away(*args: Any, **named: Any) -> Any:
        raise LogError("the log is away")

    monkeypatch.setattr("paystorm.ingest.intake.record_at", away)
    ((found,),) = answers(log, tmp_path, [other])
    assert isinstance(found, Problem)
    assert found.code == "unavailable"
    monkeypatch.undo()
    ((again,),) = answers(log, tmp_path, [other])
    assert again == taken
