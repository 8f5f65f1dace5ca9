"""A look-up's own copy of the lists: loaded once, then kept up to date from the feed `lists`."""

import heapq
import sys
from collections.abc import Iterable
from dataclasses import dataclass
from functools import lru_cache
from itertools import repeat
from typing import Final

import numpy as np
import numpy.typing as npt
import polars as pl

from paystorm.clock import Clock
from paystorm.errors import StaleCopyError, TablesError
from paystorm.lists import Act, Cover, PartyFacts, RuleName
from paystorm.packed_hits import PackedFacts, Terms
from paystorm.stores import lists as store
from paystorm.stores.hits import load_hits
from paystorm.tables.base import Tables

PartyName = tuple[str, str]
"""(kind, id)."""
FEED_BLOCK = 10_000
"""Feed items that are read at once."""
FINISH_EVERY = 10.0
"""Seconds between two looks for acts whose announcement was left half done."""
REFRESHES = 3
"""How often the feed is read before a decision, where reading it takes too long."""
_HASH_SEED: Final = 0
Hashes = npt.NDArray[np.uint64]


def hashes_of(frame: pl.DataFrame, columns: Iterable[str]) -> dict[str, Hashes]:
    """Hashes of columns of ids for `ListCopy.covers`, all in one pass; they mean nothing outside this process."""
    hashed = frame.select([_hash(name) for name in dict.fromkeys(columns)])
    return {column.name: column.to_numpy() for column in hashed.get_columns()}


@lru_cache(maxsize=256)
def _hash(name: str) -> pl.Expr:
    return pl.col(name).hash(_HASH_SEED)


class _Sieve:
    """Which rows may hold a covered id: never misses one, lets some others pass.

    A hash set of a hundred thousand ids, as `is_in` makes for every chunk, costs 6 ms each time; this costs 0.2 ms for
    10,000 rows however long the list is.
    """

    def __init__(self, ids: list[str]) -> None:
        size = 1 << max(12, (16 * len(ids)).bit_length())
        self._bits = np.zeros(size, dtype=np.bool_)
        self._mask = np.uint64(size - 1)
        self.room = size // 16
        """Ids that may still be added before too many others pass."""
        self.add(ids)

    def add(self, ids: list[str]) -> None:
        self._bits[self._places(hashes_of(pl.Series("", ids, dtype=pl.String).to_frame(), [""])[""])] = True
        self.room -= len(ids)

    def candidates(self, hashes: Hashes) -> npt.NDArray[np.int64]:
        return np.flatnonzero(self._bits[self._places(hashes)])

    def _places(self, hashes: Hashes) -> npt.NDArray[np.int64]:
        return (hashes & self._mask).astype(np.int64)


class _Kind:
    """The covered parties of one kind."""

    def __init__(self) -> None:
        self.covers: dict[str, int] = {}
        """By what each is covered, as a number of `ListCopy.distinct`."""
        self._sieve: _Sieve | None = None
        self._added: list[str] = []

    def set(self, party: str, cover: int | None) -> None:
        if cover is None:
            self.covers.pop(party, None)
            return
        if party not in self.covers and self._sieve is not None:
            self._added.append(party)
            if len(self._added) > self._sieve.room:
                self._sieve = None
        self.covers[party] = cover

    def sieve(self) -> _Sieve:
        """The sieve with everything added so far. Ids no longer covered stay in it until there is no more room."""
        if self._sieve is None:
            self._sieve = _Sieve(list(self.covers))
        elif self._added:
            self._sieve.add(self._added)
        self._added = []
        return self._sieve


@dataclass(frozen=True, slots=True)
class Covered:
    """The rows of a column whose ids are covered, ascending."""

    rows: npt.NDArray[np.int64]
    ids: pl.Series
    covers: npt.NDArray[np.int32]
    """By what, as numbers of `ListCopy.distinct`."""

    def __len__(self) -> int:
        return len(self.rows)

    def at(self, places: npt.NDArray[np.bool_]) -> "Covered":
        """Those where `places` is true."""
        return Covered(self.rows[places], self.ids.filter(pl.Series(places)), self.covers[places])


_NOBODY = Covered(np.zeros(0, dtype=np.int64), pl.Series("", [], dtype=pl.String), np.zeros(0, dtype=np.int32))


class ListCopy:
    """Facts and covers of every party that has facts, with their age. For one thread.

    Whether an entry covers a party follows from all facts that have arrived; the wall clock decides only expiry, the
    monotonic clock the copy's age.
    """

    def __init__(self, tables: Tables, clock: Clock, *, refresh_ms: int = 200) -> None:
        self._tables = tables
        self._clock = clock
        self._refresh = refresh_ms / 1000
        self._cursor: bytes | None = None
        self._read_at = 0.0
        self._finished_at = 0.0
        self._clear()

    def _clear(self) -> None:
        self.open_breakers: frozenset[RuleName] = frozenset()
        self._breakers: dict[RuleName, store.BreakerChange] = {}
        self._facts: dict[PartyName, PackedFacts] = {}
        self._terms = Terms()
        self._kinds: dict[str, _Kind] = {}
        self.distinct: list[Cover] = []
        """What covers anybody, each once; the numbers hold until the copy is loaded anew."""
        self._numbers: dict[Cover, int] = {}
        self.special: set[PartyName] = set()
        """Parties with more than hits that never expire: people's acts, or entries that end by themselves."""
        self._changed: set[PartyName] = set()
        self._due: dict[PartyName, int] = {}
        self._expiries: list[tuple[int, PartyName]] = []
        self._evaluated_at = 0

    # Keeping up to date.

    def load(self) -> None:
        """Read everything. Raises TablesError; the copy is then empty, and older than any bound."""
        self._cursor = None
        self._clear()
        started = self._clock.monotonic()
        store.finish_announcements(self._tables)
        # First the cursor, then the rows: what changes meanwhile is read again from the feed. A source that is
        # registered later announces each of its hits there too.
        cursor = store.feed_end(self._tables)
        for source in store.registered_sources(self._tables):
            for hit in load_hits(self._tables, source):
                self._apply(store.HitChange(hit))
        for act in store.load_acts(self._tables):
            self._apply(act)
        for breaker in store.load_breakers(self._tables):
            self._apply(breaker)
        self._cursor, self._read_at, self._finished_at = cursor, started, started

    def refresh(self) -> None:
        """Follow the feed to its end; load where that has not been done. Raises TablesError."""
        if self._cursor is None:
            self.load()
            # Seconds for a long list: it must not come between the reading of the feed and a decision.
            self._evaluate(self._clock.now())
        assert self._cursor is not None
        if self._clock.monotonic() - self._finished_at >= FINISH_EVERY:
            store.finish_announcements(self._tables)
            self._finished_at = self._clock.monotonic()
        while True:
            started = self._clock.monotonic()
            items, after = store.read_feed(self._tables, self._cursor, FEED_BLOCK)
            for item in items:
                self._apply(item)
            self._cursor = after
            if len(items) < FEED_BLOCK:
                self._read_at = started
                return

    def age(self) -> float:
        """Seconds since the moment whose acknowledged changes are all in the copy; infinite before the first load."""
        return float("inf") if self._cursor is None else self._clock.monotonic() - self._read_at

    def ensure_fresh(self, bound_ms: int) -> None:
        """Refresh when it is time to; raise StaleCopyError when the copy is older than `bound_ms` all the same."""
        bound = bound_ms / 1000
        cause: TablesError | None = None
        tries = REFRESHES if self.age() >= min(self._refresh, bound) else 0
        while tries and cause is None:
            try:
                self.refresh()
            except TablesError as error:
                cause = error
            # The first load of long lists takes longer than the bound; what came meanwhile is read at once.
            tries = tries - 1 if self.age() > bound else 0
        if self.age() > bound:
            why = f"the tables cannot be read: {cause}" if cause else "reading it took longer than that"
            raise StaleCopyError(f"the copy of the lists is older than refreshBoundMs, {bound_ms}: {why}") from cause

    def _apply(self, item: store.FeedItem) -> None:
        if isinstance(item, store.BreakerChange):
            self._apply_breaker(item)
            return
        fact = item.hit if isinstance(item, store.HitChange) else item
        name = sys.intern(fact.kind), fact.party
        facts = self._facts.get(name)
        if facts is None:
            facts = self._facts[name] = PackedFacts(*name, self._terms)
        if isinstance(fact, Act):
            self.special.add(name)
            changed = facts.add_act(fact)
        else:
            if fact.expires_after is not None:
                self.special.add(name)
            news = facts.hits.take_in(fact)
            # A party that is listed for long makes a hit for each interval, and all of them would be judged each time:
            # where acts, time and breakers take no part, one more that is alike changes nothing about what covers it.
            changed = news == "other" or (news == "alike" and (bool(self.open_breakers) or name in self.special))
        if changed:
            self._changed.add(name)

    def _apply_breaker(self, change: store.BreakerChange) -> None:
        name = change.name()
        held = self._breakers.get(name)
        if held is not None and held.number >= change.number:
            return
        self._breakers[name] = change
        now_open = frozenset(n for n, b in self._breakers.items() if b.state == "open")
        if now_open != self.open_breakers:
            self.open_breakers = now_open
            self._changed.update(p for p, f in self._facts.items() if f.hits.any_of(*name))

    # Looking up.

    def party_facts(self, kind: str, party: str) -> PartyFacts | None:
        """What is known of a party, or None. Of its hits there is what `PackedHits` keeps."""
        return self._facts.get((kind, party))

    def cover(self, kind: str, party: str, now: int) -> Cover | None:
        """The entry that covers a party at `now`, µs, or None."""
        self._evaluate(now)
        held = self._kinds.get(kind)
        number = None if held is None else held.covers.get(party)
        return None if number is None else self.distinct[number]

    def covers(self, kind: str, ids: pl.Series, hashes: Hashes | None, now: int) -> Covered:
        """The rows of a column of ids (nulls allowed) that are covered at `now`, µs.

        hashes: those of the column, from `hashes_of`; None, where there are few: each is looked up by itself.
        """
        self._evaluate(now)
        held = self._kinds.get(kind)
        if held is None or not held.covers:
            return _NOBODY
        if hashes is None:
            rows = np.arange(len(ids))
        else:
            rows = held.sieve().candidates(hashes)
            ids = ids[pl.Series(rows.astype(np.uint32))]
        if not len(rows):
            return _NOBODY
        numbers = np.fromiter(map(held.covers.get, ids.to_list(), repeat(-1)), dtype=np.int32, count=len(rows))
        found = Covered(rows, ids, numbers)
        return found if (numbers >= 0).all() else found.at(numbers >= 0)

    def kinds_covered(self, now: int) -> frozenset[str]:
        """The kinds of which any party is covered at `now`, µs."""
        self._evaluate(now)
        return frozenset(kind for kind, held in self._kinds.items() if held.covers)

    def _evaluate(self, now: int) -> None:
        """Bring the covers to the facts that have arrived, and to `now`."""
        if now < self._evaluated_at:
            # The wall clock was set back: what had expired may be in force once more.
            self._changed.update(self._facts)
        self._evaluated_at = now
        while self._expiries and self._expiries[0][0] <= now:
            at, name = heapq.heappop(self._expiries)
            if self._due.get(name) == at:
                del self._due[name]
                self._changed.add(name)
        for name in self._changed:
            self._evaluate_party(name, now)
        self._changed.clear()

    def _evaluate_party(self, name: PartyName, now: int) -> None:
        facts = self._facts[name]
        cover = facts.covering(now, self.open_breakers)
        kind, party = name
        if cover is not None or kind in self._kinds:
            self._kinds.setdefault(kind, _Kind()).set(party, self._number(cover))
        due = facts.next_change(now) if name in self.special else None
        if due is None:
            self._due.pop(name, None)
        elif self._due.get(name) != due:
            self._due[name] = due
            heapq.heappush(self._expiries, (due, name))

    def _number(self, cover: Cover | None) -> int | None:
        if cover is None:
            return None
        number = self._numbers.setdefault(cover, len(self.distinct))
        if number == len(self.distinct):
            self.distinct.append(cover)
        return number
