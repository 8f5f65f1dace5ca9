"""A case is opened once."""

from collections.abc import Sequence
from itertools import permutations

import pytest

from paystorm.stores import cases
from paystorm.stores.cases import Case, CaseOpener, all_cases
from paystorm.tables.base import Tables
from paystorm.tables.memory import MemoryTables


def case(party: str, at: int = 1) -> Case:
    return Case(kind="account", party=party, opened_at=at, source="purchase", cause="per_day")


class Counting(MemoryTables):
    def __init__(self) -> None:
        super().__init__()
        self.put_rows = 0

    def put(self, table: str, rows: Sequence[tuple[bytes, bytes]], *, version: int = 0) -> None:
        self.put_rows += len(rows)
        super().put(table, rows, version=version)


def test_a_case_that_is_known_to_be_open_costs_no_write() -> None:
    tables = Counting()
    opener = CaseOpener(tables)
    for at in (1, 2, 3):
        opener.open([case("a", at), case("b", at)])
    assert tables.put_rows == 2
    assert [(c.party, c.opened_at) for c in all_cases(tables)] == [("a", 1), ("b", 1)]


def test_a_case_is_known_to_be_open_once_it_was_opened_here() -> None:
    opener = CaseOpener(MemoryTables())
    assert not opener.is_open("account", "a")
    opener.open([case("a")])
    assert opener.is_open("account", "a")
    assert not opener.is_open("merchant", "a")
    opener.forget()
    assert not opener.is_open("account", "a")


@pytest.fixture
def tables() -> MemoryTables:
    return MemoryTables()


def test_of_several_cases_of_a_party_the_one_opened_first_stands(tables: Tables) -> None:
    orders = list(permutations([5, 6, 7]))
    for n, order in enumerate(orders):
        for at in order:  # each by a task that knows nothing of the others
            CaseOpener(tables).open([case(f"{n} in turn", at)])
        CaseOpener(tables).open([case(f"{n} at once", at) for at in order])
    assert [c.opened_at for c in all_cases(tables)] == [5] * 2 * len(orders)


def test_when_a_case_was_opened_does_not_depend_on_what_was_opened_with_it(tables: Tables) -> None:
    CaseOpener(tables).open([case("a", 10), case("b", 100)])
    CaseOpener(tables).open([case("b", 50)])
    assert [(c.party, c.opened_at) for c in all_cases(tables)] == [("a", 10), ("b", 50)]


def test_what_was_undone_is_opened_again() -> None:
    tables = Counting()
    opener = CaseOpener(tables)
    opener.open([case("a")])
    opener.forget()
    opener.open([case("a")])
    assert tables.put_rows == 2


def test_it_remembers_a_bounded_number_of_cases(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cases, "MAX_REMEMBERED", 2)
    tables = Counting()
    opener = CaseOpener(tables)
    for party in "abc":
        opener.open([case(party)])
    assert len(opener._open) <= 2
