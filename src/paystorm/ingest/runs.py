"""Runs: immutable sorted files of ids, the durable part of the id store.

A run holds n entries as columns: the key's two halves (u64, sorted by the first), 32 bytes of `VALUE` each, and a
Bloom filter of 64-bit words with three bits a key. Its name says which memory tables it was made of; a merged run
replaces those that its name covers. Checkpoints travel in the header: everything below them is in this run or in one
before it.
"""

import os
import re
import struct
import zlib
from collections.abc import Iterator, Sequence
from pathlib import Path

import msgspec
import numpy as np
import numpy.typing as npt

from paystorm.durable import sync_folder
from paystorm.errors import DataFolderError

U64 = npt.NDArray[np.uint64]
KEY_SIZE = 16
VALUE = struct.Struct("<16sqIHH")
"""Content hash, offset, time (seconds since 1970-01-01 UTC), number of the topic, partition."""
_AT = np.dtype({"names": ["at"], "formats": ["<u4"], "offsets": [24], "itemsize": VALUE.size})
_MAGIC = b"PSI2"
_PREFIX = struct.Struct("<4sII")
_ALIGNED = 64
"""Columns begin at a multiple: numpy copies one that is not aligned, as a whole, whenever it is searched."""
_NAME = re.compile(r"(\d{12})-(\d{12})\.ids")
_BITS_PER_KEY = 16
_MERGE_SLICES = 16
ENTRY_SIZE = KEY_SIZE + VALUE.size


class Checkpoint(msgspec.Struct, frozen=True):
    """How far a partition has been read into the store."""

    topic: str
    topic_id: str | None
    partition: int
    next: int


class Header(msgspec.Struct, frozen=True):
    """What a run says of itself."""

    count: int
    words: int
    first_at: int
    last_at: int
    checkpoints: tuple[Checkpoint, ...]


class Run:
    """An open run."""

    def __init__(self, path: Path) -> None:
        """Raises DataFolderError where the file is damaged."""
        match = _NAME.fullmatch(path.name)
        assert match is not None, path
        self.path = path
        self.first, self.last = int(match[1]), int(match[2])
        with path.open("rb") as file:
            prefix = file.read(_PREFIX.size)
            try:
                magic, length, crc = _PREFIX.unpack(prefix)
                text = file.read(length)
                if magic != _MAGIC or zlib.crc32(text) != crc:
                    raise ValueError("its header does not fit its checksum")
                self.header = msgspec.msgpack.decode(text, type=Header)
                n = self.header.count
                at = _begin(length)
                wanted = at + n * ENTRY_SIZE + self.header.words * 8
                if path.stat().st_size != wanted:
                    raise ValueError(f"it has {path.stat().st_size} bytes, not {wanted}")
            except (struct.error, ValueError, msgspec.DecodeError) as error:
                raise DataFolderError(
                    f"{path}: damaged ({error}): remove the folder {path.parent} and start with --take-over: the "
                    "ids are read again from the log"
                ) from None

        def column(dtype: str, shape: tuple[int, ...], start: int) -> npt.NDArray[np.generic]:
            if not shape[0]:
                return np.empty(shape, dtype=dtype)
            return np.memmap(path, dtype=dtype, mode="r", offset=start, shape=shape)

        self.high: U64 = column("<u8", (n,), at)  # type: ignore[assignment]
        self.low: U64 = column("<u8", (n,), at + 8 * n)  # type: ignore[assignment]
        self.values: npt.NDArray[np.uint8] = column("u1", (n, VALUE.size), at + 16 * n)  # type: ignore[assignment]
        self.filter: U64 = column("<u8", (self.header.words,), at + ENTRY_SIZE * n)  # type: ignore[assignment]
        self.mask = np.uint64(self.header.words - 1)

    def __len__(self) -> int:
        return self.header.count

    def maybe(self, low: U64, bits: U64) -> npt.NDArray[np.int64]:
        """Which of the keys may be here."""
        found: npt.NDArray[np.int64] = np.flatnonzero((self.filter[low & self.mask] & bits) == bits)
        return found

    def find(self, high: U64, low: U64) -> list[bytes | None]:
        """The value of each key, as `VALUE` packs it: the newest where the id came again after it was forgotten."""
        if not len(self):
            return [None] * len(high)
        at = np.maximum(np.searchsorted(self.high, high, side="right") - 1, 0)
        same = self.high[at] == high
        whole = same & (self.low[at] == low)
        rows = self.values[at].tobytes()
        size = VALUE.size
        found: list[bytes | None] = [
            rows[i * size : (i + 1) * size] if there else None for i, there in enumerate(whole.tolist())
        ]
        for i in np.flatnonzero(same & ~whole).tolist():  # another key begins alike
            found[i] = self._find_one(int(high[i]), int(low[i]))
        return found

    def _find_one(self, high: int, low: int) -> bytes | None:
        at = int(np.searchsorted(self.high, np.uint64(high)))
        found = None
        while at < len(self) and int(self.high[at]) == high:
            if int(self.low[at]) == low:
                found = self.values[at].tobytes()
            at += 1
        return found


def _begin(length: int) -> int:
    """Where the columns begin behind a header of that length."""
    return -(-(_PREFIX.size + length) // _ALIGNED) * _ALIGNED


def filter_bits(high: U64) -> U64:
    """The three bits of each key in its word of a filter."""
    one, low6 = np.uint64(1), np.uint64(63)
    found: U64 = (one << (high & low6)) | (one << ((high >> np.uint64(6)) & low6))
    found |= one << ((high >> np.uint64(12)) & low6)
    return found


def halves(keys: Sequence[bytes]) -> tuple[U64, U64]:
    """The two halves of keys."""
    both = np.frombuffer(b"".join(keys), dtype="<u8").reshape(-1, 2)
    return np.ascontiguousarray(both[:, 0]), np.ascontiguousarray(both[:, 1])


def write_run(
    folder: Path, number: int, keys: Sequence[bytes], values: Sequence[bytes], checkpoints: tuple[Checkpoint, ...]
) -> Run:
    """Write a memory table as a run, durable on return. Raises OSError."""
    high, low = halves(keys)
    order = np.argsort(high, kind="stable")
    rows = np.frombuffer(b"".join(values), dtype=np.uint8).reshape(-1, VALUE.size)
    columns = [(high[order], low[order], rows[order])]
    return _write(folder, number, number, columns, len(high), _times(rows), checkpoints)


def _times(rows: npt.NDArray[np.uint8]) -> tuple[int, int]:
    at = np.ascontiguousarray(rows).view(_AT)["at"]
    return (int(at.min()), int(at.max())) if len(at) else (0, 0)


def _kept(run: Run, low: int, high: int, since: int) -> tuple[U64, U64, npt.NDArray[np.uint8]]:
    """The entries of a run whose key begins in [low, high) and that are not older than `since`."""
    first = int(np.searchsorted(run.high, np.uint64(low)))
    last = len(run) if high >= 1 << 64 else int(np.searchsorted(run.high, np.uint64(high)))
    rows = np.ascontiguousarray(run.values[first:last])
    keep = rows.view(_AT)["at"].reshape(-1) >= since
    return run.high[first:last][keep], run.low[first:last][keep], rows[keep]


def merge_runs(folder: Path, runs: Sequence[Run], since: int) -> Run:
    """One run of several, in its order, without entries older than `since` (seconds); the files are left to the caller.

    Done in slices of the keys, so that memory stays small. Raises OSError.
    """
    step = (1 << 64) // _MERGE_SLICES

    def slices() -> Iterator[tuple[U64, U64, npt.NDArray[np.uint8]]]:
        for i in range(_MERGE_SLICES):
            parts = [_kept(run, i * step, (i + 1) * step, since) for run in runs]
            high = np.concatenate([p[0] for p in parts])
            order = np.argsort(high, kind="stable")
            yield (
                high[order],
                np.concatenate([p[1] for p in parts])[order],
                np.concatenate([p[2] for p in parts])[order],
            )

    count = sum(int((np.ascontiguousarray(r.values).view(_AT)["at"] >= since).sum()) for r in runs)
    times = (max(since, min(r.header.first_at for r in runs)), max(r.header.last_at for r in runs))
    return _write(folder, runs[0].first, runs[-1].last, slices(), count, times, runs[-1].header.checkpoints)


def _write(
    folder: Path,
    first: int,
    last: int,
    columns: "Iterator[tuple[U64, U64, npt.NDArray[np.uint8]]] | list[tuple[U64, U64, npt.NDArray[np.uint8]]]",
    count: int,
    times: tuple[int, int],
    checkpoints: tuple[Checkpoint, ...],
) -> Run:
    words = 1 << max(0, (count * _BITS_PER_KEY // 64).bit_length())
    text = msgspec.msgpack.encode(Header(count, words, *times, checkpoints))
    path = folder / f"{first:012d}-{last:012d}.ids"
    aside = path.with_suffix(".new")
    begin = _begin(len(text))
    bloom = np.zeros(words, dtype=np.uint64)
    with aside.open("wb") as file:
        file.write(_PREFIX.pack(_MAGIC, len(text), zlib.crc32(text)) + text)
        done = 0
        for high, low, rows in columns:
            for start, column in ((0, high), (8 * count, low), (16 * count, rows)):
                width = VALUE.size if column is rows else 8
                file.seek(begin + start + done * width)
                file.write(np.ascontiguousarray(column).tobytes())
            np.bitwise_or.at(bloom, (low & np.uint64(words - 1)).astype(np.intp), filter_bits(high))
            done += len(high)
        assert done == count, (done, count)
        file.seek(begin + ENTRY_SIZE * count)
        file.write(bloom.tobytes())
        file.flush()
        os.fsync(file.fileno())
    aside.rename(path)
    sync_folder(folder)
    return Run(path)


def open_runs(folder: Path) -> list[Run]:
    """The runs in force, oldest first; what a merge or a crash left over is removed."""
    for path in folder.glob("*.new"):
        path.unlink()
    runs = sorted((Run(p) for p in folder.glob("*.ids") if _NAME.fullmatch(p.name)), key=lambda r: (r.first, -r.last))
    live: list[Run] = []
    for run in runs:
        if live and run.last <= live[-1].last:
            run.path.unlink()
        else:
            live.append(run)
    return live
