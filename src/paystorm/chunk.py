"""Chunks: what a tuple carries. A contiguous range of offsets of one partition, as columns (DESIGN.md, "The idea").

In process a chunk is handed on as it is; on Storm's wire it is text: base64 of msgpack, under zstd or with columns as
Arrow IPC with zstd. `load` takes either, so that a bolt need not know where it runs.
"""

import io
from collections.abc import Collection, Iterable
from typing import Any, TypeVar

import msgspec
import numpy as np
import polars as pl
import pybase64
import zstandard

from paystorm.log.base import RecordBatch
from paystorm.offsets import OffsetSet


class Head(msgspec.Struct, frozen=True, kw_only=True):
    """What is known of a chunk beside its rows."""

    source: str
    topic: str
    partition: int
    first: int
    after: int
    """The chunk covers the offsets [first, after); gaps included."""
    epoch: int
    """The version of the source that its records belong to (decision 0001, point 2)."""
    generation: int
    """The newest version of the source that the spout knows: a task that knows a newer one refuses the chunk."""
    committed: int
    parked: tuple[int, ...] = ()
    """The offsets parked below `committed`: all others below it are complete."""
    left_out: tuple[int, ...] = ()
    """Offsets of this chunk that a bolt has parked on the way: no row of theirs is here, and no sink may apply them."""
    attempt: int = 0
    """0: sent for the first time or after a failure without a name; n: the n-th retry of one parked record."""
    read_at: int = 0
    """When the spout read it, µs since 1970-01-01 UTC."""

    def covered(self) -> OffsetSet:
        """The offsets that a sink applies with this chunk: its range without those left out."""
        out = OffsetSet([(self.first, self.after)])
        for offset in self.left_out:
            out.remove(offset, offset + 1)
        return out

    def leaving_out(self, offsets: tuple[int, ...]) -> "Head":
        """The head of the chunk without these offsets too."""
        return msgspec.structs.replace(self, left_out=tuple(sorted({*self.left_out, *offsets})))


class RecordChunk(msgspec.Struct, frozen=True, kw_only=True):
    """Raw records as the spout read them."""

    head: Head
    offsets: bytes
    """int64, little-endian; timestamps (ms) and lengths likewise."""
    timestamps: bytes
    lengths: bytes
    values: bytes
    duplicates: tuple[int, ...] = ()
    """Offsets whose claim to replay a dead letter lost to a lower offset."""

    @classmethod
    def of(cls, head: Head, batch: RecordBatch, duplicates: tuple[int, ...] = ()) -> "RecordChunk":
        """The chunk of a batch."""
        return cls(
            head=head,
            offsets=batch.offsets.astype("<i8").tobytes(),
            timestamps=batch.timestamps.astype("<i8").tobytes(),
            lengths=batch.lengths.astype("<i8").tobytes(),
            values=batch.values,
            duplicates=duplicates,
        )

    def batch(self) -> RecordBatch:
        """The records as the log gave them."""
        return RecordBatch(
            topic=self.head.topic,
            partition=self.head.partition,
            offsets=np.frombuffer(self.offsets, dtype="<i8"),
            timestamps=np.frombuffer(self.timestamps, dtype="<i8"),
            values=self.values,
            lengths=np.frombuffer(self.lengths, dtype="<i8"),
            next=self.head.after,
        )


_Packed = tuple[tuple[str, ...], bytes]
"""Columns that stand side by side on the wire: their names, and their frame as Arrow IPC."""
_EVENTS = msgspec.msgpack.Decoder(tuple[Head, tuple[_Packed, ...]])


class _Part:
    """Some columns of a chunk: as a frame, as they came over the wire, or both."""

    __slots__ = ("_frame", "_packed", "names")

    def __init__(self, names: tuple[str, ...], frame: pl.DataFrame | None, packed: bytes | None = None) -> None:
        self.names = names
        self._frame = frame
        self._packed = packed

    def frame(self) -> pl.DataFrame:
        """The columns; unpacked when they are first asked for."""
        if self._frame is None:
            assert self._packed is not None
            self._frame = frame_from_bytes(self._packed)
        return self._frame

    def packed(self) -> _Packed:
        """What goes over the wire: what came over it, where that is known."""
        if self._packed is None:
            assert self._frame is not None
            self._packed = frame_to_bytes(self._frame)
        return self.names, self._packed


class EventChunk:
    """Valid events as columns: `validity.frame` after validation, with the decision's columns after the look-up.

    On the wire the columns go in parts. A part that a bolt does not ask for is sent on as it came, unpacked by nobody.
    """

    __slots__ = ("_parts", "head")

    def __init__(self, head: Head, events: pl.DataFrame, apart: Collection[str] = ()) -> None:
        """`apart`: columns that the next bolt can do without; all others come first."""
        self.head = head
        first = tuple(name for name in events.columns if name not in apart) or tuple(events.columns)
        rest = tuple(name for name in events.columns if name not in first)
        if rest:
            self._parts = [_Part(names, pl.DataFrame([events.get_column(n) for n in names])) for names in (first, rest)]
        else:
            self._parts = [_Part(first, events)]

    @property
    def events(self) -> pl.DataFrame:
        """All columns."""
        return self._joined(self._parts)

    def having(self, names: Iterable[str]) -> pl.DataFrame:
        """The events with these columns, as far as the chunk has them, and maybe more; the first part in any case."""
        wanted = set(names)
        return self._joined([p for i, p in enumerate(self._parts) if i == 0 or not wanted.isdisjoint(p.names)])

    @property
    def columns(self) -> list[str]:
        """The names of all columns."""
        return [name for part in self._parts for name in part.names]

    def adding(self, columns: pl.DataFrame) -> "EventChunk":
        """The chunk with more columns. Raises polars' DuplicateError where it has one of them."""
        if not set(self.columns).isdisjoint(columns.columns):
            raise pl.exceptions.DuplicateError(f"the chunk has one of {columns.columns} already")
        out = EventChunk(self.head, columns)
        out._parts = [*self._parts, *out._parts]
        return out

    def _joined(self, parts: list[_Part]) -> pl.DataFrame:
        first, *more = (part.frame() for part in parts)
        return first.hstack([column for frame in more for column in frame.get_columns()]) if more else first

    def pack(self) -> bytes:
        """The chunk as bytes: msgpack of the head and of the parts."""
        # Compressed column by column: compressing the whole costs more, for the copies of what is large.
        return msgspec.msgpack.encode((self.head, [part.packed() for part in self._parts]))

    @classmethod
    def unpack(cls, data: bytes) -> "EventChunk":
        """The chunk of `pack`. Raises ValueError where it has no part."""
        head, parts = _EVENTS.decode(data)
        if not parts:
            raise ValueError("not the text of an EventChunk: it has no columns")
        chunk = cls.__new__(cls)
        chunk.head = head
        chunk._parts = [_Part(names, None, packed) for names, packed in parts]
        return chunk

    def without(self, offsets: tuple[int, ...]) -> "EventChunk":
        """The chunk with these offsets left out."""
        events = self.events
        kept = ~np.isin(events.get_column("log_offset").to_numpy(), offsets)
        return EventChunk(self.head.leaving_out(offsets), events.filter(pl.Series(kept)))


class Letter(msgspec.Struct, frozen=True, kw_only=True):
    """A record that is not valid, on its way to the dead letters."""

    partition: int
    offset: int
    timestamp: int
    """The log's time, ms."""
    field: str
    code: str
    detail: str
    event_id: str | None
    application: str | None
    value: bytes


class LetterChunk(msgspec.Struct, frozen=True, kw_only=True):
    """The dead letters of a chunk."""

    head: Head
    letters: tuple[Letter, ...]


class Refusal(msgspec.Struct, frozen=True, kw_only=True):
    """The spout's question to every sink before it gives a record up, and the answer taken back."""

    head: Head
    offset: int
    lift: bool = False
    """False: refuse the offset unless you hold it, and say which; True: it is not given up, take the refusal back."""


_Plain = RecordChunk | LetterChunk | Refusal
Chunk = TypeVar("Chunk", RecordChunk, EventChunk, LetterChunk, Refusal)


MAX_TEXT_BYTES = 1 << 30
"""Bytes that a chunk's text may unpack to: far above what `chunkBytes` lets into one."""
_LEVEL = 1
"""Of zstd. A chunk of purchases shrinks ninefold at 0.2 µs a record; higher levels cost more and gain nothing."""


def frame_to_bytes(frame: pl.DataFrame) -> bytes:
    """A frame as an Arrow IPC stream with zstd: less than half the CPU of the file format, for the same bytes."""
    out = io.BytesIO()
    frame.write_ipc_stream(out, compression="zstd")
    return out.getvalue()


def frame_from_bytes(data: bytes) -> pl.DataFrame:
    """The frame of `frame_to_bytes`."""
    return pl.read_ipc_stream(io.BytesIO(data))


def dump(chunk: RecordChunk | EventChunk | LetterChunk | Refusal) -> str:
    """The chunk as text for Storm's wire."""
    if isinstance(chunk, EventChunk):
        packed = chunk.pack()
    else:
        packed = zstandard.ZstdCompressor(level=_LEVEL).compress(msgspec.msgpack.encode(chunk))
    return pybase64.b64encode_as_string(packed)


def load(kind: type[Chunk], value: Any) -> Chunk:
    """The chunk that a tuple's value holds, be it the chunk itself or its text.

    Raises ValueError or msgspec.MsgspecError for what is neither.
    """
    if isinstance(value, kind):
        return value
    packed = pybase64.b64decode(value)
    if kind is EventChunk:
        return EventChunk.unpack(packed)  # type: ignore[return-value]
    try:
        plain = zstandard.ZstdDecompressor().decompress(packed, max_output_size=MAX_TEXT_BYTES)
    except zstandard.ZstdError as error:
        raise ValueError(f"not the text of a {kind.__name__}: {error}") from error
    return msgspec.msgpack.decode(plain, type=kind)
