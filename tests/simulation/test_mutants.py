"""The simulator finds every planted bug."""

import re
from collections import Counter
from concurrent.futures import ThreadPoolExecutor

import pytest
from mutants.run import SEEDS, TABLE, Mutant, Outcome, hunt, mutants, planted

GROUPS = ("spout", "retry", "windows", "lists", "chunk", "warehouse", "tables")


@pytest.mark.parametrize("mutant", mutants(), ids=lambda m: m.name)
def test_a_patch_applies_and_says_what_bug_it_is(mutant: Mutant) -> None:
    assert planted(mutant)
    assert mutant.bug.endswith(".")
    assert len(mutant.bug) > 20


def test_there_are_enough_of_each_part() -> None:
    count = Counter(mutant.group for mutant in mutants())
    assert sum(count.values()) >= 24
    assert {group for group, n in count.items() if n >= 2} == set(GROUPS)


def _row(mutant: Mutant) -> str:
    """What the table says of a mutant: a number of seeds, mostly."""
    name = mutant.name.split("-", 1)[1]
    (said,) = re.findall(rf"(?m)^\| `{name}`: .* \| (.*) \|$", TABLE.read_text())
    return str(said)


def test_each_has_a_row_in_the_table() -> None:
    assert all(_row(mutant) for mutant in mutants())


def test_the_simulator_finds_each() -> None:
    # The long hunts first, by the table: else the last of them goes on alone.
    longest = sorted(mutants(), key=lambda m: -int(_row(m)) if _row(m).isdigit() else -SEEDS)
    with ThreadPoolExecutor(2) as pool:
        outcomes: list[Outcome] = list(pool.map(hunt, longest))
    assert not [f"{o.mutant.name} survived: {o.mutant.bug}" for o in outcomes if o.seeds is None]
