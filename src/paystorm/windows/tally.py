"""One flush of counting: from touches to new figures, and to hits made, changed and withdrawn. Pure."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field

import numpy as np

from paystorm.stores.journal import Slot
from paystorm.windows.book import Counted, RuleBook, Span
from paystorm.windows.cells import Cell, Pairs, Values
from paystorm.windows.crossing import Crossing, Made, find_crossings
from paystorm.windows.interner import Codes
from paystorm.windows.judge import Judge, Versions
from paystorm.windows.touches import Delta, KindTouches

Place = tuple[str, int]
"""(measure's label, start of interval)."""
Load = Callable[[list[Place]], None]


@dataclass(frozen=True, slots=True)
class Written:
    """New figures of one slot: parties (sorted) and values; of a distinct, the pairs that are new."""

    slot: Slot
    kind: str
    codes: Codes
    values: Values
    pairs: Pairs


@dataclass(frozen=True, slots=True)
class Change:
    """A hit that a flush made, gave to another version (span), or withdrew (span is None)."""

    rule: str
    kind: str
    code: int
    start: int
    currency: str
    span: Span | None
    crossing: Crossing | None
    """Where it came to hold; of hits made, and of those that list their party from now on."""
    was: Span | None
    """By which version it stood before; None: it did not."""

    @property
    def lists(self) -> bool:
        """Whether it puts the party on the blacklist, as it did not before: new, or by a version that denies."""
        return denies(self.span) and not denies(self.was)


def denies(span: Span | None) -> bool:
    """Whether a hit that stands by this version puts its party on the blacklist."""
    return span is not None and span.rule.acts == "deny"


@dataclass(slots=True)
class Tally:
    """What a flush changed."""

    written: list[Written] = field(default_factory=list)
    changes: list[Change] = field(default_factory=list)


@dataclass(frozen=True, slots=True)
class _Question:
    """Parties whose standing under a rule in an interval this flush may change."""

    kind: str
    rule: str
    start: int
    currency: str
    codes: Codes
    before: Versions


def tally(
    book: RuleBook,
    cells: dict[Place, Cell],
    touches: dict[str, KindTouches],
    currency: str | None,
    load: Load,
    frozen: Callable[[Place], bool] = lambda place: False,
) -> Tally:
    """Apply the touches of a flush to the cells, in memory, and say what changed.

    `load` is asked to put cells that are not in memory into `cells` (empty ones too), all at once. `frozen`, asked
    behind it: the places that nothing is added to any more.
    """
    deltas = {
        (counted.label, start): found
        for kind, rows in touches.items()
        for counted in book.of_kind(kind)
        for start, found in rows.deltas(counted, currency).items()
    }
    missing = sorted({place for place in _needed(book, deltas) if place not in cells})
    if missing:
        load(missing)
    deltas = {place: found for place, found in deltas.items() if not frozen(place)}
    looked: dict[Place, Cell] = {}

    def find(label: str, start: int) -> Cell | None:
        cell = cells.get((label, start))
        if cell is not None:
            looked[label, start] = cell
        return cell

    judge = Judge(book, find)
    questions = [
        _Question(kind, rule, start, money, codes, judge.versions(rule, start, codes, money))
        for kind, rule, start, money, codes in _affected(book, cells, deltas)
    ]
    out = Tally()
    for (label, start), found in deltas.items():
        counted = book.measures[label]
        out.written.extend(_apply(counted, cells[label, start], delta) for delta in found)
    after = Judge(book, find)
    fresh = {(w.slot.measure, w.slot.start, w.slot.epoch): w.pairs for w in out.written if len(w.pairs)}
    for question in questions:
        known = _Known(cells, fresh)
        out.changes.extend(_changes(book, question, judge, after, touches[question.kind], currency, known))
    for cell in [*looked.values(), *(cells[place] for place in deltas)]:
        cell.forget_asked()
    return out


def _needed(book: RuleBook, deltas: dict[Place, list[Delta]]) -> Iterator[Place]:
    """The cells that a flush looks at: those it adds to; for growth also the interval before and the one after."""
    for label, start in deltas:
        yield label, start
        counted = book.measures[label]
        for rule in counted.rules:
            for span in book.spans[rule]:
                other = book.measures[span.rule.measured().label()]
                yield other.label, start
                if span.rule.is_growth:
                    yield other.label, counted.interval.previous(start)
                    yield other.label, counted.interval.following(start)


def _affected(
    book: RuleBook, cells: dict[Place, Cell], deltas: dict[Place, list[Delta]]
) -> Iterator[tuple[str, str, int, str, Codes]]:
    """(kind, rule, start, currency, parties) that the deltas may make or unmake hits of."""
    gathered: dict[tuple[str, str, int, str], list[Codes]] = {}
    for (label, start), found in deltas.items():
        counted = book.measures[label]
        for rule in counted.rules:
            spans = book.spans[rule]
            growth = any(span.rule.is_growth for span in spans)
            following = counted.interval.following(start)
            for delta in found:
                if any(delta.currency in span.figures for span in spans):
                    kind = counted.measure.kind
                    gathered.setdefault((kind, rule, start, delta.currency), []).append(delta.codes)
                    if growth and cells[label, following].parts:
                        gathered.setdefault((kind, rule, following, delta.currency), []).append(delta.codes)
    for (kind, rule, start, money), codes in gathered.items():
        yield kind, rule, start, money, codes[0] if len(codes) == 1 else np.unique(np.concatenate(codes))


def _apply(counted: Counted, cell: Cell, delta: Delta) -> Written:
    slot = Slot(counted.label, cell.start, delta.epoch, delta.currency)
    if counted.what == "distinct":
        kept = cell.add_pairs(delta.epoch, delta.pairs)
        return Written(slot, counted.measure.kind, np.zeros(0, np.uint32), np.zeros(0, np.int64), kept)
    new = cell.add(delta.epoch, delta.currency, delta.codes, delta.deltas)
    return Written(slot, counted.measure.kind, delta.codes, new, np.zeros(0, np.uint64))


def _changes(
    book: RuleBook,
    asked: _Question,
    judge: Judge,
    after: Judge,
    touches: KindTouches,
    currency: str | None,
    known: "_Known",
) -> Iterator[Change]:
    """The hits that came, went, or hold by another version now."""
    held = after.versions(asked.rule, asked.start, asked.codes, asked.currency)
    changed = np.flatnonzero(held != asked.before)
    if len(changed) == 0:
        return
    spans = {span.first: span for span in book.spans[asked.rule]}
    made: dict[int, list[Made]] = {}
    for i in changed.tolist():
        version, was = int(held[i]), spans.get(int(asked.before[i]))
        if was is None or (denies(spans.get(version)) and not denies(was)):
            made.setdefault(version, []).append(_made(book, asked, judge, spans[version], i))
    crossings: dict[int, Crossing] = {}
    for version, hits in made.items():
        counted = book.measures[spans[version].rule.measured().label()]
        place = (asked.start, asked.currency)
        values = known.values(counted, spans[version], asked.start, hits)
        crossings.update(find_crossings(touches, counted, currency, spans[version], place, hits, values))
    for i in changed.tolist():
        code = int(asked.codes[i])
        span = spans.get(int(held[i]))
        yield Change(
            rule=asked.rule,
            kind=asked.kind,
            code=code,
            start=asked.start,
            currency=asked.currency,
            span=span,
            crossing=crossings.get(code),
            was=spans.get(int(asked.before[i])),
        )


@dataclass(frozen=True, slots=True)
class _Known:
    """What distincts knew before the flush: their values now, without those that the flush brought."""

    cells: dict[Place, Cell]
    fresh: dict[tuple[str, int, int], Pairs]
    """By measure, start and epoch."""

    def values(self, counted: Counted, span: Span, start: int, made: list[Made]) -> dict[int, set[int]]:
        """The value codes that each party had been seen with; nothing for other measures."""
        cell = self.cells.get((counted.label, start))
        if counted.what != "distinct" or cell is None:
            return {}
        out: dict[int, set[int]] = {hit.code: set() for hit in made}
        for (epoch, _), part in cell.parts.items():
            if span.counted_from <= epoch <= span.last:
                new = self.fresh.get((counted.label, start, epoch), np.zeros(0, dtype=np.uint64))
                for code, values in out.items():
                    first, after = np.searchsorted(part.pairs, [code << 32, (code + 1) << 32])
                    mine = part.pairs[first:after]
                    values.update((mine[~np.isin(mine, new)] & np.uint64(0xFFFFFFFF)).tolist())
        return out


def _made(book: RuleBook, asked: _Question, judge: Judge, span: Span, i: int) -> Made:
    """A hit that was made, with the figures that the party had before the flush."""
    now = judge.remembered(span, asked.start, asked.codes, asked.currency, i)
    before = 0
    if span.factor is not None:
        interval = book.measures[span.rule.measured().label()].interval
        before = judge.remembered(span, interval.previous(asked.start), asked.codes, asked.currency, i)
    return Made(int(asked.codes[i]), now, before, judge.had(span, asked.start, asked.codes, asked.currency, i))
