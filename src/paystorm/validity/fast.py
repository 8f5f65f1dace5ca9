"""Many records at once: those that are plainly valid. It takes only what the exact path takes, with the same values.

A line goes this way when its shape equals that of a line which the exact path accepted (`template`) and its values
pass plain checks (`columns`). Everything else is left, and decided one by one.
"""

from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import polars as pl

from paystorm.log.base import RecordBatch
from paystorm.source import Source
from paystorm.validity.columns import LENGTHS, Reader, in_years, is_number, reader, text_reader, time_reader
from paystorm.validity.cut import cut
from paystorm.validity.exact import SECOND, Event, Invalid
from paystorm.validity.frame import event_frame, event_schema
from paystorm.validity.settings import ValiditySettings
from paystorm.validity.template import PAD, Match, Target, Template, learn
from paystorm.validity.words import Bools, Ints

MIN_LINES = 32
"""Fewer lines of a shape than this are not worth a template."""
MAX_LEARNED = 8
"""New templates in one batch."""
MAX_TEMPLATES = 32
"""Templates kept from batch to batch."""
FEW_ODD = 64
"""So many odd lines are looked for one by one; where there are more, a look at every byte costs less."""
_MAX_MS = 4 * 10**15
"""Timestamps past this many milliseconds could overflow as microseconds; their batch goes the exact way."""
_MAX_BYTES = 2**30
_MAX_US = 4 * 10**18
_RIGHT = "\0"
"""The name of a column for a while; no field's."""


class _Lines:
    """A batch as bytes, with the places of its lines."""

    def __init__(self, batch: RecordBatch, ends: Ints) -> None:
        size = len(batch.values)
        self.values = batch.values
        self.ends = ends
        self.starts = ends - batch.lengths
        self.buffer = np.empty(size + PAD, dtype=np.uint8)
        """The values, then PAD bytes of 0."""
        self.buffer[size:] = 0
        self.raw = self.buffer[:size]
        self.raw[:] = np.frombuffer(batch.values, dtype=np.uint8)
        self.offsets = batch.offsets
        self.received = batch.timestamps * 1000
        """The log's time, microseconds since 1970-01-01 UTC."""
        self.partition = batch.partition
        self._quotes: Ints | None = None

    def quotes(self) -> Ints:
        """The places of all quotes, and the end of the values."""
        if self._quotes is None:
            self._quotes = np.append(np.flatnonzero(self.raw == ord('"')), len(self.raw))
        return self._quotes

    def clean(self, longest: int) -> Bools:
        """The lines of at most `longest` bytes that are UTF-8 and hold no backslash and no control character."""
        clean: Bools = self.ends - self.starts <= longest
        # Control characters and what is not ASCII, each line's own newline among them. By polars: its answer is bits.
        places = (pl.Series(self.raw.view(np.int8)) < 32).arg_true().to_numpy()
        if len(places) != len(self.ends):
            lines = np.searchsorted(self.ends, places)
            odd = np.flatnonzero(self.ends[lines] != places)
            lines, ascii_there = lines[odd], self.raw[places[odd]] < 128
            clean[lines[ascii_there]] = False
            self._check_utf8(np.unique(lines[~ascii_there]), clean)
        self._check_backslash(clean)
        return clean

    def _check_backslash(self, clean: Bools) -> None:
        """Take the lines with a backslash out of `clean`."""
        at = self.values.find(b"\\")
        for _ in range(FEW_ODD):
            if at < 0:
                return
            line = int(np.searchsorted(self.ends, at))
            clean[line] = False
            at = self.values.find(b"\\", int(self.ends[line]))
        clean[np.searchsorted(self.ends, np.flatnonzero(self.raw == ord("\\")))] = False

    def _check_utf8(self, suspects: Ints, clean: Bools) -> None:
        """Take the suspects that are not UTF-8 out of `clean`."""
        if len(suspects) > len(self.ends) // 8:
            try:
                self.values.decode()
                return
            except UnicodeDecodeError:
                pass
        for line in suspects.tolist():
            try:
                self.values[self.starts[line] : self.ends[line]].decode()
            except UnicodeDecodeError:
                clean[line] = False


@dataclass(slots=True)
class Taken:
    """What the fast path made of a batch."""

    frames: list[pl.DataFrame]
    rows: Bools
    """The records that stand in `frames`."""
    decided: dict[int, Event | Invalid]
    """Records that the exact path was asked for on the way, by their place in the batch."""


class FastPath:
    """Holds the templates of a source. Results do not depend on which templates it holds."""

    def __init__(self, source: Source, topic: str, settings: ValiditySettings) -> None:
        self._topic = topic
        self._settings = settings
        self._event_time = source.event_time
        self._own_id = source.own_id
        self._schema = event_schema(source)
        self._readers: dict[Target | None, Reader] = {
            ("data", f.name): reader(f, self._schema["event_time" if f.name == source.event_time else f.name])
            for f in source.fields
        }
        self._lengths: dict[Target | None, tuple[int, int]] = {
            ("data", f.name): LENGTHS[f.type] for f in source.fields if f.type in LENGTHS
        }
        for key in ("ApplicationRef", "id"):
            self._lengths[key,] = LENGTHS["id"]
            self._readers[key,] = text_reader(*LENGTHS["id"])
        self._readers["received_at",] = time_reader(zoneless_utc=False)
        self._times = {("received_at",), *(("data", f.name) for f in source.fields if f.type == "time")}
        self._templates: OrderedDict[object, Template] = OrderedDict()

    def take(self, batch: RecordBatch, exact: Callable[[int], Event | Invalid]) -> Taken:
        """Validate what is plainly valid. exact: gives the exact path's word on the record at a place of the batch."""
        taken = Taken([], np.zeros(len(batch), dtype=np.bool_), {})
        ends = np.cumsum(batch.lengths + 1) - 1
        if not len(ends) or ends[-1] != len(batch.values) - 1 or len(batch.values) > _MAX_BYTES:
            return taken
        if batch.timestamps.min() < -_MAX_MS or batch.timestamps.max() > _MAX_MS:
            return taken
        lines = _Lines(batch, ends)
        left = lines.clean(self._settings.max_record_bytes)
        for key in reversed(list(self._templates)):
            if self._apply(self._templates[key], lines, left, taken):
                self._templates.move_to_end(key)
        for _ in range(MAX_LEARNED):
            rows = np.flatnonzero(left)
            if len(rows) < MIN_LINES:
                break
            row = int(rows[len(rows) // 2])
            left[row] = False
            found = taken.decided[row] = exact(row)
            template = None if isinstance(found, Invalid) else self._learn(lines, row, found)
            if template is not None and self._apply(template, lines, left, taken):
                self._keep(template)
        return taken

    def _keep(self, template: Template) -> None:
        self._templates[template.key] = template
        self._templates.move_to_end(template.key)
        if len(self._templates) > MAX_TEMPLATES:
            self._templates.popitem(last=False)

    def _learn(self, lines: _Lines, row: int, event: Event) -> Template | None:
        """The template of a valid line, if it gives of its own line what the exact path gave."""
        line = lines.values[lines.starts[row] : lines.ends[row]]
        if b'"replay_of"' in line:
            return None
        template = learn(line, self._times)
        if template is None or template.key in self._templates:
            return None
        frame, places = self._values(template, lines, np.array([row]))
        if frame is None or not len(places) or not frame.equals(event_frame(self._schema, [event])):
            return None
        return template

    def _apply(self, template: Template, lines: _Lines, left: Bools, taken: Taken) -> bool:
        """Take the lines of a template's shape out of `left`; gives whether there were any."""
        rows = np.flatnonzero(left)
        if len(rows) < MIN_LINES:
            return False
        frame, places = self._values(template, lines, rows)
        if frame is None or not frame.height:
            return False
        taken.frames.append(frame)
        taken.rows[places] = True
        left[places] = False
        return True

    def _values(self, template: Template, lines: _Lines, rows: Ints) -> tuple[pl.DataFrame | None, Ints]:
        """The events of those of the lines that have the shape and plainly right values, and their places."""
        match = template.match(lines.buffer, lines.starts[rows], lines.ends[rows], lines.quotes)
        if match is None:
            return None, rows[:0]
        rows = rows[match.rows]
        wanted = [
            i for i in match.spans if template.slots[i].kind == "number" or template.slots[i].target in self._readers
        ]
        texts = pl.DataFrame(
            [
                *(cut(lines.buffer, match.spans[i]).alias(str(i)) for i in wanted),
                cut(lines.buffer, match.data).alias("data"),
                pl.Series("log_offset", lines.offsets[rows]),
                pl.Series("received_at", lines.received[rows]),
                *(pl.Series(str(i), found) for i, found in match.moments.items()),
            ]
        )
        frame = self._frame(template, texts, lines.partition, self._short(template, match))
        right = frame.drop_in_place(_RIGHT).fill_null(False)  # all() would pass over nulls
        if right.all():
            return frame, rows
        return frame.filter(right), rows[right.to_numpy()]

    def _short(self, template: Template, match: Match) -> set[int]:
        """The slots whose texts are all long and short enough even by their bytes, of which there are no fewer."""
        short: set[int] = set()
        for i, (start, end) in match.spans.items():
            lengths = self._lengths.get(template.slots[i].target)
            if lengths is not None and template.slots[i].kind == "text":
                sizes = end - start
                if sizes.min() >= lengths[0] and sizes.max() <= lengths[1]:
                    short.add(i)
        return short

    def _frame(self, template: Template, texts: pl.DataFrame, partition: int, short: set[int]) -> pl.DataFrame:
        """The columns of the schema, and whether each line is plainly right.

        texts: the texts or times of slots, each under the slot's number; `data`, `log_offset` and `received_at`.
        """
        prefix = f"{self._topic}/{partition}/"
        found: dict[Target, pl.Expr] = {("id",): pl.format("{}{}", pl.lit(prefix), pl.col("log_offset"))}
        found["received_at",] = pl.col("received_at")
        checks = [pl.lit(True)]
        for i, slot in enumerate(template.slots):
            literal = pl.col(str(i))
            if slot.kind == "number":
                checks.append(is_number(literal))
            if slot.target is None or slot.target not in self._readers:
                continue
            if slot.kind == "time":
                found[slot.target] = literal
            else:
                found[slot.target], right = self._readers[slot.target](literal)
                if i not in short:
                    checks.append(right)
        # In two steps, because an expression that is used twice is computed twice.
        columns = {target: pl.col("/".join(target)) for target in found}
        values = texts.select(
            pl.col("log_offset", "data"),
            pl.all_horizontal(checks).alias(_RIGHT),
            *(value.alias("/".join(target)) for target, value in found.items()),
        )
        moment = columns["data", self._event_time]
        out = {
            "log_offset": pl.col("log_offset"),
            "event_id": columns["id",],
            "application": columns["ApplicationRef",],
            "received_at": columns["received_at",],
            "event_time": moment,
        }
        if self._own_id is not None:
            out[self._own_id] = columns.get(("data", self._own_id), columns["id",])
        out["data"] = pl.col("data")
        nothing = pl.lit(None)
        checks = [pl.col(_RIGHT), *self._limits(moment, columns["received_at",])]
        for target, column in columns.items():
            checks.append(in_years(column) if target in self._times else column.is_not_null())
        return values.select(
            *(
                out.get(name, columns.get(("data", name), nothing)).cast(dtype).alias(name)
                for name, dtype in self._schema.items()
            ),
            pl.all_horizontal(checks).alias(_RIGHT),
        )

    def _limits(self, moment: pl.Expr, received: pl.Expr) -> list[pl.Expr]:
        settings = self._settings
        checks = [
            moment >= max(settings.earliest, -_MAX_US),
            moment <= received + min(settings.max_ahead * SECOND, _MAX_US),
        ]
        if settings.counts_retention is not None:
            checks.append(moment >= received - min(settings.counts_retention * SECOND, _MAX_US))
        return checks
