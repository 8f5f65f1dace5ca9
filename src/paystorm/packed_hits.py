"""The facts of a party with its hits packed, for copies of the lists: a listed party makes a hit in every interval."""

from array import array
from bisect import bisect_left
from collections.abc import Iterator
from typing import Final, Literal, TypeVar

from paystorm.lists import PartyFacts
from paystorm.rules import Action
from paystorm.stores.hits import Hit, Status

T = TypeVar("T")
News = Literal["known", "alike", "other"]
"""What the state of a hit is to those that are held.

known: it, or a later one, is held. alike: of one more hit, which stands as an older one of the same rule, currency,
action and expiry does. other: any other.
"""

_START_BITS: Final = 40
"""Of a key, those of the interval start: seconds from 17,000 years before 1970 to as many after."""
_STARTS: Final = 1 << _START_BITS
_WIDTH: Final = 3
"""Numbers kept for each hit beside its key."""
_NO_RANGES: Final[dict[int, list[tuple[int, int]]]] = {}


class Numbers(dict[T, int]):
    """Numbers from 0 on for values that differ; a value that is new gets the next when it is asked for."""

    def __init__(self) -> None:
        super().__init__()
        self.named: list[T] = []
        """The values, by number."""

    def __missing__(self, value: T) -> int:
        self[value] = number = len(self.named)
        self.named.append(value)
        return number


class Terms:
    """What many hits have in common, of all parties of a copy."""

    def __init__(self) -> None:
        self.rules: Numbers[tuple[str, str, str]] = Numbers()
        """(source, rule, currency)."""
        self.states: Numbers[tuple[Status, Action, int | None]] = Numbers()
        """(status, action, expires_after in seconds)."""


class PackedHits:
    """The hits of one party, in 32 bytes each.

    Of a hit it keeps what `PartyFacts` reads; version, figure, limit, record and shard are empty or 0 when it is given
    back.
    """

    __slots__ = ("_keys", "_kind", "_party", "_rest", "_terms")

    def __init__(self, kind: str, party: str, terms: Terms) -> None:
        self._kind = kind
        self._party = party
        self._terms = terms
        self._keys = array("q")
        """Of each hit the number of (source, rule, currency) and, in the lowest bits, the interval start; ascending."""
        self._rest = array("q")
        """Of each hit, in the same order: since, row, and the number of its state."""

    def __len__(self) -> int:
        return len(self._keys)

    def add(self, hit: Hit) -> bool:
        """As `PartyFacts.add_hit`; where only what is not kept differs, nothing has changed."""
        return self.take_in(hit) != "known"

    def take_in(self, hit: Hit) -> News:
        """Take in the state of a hit, unless it or one of a later journal row is held; says what news it is."""
        terms, keys, rest = self._terms, self._keys, self._rest
        rule = terms.rules[hit.source, hit.rule, hit.currency]
        state = terms.states[hit.status, hit.action, hit.expires_after]
        key = (rule << _START_BITS) + hit.interval_start + _STARTS // 2
        place = bisect_left(keys, key)
        at = place * _WIDTH
        if place < len(keys) and keys[place] == key:
            held = rest[at], rest[at + 1], rest[at + 2]
            if held[1] > hit.row or held == (hit.since, hit.row, state):
                return "known"
            rest[at], rest[at + 1], rest[at + 2] = hit.since, hit.row, state
            return "other"
        alike = hit.status == "standing" and self._has_older(place, rule, hit.since, state)
        keys.insert(place, key)
        for number in (state, hit.row, hit.since):  # each before the one put before
            rest.insert(at, number)
        return "alike" if alike else "other"

    def _has_older(self, place: int, rule: int, since: int, state: int) -> bool:
        """Whether one of a rule and currency, those around `place`, is in this state since before `since`."""
        keys, rest = self._keys, self._rest
        # From the nearest: mostly it is the hit of the interval before.
        for places in (range(place - 1, -1, -1), range(place, len(keys))):
            for n in places:
                if keys[n] >> _START_BITS != rule:
                    break
                if rest[n * _WIDTH] < since and rest[n * _WIDTH + 2] == state:
                    return True
        return False

    def any_of(self, source: str, rule: str) -> bool:
        """Whether a rule made one of them."""
        rules = self._terms.rules.named
        return any(rules[key >> _START_BITS][:2] == (source, rule) for key in self._keys)

    def values(self) -> Iterator[Hit]:
        """All of them, by rule and interval."""
        rules, states = self._terms.rules.named, self._terms.states.named
        numbers = iter(self._rest)
        for key, since, row, state in zip(self._keys, numbers, numbers, numbers, strict=True):
            source, rule, currency = rules[key >> _START_BITS]
            status, action, expires_after = states[state]
            yield Hit(
                source=source,
                rule=rule,
                kind=self._kind,
                party=self._party,
                interval_start=key % _STARTS - _STARTS // 2,
                currency=currency,
                status=status,
                version=0,
                action=action,
                limit="",
                figure="",
                topic="",
                partition=0,
                offset=0,
                since=since,
                expires_after=expires_after,
                shard=0,
                row=row,
                before=_NO_RANGES,
            )


class PackedFacts(PartyFacts):
    """All facts about one party, its hits packed."""

    __slots__ = ()
    hits: PackedHits

    def __init__(self, kind: str, party: str, terms: Terms) -> None:
        super().__init__(PackedHits(kind, party, terms))
