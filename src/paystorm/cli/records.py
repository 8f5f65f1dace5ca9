"""What `paystorm send` reads: lines of NDJSON or rows of CSV, as records with their keys. Nothing here writes.

A broken line is a record like any other: it is sent as it is and becomes a dead letter, so that nothing is lost.
"""

import csv
import gzip
import heapq
import io
import json
import os
import select
import sys
import zlib
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, BinaryIO, NamedTuple

import msgspec

from paystorm.errors import UsageError
from paystorm.source import ID_MAX, Source

BLOCK = 1 << 20
STDIN = "-"
QUIET = None
"""What readers give where nothing can be read without waiting: a moment to send what has gathered."""


class Line(NamedTuple):
    """One line of a file: its number from 1 on, and its bytes without the newline; None: it was too long to be kept."""

    number: int
    value: bytes | None
    size: int


class Item(NamedTuple):
    """A record to be sent. `at`: its event time, seconds since 1970-01-01 UTC, where asked for and readable."""

    file: str
    number: int
    value: bytes | None
    size: int
    key: bytes | None
    at: float | None


@dataclass(slots=True)
class Reading:
    """An open input, and how far it has been read."""

    name: str
    raw: BinaryIO
    stream: Any
    size: int | None
    """Bytes in the file, compressed as they are; None where nobody knows."""
    live: bool = False
    """A pipe or terminal, which may keep us waiting."""
    ended: bool = False

    def position(self) -> int:
        """Bytes of the file read so far."""
        return 0 if self.live or self.raw.closed else self.raw.tell()

    def close(self) -> None:
        """Close the file; standard input stays open."""
        if self.name != STDIN:
            self.stream.close()
            self.raw.close()


def open_input(name: str) -> Reading:
    """Open a file (gunzipped where its name ends in .gz) or, for `-`, standard input. Raises UsageError."""
    if name == STDIN:
        if sys.stdin is None:
            raise UsageError("-: standard input is closed: name a file")
        stdin: Any = sys.stdin.buffer
        return Reading(STDIN, stdin, stdin, None, live=_has_descriptor(stdin))
    path = Path(name)
    try:
        raw = path.open("rb")
        size = path.stat().st_size
    except OSError as error:
        raise UsageError(f"{name}: {error.strerror}: name a file that can be read, or - for standard input") from None
    stream = gzip.GzipFile(fileobj=raw) if path.suffix == ".gz" else raw
    return Reading(name, raw, stream, size)


def _has_descriptor(stream: Any) -> bool:
    try:
        stream.fileno()
    except (OSError, AttributeError):
        return False
    return True


def is_csv(name: str) -> bool:
    """Whether a file's name says CSV."""
    return name.lower().removesuffix(".gz").endswith(".csv")


def _blocks(reading: Reading) -> Iterator[bytes | None]:
    """The input in blocks; QUIET where a live one has nothing to give right now."""
    try:
        if not reading.live:
            while block := reading.stream.read(BLOCK):
                yield block
            return
        fd = reading.raw.fileno()
        while True:
            if not select.select([fd], [], [], 0)[0]:
                yield QUIET
            block = os.read(fd, BLOCK)
            if not block:
                return
            yield block
    except (gzip.BadGzipFile, EOFError, zlib.error) as error:
        raise UsageError(f"{reading.name}: damaged gzip ({error}): what came before it has been sent") from None
    except OSError as error:
        raise UsageError(f"{reading.name}: {error.strerror or error}: what came before it has been sent") from None


def lines_of(reading: Reading, longest: int) -> Iterator[Line | None]:
    """The lines of an input; those of more than `longest` bytes without their bytes. None: nothing more right now."""
    number = 0
    rest = b""
    dropped = 0
    for block in _blocks(reading):
        if block is None:
            yield QUIET
            continue
        pieces = block.split(b"\n")
        if len(pieces) > 1:
            number += 1
            first = rest + pieces[0]
            if dropped or len(first) > longest:
                yield Line(number, None, dropped + len(first))
            else:
                yield Line(number, first, len(first))
            for piece in pieces[1:-1]:
                number += 1
                size = len(piece)
                yield Line(number, piece if size <= longest else None, size)
            rest, dropped = pieces[-1], 0
        else:
            rest += block
        if len(rest) > longest:  # memory is bounded, however long a line goes on
            dropped += len(rest)
            rest = b""
    if rest or dropped:
        size = dropped + len(rest)
        yield Line(number + 1, None if dropped or size > longest else rest, size)
    reading.ended = True


class Envelopes:
    """Makes records of NDJSON lines: wraps bare objects, finds key and event time."""

    def __init__(self, source: Source, application: Callable[[], str], *, timed: bool) -> None:
        """`application`: gives the ApplicationRef of bare objects, once one comes; `timed`: event times are wanted."""
        # A struct skips, unread, whatever it does not name: that is what makes this fast.
        names = list(dict.fromkeys([*(p.field for p in source.parties), *([source.event_time] if timed else [])]))
        fields: list[tuple[str, Any, Any]] = [(f"f{i}", Any, None) for i in range(len(names))]
        renamed = {f"f{i}": name for i, name in enumerate(names)}
        data = msgspec.defstruct("Data", fields, rename=renamed, gc=False)
        line = msgspec.defstruct(
            "Line",
            [("application", Any, msgspec.UNSET), ("data", data | None, msgspec.UNSET), *fields],
            rename={"application": "ApplicationRef", **renamed},
            gc=False,
        )
        self._decode: Callable[[bytes], Any] = msgspec.json.Decoder(line).decode
        self._parties = tuple(f"f{names.index(p.field)}" for p in source.parties)
        self._time = f"f{names.index(source.event_time)}" if timed else None
        self._application = application
        self._head = b""
        self.wrapped_for = ""
        """The ApplicationRef that bare objects were given; empty where there was none."""

    def _first(self) -> bytes:
        """What goes before a bare object. Raises UsageError where no application can be told."""
        self.wrapped_for = self._application()
        self._head = b'{"ApplicationRef":' + msgspec.json.encode(self.wrapped_for) + b',"data":'
        return self._head

    def record(self, value: bytes) -> tuple[bytes, bytes | None, float | None]:
        """The value to send, its key and its event time."""
        try:
            line = self._decode(value)
        except (msgspec.DecodeError, RecursionError, ValueError):
            return value, None, None
        data = line.data
        if data is msgspec.UNSET:
            data = line
            if line.application is msgspec.UNSET:
                value = (self._head or self._first()) + value + b"}"
        elif data is None:
            return value, None, None
        key = None
        for name in self._parties:
            party = getattr(data, name)
            if type(party) is str:
                key = party[:ID_MAX].encode()  # a longer id is invalid, and may be longer than a key can be
                break
        return value, key, seconds_of(getattr(data, self._time)) if self._time is not None else None


def seconds_of(text: Any) -> float | None:
    """An event time as seconds since 1970-01-01 UTC (one without a zone is read as UTC); None where it is none."""
    try:
        at = datetime.fromisoformat(text)
        return (at if at.tzinfo is not None else at.replace(tzinfo=UTC)).timestamp()
    except (TypeError, ValueError, OverflowError):
        return None


def parse_maps(maps: Iterable[str], source: Source) -> dict[str, str]:
    """`field=column` options as field → column. Raises UsageError for a field that the source does not declare."""
    out: dict[str, str] = {}
    declared = [field.name for field in source.fields]
    for text in maps:
        field, equals, column = text.partition("=")
        if not equals or not field or not column:
            raise UsageError(f"--map must be field=column, got {text!r}")
        if field not in declared:
            raise UsageError(f"--map {text}: source {source.name} has no field {field!r}; it has {', '.join(declared)}")
        if field in out:
            raise UsageError(f"--map {text}: field {field} is mapped twice")
        out[field] = column
    return out


def csv_lines(reading: Reading, source: Source, maps: Mapping[str, str], longest: int) -> Iterator[Line | None]:
    """The rows of a CSV with a header, as lines of bare JSON. A row with too many or too few cells stays as it is.

    An empty cell is an absent field; columns that are not mapped keep their names. Raises UsageError for a header
    without a mapped column, and for what is not CSV.
    """
    csv.field_size_limit(max(longest, 131_072) * 2)
    fetched = (raw for raw in lines_of(reading, longest))
    # What is no UTF-8 passes through as it is, and is dead-lettered as such.
    quiet = False

    def texts() -> Iterator[str]:
        nonlocal quiet
        for raw in fetched:
            if raw is None:
                quiet = True
                continue
            if raw.value is None:
                raise UsageError(f"{reading.name} line {raw.number}: {raw.size:,} bytes: too long for a row of CSV")
            yield raw.value.decode("utf-8", "surrogateescape") + "\n"

    rows = csv.reader(texts(), strict=True)
    try:
        header = [name.strip().removeprefix("\ufeff") for name in next(rows, [])]
        names = _names(header, maps, reading.name)
        whole = {field.name for field in source.fields if field.type == "integer"}
        for row in rows:
            if quiet:
                quiet = False
                yield QUIET
            if not row:
                continue
            value = _json_of(row, names, whole) if len(row) == len(names) else _csv_of(row)
            yield Line(rows.line_num, value if len(value) <= longest else None, len(value))
    except csv.Error as error:
        raise UsageError(
            f"{reading.name} line {rows.line_num}: {error}: mend it; what came before has been sent"
        ) from None


def _names(header: list[str], maps: Mapping[str, str], file: str) -> list[str]:
    """The field of each column. Raises UsageError."""
    if not header:
        raise UsageError(f"{file}: no header: a CSV begins with the names of its columns")
    for name in header:
        if header.count(name) > 1:
            raise UsageError(f"{file}: column {name!r} stands twice in the header")
    for field, column in maps.items():
        if column not in header:
            raise UsageError(f"{file}: no column {column!r} for field {field}; there are {', '.join(header)}")
    renamed = {column: field for field, column in maps.items()}
    names = [renamed.get(column, column) for column in header]
    for name in names:
        if names.count(name) > 1:
            raise UsageError(
                f"{file}: column {maps[name]!r} is mapped to {name}, and a column has that name: map that too"
            )
    return names


def _json_of(row: list[str], names: list[str], whole: set[str]) -> bytes:
    data: dict[str, Any] = {}
    for name, cell in zip(names, row, strict=True):
        if cell != "":
            digits = cell.removeprefix("-")
            # An integer as JSON has it; whatever else stands there is text, and validity's affair.
            is_whole = name in whole and digits.isascii() and digits.isdigit() and len(digits) < 20
            data[name] = int(cell) if is_whole else cell
    return json.dumps(data, ensure_ascii=False, separators=(",", ":")).encode("utf-8", "surrogateescape")


def _csv_of(row: list[str]) -> bytes:
    text = io.StringIO()
    csv.writer(text, lineterminator="").writerow(row)
    return text.getvalue().encode("utf-8", "surrogateescape")


def items_of(
    reading: Reading, lines: Iterable[Line | None], record: Callable[[bytes], tuple[bytes, bytes | None, float | None]]
) -> Iterator[Item | None]:
    """The records of a file's lines."""
    name = reading.name
    for line in lines:
        if line is None:
            yield QUIET
        elif line.value is None:
            yield Item(name, line.number, None, line.size, None, None)
        else:
            value, key, at = record(line.value)
            yield Item(name, line.number, value, len(value), key, at)


def merged(inputs: Iterable[Iterator[Item | None]]) -> Iterator[Item]:
    """Records of several files in order of event time; within a file their order is kept."""

    def timed(items: Iterator[Item | None], place: int) -> Iterator[tuple[float, int, Item]]:
        latest = float("-inf")
        for item in items:
            if item is not None:
                latest = max(latest, item.at if item.at is not None else latest)
                yield latest, place, item

    streams = [timed(items, place) for place, items in enumerate(inputs)]
    for _, _, item in heapq.merge(*streams, key=lambda entry: entry[:2]):
        yield item
