"""The embedded log: topics as folders of segment files, for one machine without Kafka.

Several processes may append to and read the same topics. A record is durable when `append` returns; readers never see
one that is not. The files of a partition are described in `paystorm.log.segments`.
"""

import contextlib
import errno
import fcntl
import itertools
import json
import os
import re
import secrets
import shutil
import threading
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from paystorm.clock import Clock
from paystorm.durable import make_folder, sync_folder
from paystorm.errors import DataFolderError, LogError, RecordTooLargeError
from paystorm.log.base import Int64Array, OutRecord, RecordBatch, partition_for
from paystorm.log.partition import Partition
from paystorm.log.segments import MAX_KEY, MAX_VALUE, File, UInt32Array

FORMAT = 1
"""The version of the files that this code writes."""
SEGMENT_BYTES = 64 << 20
MAX_PARTITIONS = 10_000

_NAME = re.compile(r"[A-Za-z0-9._-]{1,249}")
_NEW, _DELETED, _LOCK = "~new-", "~deleted-", "~lock"  # ~ is in no topic's name


@dataclass(slots=True)
class _Topic:
    """An open topic. `file` stays open, so that its inode is not given to the topic.json of one made anew."""

    path: str
    file: File
    inode: int
    id: str
    partitions: int
    segment_bytes: int
    opened: dict[int, Partition] = field(default_factory=dict)


class EmbeddedLog:
    """A `Log` in a folder. Usable from several threads, after a fork, and beside other processes."""

    def __init__(
        self, folder: Path, clock: Clock, *, segment_bytes: int = SEGMENT_BYTES, lock_timeout: float = 30.0
    ) -> None:
        """`segment_bytes`: when a segment is full, for topics made by this object.

        `lock_timeout`: seconds to wait for another that appends.
        Raises DataFolderError where the folder cannot be made.
        """
        self._folder = folder
        self._clock = clock
        self._segment_bytes = segment_bytes
        self._lock_timeout = lock_timeout
        self._turn = itertools.count()
        self._reset()
        try:
            make_folder(folder)
        except OSError as e:
            raise DataFolderError(f"log folder {folder}: {e.strerror}: choose a folder that can be written") from e

    def _reset(self) -> None:
        self._pid = os.getpid()
        self._lock = threading.Lock()
        self._topics: dict[str, _Topic] = {}

    # Topics

    def create_topic(self, topic: str, partitions: int) -> None:
        """As `Log.create_topic`. Raises LogError for a name or a number of partitions that is not allowed."""
        folder = self._path(topic)
        if not 1 <= partitions <= MAX_PARTITIONS:
            raise LogError(f"topic {topic}: partitions must be between 1 and {MAX_PARTITIONS}, got {partitions}")
        with self._errors(topic), self._administering():
            if folder.exists():
                return
            made = self._folder / f"{_NEW}{secrets.token_hex(8)}"
            made.mkdir()
            for number in range(partitions):
                Partition.create(made / str(number))
            about = {
                "format": FORMAT,
                "id": secrets.token_hex(16),
                "partitions": partitions,
                "segmentBytes": self._segment_bytes,
            }
            with (made / "topic.json").open("w") as file:
                json.dump(about, file)
                file.flush()
                os.fsync(file.fileno())
            sync_folder(made)
            made.rename(folder)
            sync_folder(self._folder)

    def delete_topic(self, topic: str) -> None:
        """As `Log.delete_topic`: at once, though the process dies. Nothing happens where there is no such topic."""
        folder = self._path(topic)
        with self._errors(topic), self._administering():
            if folder.exists():
                folder.rename(self._folder / f"{_DELETED}{secrets.token_hex(8)}")
                sync_folder(self._folder)
                self._sweep()
        self._topics.pop(topic, None)

    def topics(self) -> list[str]:
        """As `Log.topics`."""
        with self._errors("~"):
            names = [name for name in os.listdir(self._folder) if _NAME.fullmatch(name)]
            return sorted(name for name in names if (self._folder / name / "topic.json").exists())

    def topic_id(self, topic: str) -> str:
        """As `Log.topic_id`; never None."""
        return self._topic(topic).id

    def partitions(self, topic: str) -> int:
        """As `Log.partitions`."""
        return self._topic(topic).partitions

    def _path(self, topic: str) -> Path:
        if not _NAME.fullmatch(topic) or topic in (".", ".."):
            raise LogError(f"topic {topic!r}: a name is 1 to 249 of A-Z a-z 0-9 . _ -, and not . or ..")
        return self._folder / topic

    @contextlib.contextmanager
    def _administering(self) -> Iterator[None]:
        """Hold the list of topics. What a killed process left over is removed here."""
        file = File(os.open(self._folder / _LOCK, os.O_RDWR | os.O_CREAT, 0o644))
        deadline = self._clock.monotonic() + self._lock_timeout
        while True:
            try:
                fcntl.flock(file.fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
                break
            except BlockingIOError:
                if self._clock.monotonic() >= deadline:
                    text = f"{self._folder / _LOCK}: held for more than {self._lock_timeout:g} s"
                    raise LogError(f"{text}: end the process that hangs") from None
                self._clock.sleep(0.005)
        try:
            self._sweep()
            yield
        finally:
            fcntl.flock(file.fd, fcntl.LOCK_UN)

    def _sweep(self) -> None:
        for entry in list(os.scandir(self._folder)):
            if entry.name.startswith((_NEW, _DELETED)):
                shutil.rmtree(entry.path, ignore_errors=True)

    def _topic(self, topic: str) -> _Topic:
        """The topic as it is now: one stat where it is open already."""
        if self._pid != os.getpid():
            self._reset()  # locks held by the parent's other threads would never be released here
        known = self._topics.get(topic)
        with self._errors(topic):
            if known is not None and os.stat(known.path).st_ino == known.inode:
                return known
            folder = self._path(topic)
            with self._lock:
                if self._topics.get(topic) is known:  # else another thread has opened it meanwhile
                    self._topics[topic] = self._load(folder)
                return self._topics[topic]

    def _load(self, folder: Path) -> _Topic:
        path = str(folder / "topic.json")
        file = File(os.open(path, os.O_RDONLY))
        try:
            about = json.loads(os.pread(file.fd, 4096, 0))
            version = about["format"]
            if version > FORMAT:
                raise DataFolderError(
                    f"{folder}: written in format {version}, this paystorm reads up to {FORMAT}: use a newer paystorm"
                )
            inode = os.fstat(file.fd).st_ino
            return _Topic(path, file, inode, about["id"], about["partitions"], about["segmentBytes"])
        except (ValueError, KeyError, TypeError) as e:
            raise LogError(f"{path}: not readable ({e}): restore the file or delete the topic") from e

    def _partition(self, topic: str, number: int) -> Partition:
        found = self._topic(topic)
        opened = found.opened.get(number)
        if opened is not None:
            return opened
        if not 0 <= number < found.partitions:
            raise LogError(f"topic {topic}: there is no partition {number}, only 0 to {found.partitions - 1}")
        with self._lock:
            if number not in found.opened:
                found.opened[number] = Partition(
                    self._folder / topic / str(number),
                    topic,
                    number,
                    segment_bytes=found.segment_bytes,
                    clock=self._clock,
                    lock_timeout=self._lock_timeout,
                )
                if os.stat(found.path).st_ino != found.inode:
                    del found.opened[number]  # made anew meanwhile: what was opened may belong to the new one
                    raise LogError(f"topic {topic}: was deleted and made anew meanwhile: try again")
            return found.opened[number]

    @contextlib.contextmanager
    def _errors(self, topic: str) -> Iterator[None]:
        """Turn what the system says into one line for people."""
        try:
            yield
        except FileNotFoundError as e:
            if (self._folder / topic / "topic.json").exists():
                raise LogError(f"topic {topic}: file {e.filename} is missing: restore it or delete the topic") from e
            raise LogError(f"topic {topic}: there is none in log folder {self._folder}: create it first") from e
        except OSError as e:
            if e.errno in (errno.ENOSPC, errno.EDQUOT):
                raise LogError(f"log folder {self._folder} is full: free space, then send again") from e
            text = f"log folder {self._folder}, topic {topic}: {e.strerror}"
            raise LogError(f"{text}: mend it (disk, rights, limit of open files), then try again") from e

    # Records

    def start_offset(self, topic: str, partition: int) -> int:
        """As `Log.start_offset`."""
        with self._errors(topic):
            return self._partition(topic, partition).head().start

    def end_offset(self, topic: str, partition: int) -> int:
        """As `Log.end_offset`."""
        with self._errors(topic):
            return self._partition(topic, partition).head().end

    def append(self, topic: str, records: Sequence[OutRecord]) -> list[tuple[int, int]]:
        """As `Log.append`. Where LogError is raised, records of some partitions may have been appended, of others not.

        Within one partition it is all or none. Lists for one partition without keys are the fastest.
        """
        if not records:
            return []
        count = self._topic(topic).partitions
        chosen = {r.partition for r in records}
        only = 0 if count == 1 and None in chosen else next(iter(chosen))
        if len(chosen) == 1 and only is not None:
            first = self._append_rows(topic, only, records)
            return list(zip(itertools.repeat(only), range(first, first + len(records)), strict=False))
        groups: dict[int, list[int]] = {}
        for i, record in enumerate(records):
            number = record.partition
            if number is None:
                number = next(self._turn) % count if record.key is None else partition_for(record.key, count)
            groups.setdefault(number, []).append(i)
        wrong = [n for n in groups if not 0 <= n < count]
        if wrong:
            raise LogError(f"topic {topic}: there is no partition {wrong[0]}, only 0 to {count - 1}")
        every = np.fromiter((len(r.value) for r in records), dtype=np.int64, count=len(records))
        self._check_lengths(topic, every, [r.key for r in records])
        places = [(0, 0)] * len(records)
        for number, members in groups.items():
            first = self._append_rows(topic, number, [records[i] for i in members])
            for n, i in enumerate(members):
                places[i] = (number, first + n)
        return places

    def _append_rows(self, topic: str, partition: int, records: Sequence[OutRecord]) -> int:
        values = [r.value for r in records]
        keys = [r.key for r in records]
        lengths = np.fromiter(map(len, values), dtype=np.int64, count=len(values))
        values.append(b"")
        return self._append(
            topic, partition, b"\n".join(values), lengths, None if keys.count(None) == len(keys) else keys
        )

    def append_columns(self, topic: str, partition: int, values: bytes, lengths: Int64Array) -> int:
        """Append records given as `RecordBatch` has them; gives the offset of the first. For generators of much data.

        `values`: each value followed by a newline; `lengths`: of the values without it. Raises LogError where they do
        not fit each other. No records: the end of the partition.
        """
        if not len(lengths):
            return self.end_offset(topic, partition)
        ends = np.cumsum(lengths, dtype=np.int64) + np.arange(1, len(lengths) + 1)
        fit = int(lengths.min()) >= 0 and int(ends[-1]) == len(values)
        if not fit or not (np.frombuffer(values, dtype=np.uint8)[ends - 1] == ord("\n")).all():
            text = f"topic {topic}: {len(lengths)} lengths do not fit {len(values)} bytes of values"
            raise LogError(f"{text}: each value is followed by a newline, which its length leaves out")
        return self._append(topic, partition, values, lengths, None)

    def append_keyed(
        self, topic: str, partition: int, values: bytes, lengths: Int64Array, keys: Sequence[bytes]
    ) -> Int64Array:
        """As `ColumnLog.append_keyed`; they follow on one another."""
        first = self._append(topic, partition, values, lengths, keys)
        return np.arange(first, first + len(lengths), dtype=np.int64)

    def _append(
        self, topic: str, partition: int, values: bytes, lengths: Int64Array, keys: Sequence[bytes | None] | None
    ) -> int:
        self._check_lengths(topic, lengths, keys)
        narrow: UInt32Array = lengths.astype(np.uint32)
        with self._errors(topic):
            return self._partition(topic, partition).append(values, narrow, keys)

    @staticmethod
    def _check_lengths(topic: str, lengths: Int64Array, keys: Sequence[bytes | None] | None) -> None:
        """Raise RecordTooLargeError for values and keys that no segment takes."""
        long = np.flatnonzero(lengths > MAX_VALUE).tolist()
        if long:
            text = f"a value of {int(lengths[long[0]])} bytes is too long: at most {MAX_VALUE} are allowed"
            raise RecordTooLargeError(f"topic {topic}: {text}", long)
        if keys and max(map(len, filter(None, keys)), default=0) > MAX_KEY:
            long = [i for i, k in enumerate(keys) if k and len(k) > MAX_KEY]
            text = f"a key of {len(keys[long[0]] or b'')} bytes is too long: at most {MAX_KEY} are allowed"
            raise RecordTooLargeError(f"topic {topic}: {text}", long)

    def read(
        self,
        topic: str,
        partition: int,
        offset: int,
        *,
        max_records: int,
        max_bytes: int,
        keys: bool = False,
    ) -> RecordBatch | None:
        """As `Log.read`. Raises LogError also for a damaged batch, naming the file and the byte."""
        with self._errors(topic):
            return self._partition(topic, partition).read(offset, max_records, max_bytes, keys)

    def drop_before(self, topic: str, partition: int, offset: int) -> int:
        """Delete the segments that are below `offset` as a whole; gives the new start. The last segment stays."""
        with self._errors(topic):
            return self._partition(topic, partition).drop_before(offset)

    def close(self) -> None:
        """Release the files. They are opened again where the log is used afterwards."""
        self._topics.clear()
