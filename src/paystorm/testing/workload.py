"""What the simulator sends: seeded records of every sort, and what people do to the lists meanwhile."""

import json
from collections.abc import Iterable, Iterator
from datetime import UTC, datetime, timedelta
from itertools import islice
from random import Random
from typing import Any

from paystorm.clock import SECOND
from paystorm.stores import lists
from paystorm.stores.hits import load_hits
from paystorm.testing.scenario import Sent
from paystorm.testing.topology import FAILS_FOR
from paystorm.testing.world import World

CURRENCIES = ("EUR", "EUR", "EUR", "USD", "GBP", None)
FOREVER = 10**9
DAY = 86_400
HOURS = (0, 13, 23)
"""The hours of a day that have events. Few: figures of many hours cost time, and find no more."""
MANY_DAYS = 4
START = 1_767_225_600
"""When the world starts, seconds since 1970."""
IN_TALES = 0.12
"""Of the records: those of a tale, see `_tale`."""
TALES = 3
"""That are told at once."""
BAD_VALUES: tuple[bytes, ...] = (
    b"",
    b"{",
    b"\xff\xfe",
    b"[]",
    b"null",
    b'{"ApplicationRef":"a"}',
    b'{"ApplicationRef":7,"data":{}}',
    b'{"ApplicationRef":"","data":{}}',
    b'{"ApplicationRef":"a","data":{},"data":{}}',
    b'{"ApplicationRef":"a","data":NaN}',
    b'{"ApplicationRef":"a","data":{"x":"\\ud800"}}',
    b'{"ApplicationRef":"a","data":' + b"[" * 80 + b"]" * 80 + b"}",
    b'{"ApplicationRef":"a","id":"","data":{}}',
    b'{"ApplicationRef":"a","replay_of":{"topic":"pay"},"data":{}}',
)
BAD_FIELDS: tuple[dict[str, Any], ...] = (
    {"payer": None},
    {"payer": ""},
    {"payer": "x" * 257},
    {"payer": 7},
    {"event_time": "yesterday"},
    {"event_time": "2025-12-30T10:00:00"},
    {"event_time": "1999-12-31T23:59:59Z"},
    {"event_time": "2031-01-01T00:00:00Z"},
    {"event_time": "2025-12-30T23:59:60Z"},
    {"amount": "-1"},
    {"amount": "ten"},
    {"amount": "1.23456"},
    {"amount": [1]},
    {"payee_kind": "bank"},
    {"currency": ""},
    {"message": "x" * 65_537},
)


class Writer:
    """Writes records without end. What it writes does not depend on what becomes of it."""

    def __init__(
        self,
        random: Random,
        topic: str,
        partitions: int,
        *,
        bad: float = 0.08,
        failing: float = 0.0,
        replays: float = 0.03,
        days: int = 4,
        start_of_seconds: bool = False,
    ) -> None:
        """Shares of records: `bad` ones, `failing` ones (that the operator's bolt names), `replays` of earlier ones.

        start_of_seconds: failing records fail for a few seconds rather than for minutes.
        """
        self._random = random
        self._topic = topic
        self._bad, self._failing, self._replays = bad, failing, replays
        self._days = days
        self._fails_for = (2, 8, 100, FOREVER) if start_of_seconds else (20, 100, 2000, FOREVER)
        self._order = random.choice(("sorted", "shuffled", "stragglers"))
        self._sent = 0
        self._tales = 0
        self._telling: list[Iterator[dict[str, Any]]] = []
        self._ends = [0] * partitions

    def __iter__(self) -> Iterator[Sent]:
        return self

    def __next__(self) -> Sent:
        random = self._random
        partition = random.randrange(len(self._ends))
        gap = random.randrange(1, 5) if random.random() < 0.02 else 0
        value, parties = self._value(partition)
        self._sent += 1
        self._ends[partition] += 1 + gap
        return Sent(partition, value, gap, parties)

    def _value(self, partition: int) -> tuple[bytes, tuple[tuple[str, str], ...] | None]:
        random = self._random
        data = self._data()
        sure = True
        if random.random() < self._bad:
            if random.random() < 0.5:
                return random.choice(BAD_VALUES), None
            data.update(random.choice(BAD_FIELDS))
            sure = False
        if random.random() < self._failing:
            data["message"] = FAILS_FOR + str(random.choice(self._fails_for))
        value: dict[str, Any] = {"ApplicationRef": random.choice(("shop", "wallet")), "data": data}
        if random.random() < 0.5:
            value["id"] = f"e{random.randrange(40)}"  # repeated ids are two events all the same
        end = self._ends[partition]
        if end and random.random() < self._replays:
            original = random.randrange(max(0, end - 8), end)
            value["replay_of"] = {"topic": self._topic, "partition": partition, "offset": original}
            sure = False
        text = json.dumps(value, ensure_ascii=random.random() < 0.5).encode()
        return text, tuple(_parties_of(data)) if sure else None

    def _data(self) -> dict[str, Any]:
        random = self._random
        if random.random() < IN_TALES:
            return self._of_a_tale()
        data: dict[str, Any] = {"event_time": _written(self._event_time()), "payer": _heavy(random, "u")}
        if random.random() < 0.7:
            data["payee_kind"] = random.choice(("account", "merchant"))
        if random.random() < 0.9:
            data["payee"] = _heavy(random, "m" if data.get("payee_kind") == "merchant" else "u")
        if random.random() < 0.8:
            data["amount"] = random.choice(
                (random.randrange(60), f"{random.randrange(90)}.{random.randrange(10**4):04d}", "0")
            )
            data["currency"] = random.choice(CURRENCIES)
        if random.random() < 0.5:
            data["device"] = _heavy(random, "d", 6)
        if random.random() < 0.2:
            data["message"] = random.choice(("🎉, ok", "a\x00b", "", '"{}"\n'))
        return data

    def _of_a_tale(self) -> dict[str, Any]:
        """What comes next in one of those that are told."""
        while len(self._telling) < TALES:
            self._tales += 1
            self._telling.append(_tale(f"w{self._tales}"))
        number = self._random.randrange(TALES)
        data = next(self._telling[number], None)
        if data is not None:
            return data
        del self._telling[number]
        return self._of_a_tale()

    def _event_time(self) -> int:
        """µs: the last days before the start of the world, forward with the records, all over, or in between."""
        random, span = self._random, self._days * DAY
        start = START - span
        forward = start + span * min(self._sent, 400) / 400
        if self._order == "shuffled" or (self._order == "stragglers" and random.random() < 0.2):
            forward = start + random.random() * span
        day = int(forward // DAY)
        if self._days > MANY_DAYS:  # pairs of days: a growth is over neighbours
            day -= day % 4 // 2 * 2
        at = day * DAY + random.choice(HOURS) * 3600 + random.random() * 3600
        if random.random() < 0.05:  # the very edge of an interval, or the last microsecond before it
            at = round(at / DAY) * DAY if random.random() < 0.5 else round(at / 3600) * 3600
            return int(at) * SECOND - (random.random() < 0.3)
        return int(at * SECOND)


class Workload:
    """Sends records to a world. Remembers the parties of those that are valid for certain."""

    def __init__(self, world: World, random: Random, **writing: Any) -> None:
        """`writing`: as `Writer`."""
        self.world = world
        self.parties: dict[tuple[int, int], list[tuple[str, str]]] = {}
        self._writer = Writer(random, world.source.topic, world.log.partitions(world.source.topic), **writing)

    def send(self, records: int) -> None:
        """Append so many records."""
        self.put(islice(self._writer, records))

    def put(self, records: Iterable[Sent]) -> None:
        """Append these."""
        for record in records:
            offset = self.world.send(record.partition, record.value)
            if record.gap:
                self.world.log.skip(self.world.source.topic, record.partition, record.gap)
            if record.parties is not None:
                self.parties[record.partition, offset] = list(record.parties)


def _tale(payer: str) -> Iterator[dict[str, Any]]:
    """A payer's growth that is exceeded, no more so once late spending comes to light, and exceeded again.

    By chance it is rare that a party is listed, off the list and listed again, and goes on paying each time.
    """
    before, day = START - 2 * DAY, START - DAY
    first = ((before, "10"), (day, "21"), (day, "1"), (day, "1"))
    cleared = ((before, "12"), (day, "0.5"), (day, "0.5"), (day, "0.5"))
    again = ((day, "21"), *((day, "0.1"),) * 6)
    for i, (start, amount) in enumerate((*first, *cleared, *again)):
        at = (start + 13 * 3600 + i) * SECOND
        yield {"event_time": _written(at), "payer": payer, "amount": amount, "currency": "EUR"}


def _written(at: int) -> str:
    """A time, µs, as records have it."""
    return (datetime(1970, 1, 1, tzinfo=UTC) + timedelta(microseconds=at)).isoformat().replace("+00:00", "Z")


def _heavy(random: Random, letter: str, most: int = 25) -> str:
    """A name with a heavy tail."""
    return f"{letter}{min(int(random.paretovariate(0.7)), most)}"


def _parties_of(data: dict[str, Any]) -> list[tuple[str, str]]:
    found = [("account", data["payer"])]
    if data.get("payee") is not None:
        found.append((data.get("payee_kind") or "account", data["payee"]))
    if data.get("device") is not None:
        found.append(("device", data["device"]))
    return found


def act_at_random(world: World, random: Random) -> str:
    """One thing that a person may do to the lists now; says what."""
    now, tables = world.clock.now(), world.tables
    kind, letter = random.choice((("account", "u"), ("account", "u"), ("merchant", "m"), ("device", "d")))
    party = _heavy(random, letter)
    hits = [h for h in load_hits(tables, world.source.name) if h.status == "standing"]
    choice = random.choice(("add", "allow", "remove", "lift", "confirm", "lift", "close"))
    common: dict[str, Any] = {"now": now, "by": "ann", "reason": "simulated"}
    expires = random.choice((None, None, now + 40 * SECOND))
    if choice == "add":
        act = lists.add_entry(tables, kind=kind, party=party, expires_at=expires, **common)
    elif choice == "allow":
        act = lists.allow(tables, kind=kind, party=party, expires_at=expires, **common)
    elif choice == "remove":
        held = [a for a in lists.load_acts(tables) if a.act in ("add", "allow")]
        if not held:
            return "nothing to remove"
        old = random.choice(held)
        act = lists.remove_entry(tables, kind=old.kind, party=old.party, target=old.id, **common)
    elif choice == "close":
        opened = sorted(lists.open_breakers(tables))
        for source, rule in opened:
            world.close_breaker(source, rule)
        return f"close breakers of {opened}"
    else:
        if not hits:
            return f"nothing to {choice}"
        hit = random.choice(hits)
        names = [h.name() for h in hits if (h.kind, h.party) == (hit.kind, hit.party)]
        do = lists.lift if choice == "lift" else lists.confirm
        act = do(tables, kind=hit.kind, party=hit.party, hits=names, **common)
    world.act(act)
    return f"{choice} {act.kind} {act.party}"
