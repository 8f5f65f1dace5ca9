"""Who is listed by the source's own rules, as the counting task knows it: sooner than any look-up (SEMANTICS.md §3)."""

from collections import Counter
from collections.abc import Callable, Collection

import numpy as np
import numpy.typing as npt
import polars as pl

from paystorm.chunk import Head
from paystorm.source import Source
from paystorm.stores.hits import load_hits
from paystorm.tables.base import Tables
from paystorm.windows.memory import Memory
from paystorm.windows.tally import Change, denies
from paystorm.windows.touches import KindTouches

Overruled = Callable[[str, dict[str, int], int], set[str]]
"""Of the parties of a kind, with how many hits stand of each: those none of whose hits is in force at a moment, µs."""
_NEVER = np.iinfo(np.int64).max


class Listed:
    """Counts the standing hits that deny, by party, and notes the events that come after them."""

    def __init__(self, source: Source, tables: Tables, overruled: Overruled) -> None:
        self._enforces = source.enforces
        self._tables = tables
        self._overruled = overruled
        self._counts: dict[str, npt.NDArray[np.int32]] = {}
        """By kind: how many standing hits list each party, by code."""
        self._after: dict[str, npt.NDArray[np.int64]] = {}
        """By kind and code: the row of a flush behind which a party's events are noted; −1 while it is listed."""
        self._rules: dict[str, dict[int, str]] = {}
        """By kind and code of a listed party, one of the rules that list it."""

    def load(self, memory: Memory, shards: Collection[int]) -> None:
        """Read the parties that a standing hit of this source lists, of some shards."""
        self._counts = {kind: np.zeros(1024, dtype=np.int32) for kind in memory.interners}
        self._after = {kind: np.full(1024, _NEVER, dtype=np.int64) for kind in memory.interners}
        self._rules = {kind: {} for kind in memory.interners}
        by_kind: dict[str, list[tuple[str, str]]] = {}
        if self._enforces:
            for hit in load_hits(self._tables, memory.source):
                if hit.status == "standing" and hit.action == "deny" and hit.shard in shards:
                    by_kind.setdefault(hit.kind, []).append((hit.party, hit.rule))
        for kind, listed in by_kind.items():
            codes = memory.interners[kind].codes(pl.Series([party for party, _ in listed], dtype=pl.String))
            self._rules[kind].update(zip(codes.tolist(), (rule for _, rule in listed), strict=True))
            np.add.at(self._room(memory, kind), codes, 1)
            self._after[kind][codes] = -1

    def _room(self, memory: Memory, kind: str) -> npt.NDArray[np.int32]:
        """How many standing hits list each party of a kind, by code."""
        held = self._counts[kind]
        size = memory.interners[kind].size
        if size > len(held):
            grown = np.zeros(max(size, 2 * len(held)), dtype=np.int32)
            grown[: len(held)] = held
            after = np.full(len(grown), _NEVER, dtype=np.int64)
            after[: len(held)] = self._after[kind]
            held, self._after[kind] = grown, after
            self._counts[kind] = held
        return held

    def notes(
        self, memory: Memory, heads: list[Head], touches: dict[str, KindTouches], changes: list[Change], now: int
    ) -> dict[int, pl.DataFrame]:
        """The events applied while an entry of this source's rules was in force, by shard (SEMANTICS.md §3)."""
        if not self._enforces:
            return {}
        partitions = np.array([head.partition for head in heads], dtype=np.int64)
        out: dict[int, list[pl.DataFrame]] = {}
        for kind, rows in touches.items():
            held = self._room(memory, kind)
            after = self._after[kind]
            made: Counter[int] = Counter()
            for change in changes:
                if change.kind == kind and change.lists and change.crossing is not None:
                    after[change.code] = min(int(after[change.code]), change.crossing.row)
                    made[change.code] += 1
                    self._rules[kind].setdefault(change.code, change.rule)
            noted = np.flatnonzero(after[rows.codes] < np.arange(len(rows)))
            crossed = np.fromiter(made, dtype=np.int64, count=len(made))
            after[crossed] = np.where(held[crossed] > 0, -1, _NEVER)  # until `take_in`
            if len(noted) == 0:
                continue
            codes = np.unique(rows.codes[noted])
            names = memory.interners[kind].names(codes).to_list()
            standing = {n: int(held[c]) + made[c] for c, n in zip(codes.tolist(), names, strict=True)}
            free = self._overruled(kind, standing, now)
            if free:
                codes_free = [code for code, name in zip(codes.tolist(), names, strict=True) if name in free]
                noted = noted[~np.isin(rows.codes[noted], codes_free)]
                if len(noted) == 0:
                    continue
            shards = memory.interners[kind].shards[rows.codes[noted]]
            noted = noted[np.argsort(shards, kind="stable")]
            numbers, firsts = np.unique(np.sort(shards), return_index=True)
            distinct, places = np.unique(rows.codes[noted], return_inverse=True)
            rules = self._rules[kind]
            taken = pl.Series(noted.astype(np.uint32))
            named = pl.Series("rule", [rules[code] for code in distinct.tolist()], dtype=pl.String)
            frame = pl.DataFrame(
                [
                    pl.Series("partition", partitions[rows.arrivals[noted]]),
                    pl.Series("offset", rows.offsets[noted]),
                    pl.Series("kind", [kind], dtype=pl.String).new_from_index(0, len(noted)),
                    rows.frame["party"][taken],
                    named[pl.Series(places.astype(np.uint32))],
                    rows.frame["application"][taken],
                    rows.frame["event_id"][taken],
                ]
            )
            ends = [*firsts[1:].tolist(), len(noted)]
            for number, first, end in zip(numbers.tolist(), firsts.tolist(), ends, strict=True):
                out.setdefault(number, []).append(frame.slice(first, end - first))
        return {number: pl.concat(parts) for number, parts in out.items()}

    def take_in(self, memory: Memory, changes: list[Change]) -> None:
        """Follow the hits that a flush changed."""
        for change in changes:
            held = self._room(memory, change.kind)
            held[change.code] += int(denies(change.span)) - int(denies(change.was))
            self._after[change.kind][change.code] = -1 if held[change.code] > 0 else _NEVER
