"""Made-up purchases for benchmarks and tests: many, fast, the same for the same seed.

A record is an envelope without `id` and `received_at`, about 140 bytes:

    {"ApplicationRef":"shop","data":{"event_time":"2025-01-01T00:00:07Z","from_party":"u17","to_party":"u90210",…

Parties have a heavy tail (Pareto with exponent 2: without variance), `u0` being the busiest; event times go up, each
moved by some seconds; a small share of the records is malformed, each in one of `MALFORMED` ways.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from functools import cache

import numpy as np
import numpy.typing as npt
import polars as pl

BLOCK = 100_000
"""Records in a block; each block has random numbers of its own, drawn from seed and block number."""
TAIL = 2.0
"""Exponent of the parties' Pareto tail: of 200,000 the busiest has 0.2 % of the records, the busiest 1 % have 10 %."""
JITTER_SECONDS = 5.0
"""Standard deviation of what an event time is moved by."""
MAX_AMOUNT = 1_000_000
"""Cents, exclusive. Amounts are log-normal about `MEDIAN_AMOUNT`."""
MEDIAN_AMOUNT = 2_500
CURRENCIES = ("EUR", "GBP", "USD")
CURRENCY_SHARES = (0.7, 0.2, 0.1)
DAY_MS = 86_400_000

MALFORMED: tuple[tuple[bytes, bytes], ...] = (
    (b'"EUR"}}', b'"EUR"}'),
    (b'"from_party"', b'"from"'),
    (b'"amount":"', b'"amount":"-'),
    (b'"amount":"', b'"amount":"EUR '),
    (b'Z","from', b'","from'),
    (b'"currency":"', b'"currency":"' + 17 * b"E"),
    (b'{"ApplicationRef":"shop",', b"{"),
    (b'"event_time":"', b'"event_time":"31/'),
    (b'"to_party":', b'"to_party":7,"to_party":'),
    (b'"from_party":"', b'"from_party":"\\ud800'),
    (b'"shop"', b'"sh\xffop"'),
    (b'"data":{', b'"data":[{'),
)
"""What makes a record malformed: the first text is replaced by the second; where it is absent, the last byte goes."""

Int64Array = npt.NDArray[np.int64]


@dataclass(frozen=True, slots=True)
class Block:
    """Records as a log takes them in bulk: each value followed by a newline; lengths without it."""

    values: bytes
    lengths: Int64Array

    def __len__(self) -> int:
        return len(self.lengths)

    def records(self) -> list[bytes]:
        """The values one by one (none holds a newline)."""
        return self.values[:-1].split(b"\n") if len(self) else []


def purchases(
    count: int,
    *,
    seed: int,
    parties: int = 200_000,
    start: datetime = datetime(2025, 1, 1, tzinfo=UTC),
    days: float = 100,
    malformed: float = 0.001,
    block: int = BLOCK,
) -> Iterator[list[bytes]]:
    """`count` purchases as lists of values. Arguments as of `purchase_blocks`."""
    for made in purchase_blocks(
        count, seed=seed, parties=parties, start=start, days=days, malformed=malformed, block=block
    ):
        yield made.records()


def purchase_blocks(
    count: int,
    *,
    seed: int,
    parties: int = 200_000,
    start: datetime = datetime(2025, 1, 1, tzinfo=UTC),
    days: float = 100,
    malformed: float = 0.001,
    block: int = BLOCK,
) -> Iterator[Block]:
    """`count` purchases spread evenly over `days` from `start` (with a zone), in blocks of `block`.

    malformed: the share of records that are, 0 to 1. Raises ValueError for arguments that cannot be.
    """
    if count < 0 or parties < 2 or days <= 0 or block < 1 or not 0 <= malformed <= 1 or start.tzinfo is None:
        raise ValueError(f"cannot make {count} purchases of {parties} parties in {days} days from {start}")
    start_ms = (start - datetime(1970, 1, 1, tzinfo=UTC)) // timedelta(milliseconds=1)
    span_ms = max(1, int(days * DAY_MS))
    tables = _Tables.of(parties)
    for number, first in enumerate(range(0, count, block)):
        rows = np.arange(first, min(first + block, count), dtype=np.int64)
        random = np.random.default_rng([seed, number])
        moved = rows * (span_ms / count) + random.normal(0, JITTER_SECONDS * 1000, len(rows))
        times = start_ms + np.clip(moved, 0, span_ms - 1).astype(np.int64)
        made = _block(random, times, tables)
        yield _spoil(random, made, malformed) if malformed else made


@dataclass(frozen=True, slots=True)
class _Tables:
    """Texts that records are put together from, and the parties' cumulated weights."""

    cumulated: npt.NDArray[np.float64]
    names: pl.Series
    clock: pl.Series
    amounts: pl.Series
    currencies: pl.Series

    @staticmethod
    @cache
    def of(parties: int) -> "_Tables":
        weights = np.cumsum((np.arange(parties) + 0.5) ** (-1.0 / TAIL))
        seconds = range(86_400)
        return _Tables(
            cumulated=weights / weights[-1],
            names=pl.Series([f"u{i}" for i in range(parties)]),
            clock=pl.Series([f"T{s // 3600:02}:{s // 60 % 60:02}:{s % 60:02}" for s in seconds]),
            amounts=pl.Series([f"{i // 100}.{i % 100:02}" for i in range(MAX_AMOUNT)]),
            currencies=pl.Series(CURRENCIES),
        )


def _block(random: np.random.Generator, times: Int64Array, tables: _Tables) -> Block:
    """Sound records with these event times (ms)."""
    count = len(times)
    senders, receivers = np.searchsorted(tables.cumulated, random.random((2, count)))
    cents = np.exp(random.normal(np.log(MEDIAN_AMOUNT), 1.0, count)).astype(np.int64)
    currencies = random.choice(len(CURRENCIES), count, p=CURRENCY_SHARES)
    days, of_day = np.divmod(times, DAY_MS)
    first_day = int(days.min())
    dates = pl.Series([str(np.datetime64(day, "D")) for day in range(first_day, int(days.max()) + 1)])
    frame = pl.select(
        value=pl.concat_str(
            pl.lit('{"ApplicationRef":"shop","data":{"event_time":"'),
            dates.gather(days - first_day),
            tables.clock.gather(of_day // 1000),
            pl.lit('Z","from_party":"'),
            tables.names.gather(senders),
            pl.lit('","to_party":"'),
            tables.names.gather(receivers),
            pl.lit('","amount":"'),
            tables.amounts.gather(np.clip(cents, 1, MAX_AMOUNT - 1)),
            pl.lit('","currency":"'),
            tables.currencies.gather(currencies),
            pl.lit('"}}\n'),
        )
    )
    lengths = frame["value"].str.len_bytes().to_numpy().astype(np.int64) - 1
    return Block(frame["value"].str.join("").item().encode(), lengths)


def _spoil(random: np.random.Generator, block: Block, share: float) -> Block:
    """The block with a share of its records malformed."""
    chosen = np.flatnonzero(random.random(len(block)) < share)
    ways = random.integers(0, len(MALFORMED), len(chosen))
    ends = np.cumsum(block.lengths + 1)
    lengths = block.lengths.copy()
    pieces: list[bytes] = []
    at = 0
    for row, way in zip(chosen.tolist(), ways.tolist(), strict=True):
        end = int(ends[row]) - 1
        begin = end - int(lengths[row])
        sound = block.values[begin:end]
        sought, instead = MALFORMED[way]
        bad = sound.replace(sought, instead, 1) if sought in sound else sound[:-1]
        pieces += (block.values[at:begin], bad)
        lengths[row] = len(bad)
        at = end
    pieces.append(block.values[at:])
    return Block(b"".join(pieces), lengths)
