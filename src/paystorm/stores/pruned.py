"""How far a source has been pruned (decision 0012). Table `<source>.pruned`, one row each, which only ever moves on.

("events") → `PrunedEvents`; ("counts") → the floor: seconds since 1970-01-01 UTC. An interval that ended at or before
the floor is *frozen*: nothing is counted in it any more. Of a frozen interval the counts may go once the one behind it
is frozen too: until then growth looks at them. Both rows are put before anything goes.
"""

from collections.abc import Callable

import msgspec

from paystorm.errors import TablesError
from paystorm.intervals import Interval
from paystorm.tables.base import Tables
from paystorm.tables.keys import key

LOOKS = 100


class PrunedEvents(msgspec.Struct, frozen=True, kw_only=True):
    """How far the stored events went."""

    until: str
    """Hours of storing before this one (`YYYY-MM-DDTHH`, UTC) went, or are about to."""
    newest: int
    """The newest event time among them, µs since 1970-01-01 UTC: what happened later is still whole."""


def pruned_table(source: str) -> str:
    """The name of the table."""
    return f"{source}.pruned"


def pruned_events(tables: Tables, source: str) -> PrunedEvents | None:
    """How far the events went; None: all are there."""
    value = tables.get(pruned_table(source), key("events"))
    return None if value is None else msgspec.msgpack.decode(value, type=PrunedEvents)


def note_events(tables: Tables, source: str, until: str, newest: int) -> None:
    """Note that events go; what is noted never moves back. Raises TablesError."""

    def moved(value: bytes | None) -> bytes:
        held = None if value is None else msgspec.msgpack.decode(value, type=PrunedEvents)
        new = PrunedEvents(until=until, newest=newest)
        if held is not None:
            new = PrunedEvents(until=max(held.until, until), newest=max(held.newest, newest))
        return msgspec.msgpack.encode(new)

    _move(tables, source, "events", moved)


def counts_floor(tables: Tables, source: str) -> int | None:
    """The floor; None: nothing is frozen."""
    value = tables.get(pruned_table(source), key("counts"))
    return None if value is None else int(value)


def raise_floor(tables: Tables, source: str, floor: int) -> int:
    """Raise the floor, unless it is higher; gives what it is now. Raises TablesError."""
    return int(
        _move(tables, source, "counts", lambda value: b"%d" % max(floor, floor if value is None else int(value)))
    )


def is_frozen(interval: Interval, start: int, floor: int) -> bool:
    """Whether nothing is counted any more in the interval that begins at `start`, s."""
    return interval.following(start) <= floor


def gone_before(interval: Interval, floor: int) -> int:
    """The counts of intervals that began before this, s, may be gone."""
    return interval.previous(interval.start(floor))


def _move(tables: Tables, source: str, what: str, moved: Callable[[bytes | None], bytes]) -> bytes:
    table, where = pruned_table(source), key(what)
    for _ in range(LOOKS):
        held = tables.get(table, where)
        new = moved(held)
        if new == held:
            return new
        if held is None:
            done = tables.put_if_absent(table, [(where, new)])[0]
        else:
            done = tables.replace(table, where, held, new)
        if done:
            return new
    raise TablesError(f"{table}: changed {LOOKS} times meanwhile; run it again")
