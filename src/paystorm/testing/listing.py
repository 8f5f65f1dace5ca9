"""What really happened to the lists, and when: from the writes themselves, for the checks of decisions.

Between a change's row and its announcement a look-up may know of it or not. So there are two histories: `seen`, in
which what lists a party is in force from its row on and what takes it off only once it is announced; and `told`, the
other way round. Who was denied must be listed by the first, who was let through must not have been by the second.
"""

from collections.abc import Callable
from typing import Any

import msgspec

from paystorm.lists import Act
from paystorm.oracle import Change
from paystorm.stores.hits import Hit
from paystorm.stores.lists import BREAKERS, FEED, BreakerChange, FeedItem, HitChange
from paystorm.testing.faulty import Write


class _History:
    """One of the two."""

    def __init__(self) -> None:
        self.changes: list[Change] = []
        self._rows: dict[str, int] = {}
        self._standing: dict[str, bool] = {}
        self._breakers: dict[str, tuple[int, bool]] = {}

    def hit(self, at: int, hit: Hit) -> None:
        name = "/".join(map(str, hit.name()))
        standing = hit.status == "standing"
        if hit.row < self._rows.get(name, -1):
            return
        if hit.row == self._rows.get(name) and standing == self._standing.get(name):
            return
        self._rows[name], self._standing[name] = hit.row, standing
        detail = {
            "hit": name,
            "rule": hit.rule,
            "action": hit.action,
            "expires_after": hit.expires_after,
            "since": hit.since,
        }
        self.changes.append(Change(at, hit.kind, hit.party, "hit" if standing else "withdrawn", detail))

    def breaker(self, at: int, change: BreakerChange) -> None:
        new = (change.number, change.state == "open")
        if new <= self._breakers.get(change.rule, (-1, False)):
            return
        self._breakers[change.rule] = new
        what = "breaker_open" if change.state == "open" else "breaker_closed"
        self.changes.append(Change(at, "", "", what, {"rule": change.rule}))

    def act(self, at: int, act: Act) -> None:
        detail: dict[str, Any] = {
            "list": act.list,
            "entry": act.target or act.id,
            "expires": act.expires_at,
            "hits": ["/".join(map(str, name)) for name in act.hits],
        }
        what = "add" if act.act == "allow" else act.act
        self.changes.append(Change(at, act.kind, act.party, what, detail))


class ListWatch:
    """Follows the writes to hits, breakers and the feed of one source."""

    def __init__(self, source: str, time: Callable[[], int]) -> None:
        """`time`: µs of a clock that is never set, so that moments keep their order."""
        self._hits = f"{source}.hits"
        self._time = time
        self._seen, self._told = _History(), _History()
        self.acts: list[Act] = []
        self.withdrawn: set[str] = set()
        """The names of hits that were ever withdrawn."""
        self.made_again = 0
        self._written: dict[str, tuple[int, str]] = {}
        self._announced: dict[str, tuple[int, str]] = {}

    @property
    def seen(self) -> list[Change]:
        """What is listed as early, and off the list as late, as any look-up may have it."""
        return self._seen.changes

    @property
    def told(self) -> list[Change]:
        """What is listed as late, and off the list as early, as every look-up must have it one refresh bound later."""
        return self._told.changes

    def untold(self) -> list[str]:
        """Hits whose last state no look-up was told of; none where nothing is in flight."""
        return [
            f"{name} is {status}, row {row}; told last: {self._announced.get(name)}"
            for name, (row, status) in self._written.items()
            if self._announced.get(name) != (row, status)
        ]

    def act(self, act: Act) -> None:
        """A person's act, which was done at once."""
        self.acts.append(act)
        for history in (self._seen, self._told):
            history.act(self._time(), act)

    def breaker(self, change: BreakerChange) -> None:
        """A change of a breaker that was done at once."""
        self._breaker(change, announced=True)

    def watch(self, write: Write, rows: Any, put: list[bool]) -> None:
        """To be told of every write that was done."""
        if write.name == self._hits:
            for _, value in rows:
                self._hit(msgspec.msgpack.decode(value, type=Hit), announced=False)
        elif write.name == BREAKERS:
            for (_, value), done in zip(rows, put, strict=True):
                if done:
                    self._breaker(msgspec.msgpack.decode(value, type=BreakerChange), announced=False)
        elif write.what == "tables.feed_append" and write.name == FEED:
            for item in rows:
                change = msgspec.msgpack.decode(item, type=FeedItem)
                if isinstance(change, HitChange):
                    self._hit(change.hit, announced=True)
                elif isinstance(change, BreakerChange):
                    self._breaker(change, announced=True)

    def _hit(self, hit: Hit, *, announced: bool) -> None:
        name = "/".join(map(str, hit.name()))
        last = self._announced if announced else self._written
        last[name] = max(last.get(name, (-1, "")), (hit.row, hit.status))
        if hit.status == "withdrawn":
            self.withdrawn.add(name)
        elif name in self.withdrawn and not announced:
            self.made_again += 1
        for history, lists_at_once in ((self._seen, True), (self._told, False)):
            if announced or lists_at_once == (hit.status == "standing"):
                history.hit(self._time(), hit)

    def _breaker(self, change: BreakerChange, *, announced: bool) -> None:
        for history, lists_at_once in ((self._seen, True), (self._told, False)):
            if announced or lists_at_once == (change.state == "closed"):
                history.breaker(self._time(), change)
