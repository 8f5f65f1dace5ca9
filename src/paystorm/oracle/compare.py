"""The computed against what the system holds: every row that differs, as a line for people."""

from collections.abc import Iterable, Iterator
from decimal import Decimal
from fractions import Fraction

from paystorm.oracle.compute import Computed, Numbering
from paystorm.oracle.model import CellKey, Count, Difference, EventRow, Held, Hit, Key, Outcome, Words
from paystorm.oracle.versions import MOST_UNITS

_A_ROW = Words("an event row")
_COLUMNS = {"rule": "INTEGER", "party": "INTEGER", "start": "BIGINT", "currency": "INTEGER", "value": "HUGEINT"}


def compare(computed: Computed, held: Held) -> list[Difference]:
    """Every difference in outcomes, event rows, counts, hits and withdrawn hits."""
    return [
        *compare_outcomes(computed, held.outcomes),
        *compare_events(computed, held.events),
        *compare_counts(computed, held.counts),
        *compare_hits(computed, held.hits, held.withdrawn),
    ]


def compare_outcomes(computed: Computed, held: Iterable[Outcome]) -> Iterator[Difference]:
    """One outcome for each record that is not parked, and the right one."""
    seen: set[Key] = set()
    for outcome in held:
        key = (outcome.partition, outcome.offset)
        expected = computed.outcomes.get(key)
        if key in seen:
            yield Difference("outcomes", key, Words("one outcome"), Words(f"another: {_said(outcome)}"))
        elif key in computed.parked:
            yield Difference("outcomes", key, Words("parked"), _said(outcome))
        elif expected != outcome:
            yield Difference("outcomes", key, _said(expected), _said(outcome))
        seen.add(key)
    for key, outcome in computed.outcomes.items():
        if key not in seen:
            yield Difference("outcomes", key, _said(outcome), None)


def compare_events(computed: Computed, held: Iterable[EventRow]) -> Iterator[Difference]:
    """One row for each valid record and none for another; values as values, `data` as exact text."""
    seen: set[Key] = set()
    for row in held:
        key = (row.partition, row.offset)
        if key in computed.parked:
            yield Difference("parked", key, Words("no event row"), _A_ROW)
            continue
        if key in seen:
            yield Difference("events", key, Words("one row"), Words("another row"))
            continue
        seen.add(key)
        expected = computed.events.get(key)
        if expected is None:
            yield Difference("events", key, None, _A_ROW)
        else:
            yield from _columns_that_differ(expected, row)
    for key in computed.events.keys():  # noqa: SIM118  iterating the spool itself reads its rows
        if key not in seen:
            yield Difference("events", key, _A_ROW, None)


def compare_counts(computed: Computed, held: Iterable[Count]) -> Iterator[Difference]:
    """The figures of the rules of the last version. A figure of zero and no row are the same figure.

    Both sides are tables of whole numbers in DuckDB, since there may be millions of rows.
    """
    rules = computed.last_rules()
    names = Numbering(*(version.rule.name for version in rules))
    scales = {version.rule.name: computed.scale(version.rule) for version in rules}
    odd: list[int | Decimal] = []
    path = computed.folder / "held.csv"
    with path.open("w", encoding="ascii") as file:
        for count in held:
            party = computed.parties.of((count.kind, count.party))
            currency = computed.currencies.of(count.currency)
            units = _units(count.value, scales.get(count.rule, 0))
            if units is None:
                odd.append(count.value)
                units = -len(odd)
            file.write(f"{names.of(count.rule)},{party},{count.interval_start},{currency},{units}\n")
    facts = computed.facts
    facts.load_csv("held", path, _COLUMNS)
    described = ", ".join(f"{name} {kind}" for name, kind in _COLUMNS.items())
    facts.database.execute(f"CREATE OR REPLACE TABLE expected ({described})")
    for number, version in enumerate(rules):
        facts.database.execute(
            f"INSERT INTO expected SELECT {number}, party, start, currency, value FROM {computed.cells_of(version)}"
        )
    rule_of = {version.rule.name: version.rule for version in rules}

    def shown(rule: str, units: int | None) -> int | Decimal | None:
        if units is None:
            return None
        if units < 0:
            return odd[-units - 1]
        return computed.figure(rule_of[rule], units) if rule in rule_of else units

    def key_of(rule: int, party: int, start: int, currency: int) -> CellKey:
        return (names.texts[rule], *computed.parties.texts[party], start, computed.currencies.texts[currency])

    cell = "rule, party, start, currency"
    repeated = f"SELECT {cell}, count(*) FROM held GROUP BY {cell} HAVING count(*) > 1 ORDER BY ALL"
    for *key, times in facts.rows(repeated):
        yield Difference("counts", key_of(*key), Words("one row"), Words(f"{times} rows"))
    for *key, expected, found in facts.rows(
        f"SELECT {cell}, e.value, h.value FROM expected e FULL JOIN (SELECT {cell}, min(value) AS value FROM held"
        f" GROUP BY {cell}) h USING ({cell}) WHERE coalesce(e.value, 0) <> coalesce(h.value, 0) ORDER BY {cell}"
    ):
        name = names.texts[key[0]]
        yield Difference("counts", key_of(*key), shown(name, expected), shown(name, found))


def compare_hits(
    computed: Computed, standing: Iterable[Hit], withdrawn: Iterable[CellKey] = ()
) -> Iterator[Difference]:
    """The standing hits with version and figure; and that no withdrawn hit holds."""
    seen: set[CellKey] = set()
    for hit in standing:
        expected = computed.hits.get(hit.key)
        if hit.key in seen:
            yield Difference("hits", hit.key, Words("one hit"), Words(f"another: {_judged(hit)}"))
        elif expected != hit:
            yield Difference("hits", hit.key, _judged(expected), _judged(hit))
        seen.add(hit.key)
    gone = set(withdrawn)
    for key, hit in computed.hits.items():
        if key in gone:
            yield Difference("withdrawn_hits", key, _judged(hit), Words("withdrawn"))
        elif key not in seen:
            yield Difference("hits", key, _judged(hit), None)


def _columns_that_differ(expected: EventRow, held: EventRow) -> Iterator[Difference]:
    key = (expected.partition, expected.offset)
    for column in ("id", "application", "received_at", "event_time", "data"):
        wanted, found = getattr(expected, column), getattr(held, column)
        if wanted != found:
            yield Difference("events", (*key, column), wanted, found)
    for column in dict.fromkeys((*expected.values, *held.values)):
        value, other = expected.values.get(column), held.values.get(column)
        # Decimals are compared as values: 1.10 is 1.1, and a text is never a figure.
        if value != other:
            yield Difference("events", (*key, column), value, other)


def _units(value: int | Decimal, scale: int) -> int | None:
    """A figure in units of 10^-scale, or None where it is not a figure that could be right."""
    # An exponent beyond every sum would be written out in full below.
    if isinstance(value, Decimal) and not (value.is_finite() and abs(value.adjusted()) < 100):
        return None
    exact = Fraction(value) * 10**scale
    return exact.numerator if exact.denominator == 1 and 0 <= exact.numerator <= MOST_UNITS else None


def _said(outcome: Outcome | None) -> Words | None:
    if outcome is None:
        return None
    what = "valid" if outcome.valid else f"dead-lettered {outcome.field} {outcome.code}"
    return Words(f"{what} (id {outcome.id!r})")


def _judged(hit: Hit | None) -> Words | None:
    return None if hit is None else Words(f"{hit.value} by version {hit.version}")
