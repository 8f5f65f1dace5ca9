"""The id store: what was answered to each (application, id) of the last hours, on disk and bounded.

The newest ids are in memory, older ones in runs (`paystorm.ingest.runs`). The log is the truth: what was in memory
when the process died is read again from the log, from the checkpoints of the newest run on.

One thread (the event loop's) calls all but `write` and `tidy`, which another one may run.
"""

import os
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

from paystorm.clock import SECOND, Clock
from paystorm.durable import make_folder, sync_folder
from paystorm.errors import DataFolderError
from paystorm.ingest.runs import (
    VALUE,
    Checkpoint,
    Run,
    filter_bits,
    halves,
    merge_runs,
    open_runs,
    write_run,
)

TABLE_RECORDS = 131_072
"""Ids in memory after which they are written as a run."""
TABLE_SECONDS = 300.0
"""Seconds after which they are written, however few."""
FANOUT = 8
"""Runs of about one size that are merged into one."""
MAX_MERGED = 16_000_000
"""Entries of a run that is not merged any more."""
TRIM_SHARE = 0.05
"""Share of the hours by which a run may hold older entries before it is written anew without them."""
TOPICS = "topics"
"""The file that says which topic has which number."""


class Place(NamedTuple):
    """Where the first record of an id is, and what it said."""

    content: bytes
    topic: str
    partition: int
    offset: int
    at: int
    """Seconds since 1970-01-01 UTC."""


@dataclass(slots=True)
class _Frozen:
    """A memory table on its way to the disk."""

    number: int
    entries: Mapping[bytes, bytes]
    checkpoints: tuple[Checkpoint, ...]


class IdStore:
    """Ids with their places. `limit`: how many, at most; `hours`: how long each is remembered."""

    def __init__(
        self, folder: Path, clock: Clock, *, limit: int, hours: int, table_records: int = TABLE_RECORDS
    ) -> None:
        """Raises DataFolderError where the folder cannot be used."""
        self._folder = folder
        self._clock = clock
        self._limit = limit
        self._seconds = hours * 3600
        self._table_records = min(table_records, max(limit // 4, 1))
        try:
            make_folder(folder)
            self._runs = open_runs(folder)
            self._topics = _read_topics(folder / TOPICS)
        except OSError as error:
            raise DataFolderError(
                f"id store {folder}: {error.strerror}: make it accessible, then start again"
            ) from error
        self._numbers = {topic: number for number, topic in enumerate(self._topics)}
        self._recent: dict[bytes, bytes] = {}
        self._recent_since = clock.monotonic()
        self._frozen: _Frozen | None = None
        self._next = self._runs[-1].last + 1 if self._runs else 0
        held = self._runs[-1].header.checkpoints if self._runs else ()
        self._checkpoints = {(c.topic, c.partition): c for c in held}
        self._in_runs = sum(len(run) for run in self._runs)

    # Asking

    def __len__(self) -> int:
        return self._in_runs + len(self._recent) + (len(self._frozen.entries) if self._frozen else 0)

    def room(self) -> int:
        """How many more ids the store takes now. Expired ones count until they are tidied away."""
        backlog = 4 * self._table_records if self._frozen is not None else 1 << 62
        return max(0, min(self._limit - len(self), backlog - len(self._recent)))

    def oldest(self) -> int:
        """Ids from before this are forgotten: seconds since 1970-01-01 UTC."""
        return self._clock.now() // SECOND - self._seconds

    def checkpoint(self, topic: str, partition: int) -> Checkpoint | None:
        """How far a partition has been read into the store."""
        return self._checkpoints.get((topic, partition))

    def find(self, keys: Sequence[bytes]) -> list[Place | None]:
        """The place of each key, or None."""
        recent = self._recent
        found = list(map(recent.get, keys))
        if self._frozen is not None:
            entries = self._frozen.entries
            found = [entries.get(key) if value is None else value for key, value in zip(keys, found, strict=True)]
        runs = self._runs
        missing = [i for i, value in enumerate(found) if value is None] if runs else []
        if missing:
            high, low = halves([keys[i] for i in missing])
            bits = filter_bits(high)
            for run in reversed(runs):
                maybe = run.maybe(low, bits)
                for m, value in zip(maybe.tolist(), run.find(high[maybe], low[maybe]), strict=True):
                    if value is not None and found[missing[m]] is None:
                        found[missing[m]] = value
        oldest = self.oldest()
        return [None if value is None else self._place(value, oldest) for value in found]

    def _place(self, value: bytes, oldest: int) -> Place | None:
        content, offset, at, topic, partition = VALUE.unpack(value)
        return Place(content, self._topics[topic], partition, offset, at) if at >= oldest else None

    # Adding

    def topic_number(self, topic: str) -> int:
        """The number of a topic in the store; new ones are written down first. Raises OSError."""
        number = self._numbers.get(topic)
        if number is None:
            aside = self._folder / f"{TOPICS}.new"
            with aside.open("w") as file:
                file.writelines(f"{name}\n" for name in [*self._topics, topic])
                file.flush()
                os.fsync(file.fileno())
            aside.rename(self._folder / TOPICS)
            sync_folder(self._folder)
            number = self._numbers[topic] = len(self._topics)
            self._topics.append(topic)
        return number

    def add(self, topic: str, partition: int, items: Iterable[tuple[bytes, bytes, int, int]]) -> None:
        """Note records of one partition: (key, content hash, offset, seconds since 1970-01-01 UTC) each."""
        number = self.topic_number(topic)
        pack = VALUE.pack
        self._recent.update((key, pack(content, offset, at, number, partition)) for key, content, offset, at in items)

    def move(self, topic: str, topic_id: str | None, partition: int, after: int) -> None:
        """Every record of the partition below `after` has been noted."""
        self._checkpoints[topic, partition] = Checkpoint(topic, topic_id, partition, after)

    # On disk

    def freeze(self, force: bool = False) -> bool:
        """Set the memory table aside for `write` where it is due; says whether one waits there."""
        if self._frozen is None and self._recent:
            age = self._clock.monotonic() - self._recent_since
            if force or len(self._recent) >= self._table_records or age >= TABLE_SECONDS:
                self._frozen = _Frozen(self._next, self._recent, tuple(self._checkpoints.values()))
                self._next += 1
                self._recent = {}
                self._recent_since = self._clock.monotonic()
        return self._frozen is not None

    def write(self) -> Run | None:
        """Write the table that was set aside, in any thread; `written` takes the run over. Raises OSError."""
        frozen = self._frozen
        if frozen is None:
            return None
        entries = frozen.entries
        return write_run(self._folder, frozen.number, list(entries), list(entries.values()), frozen.checkpoints)

    def written(self, run: Run) -> None:
        """Take a run over in the place of the table that was set aside."""
        self._frozen = None
        self._set([*self._runs, run])

    def expired(self) -> list[Run]:
        """Runs that hold nothing any more but forgotten ids; the newest stays, for its checkpoints."""
        oldest = self.oldest()
        return [run for run in self._runs[:-1] if run.header.last_at < oldest]

    def to_merge(self) -> list[Run]:
        """Neighbouring runs that should be one now; a single one that should be written without what is forgotten."""
        slack = self._seconds * TRIM_SHARE
        for run in self._runs:
            if run.header.first_at < self.oldest() - slack and len(run):
                return [run]
        sizes = [_tier(len(run), self._table_records) for run in self._runs]
        for end in range(len(sizes), FANOUT - 1, -1):
            group = self._runs[end - FANOUT : end]
            if len({*sizes[end - FANOUT : end]}) == 1 and sum(map(len, group)) <= MAX_MERGED:
                return group
        return []

    def tidy(self, runs: Sequence[Run]) -> Run:
        """Merge runs, in any thread; `tidied` takes the result over. Raises OSError."""
        return merge_runs(self._folder, runs, max(0, self.oldest()))

    def tidied(self, old: Sequence[Run], new: Run | None) -> None:
        """Put a merged run, or none, in the place of those that it was made of, and remove them."""
        at = self._runs.index(old[0])
        kept = [run for run in self._runs if run not in old]
        if new is not None:
            kept.insert(at, new)
        self._set(kept)
        for run in old:
            if new is None or run.path != new.path:
                run.path.unlink(missing_ok=True)

    def _set(self, runs: list[Run]) -> None:
        self._runs = runs
        self._in_runs = sum(len(run) for run in runs)

    def close(self) -> None:
        """Write what is in memory. Raises OSError; nothing is lost then, it is read again from the log."""
        for _ in range(2):
            if self.freeze(force=True):
                run = self.write()
                assert run is not None
                self.written(run)


def _tier(count: int, table: int) -> int:
    tier = 0
    while count > table * 2:
        count //= FANOUT
        tier += 1
    return tier


def _read_topics(path: Path) -> list[str]:
    return path.read_text().split("\n")[:-1] if path.exists() else []
