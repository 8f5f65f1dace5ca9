"""What the warehouse says of cases, in SQL: their stored events, and the parties that a party dealt with.

All queries are bounded by the warehouse (seconds, memory, rows), and by the limits that they are given.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from decimal import Context, Decimal
from typing import Any

from paystorm.desk.base import Desk
from paystorm.source import Party, Source

Offset = tuple[int, int]
"""(partition, offset)."""
MAX_LATE = 50_000
"""Caught-late events of a source whose amounts are looked up."""
Amounts = dict[str, str]
"""Sums by currency, as plain decimal text."""
_EXACT = Context(prec=60)
_MICROSECOND = timedelta(microseconds=1)


@dataclass(frozen=True, slots=True)
class Tally:
    """The stored events of a case in one source."""

    kind: str
    party: str
    verdict: str
    count: int
    amounts: Amounts
    first: datetime
    last: datetime
    """When the first and the last were decided, UTC without a zone."""


@dataclass(frozen=True, slots=True)
class DealtWith:
    """Another party that a party has events with."""

    source: str
    kind: str
    party: str
    role: str
    events: int
    denied: int
    first: datetime
    last: datetime
    """Event times, UTC without a zone."""


def tallies(desk: Desk, source: Source, of: tuple[str, str] | None = None) -> list[Tally]:
    """How many events of a source stand in each case, by verdict; `of`: in one case."""
    amount, currency = amount_of(source)
    sums = "0, 0" if amount is None else f"sum(CAST(trunc({amount}) AS HUGEINT)), sum({amount} - trunc({amount}))"
    only = "" if of is None else f"AND entry_kind = {text(of[0])} AND entry_party = {text(of[1])}"
    rows = _query(
        desk,
        source,
        f"""SELECT entry_kind, entry_party, verdict, {currency or "NULL"} AS money, count(*), {sums},
            min(decided_at), max(decided_at) FROM {view(source)} WHERE entry_party IS NOT NULL {only} GROUP BY ALL""",
    )
    found: dict[tuple[str, str, str], Tally] = {}
    for kind, party, verdict, money, count, whole, fraction, first, last in rows:
        held = found.get((kind, party, verdict))
        more = {} if money is None or whole is None else {money: decimal_text(whole, fraction)}
        if held is None:
            found[kind, party, verdict] = Tally(kind, party, verdict, count, more, first, last)
        else:
            both = {**held.amounts, **more}
            spans = min(held.first, first), max(held.last, last)
            found[kind, party, verdict] = Tally(kind, party, verdict, held.count + count, both, *spans)
    return list(found.values())


def case_events(desk: Desk, source: Source, of: tuple[str, str], limit: int) -> list[dict[str, Any]]:
    """The newest events of a source that stand in a case: denied, joined, or marked `would_deny`."""
    where = f"entry_kind = {text(of[0])} AND entry_party = {text(of[1])}"
    return _events(desk, source, where, limit)


def events_at(desk: Desk, source: Source, offsets: Iterable[Offset], limit: int) -> list[dict[str, Any]]:
    """The stored events at these (partition, offset)s."""
    named = ", ".join(f"({int(p)}, {int(o)})" for p, o in offsets)
    return _events(desk, source, f"(log_partition, log_offset) IN ({named})", limit) if named else []


def _events(desk: Desk, source: Source, where: str, limit: int) -> list[dict[str, Any]]:
    declared = [f.name for f in source.fields if f.name != source.event_time]
    columns = [
        *("log_partition", "log_offset", "event_id", "application", "event_time", "decided_at"),
        *("verdict", "verdict_reason", "would_deny"),
        *declared,
    ]
    rows = _query(
        desk,
        source,
        f"SELECT {', '.join(map(quoted, columns))} FROM {view(source)} WHERE {where} "
        f"ORDER BY decided_at DESC, log_partition, log_offset DESC LIMIT {int(limit)}",
    )
    return [{"source": source.name} | dict(zip(columns, map(_plain, row), strict=True)) for row in rows]


def amounts_at(desk: Desk, source: Source, offsets: Iterable[Offset]) -> dict[Offset, Amounts]:
    """The amounts of stored events, by (partition, offset), of those that have one; of the first `MAX_LATE` named."""
    amount, currency = amount_of(source)
    named = sorted(offsets)[:MAX_LATE]
    if amount is None or currency is None or not named:
        return {}
    rows = _query(
        desk,
        source,
        f"""SELECT log_partition, log_offset, {currency}, {amount} FROM {view(source)} JOIN
            (SELECT unnest({[p for p, _ in named]}) AS p, unnest({[o for _, o in named]}) AS o)
            ON log_partition = p AND log_offset = o WHERE {amount} IS NOT NULL AND {currency} IS NOT NULL""",
    )
    return {(p, o): {money: decimal_text(0, figure)} for p, o, money, figure in rows}


def _plain(value: Any) -> Any:
    return decimal_text(0, value) if isinstance(value, Decimal) else value


def dealt_with(
    desk: Desk, source: Source, of: tuple[str, str], *, limit: int, since: datetime | None = None
) -> list[DealtWith]:
    """The parties in events with a party, the most events first. `since`: of events stored from that day on."""
    mine = [cover for party in source.parties if (cover := _is(party, source, *of)) is not None]
    if not mine:
        return []
    when = "" if since is None else f" AND dt >= '{since:%Y-%m-%d}'"
    others = " UNION ALL ".join(
        f"SELECT {_kind(party)} AS kind, {quoted(party.field)} AS party, {text(party.role)} AS role, verdict, "
        f"event_time, log_partition, log_offset FROM mine WHERE {quoted(party.field)} IS NOT NULL"
        for party in source.parties
    )
    rows = _query(
        desk,
        source,
        f"""WITH mine AS (SELECT * FROM {view(source)} WHERE ({" OR ".join(mine)}){when}), others AS ({others})
            SELECT kind, party, string_agg(DISTINCT role, ', ' ORDER BY role),
                count(DISTINCT (log_partition, log_offset)) AS events,
                count(DISTINCT CASE WHEN verdict = 'denied' THEN (log_partition, log_offset) END),
                min(event_time), max(event_time)
            FROM others WHERE NOT (kind = {text(of[0])} AND party = {text(of[1])})
            GROUP BY kind, party ORDER BY events DESC, kind, party LIMIT {int(limit)}""",
    )
    return [DealtWith(source.name, *row) for row in rows]


def _is(party: Party, source: Source, kind: str, name: str) -> str | None:
    """The condition that the party in a field is this one; None: it can never be of the kind."""
    if party.kind_field is None:
        return f"{quoted(party.field)} = {text(name)}" if party.kind == kind else None
    if kind != party.kind and kind not in source.field(party.kind_field).values:
        return None
    return f"({quoted(party.field)} = {text(name)} AND {_kind(party)} = {text(kind)})"


def _kind(party: Party) -> str:
    return text(party.kind) if party.kind_field is None else f"coalesce({quoted(party.kind_field)}, {text(party.kind)})"


def amount_of(source: Source) -> tuple[str | None, str | None]:
    """The columns of a source's amount and of its currency, quoted; None, None where an event has no such pair."""
    amount = next((f.name for f in source.fields if f.type == "amount"), None)
    currency = source.currency()
    return (None, None) if amount is None or currency is None else (quoted(amount), quoted(currency))


def decimal_text(whole: int | None, fraction: Any) -> str:
    """A sum of whole and fractional parts as plain decimal text without trailing zeros."""
    figure = f"{_EXACT.add(Decimal(whole or 0), Decimal(str(fraction or 0))):f}"
    return figure.rstrip("0").rstrip(".") if "." in figure else figure


def add_amounts(parts: Iterable[Amounts]) -> Amounts:
    """The sums together."""
    out: dict[str, Decimal] = {}
    for part in parts:
        for currency, figure in part.items():
            out[currency] = _EXACT.add(out.get(currency, Decimal(0)), Decimal(figure))
    return {currency: decimal_text(0, figure) for currency, figure in sorted(out.items())}


def view(source: Source) -> str:
    """The name under which the warehouse has a source."""
    return quoted(source.name.replace("-", "_"))


def quoted(name: str) -> str:
    """A name in SQL."""
    return '"' + name.replace('"', '""') + '"'


def text(value: str) -> str:
    """A text in SQL; U+0000 ends a statement, so it is named."""
    parts = ["'" + part.replace("'", "''") + "'" for part in value.split("\0")]
    return parts[0] if len(parts) == 1 else f"({' || chr(0) || '.join(parts)})"


def micros(at: datetime) -> int:
    """A time in UTC without a zone as µs since 1970-01-01."""
    return (at.replace(tzinfo=UTC) - datetime(1970, 1, 1, tzinfo=UTC)) // _MICROSECOND


def _query(desk: Desk, source: Source, sql: str) -> Sequence[tuple[Any, ...]]:
    if not desk.warehouse.folders(source.name):  # nothing is stored, so there is no table
        return []
    return desk.warehouse.query(sql)[1]
