"""The files of the embedded log: segments of batches, and the head that says how far they are durable.

A segment, named by the offset of its first record, is a sequence of batches. A batch is a header and a payload: the
lengths (u32), the values each followed by a newline (as in `RecordBatch`), then, where flag 1 is set, the lengths of
the keys (i32, -1: no key) and the keys. Everything is little-endian. Nothing is done for each record in Python.
"""

import bisect
import contextlib
import errno
import os
import struct
import threading
import zlib
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

UInt32Array = npt.NDArray[np.uint32]

MAX_VALUE = 1 << 30
"""Bytes of one value at most: lengths are u32, and nothing is without a limit."""

MAX_KEY = 32 << 10
"""Bytes of one key at most, so that the keys of a batch fit its u32 length."""

_MAX_BATCH_BYTES = 4 << 20  # so that a small read cuts little off; an append that is longer becomes several batches
_MAX_BATCH_RECORDS = 65_536
_BLOCK = 64 << 10  # what is read at once to find headers; longer payloads are read by themselves
_INDEX_STEP = 16 << 10

_BATCH_MAGIC = b"PSB1"
_HEAD_MAGIC = b"PSH1"
_WITH_KEYS = 1
_HEADER = struct.Struct("<4sIIIIqq")
_CHECKED = 8  # the checksum covers the header from here on, and the payload
_HEAD = struct.Struct("<4s5q")
_CRC = struct.Struct("<I")
HEAD_SIZE = _HEAD.size + _CRC.size


class File:
    """A file descriptor that is closed when nothing refers to it, so that no thread closes what another reads."""

    def __init__(self, fd: int) -> None:
        self.fd = fd

    def __del__(self) -> None:
        with contextlib.suppress(OSError):
            os.close(self.fd)


class Head(NamedTuple):
    """How far a partition is durable: offsets [start, end), the last segment, its length, the last timestamp."""

    start: int
    end: int
    segment: int
    position: int
    timestamp: int

    def pack(self) -> bytes:
        body = _HEAD.pack(_HEAD_MAGIC, *self)
        return body + _CRC.pack(zlib.crc32(body))

    @staticmethod
    def unpack(data: bytes) -> "Head | None":
        """The head, or None where the bytes are torn."""
        body = data[: _HEAD.size]
        if len(data) != HEAD_SIZE or _CRC.unpack(data[_HEAD.size :])[0] != zlib.crc32(body):
            return None
        return Head(*_HEAD.unpack(body)[1:])


class Header(NamedTuple):
    magic: bytes
    crc: int
    length: int
    records: int
    flags: int
    base: int
    timestamp: int

    @property
    def size(self) -> int:
        """Bytes of header and payload."""
        return _HEADER.size + self.length


class Batch(NamedTuple):
    header: Header
    lengths: UInt32Array
    values: memoryview
    keys: memoryview | None

    def fitting(self, first: int, records: int, room: int) -> tuple[int, int, int]:
        """(last, from, to): as many records from `first` on as fit, and where their values stand."""
        count = self.header.records
        if first == 0 and count <= records and len(self.values) - count <= room:
            return count, 0, len(self.values)
        ends = np.cumsum(self.lengths, dtype=np.int64)
        before = int(ends[first - 1]) if first else 0
        last = min(count, first + records, int(np.searchsorted(ends, before + room, side="right")))
        return last, before + first, int(ends[last - 1]) + last if last > first else before + first

    def some_keys(self, first: int, last: int) -> list[bytes | None]:
        if self.keys is None:
            return [None] * (last - first)
        lengths = np.frombuffer(self.keys, dtype="<i4", count=self.header.records)
        ends = np.cumsum(np.maximum(lengths, 0), dtype=np.int64) + 4 * self.header.records
        pairs = zip(lengths[first:last].tolist(), ends[first:last].tolist(), strict=True)
        return [None if n < 0 else bytes(self.keys[end - n : end]) for n, end in pairs]


def segment_name(base: int) -> str:
    return f"{base:020d}.log"


def _payload_parts(
    values: memoryview, lengths: UInt32Array, keys: Sequence[bytes | None] | None
) -> list[bytes | memoryview]:
    parts: list[bytes | memoryview] = [lengths.astype("<u4", copy=False).tobytes(), values]
    if keys is not None:
        present = [k for k in keys if k is not None]
        held = np.fromiter(map(len, present), dtype="<i4", count=len(present))
        if len(present) < len(keys):
            every = np.full(len(keys), -1, dtype="<i4")
            every[[k is not None for k in keys]] = held
            held = every
        parts += [held.tobytes(), b"".join(present)]
    return parts


def encode(
    base: int, timestamp: int, values: bytes, lengths: UInt32Array, keys: Sequence[bytes | None] | None
) -> list[bytes | memoryview]:
    """The batches of an append, to be joined."""
    out: list[bytes | memoryview] = []
    ends = np.cumsum(lengths, dtype=np.int64) + np.arange(1, len(lengths) + 1)
    view = memoryview(values)
    first = start = 0
    while first < len(lengths):
        last = int(np.searchsorted(ends, start + _MAX_BATCH_BYTES, side="right"))
        last = min(max(last, first + 1), first + _MAX_BATCH_RECORDS, len(lengths))
        end = int(ends[last - 1])
        parts = _payload_parts(view[start:end], lengths[first:last], None if keys is None else keys[first:last])
        flags = 0 if keys is None else _WITH_KEYS
        length = sum(map(len, parts))
        header = _HEADER.pack(_BATCH_MAGIC, 0, length, last - first, flags, base + first, timestamp)
        crc = zlib.crc32(header[_CHECKED:])
        for part in parts:
            crc = zlib.crc32(part, crc)
        out += [_BATCH_MAGIC, _CRC.pack(crc), header[_CHECKED:], *parts]
        first, start = last, end
    return out


class Segment:
    """An open segment file, and where some of its batches start."""

    def __init__(self, base: int, file: File, path: Path) -> None:
        self.base = base
        self.file = file
        self.path = path
        self._index = [(base, 0)]
        self._lock = threading.Lock()

    def near(self, offset: int) -> int:
        """The position of a batch at or before `offset`."""
        with self._lock:
            return self._index[bisect.bisect(self._index, (offset, 1 << 62)) - 1][1]

    def note(self, offset: int, position: int) -> None:
        with self._lock:
            i = bisect.bisect(self._index, (offset, position))
            if position - self._index[i - 1][1] >= _INDEX_STEP:
                self._index.insert(i, (offset, position))


class Window:
    """A reader of one segment up to `limit`. Small batches do not cost a system call each."""

    def __init__(self, segment: Segment, limit: int) -> None:
        self.segment = segment
        self.limit = limit
        self._start = 0
        self._data = b""

    def _bytes(self, position: int, length: int) -> memoryview | None:
        """Bytes of the file, or None where it ends before."""
        if position + length > self.limit:
            return None
        at = position - self._start
        if at < 0 or at + length > len(self._data):
            wanted = min(max(length, _BLOCK), self.limit - position)
            data = os.pread(self.segment.file.fd, wanted, position)
            if len(data) < length:
                return None
            if length > _BLOCK:
                return memoryview(data)  # the window stays: the header of the next batch is behind this one anyway
            self._start, self._data, at = position, data, 0
        return memoryview(self._data)[at : at + length]

    def header(self, position: int) -> Header | None:
        """The header at `position`, not yet checked against the checksum; None where no whole batch is there."""
        data = self._bytes(position, _HEADER.size)
        if data is None:
            return None
        header = Header(*_HEADER.unpack(data))
        whole = header.magic == _BATCH_MAGIC and header.records > 0 and position + header.size <= self.limit
        return header if whole else None

    def batch(self, position: int) -> Batch | None:
        """The batch at `position`; None where it is torn or does not fit its checksum."""
        header = self.header(position)
        if header is None:
            return None
        checked = self._bytes(position + _CHECKED, _HEADER.size - _CHECKED)
        crc = 0 if checked is None else zlib.crc32(checked)
        payload = self._bytes(position + _HEADER.size, header.length)
        if payload is None or zlib.crc32(payload, crc) != header.crc:
            return None
        start = 4 * header.records
        lengths = np.frombuffer(payload, dtype="<u4", count=header.records)
        if not header.flags & _WITH_KEYS:
            return Batch(header, lengths, payload[start:], None)
        end = start + int(lengths.sum(dtype=np.int64)) + header.records
        return Batch(header, lengths, payload[start:end], payload[end:])


def write_all(fd: int, data: bytes, position: int) -> None:
    view = memoryview(data)
    while view:
        written = os.pwrite(fd, view, position)
        if written == 0:
            raise OSError(errno.EIO, "nothing was written")
        view, position = view[written:], position + written
