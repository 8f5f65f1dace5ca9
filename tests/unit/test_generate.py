"""The generator of purchases."""

import json
from collections import Counter
from datetime import UTC, datetime

import numpy as np
import pytest

from paystorm.generate import MALFORMED, Block, purchase_blocks, purchases


def sound(count: int, **arguments: object) -> list[dict[str, str]]:
    """The `data` of generated purchases without malformed ones."""
    blocks = purchases(count, seed=1, malformed=0, **arguments)  # type: ignore[arg-type]
    return [json.loads(value)["data"] for block in blocks for value in block]


def test_a_seed_gives_the_same_records_and_another_seed_others() -> None:
    first = list(purchases(500, seed=3))
    assert first == list(purchases(500, seed=3))
    assert first != list(purchases(500, seed=4))


@pytest.mark.parametrize("count", [0, 1, 9, 10, 11, 25])
def test_blocks_add_up_to_the_count(count: int) -> None:
    assert [len(b) for b in purchases(count, seed=1, block=10)] == [10] * (count // 10) + [count % 10] * (
        count % 10 > 0
    )


def test_a_record_is_an_envelope_without_id_of_about_140_bytes() -> None:
    values = next(purchases(2000, seed=1, malformed=0))
    assert json.loads(values[0]).keys() == {"ApplicationRef", "data"}
    assert list(json.loads(values[0])["data"]) == ["event_time", "from_party", "to_party", "amount", "currency"]
    assert 135 <= np.mean([len(v) for v in values]) <= 150


def test_lengths_cut_the_values_into_the_same_records() -> None:
    for block in purchase_blocks(3000, seed=1, malformed=0.5, block=1000):
        ends = np.cumsum(block.lengths + 1)
        cut = [block.values[e - n - 1 : e - 1] for e, n in zip(ends.tolist(), block.lengths.tolist(), strict=True)]
        assert cut == block.records()
        assert len(block.values) == ends[-1]


def test_event_times_go_up_but_for_some_seconds_and_stay_within_the_days() -> None:
    times = [
        datetime.fromisoformat(d["event_time"]).timestamp()
        for d in sound(20_000, days=0.2, start=datetime(2025, 3, 1, tzinfo=UTC))
    ]
    assert min(times) >= datetime(2025, 3, 1, tzinfo=UTC).timestamp()
    assert max(times) < datetime(2025, 3, 1, 4, 48, tzinfo=UTC).timestamp()
    behind = np.maximum.accumulate(times) - times
    assert np.mean(behind > 0) > 0
    assert behind.max() < 60


def test_parties_have_a_heavy_tail() -> None:
    counts = Counter(d["from_party"] for d in sound(50_000))
    (busiest, most), *_ = counts.most_common()
    assert busiest == "u0"
    assert 0.0007 < most / 50_000 < 0.003
    assert 0.07 < sum(n for party, n in counts.items() if int(party[1:]) < 2_000) / 50_000 < 0.13, "the busiest 1 %"
    assert len(counts) > 20_000


def test_the_share_of_malformed_records_is_as_asked() -> None:
    pure = [v for b in purchases(100_000, seed=1, malformed=0) for v in b]
    mixed = [v for b in purchases(100_000, seed=1, malformed=0.001) for v in b]
    assert 60 < sum(a != b for a, b in zip(pure, mixed, strict=True)) < 140


def test_every_way_of_being_malformed_occurs_and_changes_the_record() -> None:
    pure = next(purchases(1000, seed=1, malformed=0))
    bad = next(purchases(1000, seed=1, malformed=1))
    assert all(a != b and b"\n" not in b for a, b in zip(pure, bad, strict=True))
    assert all(any(new in value for value in bad) for _, new in MALFORMED)


def test_an_empty_block_has_no_records() -> None:
    assert Block(b"", np.zeros(0, dtype=np.int64)).records() == []


@pytest.mark.parametrize(
    "bad", [{"count": -1}, {"parties": 1}, {"days": 0}, {"malformed": 2}, {"start": datetime(2025, 1, 1)}]
)
def test_arguments_that_cannot_be_are_refused(bad: dict[str, object]) -> None:
    with pytest.raises(ValueError, match="cannot make"):
        list(purchases(**{"count": 1, "seed": 1, **bad}))  # type: ignore[arg-type]
