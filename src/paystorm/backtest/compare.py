"""A rule as it is and as it might be, over the same history."""

import time
from dataclasses import dataclass, field, replace

import numpy as np
import polars as pl

from paystorm.backtest.denials import ORDER, Int64Array, denied_events
from paystorm.backtest.events import SECOND, History, Touches
from paystorm.backtest.figures import Figures, hits_of
from paystorm.errors import UsageError
from paystorm.exports import decimal_text
from paystorm.intervals import Interval
from paystorm.rules import Rule

MAX_TOUCHES = 40_000_000
"""Touches of parties with a hit that are held in memory, at most: about 50 bytes each."""
NAME = ["code", "start", "currency"]


@dataclass(frozen=True, slots=True)
class Effect:
    """What a rule does over a history. `hits`: one for each party, interval and currency."""

    hits: int
    parties: int
    denied: int
    """Events; 0 for a rule that only reviews, and in a source that only watches."""


@dataclass(frozen=True, slots=True)
class Comparison:
    """A rule today and changed: what each does, what only the changed one does, what only today's does."""

    source: str
    rule: str
    today: Effect
    changed: Effect
    newly: Effect
    no_longer: Effect
    events: int
    """That were read."""
    seconds: float
    """That it took."""
    newly_hit: pl.DataFrame = field(repr=False)
    """Hits of the changed rule alone: party, start (s since 1970-01-01 UTC), currency, value; the largest first."""
    no_longer_hit: pl.DataFrame = field(repr=False)
    today_hits: pl.DataFrame = field(repr=False)
    """All hits of today's rule."""


@dataclass(frozen=True, slots=True)
class _Found:
    hits: pl.DataFrame
    denied: Int64Array

    def effect(self) -> Effect:
        return Effect(len(self.hits), self.hits.get_column("code").n_unique(), len(self.denied))

    def beyond(self, other: "_Found") -> tuple[Effect, pl.DataFrame]:
        """What this one does and the other does not, and those hits. Parties: those without any hit of the other's."""
        hits = self.hits.join(other.hits, on=NAME, how="anti")
        parties = hits.join(other.hits, on="code", how="anti").get_column("code").n_unique()
        denied = np.setdiff1d(self.denied, other.denied, assume_unique=True)
        return Effect(len(hits), parties, len(denied)), hits


def backtest(history: History, today: Rule, changed: Rule) -> Comparison:
    """Compare. Both rules count the same (only what `settings.RULE_PROPERTIES` names may differ).

    Intervals that overlap the history's range are judged whole. Raises UsageError, TablesError.
    """
    begin = time.perf_counter()
    source, interval = history.source, Interval.parse(today.interval)
    digits = source.field(today.field).fraction_digits if today.measure == "sum" and today.field else 0
    first = None if history.since is None else interval.start(history.since // SECOND)
    last = None if history.until is None else interval.start((history.until - 1) // SECOND)
    whole = _widened(history, interval, first, last, growth=today.is_growth or changed.is_growth)
    touches, figures = Touches(whole, today), Figures(today)
    for batch in touches.all():
        figures.add(batch)
    read, table = touches.events, figures.table()
    rules = (today, changed)
    hits = [hits_of(table, rule, digits, first, last) for rule in rules]
    nothing = np.empty(0, dtype=np.int64)
    denying = [source.enforces and rule.acts == "deny" for rule in rules]
    denied = [nothing, nothing]
    if any(d and len(h) for d, h in zip(denying, hits, strict=True)):
        ordered = _ordered(touches, [h for d, h in zip(denying, hits, strict=True) if d])
        for i, rule in enumerate(rules):
            if denying[i] and i and changed == today:
                denied[i] = denied[0]
            elif denying[i]:
                denied[i] = denied_events(ordered, hits[i], rule)
    was, would = (_Found(*each) for each in zip(hits, denied, strict=True))
    (newly, newly_hit), (no_longer, no_longer_hit) = would.beyond(was), was.beyond(would)
    return Comparison(
        source=source.name,
        rule=today.name,
        today=was.effect(),
        changed=would.effect(),
        newly=newly,
        no_longer=no_longer,
        events=read,
        seconds=time.perf_counter() - begin,
        newly_hit=_named(newly_hit, touches, digits),
        no_longer_hit=_named(no_longer_hit, touches, digits),
        today_hits=_named(was.hits, touches, digits),
    )


def _widened(history: History, interval: Interval, first: int | None, last: int | None, *, growth: bool) -> History:
    """The history from the start of the first interval (growth: of the one before it) to the end of the last."""
    since = None if first is None else (interval.previous(first) if growth else first) * SECOND
    until = None if last is None else interval.following(last) * SECOND
    return replace(history, since=since, until=until)


def _ordered(touches: Touches, hits: list[pl.DataFrame]) -> pl.DataFrame:
    """The touches of all parties that have a hit, sorted by ORDER."""
    codes = np.concatenate([h.get_column("code").to_numpy() for h in hits])
    parts, rows = [], 0
    for part in touches.ordered(codes):
        parts.append(part)
        rows += len(part)
        if rows > MAX_TOUCHES:
            raise UsageError(
                f"backtest: more than {MAX_TOUCHES:,} events of parties with a hit: narrow it down with --from and --to"
            )
    return pl.concat(parts).sort(ORDER)


def _named(hits: pl.DataFrame, touches: Touches, digits: int) -> pl.DataFrame:
    """Hits with the parties' ids; values as decimal text of the unit."""
    shown = hits.sort(["value", *NAME], descending=[True, False, False, False])
    return pl.DataFrame(
        {
            "party": touches.parties.texts(shown.get_column("code")),
            "start": shown.get_column("start"),
            "currency": shown.get_column("currency"),
            "value": pl.Series([decimal_text(v, digits) for v in shown.get_column("value").to_list()], dtype=pl.String),
        }
    )
