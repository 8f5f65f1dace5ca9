"""What a source's records came to, read from durable rows as frames. Takes nothing over and writes nothing.

Each reader gives frames of the columns that its schema names, in order of key; none where there is nothing. Times are
`Datetime("us", "UTC")`.
"""

import base64
from collections.abc import Iterator, Mapping
from datetime import UTC, datetime, timedelta
from decimal import Context, Decimal
from typing import Any

import msgspec
import polars as pl

from paystorm.errors import TablesError
from paystorm.lists import Entry
from paystorm.resources import Resources
from paystorm.shards import shard_of
from paystorm.source import Source
from paystorm.stores.cases import all_cases
from paystorm.stores.hits import load_hits
from paystorm.stores.journal import Row, Slot, read_shard
from paystorm.stores.letters import acts_by_letter, all_letters, state_after
from paystorm.stores.lists import HISTORY, HistoryRow, load_party_facts, open_breakers
from paystorm.stores.pruned import counts_floor, gone_before
from paystorm.stores.versions import load_versions
from paystorm.tables.base import Tables
from paystorm.tables.keys import key, parts, under
from paystorm.warehouse.reading import stored_events
from paystorm.windows import wide
from paystorm.windows.book import Counted, RuleBook, Span
from paystorm.windows.effects import load_caught_late
from paystorm.windows.frames import cell_slots, row_slots

Schema = Mapping[str, pl.DataType]
TIME = pl.Datetime("us", "UTC")
TEXT, WHOLE = pl.String(), pl.Int64()
ROWS = 50_000
"""Rows of a frame, about."""
_EXACT = Context(prec=60)
LOOKS = 20
"""Times that a shard is read whose snapshot is replaced meanwhile."""

OUTCOMES: Schema = {
    "source": TEXT,
    "topic": TEXT,
    "partition": WHOLE,
    "offset": WHOLE,
    "id": TEXT,
    "outcome": TEXT,
    "reason": TEXT,
}
COUNTS: Schema = {
    "source": TEXT,
    "rule": TEXT,
    "kind": TEXT,
    "party": TEXT,
    "interval_start": TIME,
    "currency": TEXT,
    "value": TEXT,
}
HITS: Schema = {
    **dict.fromkeys(("source", "rule", "kind", "party"), TEXT),
    "interval_start": TIME,
    **dict.fromkeys(("currency", "limit", "status", "figure", "topic"), TEXT),
    **dict.fromkeys(("partition", "offset", "version"), WHOLE),
    "action": TEXT,
    "since": TIME,
}
LISTS: Schema = {
    **dict.fromkeys(("kind", "party", "list", "state", "made_by", "reason"), TEXT),
    "since": TIME,
    "expires_at": TIME,
    **dict.fromkeys(("by", "note", "act", "source", "rule"), TEXT),
    "interval_start": TIME,
    "currency": TEXT,
}
CASES: Schema = {
    **dict.fromkeys(("kind", "party"), TEXT),
    "opened_at": TIME,
    **dict.fromkeys(("source", "cause"), TEXT),
    **dict.fromkeys(("denied", "caught_late", "joined"), WHOLE),
}
DEAD_LETTERS: Schema = {
    **dict.fromkeys(("source", "topic"), TEXT),
    **dict.fromkeys(("partition", "offset"), WHOLE),
    **dict.fromkeys(("timestamp", "dead_at"), TIME),
    **dict.fromkeys(("field", "code", "detail", "id", "application", "state"), TEXT),
    "attempts": WHOLE,
    **dict.fromkeys(("last_error", "value", "value_base64"), TEXT),
}
HISTORY_ROWS: Schema = {"at": TIME, **dict.fromkeys(("kind", "party", "what", "detail", "by", "id"), TEXT)}
CAUGHT_LATE: Schema = {
    **dict.fromkeys(("source", "topic"), TEXT),
    **dict.fromkeys(("partition", "offset"), WHOLE),
    **dict.fromkeys(("kind", "party"), TEXT),
}


def utc(us: int | None) -> datetime | None:
    """A point in time, from µs since 1970-01-01 UTC."""
    return None if us is None else datetime(1970, 1, 1, tzinfo=UTC) + timedelta(microseconds=us)


def _frames(rows: Iterator[tuple[Any, ...]], schema: Schema) -> Iterator[pl.DataFrame]:
    """Rows as frames of at most `ROWS`."""
    gathered: list[tuple[Any, ...]] = []
    for row in rows:
        gathered.append(row)
        if len(gathered) == ROWS:
            yield pl.DataFrame(gathered, schema=dict(schema), orient="row")
            gathered = []
    if gathered:
        yield pl.DataFrame(gathered, schema=dict(schema), orient="row")


# Outcomes.


def outcomes(resources: Resources, source: Source) -> Iterator[pl.DataFrame]:
    """Every record that has an outcome: by partition first the stored events, then the dead letters."""
    for events in stored_events(resources.tables, resources.warehouse, source.name):
        yield _outcomes_of(events, source.name)
    letters = (
        (source.name, source.topic, x.partition, x.offset, x.event_id, "dead-lettered", f"{x.field}: {x.code}")
        for x in all_letters(resources.tables, source.name)
    )
    yield from _frames(letters, OUTCOMES)


def _outcomes_of(events: pl.DataFrame, source: str) -> pl.DataFrame:
    return events.select(
        pl.lit(source).alias("source"),
        pl.col("log_topic").alias("topic"),
        pl.col("log_partition").cast(pl.Int64).alias("partition"),
        pl.col("log_offset").alias("offset"),
        pl.col("event_id").alias("id"),
        pl.col("verdict").alias("outcome"),
        pl.col("verdict_reason").alias("reason"),
    ).sort("offset")


# Counts.


def counts(resources: Resources, source: Source, of: tuple[str, str] | None = None) -> Iterator[pl.DataFrame]:
    """The figures of the rules of the newest version, by shard: a row for each rule, party, interval and currency.

    A figure is of the epochs since its measure has been counted without a break. `of`: a party (kind, id) whose figures
    alone are wanted. Raises TablesError where a running source replaces a snapshot each time that it is read.
    """
    tables = resources.tables
    versions = load_versions(tables, source.name)
    if not versions:
        return
    book = RuleBook(msgspec.structs.replace(source, rules=versions[-1].rules), versions)
    newest = [spans[-1] for spans in book.spans.values() if spans[-1].last == book.newest]
    if of is not None:
        newest = [span for span in newest if span.rule.kind == of[0]]
    by_measure: dict[str, list[Span]] = {}
    for span in newest:
        by_measure.setdefault(span.rule.measured().label(), []).append(span)
    floor = counts_floor(tables, source.name)
    shards = range(versions[0].shards) if of is None else [shard_of(*of, versions[0].shards)]
    for shard in shards if by_measure else ():
        figures = _shard_figures(tables, source.name, shard, frozenset(by_measure))
        if of is not None:
            figures = {s: [f.filter(pl.col("party") == of[1]) for f in frames] for s, frames in figures.items()}
        for label, start in sorted({(slot.measure, slot.start) for slot in figures}):
            counted = book.measures[label]
            if floor is not None and start < gone_before(counted.interval, floor):
                continue  # over their retention, and perhaps half gone
            for span in by_measure[label]:
                mine = {
                    slot: frames
                    for slot, frames in figures.items()
                    if (slot.measure, slot.start) == (label, start) and slot.epoch >= span.counted_from
                }
                yield from _rule_counts(source.name, span, counted, start, mine)


def _shard_figures(tables: Tables, source: str, shard: int, labels: frozenset[str]) -> dict[Slot, list[pl.DataFrame]]:
    """Figures (or pairs) of a shard by slot, oldest first: the cells, then the journal rows behind the snapshot.

    Where the snapshot's head is the same before and after, the rows read last reach back to what the cells held.
    """
    where = key(shard)
    for _ in range(LOOKS):
        head = tables.get(f"{source}.shards", where)
        found: dict[Slot, list[pl.DataFrame]] = {}
        for row_key, value in tables.scan(f"{source}.cells", *under(shard)):
            if str(parts(row_key)[1]) in labels:
                _take(found, cell_slots(value))
        rows: list[Row] = read_shard(tables, source, shard)[1]
        if tables.get(f"{source}.shards", where) == head:
            for row in rows:
                _take(found, ((s, f, p) for s, f, p in row_slots(row) if s.measure in labels))
            return found
    raise TablesError(f"{source}: shard {shard} is written faster than it can be read: try again when less is going on")


def _take(
    found: dict[Slot, list[pl.DataFrame]], slots: Iterator[tuple[Slot, pl.DataFrame | None, pl.DataFrame | None]]
) -> None:
    for slot, figures, pairs in slots:
        for frame in (figures, pairs):
            if frame is not None and len(frame):
                found.setdefault(slot, []).append(frame.drop("slot"))


def _rule_counts(
    source: str, span: Span, counted: Counted, start: int, figures: dict[Slot, list[pl.DataFrame]]
) -> Iterator[pl.DataFrame]:
    """The rows of one rule in one interval of a shard."""
    for currency in sorted({slot.currency for slot in figures}):
        epochs = [frames for slot, frames in figures.items() if slot.currency == currency]
        made = _values(counted, epochs)
        if made.is_empty():
            continue
        yield made.sort("party").select(
            pl.lit(source).alias("source"),
            pl.lit(span.rule.name).alias("rule"),
            pl.lit(span.rule.kind).alias("kind"),
            "party",
            pl.lit(utc(start * 1_000_000)).cast(TIME).alias("interval_start"),
            pl.lit(currency if counted.what == "sum" else None, dtype=pl.String).alias("currency"),
            "value",
        )


def _values(counted: Counted, epochs: list[list[pl.DataFrame]]) -> pl.DataFrame:
    """Party and value: of each epoch the last figures, added up; of a distinct the union's size, up to its cap."""
    if counted.what == "distinct":
        pairs = pl.concat([frame.select("party", "value") for frames in epochs for frame in frames]).unique()
        return pairs.group_by("party").agg(pl.len().clip(upper_bound=counted.cap).cast(pl.String).alias("value"))
    columns = ("v0", "v1", "v2") if counted.what == "sum" else ("v0",)
    last = [
        pl.concat([frame.select("party", *columns) for frame in frames]).unique(
            "party", keep="last", maintain_order=True
        )
        for frames in epochs
    ]
    together = pl.concat(last).group_by("party").agg(pl.col(columns).sum())
    if counted.what == "count":
        return together.select("party", pl.col("v0").cast(pl.String).alias("value"))
    # A figure that saturated in one epoch stays so: its limbs are all that fit, and more carries past the top.
    limbs = wide.carried(together.select(columns).to_numpy())
    texts = [decimal_text(wide.to_int(row), counted.digits) for row in limbs]
    return together.select("party", pl.Series("value", texts, dtype=pl.String))


def decimal_text(figure: int, digits: int) -> str:
    """A figure in units of 10^−digits as plain decimal text without trailing zeros."""
    text = f"{Decimal(figure).scaleb(-digits, _EXACT):f}"
    return text.rstrip("0").rstrip(".") if "." in text else text


# Hits, lists, cases.


def hits(resources: Resources, source: Source) -> Iterator[pl.DataFrame]:
    """Every hit of a source, standing or withdrawn."""
    rows = (
        (
            h.source,
            h.rule,
            h.kind,
            h.party,
            utc(h.interval_start * 1_000_000),
            h.currency or None,
            h.limit,
            h.status,
            h.figure,
            h.topic,
            h.partition,
            h.offset,
            h.version,
            h.action,
            utc(h.since),
        )
        for h in load_hits(resources.tables, source.name)
    )
    yield from _frames(rows, HITS)


def lists(resources: Resources, source: str | None = None) -> Iterator[pl.DataFrame]:
    """Every entry that a party has or had, with its state now; with `source` those that its rules made."""
    tables = resources.tables
    now, breakers = resources.clock.now(), open_breakers(tables)
    rows = (
        _entry_row(entry)
        for _, facts in sorted(load_party_facts(tables).items())
        for entry in facts.entries(now, breakers)
        if source is None or (entry.hit is not None and entry.hit[0] == source)
    )
    yield from _frames(rows, LISTS)


def _entry_row(e: Entry) -> tuple[Any, ...]:
    by_rule = (e.hit[0], e.hit[1], utc(e.hit[4] * 1_000_000), e.hit[5] or None) if e.hit else (None,) * 4
    said = (e.by, e.note or None, e.act)
    return (e.kind, e.party, e.list, e.state, e.made_by, e.reason, utc(e.since), utc(e.expires_at), *said, *by_rule)


def cases(resources: Resources, sources: list[str]) -> Iterator[pl.DataFrame]:
    """Every case that one of the sources opened, with how many of their events are denied, caught late, joined else."""
    denied: dict[tuple[str, str], int] = {}
    joined: dict[tuple[str, str], int] = {}
    caught: dict[tuple[str, str], int] = {}
    for source in sources:
        for kind, party, verdict, n in _listed_events(resources, source):
            counted = denied if verdict == "denied" else joined
            counted[kind, party] = counted.get((kind, party), 0) + n
        events = {(c.kind, c.party, c.partition, c.offset) for c in load_caught_late(resources.tables, source)}
        for kind, party, _, _ in events:
            caught[kind, party] = caught.get((kind, party), 0) + 1
    rows = (
        (
            c.kind,
            c.party,
            utc(c.opened_at),
            c.source,
            c.cause,
            *(counted.get((c.kind, c.party), 0) for counted in (denied, caught, joined)),
        )
        for c in all_cases(resources.tables)
        if c.source in sources
    )
    yield from _frames(rows, CASES)


def _listed_events(resources: Resources, source: str) -> list[tuple[Any, ...]]:
    """(kind, party, verdict, how many) of the stored events that a listed party covers."""
    if not resources.warehouse.folders(source):
        return []
    table = resources.warehouse.table(source)
    return resources.warehouse.query(
        f"SELECT entry_kind, entry_party, verdict, count(*) FROM {table} WHERE entry_party IS NOT NULL "
        "GROUP BY entry_kind, entry_party, verdict"
    )[1]


def history(resources: Resources, source: str | None = None) -> Iterator[pl.DataFrame]:
    """Every change to the lists, by party and time; with `source` those by its rules."""
    found = (msgspec.msgpack.decode(value, type=HistoryRow) for _, value in resources.tables.scan(HISTORY))
    rows = (
        (utc(h.at), h.kind or None, h.party, h.what, h.detail, h.by, h.id)
        for h in found
        if source is None or h.by.startswith(f"{source}.") or (not h.kind and h.party.startswith(f"{source}."))
    )
    yield from _frames(rows, HISTORY_ROWS)


# What went another way.


def dead_letters(resources: Resources, source: Source) -> Iterator[pl.DataFrame]:
    """The dead letters of a source; the raw bytes as text where they are UTF-8, else in base64."""
    acts = acts_by_letter(resources.tables, source.name)
    rows = (
        (
            source.name,
            source.topic,
            x.partition,
            x.offset,
            utc(x.timestamp * 1000),
            utc(x.dead_at),
            x.field,
            x.code,
            x.detail,
            x.event_id,
            x.application,
            state_after(acts.get((x.partition, x.offset), ())),
            x.attempts,
            x.last_error,
            *_texts(x.value),
        )
        for x in all_letters(resources.tables, source.name)
    )
    yield from _frames(rows, DEAD_LETTERS)


def _texts(value: bytes) -> tuple[str | None, str | None]:
    try:
        return value.decode(), None
    except UnicodeDecodeError:
        return None, base64.b64encode(value).decode()


def caught_late(resources: Resources, source: Source) -> Iterator[pl.DataFrame]:
    """The events that were accepted though a listed party was in them: a row for each such party."""
    found = {(c.partition, c.offset, c.kind, c.party) for c in load_caught_late(resources.tables, source.name)}
    yield from _frames(((source.name, source.topic, *row) for row in sorted(found)), CAUGHT_LATE)
