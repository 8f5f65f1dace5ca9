"""The counting shards' journals, snapshots and cells (SEMANTICS.md §6, decision 0002).

`<source>.journal`, key (shard, term, n): what the shard applied, and what that caused. `n` goes up by one over all
terms; a **term** is one task's time as the shard's writer. Whoever loads a shard ends the term before it by a **seal**
in the very row that the former writer would put next; so a task that was replaced and wakes again finds its row taken,
however much of the journal has been folded into snapshots meanwhile. Seals are never deleted.

`<source>.shards`, key (shard): the snapshot's head, with the row up to which the cells are whole.
`<source>.cells`, key (shard, measure, interval start): the figures of one interval, as of a row at or behind that head.
Rows behind the head hold new values, not differences, so they can be laid over a newer cell without harm.
"""

from collections.abc import Iterable, Iterator

import msgspec

from paystorm.errors import TablesError
from paystorm.offsets import OffsetSet, Range
from paystorm.stores.hits import Hit
from paystorm.tables.base import Tables
from paystorm.tables.keys import key, parts, under

Ranges = dict[int, list[Range]]
"""Offsets by partition."""
LOAD_TRIES = 100


class Slot(msgspec.Struct, frozen=True):
    """Where figures belong: a measure's label, the interval's start, epoch and currency."""

    measure: str
    start: int
    epoch: int
    currency: str


class Row(msgspec.Struct, frozen=True, kw_only=True):
    """One journal row: what changed, the offsets applied, and what it caused."""

    n: int
    generation: int
    at: int
    """When it was written, µs since 1970-01-01 UTC."""
    seal: bool = False
    """Ends the term; the next row is of the next term."""
    covered: Ranges = {}
    floors: dict[int, tuple[int, tuple[int, ...]]] = {}
    """By partition: the committed offset and the offsets parked below it."""
    slots: tuple[Slot, ...] = ()
    figures: bytes = b""
    """Arrow frame (slot, party, v0[, v1, v2]): new values."""
    pairs: bytes = b""
    """Arrow frame (slot, party, value): values of distincts that are new."""
    hits: tuple[Hit, ...] = ()
    notes: bytes = b""
    """Arrow frame (partition, offset, kind, party, rule, application, event_id).

    Of the events that were applied while an entry of this shard was in force.
    """
    refused: tuple[tuple[int, int], ...] = ()
    lifted: tuple[tuple[int, int], ...] = ()
    late: int = 0
    """Late events of this row."""
    highest: dict[int, int] = {}
    """By partition, the highest event time seen, µs."""
    published: int = -1
    """The row up to which everything caused has been published when this one was written."""


class ShardState(msgspec.Struct, kw_only=True):
    """What a shard's task knows beside the figures."""

    shard: int
    term: int = 0
    n: int = -1
    """The last row."""
    generation: int = 0
    applied: Ranges = {}
    refused: list[tuple[int, int]] = []
    late: int = 0
    highest: dict[int, int] = {}
    published: int = -1

    def applied_sets(self) -> dict[int, OffsetSet]:
        """Applied offsets by partition."""
        return {partition: OffsetSet(ranges) for partition, ranges in self.applied.items()}

    def lay(self, row: Row) -> None:
        """Take a row in."""
        applied = self.applied_sets()
        for partition, ranges in row.covered.items():
            held = applied.setdefault(partition, OffsetSet())
            for first, after in ranges:
                held.add(first, after)
        for partition, (committed, parked) in row.floors.items():
            applied.setdefault(partition, OffsetSet()).fold(committed, parked)
        refused = {tuple(r) for r in self.refused} | {tuple(r) for r in row.refused}
        for partition, offset in row.lifted:
            refused.discard((partition, offset))
            applied.setdefault(partition, OffsetSet()).remove(offset, offset + 1)  # covered, perhaps, but never counted
        self.applied = {partition: held.ranges() for partition, held in applied.items()}
        self.refused = sorted((p, o) for p, o in refused)
        self.late += row.late
        for partition, at in row.highest.items():
            self.highest[partition] = max(at, self.highest.get(partition, at))
        self.n = row.n
        self.generation = max(self.generation, row.generation)
        self.published = max(self.published, row.published)


def _journal(source: str) -> str:
    return f"{source}.journal"


def _head(tables: Tables, source: str, shard: int) -> ShardState:
    """The shard as of its snapshot."""
    held = tables.get(f"{source}.shards", key(shard))
    return msgspec.msgpack.decode(held, type=ShardState) if held is not None else ShardState(shard=shard)


def _behind(tables: Tables, source: str, state: ShardState) -> list[tuple[int, Row]]:
    """The rows behind a state, with their terms."""
    start = key(state.shard, state.term, state.n + 1)
    _, stop = under(state.shard)
    rows = [
        (int(parts(row_key)[1]), msgspec.msgpack.decode(value, type=Row))
        for row_key, value in tables.scan(_journal(source), start, stop)
    ]
    return [(term, row) for term, row in rows if row.n > state.n]


def read_shard(tables: Tables, source: str, shard: int) -> tuple[ShardState, list[Row]]:
    """The shard's state as the tables have it now, and the rows behind the snapshot without seals.

    Raises TablesError where rows are missing, or its owner makes one snapshot after the other.
    """
    for _ in range(LOAD_TRIES):
        state = _head(tables, source, shard)
        behind = _behind(tables, source, state)
        # An owner at work may have made a snapshot meanwhile, and removed rows before we came to them
        whole = all(row.n == n for n, (_, row) in enumerate(behind, state.n + 1))
        if whole and _head(tables, source, shard).n == state.n:
            break
    else:
        raise TablesError(f"{source}: shard {shard} has no journal that follows on its snapshot of row {state.n}")
    rows: list[Row] = []
    for term, row in behind:
        state.lay(row)
        state.term = term + 1 if row.seal else term
        if not row.seal:
            rows.append(row)
    return state, rows


def take_over(tables: Tables, source: str, shard: int, generation: int, at: int) -> tuple[ShardState, list[Row]]:
    """Load a shard and become its writer: seal the term that is there, and begin the next.

    A generation above the shard's own is written down with the seal: it fences tasks of older versions of the source.
    Where the former writer has put that very row, and removed it behind a snapshot, the seal fences nobody: the head
    says so, and all is read again. Raises TablesError where others keep taking the shard at the same time.
    """
    for _ in range(LOAD_TRIES):
        state, rows = read_shard(tables, source, shard)
        if generation < state.generation:
            return state, rows
        seal = Row(n=state.n + 1, generation=generation, at=at, seal=True, published=state.published)
        if append(tables, source, state, [seal])[0] and _head(tables, source, shard).n < seal.n:
            state.lay(seal)
            state.term += 1
            return state, rows
    raise TablesError(f"{source}: shard {shard} is being taken over by several tasks again and again; stop one of them")


def left_unpublished(tables: Tables, source: str, shard: int, published: int) -> list[Row]:
    """The rows above `published` that are in the snapshot, kept because what they caused is still to be published."""
    value = tables.get(f"{source}.shards", key(shard))
    if value is None:
        return []
    head = msgspec.msgpack.decode(value, type=ShardState)
    start, _ = under(shard)
    found = [
        msgspec.msgpack.decode(row, type=Row)
        for _, row in tables.scan(_journal(source), start, key(shard, head.term, head.n + 1))
    ]
    return [row for row in found if row.n > published and not row.seal]


def append(tables: Tables, source: str, state: ShardState, rows: Iterable[Row]) -> list[bool]:
    """Put rows of one shard's term, each only where it is absent; says for each whether it was put."""
    encoded = [(key(state.shard, state.term, row.n), msgspec.msgpack.encode(row)) for row in rows]
    return tables.put_if_absent(_journal(source), encoded)


def append_each(tables: Tables, source: str, rows: list[tuple[ShardState, Row]]) -> list[bool]:
    """Put one row in each of several shards, each only where it is absent; says for each whether it was put."""
    encoded = [(key(state.shard, state.term, row.n), msgspec.msgpack.encode(row)) for state, row in rows]
    return tables.put_if_absent(_journal(source), encoded)


def fence_shards(tables: Tables, source: str, shards: int, generation: int, at: int) -> None:
    """Make every task that does not know `generation` lose its next write, in all shards.

    Called by the spout between putting a new version of the source and its first offsets: no record at or behind those
    can then be counted by the versions before.
    """
    for shard in range(shards):
        state, _ = read_shard(tables, source, shard)
        if state.generation < generation:
            take_over(tables, source, shard, generation, at)


def put_snapshot(tables: Tables, source: str, state: ShardState, cells: Iterable[tuple[str, int, bytes]]) -> None:
    """Write cells (measure, start, figures) whole as of the state's row, then the head; then delete the rows before.

    Rows whose effects are not published yet stay. Put with the row's number as version, so that a task that wakes with
    old memory covers nothing newer.
    """
    rows = [(key(state.shard, label, start), figures) for label, start, figures in cells]
    if rows:
        tables.put(f"{source}.cells", rows, version=state.n + 1)
    tables.put(f"{source}.shards", [(key(state.shard), msgspec.msgpack.encode(state))], version=state.n + 1)
    below = min(state.n, state.published)
    start, _ = under(state.shard)
    doomed = []
    for row_key, value in tables.scan(_journal(source), start, key(state.shard, state.term, below + 1)):
        row = msgspec.msgpack.decode(value, type=Row)
        if not row.seal and row.n <= below:  # the rows of earlier terms come first, whatever their numbers
            doomed.append(row_key)
    if doomed:
        tables.delete(_journal(source), doomed)


def get_cells(tables: Tables, source: str, wanted: list[tuple[int, str, int]]) -> list[bytes | None]:
    """The stored figures of (shard, measure, start), None where there are none."""
    return tables.get_many(f"{source}.cells", [key(*w) for w in wanted])


def scan_cells(tables: Tables, source: str) -> Iterator[tuple[int, str, int, bytes]]:
    """All stored figures: (shard, measure, start, figures)."""
    for row_key, value in tables.scan(f"{source}.cells"):
        shard, label, start = parts(row_key)
        yield int(shard), str(label), int(start), value
