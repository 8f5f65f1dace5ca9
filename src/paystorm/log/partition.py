"""One partition of the embedded log: appending under a lock, repair after a crash, reading up to the head.

Its folder holds
- `00000000000000000000.log` and so on: segments (`paystorm.log.segments`), named by the offset of their first record;
- `head`: how far the log is durable, written after each fdatasync: readers see nothing beyond it;
- `lock`: held with flock for the time of an append, so that several processes may append.
"""

import bisect
import contextlib
import fcntl
import os
import threading
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np

from paystorm.clock import Clock
from paystorm.durable import sync_folder
from paystorm.errors import LogError
from paystorm.log.base import RecordBatch, check_bounds
from paystorm.log.segments import (
    HEAD_SIZE,
    MAX_VALUE,
    Batch,
    File,
    Head,
    Segment,
    UInt32Array,
    Window,
    encode,
    segment_name,
    write_all,
)

_OPEN_SEGMENTS = 4  # of each partition: a process may have hundreds of partitions and 1024 files
_CURSORS = 1024
_TORN_HEAD_READS = 100


class _Piece(NamedTuple):
    """The records [first, last) of a batch, and where their values stand in its values."""

    batch: Batch
    first: int
    last: int
    start: int
    end: int


class Partition:
    """One partition. Usable from several threads; the folder may be used by several processes."""

    def __init__(
        self, folder: Path, topic: str, number: int, *, segment_bytes: int, clock: Clock, lock_timeout: float
    ) -> None:
        self._folder = folder
        self._topic = topic
        self._number = number
        self._segment_bytes = segment_bytes
        self._clock = clock
        self._lock_timeout = lock_timeout
        # Everything is opened relative to this folder: where the topic is deleted and made anew under its name, a
        # handle of the old one can never touch the files of the new one.
        self._dir = File(os.open(folder, os.O_RDONLY | os.O_DIRECTORY))
        self._head_file = File(os.open("head", os.O_RDWR, dir_fd=self._dir.fd))
        self._appending = threading.Lock()
        self._tail: tuple[int, File] | None = None
        self._bases: list[int] = []
        self._segments: dict[int, Segment] = {}
        self._cursors: dict[int, tuple[int, int]] = {}
        self._last: tuple[int, int, Batch] | None = None
        try:
            with self._locked(wait=False):
                self._writable()  # what a killed process had synced and not published
        except BlockingIOError:
            # Whoever holds it appends, or has just begun to do the same: after a power cut the head may be long behind
            if self._unpublished():
                with self._locked():
                    self._writable()

    @staticmethod
    def create(folder: Path) -> None:
        """Make the files of an empty partition, synced."""
        folder.mkdir()
        for name, data in (("head", Head(0, 0, 0, 0, 0).pack()), ("lock", b""), (segment_name(0), b"")):
            with (folder / name).open("wb") as file:
                file.write(data)
                file.flush()
                os.fsync(file.fileno())
        sync_folder(folder)

    def head(self) -> Head:
        """What is published now: one read of a few bytes."""
        for _ in range(_TORN_HEAD_READS):  # a read while it is written may be torn
            head = self._read_head()
            if head is not None:
                return head
        with self._locked():
            return self._writable()[0]

    def _read_head(self) -> Head | None:
        return Head.unpack(os.pread(self._head_file.fd, HEAD_SIZE, 0))

    # Appending

    def append(self, values: bytes, lengths: UInt32Array, keys: Sequence[bytes | None] | None) -> int:
        """Append at least one record and sync; the offset of the first. Raises OSError, the log being as before."""
        with self._locked():
            head, file = self._writable()
            if head.position >= self._segment_bytes:
                head, file = self._roll(head)
            timestamp = max(self._clock.now() // 1000, head.timestamp)
            data = b"".join(encode(head.end, timestamp, values, lengths, keys))
            self._tail = None  # until all is well again: what is interrupted here is looked at afresh
            try:
                write_all(file.fd, data, head.position)
                os.fdatasync(file.fd)
                self._publish(
                    Head(head.start, head.end + len(lengths), head.segment, head.position + len(data), timestamp)
                )
            except OSError:
                with contextlib.suppress(OSError):  # then the next append cuts it off
                    os.ftruncate(file.fd, head.position)
                raise
            self._tail = head.segment, file
            return head.end

    def drop_before(self, offset: int) -> int:
        """Delete the segments that are below `offset` as a whole; the start of what remains."""
        with self._locked():
            head = self._writable()[0]
            bases = [b for b in self._list() if b <= head.segment]
            start = max([b for b in bases if b <= offset], default=head.start)
            if start > head.start:
                self._publish(head._replace(start=start))
                os.fsync(self._head_file.fd)  # or a power cut brings back a start whose segments are gone
            for base in bases:
                if base < max(start, head.start):
                    os.unlink(segment_name(base), dir_fd=self._dir.fd)
            return max(start, head.start)

    @contextlib.contextmanager
    def _locked(self, wait: bool = True) -> Iterator[None]:
        """Hold the partition against other threads and processes. Raises BlockingIOError where `wait` is False."""
        if not self._appending.acquire(timeout=self._lock_timeout if wait else 0):
            raise LogError(self._lock_text()) if wait else BlockingIOError
        try:
            # Opened each time: a lock belongs to the open file, and one kept open would be shared with a fork.
            lock = File(os.open("lock", os.O_RDWR, dir_fd=self._dir.fd))
            self._flock(lock.fd, wait)
            try:
                yield
            finally:
                fcntl.flock(lock.fd, fcntl.LOCK_UN)
        finally:
            self._appending.release()

    def _flock(self, fd: int, wait: bool) -> None:
        deadline = self._clock.monotonic() + self._lock_timeout
        while True:
            try:
                return fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                if not wait:
                    raise
                if self._clock.monotonic() >= deadline:
                    raise LogError(self._lock_text()) from None
                self._clock.sleep(0.0005)

    def _lock_text(self) -> str:
        return f"{self._folder / 'lock'}: held for more than {self._lock_timeout:g} s: end the process that hangs"

    def _writable(self) -> tuple[Head, File]:
        """The head and the last segment, whose end is where the head says. Under the lock only."""
        head = self._read_head()
        if head is not None and self._tail is not None:
            base, file = self._tail
            if base == head.segment and os.fstat(file.fd).st_size == head.position:
                return head, file
        return self._recover(head)

    def _unpublished(self) -> bool:
        """Whether there is more in the segments than the head says."""
        head, bases = self._read_head(), self._list()
        if head is None or not bases or bases[-1] > head.segment:
            return True
        try:
            return os.stat(segment_name(head.segment), dir_fd=self._dir.fd).st_size > head.position
        except FileNotFoundError:  # dropped just now
            return True

    def _recover(self, old: Head | None) -> tuple[Head, File]:
        """Keep every whole batch behind the head, cut off a torn one, and publish. Under the lock only.

        After a power cut the head may be older than what was acknowledged (it is not synced), never newer.
        """
        bases = self._list()
        if not bases:
            raise LogError(f"{self._folder}: no segment file is left: restore the folder or delete the topic")
        first = bases[-2:][0]
        head = old or Head(bases[0], first, first, 0, 0)
        later = [b for b in bases if b > head.segment]
        while True:
            segment = self._open(head.segment)
            size = os.fstat(segment.file.fd).st_size
            if size < head.position:
                raise self._corrupt(segment, size, "is shorter than what was acknowledged")
            head = _walk(Window(segment, size), head)
            if not later:
                break
            base = later.pop(0)
            if head.position < size or base != head.end:
                raise self._corrupt(segment, head.position, "does not go on to the next segment")
            head = head._replace(segment=base, position=0)
        if head.position < size:
            os.ftruncate(segment.file.fd, head.position)
        if head != old or head.position < size:
            os.fdatasync(segment.file.fd)
            os.fsync(self._dir.fd)
            self._publish(head)
        self._tail = head.segment, segment.file
        return head, segment.file

    def _roll(self, head: Head) -> tuple[Head, File]:
        """Begin a segment. It is published before it is written to, so that at most an empty file is left over.

        Whoever appends next would make the same file: where to roll follows from the head and the topic alone.
        """
        file = File(os.open(segment_name(head.end), os.O_RDWR | os.O_CREAT, 0o644, dir_fd=self._dir.fd))
        os.fsync(file.fd)
        os.fsync(self._dir.fd)
        head = head._replace(segment=head.end, position=0)
        self._publish(head)
        return head, file

    def _publish(self, head: Head) -> None:
        write_all(self._head_file.fd, head.pack(), 0)

    # Reading

    def read(self, offset: int, max_records: int, max_bytes: int, keys: bool) -> RecordBatch | None:
        """As `Log.read`."""
        head = self._check(offset)
        if offset == head.end:
            return None
        try:
            pieces = self._pieces(head, offset, max(max_records, 1), max(max_bytes, 0))
        except FileNotFoundError:
            self._check(offset)  # dropped meanwhile
            raise
        counts = [p.last - p.first for p in pieces]
        taken = sum(counts)
        return RecordBatch(
            topic=self._topic,
            partition=self._number,
            offsets=np.arange(offset, offset + taken, dtype=np.int64),
            timestamps=np.repeat(np.array([p.batch.header.timestamp for p in pieces], dtype=np.int64), counts),
            values=b"".join([p.batch.values[p.start : p.end] for p in pieces]),
            lengths=np.concatenate([p.batch.lengths[p.first : p.last] for p in pieces]).astype(np.int64),
            next=offset + taken,
            keys=tuple(k for p in pieces for k in p.batch.some_keys(p.first, p.last)) if keys else None,
        )

    def _check(self, offset: int) -> Head:
        head = self.head()
        problem = check_bounds(offset, head.start, head.end, f"{self._topic}/{self._number}")
        if problem is not None:
            raise LogError(problem)
        return head

    def _pieces(self, head: Head, offset: int, max_records: int, max_bytes: int) -> list[_Piece]:
        """What to read: at least one record."""
        window, position = self._find(head, offset)
        pieces: list[_Piece] = []
        taken = size = 0
        while offset + taken < head.end and taken < max_records:
            if position >= window.limit:
                window, position = self._window(head, offset + taken), 0
            batch = self._batch(window, position, offset + taken)
            first = offset + taken - batch.header.base
            last, start, end = batch.fitting(first, max_records - taken, max_bytes - size)
            if last == first:
                if taken:
                    break
                last, start, end = batch.fitting(first, 1, MAX_VALUE)  # never less than one record
            pieces.append(_Piece(batch, first, last, start, end))
            taken += last - first
            size += end - start - (last - first)
            if last < batch.header.records:
                self._last = window.segment.base, position, batch
                break
            position += batch.header.size
        if len(self._cursors) >= _CURSORS:
            self._cursors.clear()
        self._cursors[offset + taken] = window.segment.base, position
        return pieces

    def _batch(self, window: Window, position: int, offset: int) -> Batch:
        """The batch at `position`, which must hold `offset`."""
        last = self._last
        if last is not None and last[:2] == (window.segment.base, position):
            return last[2]
        batch = window.batch(position)
        if batch is None or not batch.header.base <= offset < batch.header.base + batch.header.records:
            raise self._corrupt(window.segment, position, "does not fit its checksum")
        window.segment.note(batch.header.base, position)
        return batch

    def _find(self, head: Head, offset: int) -> tuple[Window, int]:
        """Where the batch that holds `offset` is."""
        base, position = self._cursors.get(offset, (-1, 0))
        if base >= head.start:  # where the last read ended: no search
            return self._window(head, base), position
        window = self._window(head, offset)
        position = window.segment.near(offset)
        while True:
            header = window.header(position)
            if header is None:
                raise self._corrupt(window.segment, position, "is no batch")
            window.segment.note(header.base, position)
            if offset < header.base + header.records:
                return window, position
            position += header.size

    def _window(self, head: Head, offset: int) -> Window:
        """A reader of the segment that holds `offset`."""
        if not self._bases or self._bases[-1] < head.segment or self._bases[0] > head.start:
            self._bases = self._list()
        bases = self._bases
        segment = self._open(bases[bisect.bisect(bases, min(offset, head.segment)) - 1])
        limit = head.position if segment.base == head.segment else os.fstat(segment.file.fd).st_size
        return Window(segment, limit)

    def _open(self, base: int) -> Segment:
        segment = self._segments.get(base)
        if segment is None:
            name = segment_name(base)
            segment = Segment(base, File(os.open(name, os.O_RDWR, dir_fd=self._dir.fd)), self._folder / name)
            for old in list(self._segments)[: 1 - _OPEN_SEGMENTS]:
                self._segments.pop(old, None)
            self._segments[base] = segment
        return segment

    def _list(self) -> list[int]:
        # Opened anew: of one open folder, threads that list it at once each see a part.
        folder = File(os.open(".", os.O_RDONLY | os.O_DIRECTORY, dir_fd=self._dir.fd))
        return sorted(int(name[:-4]) for name in os.listdir(folder.fd) if name.endswith(".log"))

    def _corrupt(self, segment: Segment, position: int, why: str) -> LogError:
        return LogError(f"{segment.path}: byte {position} {why}: restore the file, or delete the topic {self._topic}")


def _walk(window: Window, head: Head) -> Head:
    """The head behind the last whole batch of a segment."""
    while True:
        batch = window.batch(head.position)
        if batch is None or batch.header.base != head.end:
            return head
        header = batch.header
        head = Head(
            head.start,
            head.end + header.records,
            head.segment,
            head.position + header.size,
            max(head.timestamp, header.timestamp),
        )
