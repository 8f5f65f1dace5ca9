"""Where each event's verdict stands in its verdict topic: a number for each offset, in files that are mapped.

For each partition of a source's topic there are files of `SPAN` numbers, one for each offset: 0 where no verdict has
been seen, else 2 × (the verdict's offset + 1), + 1 where it is another one than `accepted`, which no later `accepted`
covers. Everything can be read again from the verdict topic, so that being late costs time only.
"""

import contextlib
import os
import threading
import time
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import msgspec
import numpy as np
import numpy.typing as npt

from paystorm.clock import SECOND, Clock
from paystorm.durable import sync_folder
from paystorm.ingest.catching_up import SLACK_MS, first_since, record_at
from paystorm.log.base import Log
from paystorm.verdicts import verdict_topic

SPAN = 1 << 18
AT_ONCE = 20_000
AT_ONCE_BYTES = 8 << 20
SAVE_SECONDS = 5.0


class _Line(msgspec.Struct, gc=False):
    topic: str
    partition: int
    offset: int
    verdict: str


_decode = msgspec.json.Decoder(_Line).decode


class _Progress(msgspec.Struct):
    """How far a verdict topic has been read."""

    topic_id: str | None
    next: list[int]


class Seen(NamedTuple):
    """A verdict that was in its topic."""

    raw: bytes | None
    """The record; None where the topic does not hold it any more."""
    accepted: bool


class VerdictIndex:
    """The verdicts of one source. Usable from several threads."""

    def __init__(self, log: Log, clock: Clock, folder: Path, source: str, topic: str, hours: int) -> None:
        """`topic`: the source's own; `hours`: how long a verdict is looked for."""
        self.source = source
        self.topic = topic
        self.verdicts = verdict_topic(source)
        self._log = log
        self._clock = clock
        self._folder = folder / source
        self._folder.mkdir(parents=True, exist_ok=True)
        self._hours = hours
        self._lock = threading.Lock()
        self._maps: dict[tuple[int, int], npt.NDArray[np.int64]] = {}
        self._progress: _Progress | None = None
        self._resumed = False
        self._saved = clock.monotonic()
        with contextlib.suppress(FileNotFoundError, msgspec.DecodeError):
            self._progress = msgspec.json.decode((self._folder / "progress").read_bytes(), type=_Progress)

    def tail(self, *, surely: bool = False) -> int:
        """Read what has been added to the verdict topic; how many verdicts that were. Raises LogError, OSError.

        `surely`: all that others had added before the call, and not only what they had a moment ago.
        """
        with self._lock:
            progress = self._begin()
            if progress is None:
                return 0
            count = 0
            for partition in range(len(progress.next)):
                if surely:
                    self._log.end_offset(self.verdicts, partition)  # which reads believe from now on
                while True:
                    offset = progress.next[partition]
                    batch = self._log.read(
                        self.verdicts, partition, offset, max_records=AT_ONCE, max_bytes=AT_ONCE_BYTES
                    )
                    if batch is None:
                        break
                    self._note(batch.offsets.tolist(), batch.all_values())
                    progress.next[partition] = batch.next
                    count += len(batch)
            if count and self._clock.monotonic() - self._saved >= SAVE_SECONDS:
                self._save()
            return count

    def _begin(self) -> _Progress | None:
        """How far the topic has been read; None where there is none yet."""
        if self.verdicts not in self._log.topics():
            return None
        topic_id = self._log.topic_id(self.verdicts)
        held = self._progress
        if held is not None and (held.topic_id == topic_id or None in (held.topic_id, topic_id)):
            if not self._resumed:  # the log may have let go of what was added while nobody read
                for partition, offset in enumerate(held.next):
                    held.next[partition] = max(offset, self._log.start_offset(self.verdicts, partition))
                self._resumed = True
            return held
        since = (self._clock.now() // SECOND - self._hours * 3600) * 1000 - SLACK_MS
        log, name = self._log, self.verdicts
        starts = [
            first_since(log, name, p, log.start_offset(name, p), log.end_offset(name, p), since)
            for p in range(log.partitions(name))
        ]
        self._progress = _Progress(topic_id, starts)
        return self._progress

    def _note(self, offsets: Sequence[int], values: Sequence[bytes]) -> None:
        for at, value in zip(offsets, values, strict=True):
            try:
                line = _decode(value)
            except (msgspec.DecodeError, RecursionError):
                continue  # not one of paystorm's
            if line.topic != self.topic or line.offset < 0 or line.partition < 0:
                continue
            numbers = self._map(line.partition, line.offset // SPAN, make=True)
            assert numbers is not None
            i = line.offset % SPAN
            if line.verdict != "accepted":
                numbers[i] = 2 * (at + 1) + 1
            elif not numbers[i] & 1:
                numbers[i] = 2 * (at + 1)

    def _map(self, partition: int, number: int, make: bool) -> npt.NDArray[np.int64] | None:
        found = self._maps.get((partition, number))
        if found is None:
            path = self._folder / f"{partition}-{number:012d}.pos"
            if not path.exists():
                if not make:
                    return None
                with path.open("wb") as file:
                    os.truncate(file.fileno(), SPAN * 8)
            if len(self._maps) >= 256:
                self._maps.pop(next(iter(self._maps)))
            found = self._maps[partition, number] = np.memmap(path, dtype="<i8", mode="r+", shape=(SPAN,))
        return found

    def find(self, partition: int, offset: int) -> Seen | None:
        """What has been seen of the verdict of the event at an offset; None: nothing. Raises LogError."""
        with self._lock:
            numbers = self._map(partition, offset // SPAN, make=False)
            number = 0 if numbers is None else int(numbers[offset % SPAN])
            partitions = 0 if self._progress is None else len(self._progress.next)
        if not number or not partitions:
            return None
        # As they are published: the source's topic may have more partitions
        raw = record_at(self._log, self.verdicts, partition % partitions, number // 2 - 1)
        return Seen(raw, accepted=not number & 1)

    def _save(self) -> None:
        """Write down how far the topic has been read, behind what was read."""
        self._saved = self._clock.monotonic()
        for numbers in self._maps.values():
            if isinstance(numbers, np.memmap):
                numbers.flush()
        aside = self._folder / "progress.new"
        with aside.open("wb") as file:
            file.write(msgspec.json.encode(self._progress))
            file.flush()
            os.fsync(file.fileno())
        aside.rename(self._folder / "progress")
        sync_folder(self._folder)

    def tidy(self) -> None:
        """Remove the files that no verdict was added to for longer than ids are remembered. Raises OSError."""
        with self._lock:
            if self._progress is not None:
                self._save()
            for path in self._folder.glob("*.pos"):
                partition, number = (int(part) for part in path.stem.split("-"))
                if time.time() - path.stat().st_mtime > 2 * self._hours * 3600 + 3600:
                    self._maps.pop((partition, number), None)
                    path.unlink()

    def close(self) -> None:
        """Write down how far the topic has been read. Raises OSError."""
        with self._lock:
            if self._progress is not None:
                self._save()
            self._maps.clear()
