"""The shape of a line: what stands between its values. Lines of one shape are checked and cut all at once.

A template is learned from a line that the exact path accepted and that holds no backslash and no control character.
It is the line cut into *segments* (constant bytes: structure, keys, literals such as null) and *slots* (the inside of
a string that is a value, or the literal of a number). A line with equal segments whose string slots hold no quote, no
backslash and no control character, and whose number slots match JSON's grammar, is JSON with the same keys in the same
places, hence with no repeats that the first did not have.
"""

import re
from collections.abc import Callable, Collection
from dataclasses import dataclass
from typing import Literal

import numpy as np

from paystorm.validity.words import (
    TIME_LENGTH,
    WORD,
    Bools,
    Bytes,
    Ints,
    Words,
    find,
    gather,
    read_plain_times,
    word,
    word_at,
)

Target = tuple[str, ...]
"""Whose value it is: (`key`) of the envelope, or (`data`, field)."""

MAX_LINE = 4096
"""Lines above this many bytes are not learned from."""
MAX_SLOTS = 64
_BLOCK = 8 * WORD
"""Bytes compared at a time."""
PAD = MAX_LINE + 2 * _BLOCK
"""Bytes of 0 to be appended to a buffer before `match`: a line that does not match may be read over its end."""
_AHEAD = {"text": 1, "number": 1, "time": 3}
"""How many words of a value are fetched along with the segment before it."""
_TEXT_STEPS = 4
_NUMBER_STEPS = 5

_TOKEN = re.compile(rb'"[^"]*"|[{}\[\]:,]|-?[0-9][-+.eE0-9]*|true|false|null')
_PLAIN_TIME = re.compile(rb"[0-9]{4}-[0-9]{2}-[0-9]{2}T[0-9]{2}:[0-9]{2}:[0-9]{2}Z")


@dataclass(frozen=True, slots=True)
class Slot:
    """A value's place."""

    target: Target | None
    """None: a value in an array, or deeper."""
    kind: Literal["text", "number", "time"]
    """`time`: a declared time in the plainest notation, read on the spot."""


@dataclass(slots=True)
class Match:
    """The lines that have a shape."""

    rows: Ints
    """Which of those given."""
    spans: dict[int, tuple[Ints, Ints]]
    """Where the slot of this number, of kind text or number, starts and ends in each line."""
    moments: dict[int, Ints]
    """The times of the slot of this number, microseconds since 1970-01-01 UTC."""
    data: tuple[Ints, Ints]
    """Where the value of `data` starts and ends."""


class Template:
    """The segments and slots of a line."""

    def __init__(self, segments: list[bytes], slots: list[Slot], data: list[tuple[int, int]]) -> None:
        """data: the segment that the value of `data` starts in, and how far in; where it ends likewise."""
        self.segments = segments
        self.slots = slots
        self.key = (tuple(segments), tuple(slots))
        self._data = data
        self._blocks = [
            _blocks(segment, _AHEAD[slot.kind] if slot else 0)
            for segment, slot in zip(segments, [*slots, None], strict=True)
        ]

    def match(self, buffer: Bytes, starts: Ints, ends: Ints, quotes: Callable[[], Ints]) -> Match | None:
        """Find the lines of this shape; None where there is none.

        Number slots are only cut: whether they hold a number is not looked at.

        buffer: the lines, with PAD bytes behind; starts, ends: where the lines lie; quotes: the places of all quotes
        and the buffer's end, asked for where a text is long.
        """
        rows = np.arange(len(starts))
        good = np.ones(len(starts), dtype=np.bool_)
        at = starts
        spans: dict[int, tuple[Ints, Ints]] = {}
        moments: dict[int, Ints] = {}
        places: list[Ints] = []  # of the segments

        def narrow() -> None:
            nonlocal rows, good, at, starts, ends, spans, moments, places
            kept = np.flatnonzero(good)
            rows, at, starts, ends, good = rows[kept], at[kept], starts[kept], ends[kept], good[kept]
            spans = {i: (start[kept], end[kept]) for i, (start, end) in spans.items()}
            moments = {i: found[kept] for i, found in moments.items()}
            places = [place[kept] for place in places]

        for i, segment in enumerate(self.segments):
            places.append(at)
            block: list[Words] = []
            for offset, count, expected in self._blocks[i]:
                block = gather(buffer, at + offset, count)
                for found, (mask, wanted) in zip(block, expected, strict=False):
                    good &= (found == wanted) if mask is None else ((found & mask) == wanted)
            at = at + len(segment)
            if i == len(self.slots):
                good &= at == ends
                break
            # The value behind a segment was fetched along with it.
            values = [word_at(block, len(segment) - offset + WORD * n) for n in range(_AHEAD[self.slots[i].kind])]
            fine = np.count_nonzero(good)
            if fine < len(good) // 2:
                values = [value[good] for value in values]
                narrow()
                if not fine:
                    break
            elif fine < len(good):
                at = np.where(good, at, starts)  # so that nothing is read past the padding
            if self.slots[i].kind == "time":
                moments[i], right = read_plain_times(*values)
                good &= right
                at = at + TIME_LENGTH
            else:
                end = self._end(i, buffer, at, values[0], good, quotes)
                spans[i] = at, end
                at = end
        if len(places) < len(self.segments) or not good.any():
            return None
        (first, from_it), (last, into_it) = self._data
        places = [places[first] + from_it, places[last] + into_it]
        if not good.all():
            narrow()
        return Match(rows, spans, moments, (places[0], places[1]))

    def _end(self, i: int, buffer: Bytes, starts: Ints, firsts: Words, good: Bools, quotes: Callable[[], Ints]) -> Ints:
        """Where slot i ends; takes lines out of `good` where that cannot be told."""
        if self.slots[i].kind == "text":
            ends, missing = find(buffer, starts, firsts, ord('"'), _TEXT_STEPS)
            if len(missing):
                ends[missing] = quotes()[np.searchsorted(quotes()[:-1], ends[missing])]
            return ends
        ends, missing = find(buffer, starts, firsts, self.segments[i + 1][0], _NUMBER_STEPS)
        good[missing] = False
        ends[missing] = starts[missing]
        return ends


Expected = list[tuple[np.uint64 | None, np.uint64]]
"""Words of a block one after the other: the mask (None: all bytes count), and what must be there."""


def _blocks(segment: bytes, ahead: int) -> list[tuple[int, int, Expected]]:
    """What to compare so that all bytes of the segment are compared: blocks, where they start, and how many words each.

    The last one has room for `ahead` words more behind the segment.
    """
    out: list[tuple[int, int, Expected]] = []
    for start in range(0, len(segment), _BLOCK):
        expected: Expected = []
        for at in range(start, min(start + _BLOCK, len(segment)), WORD):
            part = segment[at : at + WORD]
            expected.append((None if len(part) == WORD else word(b"\xff" * len(part)), word(part)))
        out.append((start, len(expected), expected))
    start, _, expected = out[-1]
    out[-1] = start, -(-(len(segment) - start + WORD * ahead) // WORD), expected
    return out


def learn(line: bytes, times: Collection[Target]) -> Template | None:
    """The template of a valid line without backslash and control characters; None where it is of no use.

    times: whose values are times.
    """
    if len(line) > MAX_LINE:
        return None
    return _Walk(line, times).template()


class _Walk:
    """One pass over the tokens of a line that is known to be valid JSON, an object with an object `data`."""

    def __init__(self, line: bytes, times: Collection[Target]) -> None:
        self._line = line
        self._times = times
        self._segments: list[bytes] = []
        self._slots: list[Slot] = []
        self._cut = 0
        self._data: list[tuple[int, int]] = []

    def template(self) -> Template | None:
        path: list[str | None] = []  # the key under which each open object or array stands
        in_object: list[bool] = []
        key: str | None = None
        wants_key = False
        for match in _TOKEN.finditer(self._line):
            token, start, end = match.group(), match.start(), match.end()
            char = token[:1]
            if char == b'"' and wants_key:
                key = token[1:-1].decode()
                wants_key = False
            elif char == b'"':
                target = self._target(path, key) if in_object[-1] else None
                plain = target in self._times and _PLAIN_TIME.fullmatch(token[1:-1])
                self._add(Slot(target, "time" if plain else "text"), start + 1, end - 1)
            elif char in b"{[":
                if len(path) == 1 and key == "data":
                    self._mark(start)
                path.append(key if in_object and in_object[-1] else None)
                in_object.append(char == b"{")
                wants_key = in_object[-1]
            elif char in b"}]":
                in_object.pop()
                if path.pop() == "data" and len(path) == 1:
                    self._mark(end)
                wants_key = False
            elif char == b",":
                wants_key = in_object[-1]
            elif char in b"-0123456789" and in_object[-1]:
                # Numbers in an array count as constants: they could stand too close together to be cut.
                self._add(Slot(self._target(path, key), "number"), start, end)
        if len(self._data) != 2 or len(self._slots) > MAX_SLOTS:
            return None
        self._segments.append(self._line[self._cut :])
        return Template(self._segments, self._slots, self._data)

    def _target(self, path: list[str | None], key: str | None) -> Target | None:
        if key is None:
            return None
        if len(path) == 1:
            return (key,)
        return ("data", key) if len(path) == 2 and path[1] == "data" else None

    def _add(self, slot: Slot, start: int, end: int) -> None:
        self._segments.append(self._line[self._cut : start])
        self._slots.append(slot)
        self._cut = end

    def _mark(self, position: int) -> None:
        """Note the position as (segment, offset in it): `data` starts and ends outside any slot."""
        self._data.append((len(self._segments), position - self._cut))
