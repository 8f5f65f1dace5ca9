"""Figures in memory against dicts."""

from collections import Counter, defaultdict
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from tests.unit.test_book import book_of, rule

from paystorm.windows import wide
from paystorm.windows.book import Counted
from paystorm.windows.cells import Cell, Part

CAP = 4
EPOCHS = 3
EVERY = np.arange(1, 9, dtype=np.uint32)
parties = st.integers(1, 7)
epochs = st.integers(0, EPOCHS - 1)
spans = st.tuples(epochs, epochs).map(lambda pair: (min(pair), max(pair)))


def counted_of(what: str) -> Counted:
    given: dict[str, Any] = {"limit": 3}
    if what == "sum":
        given = {"measure": "sum", "field": "amount", "limit": {"EUR": "3"}}
    elif what == "distinct":
        given = {"measure": "distinct", "field": "payee", "limit": CAP - 1}
    (counted,) = book_of([rule(**given)]).measures.values()
    return counted


def codes_of(them: Any) -> Any:
    return np.array(sorted(them), dtype=np.uint32)


def pairs_of(them: Any) -> Any:
    return np.array(sorted((owner << 32) | value for owner, value in them), dtype=np.uint64)


@given(st.lists(st.tuples(epochs, st.dictionaries(parties, st.integers(0, 9), min_size=1)), max_size=8), spans)
def test_a_count_over_epochs_is_the_sum_of_its_parts(adds: list[tuple[int, dict[int, int]]], span: Any) -> None:
    cell = Cell(counted_of("count"), 0)
    model: defaultdict[int, Counter[int]] = defaultdict(Counter)
    for epoch, more in adds:
        deltas = np.array([more[code] for code in sorted(more)], dtype=np.int64)
        new = cell.add(epoch, "", codes_of(more), deltas)
        for code, delta in more.items():
            model[epoch][code] += delta
        assert new.tolist() == [model[epoch][code] for code in sorted(more)]
    first, last = span
    within = [model[epoch] for epoch in range(first, last + 1)]
    assert cell.figures(EVERY, first, last, "").tolist() == [sum(part[c] for part in within) for c in EVERY.tolist()]
    assert cell.seen(EVERY, first, last, "").tolist() == [any(c in part for part in within) for c in EVERY.tolist()]
    assert not cell.seen(EVERY, first, last, "EUR").any()


amounts = st.integers(0, 100) | st.sampled_from([wide.MAX // 2, wide.MAX - 1, wide.MAX])
sums = st.tuples(epochs, st.sampled_from(["EUR", "USD"]), st.dictionaries(parties, amounts, min_size=1))


@given(st.lists(sums, max_size=8), spans, st.sampled_from(["EUR", "USD", "CHF"]))
def test_a_sum_over_epochs_is_by_currency_and_saturates(adds: Any, span: Any, currency: str) -> None:
    cell = Cell(counted_of("sum"), 0)
    total: Counter[int] = Counter()
    seen = set()
    first, last = span
    for epoch, money, more in adds:
        deltas = np.array([wide.from_int(more[code]) for code in sorted(more)], dtype=np.int64)
        cell.add(epoch, money, codes_of(more), deltas)
        if money == currency and first <= epoch <= last:
            total.update(more)
            seen |= more.keys()
    figures = [wide.to_int(row) for row in cell.figures(EVERY, first, last, currency)]
    assert figures == [min(total[code], wide.MAX) for code in EVERY.tolist()]
    assert cell.seen(EVERY, first, last, currency).tolist() == [code in seen for code in EVERY.tolist()]


seen_values = st.sets(st.tuples(parties, st.integers(1, 7)), min_size=1)


@given(st.lists(st.tuples(epochs, seen_values), max_size=8), spans)
def test_a_distinct_over_epochs_is_of_the_union_up_to_the_cap(adds: Any, span: Any) -> None:
    cell = Cell(counted_of("distinct"), 0)
    model: defaultdict[tuple[int, int], set[int]] = defaultdict(set)
    for epoch, pairs in adds:
        kept = cell.add_pairs(epoch, pairs_of(pairs)).tolist()
        added: defaultdict[int, set[int]] = defaultdict(set)
        for pair in kept:
            added[pair >> 32].add(pair & 0xFFFFFFFF)
        for owner in {owner for owner, _ in pairs}:
            held, given_ = model[epoch, owner], {value for o, value in pairs if o == owner}
            assert added[owner] <= given_ - held, "new ones only"
            assert len(added[owner]) == min(len(given_ - held), CAP - len(held)), "as many as there is room for"
            held |= added[owner]
    first, last = span
    union = {c: set().union(*(model[e, c] for e in range(first, last + 1))) for c in EVERY.tolist()}
    assert cell.figures(EVERY, first, last, "").tolist() == [min(len(union[c]), CAP) for c in EVERY.tolist()]
    assert cell.seen(EVERY, first, last, "").tolist() == [bool(union[c]) for c in EVERY.tolist()]


@given(st.lists(st.tuples(epochs, seen_values), max_size=8))
def test_a_capped_union_is_that_of_all_values_ever_seen(adds: Any) -> None:
    """What a part drops at its cap cannot be missed by a union that is cut at the same cap."""
    cell = Cell(counted_of("distinct"), 0)
    for epoch, pairs in adds:
        cell.add_pairs(epoch, pairs_of(pairs))
    every = {pair for _, pairs in adds for pair in pairs}
    true = Counter(owner for owner, _ in every)
    assert cell.figures(EVERY, 0, EPOCHS, "").tolist() == [min(true[c], CAP) for c in EVERY.tolist()]


@given(st.lists(st.tuples(epochs, seen_values), max_size=5))
def test_adding_the_kept_pairs_again_changes_nothing(adds: Any) -> None:
    cell, again = Cell(counted_of("distinct"), 0), Cell(counted_of("distinct"), 0)
    for epoch, pairs in adds:
        kept = cell.add_pairs(epoch, pairs_of(pairs))
        for _ in range(2):
            again.add_pairs(epoch, kept)
    for epoch in range(EPOCHS):
        assert again.figures(EVERY, epoch, epoch, "").tolist() == cell.figures(EVERY, epoch, epoch, "").tolist()
    assert again.figures(EVERY, 0, EPOCHS, "").tolist() == cell.figures(EVERY, 0, EPOCHS, "").tolist()


@given(st.lists(st.dictionaries(parties, st.integers(0, 99), min_size=1), max_size=6))
def test_a_part_holds_what_was_put_last(puts: list[dict[int, int]]) -> None:
    part, model = Part(counted_of("count")), dict[int, int]()
    for values in puts:
        part.put(codes_of(values), np.array([values[c] for c in sorted(values)], dtype=np.int64))
        model.update(values)
        assert part.get(EVERY).tolist() == [model.get(c, 0) for c in EVERY.tolist()]
        assert part.has(EVERY).tolist() == [c in model for c in EVERY.tolist()]
        assert part.codes.tolist() == sorted(model)


@pytest.mark.parametrize(("what", "shape"), [("count", (8,)), ("sum", (8, 3)), ("distinct", (8,))])
def test_an_empty_cell_has_figures_of_nothing(what: str, shape: tuple[int, ...]) -> None:
    cell = Cell(counted_of(what), 0)
    assert cell.figures(EVERY, 0, 9, "").shape == shape
    assert not cell.figures(EVERY, 0, 9, "").any()
    assert not cell.seen(EVERY, 0, 9, "").any()
    assert cell.nbytes() == 200
    cell.part(0, "")
    assert cell.nbytes() == 200, "empty arrays"
    assert cell.figures(EVERY, 0, 9, "").shape == shape
    assert not cell.seen(EVERY, 0, 9, "").any()


def test_a_party_whose_figure_is_nothing_has_been_seen() -> None:
    cell = Cell(counted_of("sum"), 0)
    cell.add(0, "EUR", codes_of([3]), np.zeros((1, 3), dtype=np.int64))
    assert cell.seen(EVERY, 0, 0, "EUR").tolist() == [code == 3 for code in EVERY.tolist()]
    assert cell.nbytes() == 200 + 4 + 3 * 8


def test_the_memory_of_a_distinct_is_of_its_parties_figures_and_values() -> None:
    cell = Cell(counted_of("distinct"), 0)
    cell.add_pairs(0, pairs_of([(3, 1), (3, 2)]))
    assert cell.nbytes() == 200 + 4 + 8 + 2 * 8


@given(st.lists(st.tuples(st.booleans(), st.dictionaries(parties, st.integers(0, 9), min_size=1)), max_size=12))
def test_a_part_that_is_asked_for_the_same_parties_again_has_their_newest_figures(
    steps: list[tuple[bool, dict[int, int]]],
) -> None:
    """It remembers where those stand that were looked for last, also while others are put between them."""
    part, model = Part(counted_of("count")), dict[int, int]()
    asked = codes_of([1])
    for same, figures in steps:
        if not same:
            asked = codes_of(figures)
        part.get(asked)
        values = np.array([figures.get(code, 0) for code in asked.tolist()], dtype=np.int64)
        part.put(asked, values)
        model.update(zip(asked.tolist(), values.tolist(), strict=True))
        assert part.get(asked).tolist() == values.tolist()
        assert part.has(asked).all()
    part.forget_asked()
    assert part.get(EVERY).tolist() == [model.get(code, 0) for code in EVERY.tolist()]
    assert part.has(EVERY).tolist() == [code in model for code in EVERY.tolist()]
    assert part.codes.tolist() == sorted(model)
