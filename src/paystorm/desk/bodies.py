"""The bodies of the desk's requests: what may stand in them, and no more."""

from collections.abc import Sequence
from typing import Annotated

import msgspec
from msgspec import Meta

from paystorm.desk.base import MAX_REASON, Desk, ago
from paystorm.desk.letters import LETTER, LetterName, Selection
from paystorm.desk.replays import MOST, MOST_EVER
from paystorm.desk.where import MAX_TEXT
from paystorm.errors import UsageError
from paystorm.stores.cases import Verdict
from paystorm.stores.letters import LetterState
from paystorm.stores.lists import MAX_ID

Reason = Annotated[str, Meta(min_length=1, max_length=MAX_REASON, pattern=r"\S")]
"""Something is said."""
Name = Annotated[str, Meta(pattern=f"^{LETTER}$")]
PartyId = Annotated[str, Meta(min_length=1, max_length=MAX_ID)]


class ReasonBody(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Why."""

    reason: Reason


class LettersBody(ReasonBody, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Which dead letters, and why. Something must be said; `all` says all."""

    letters: tuple[Name, ...] = ()
    source: tuple[str, ...] = ()
    code: str | None = None
    since: str | None = None
    until: str | None = None
    where: Annotated[str, Meta(max_length=MAX_TEXT)] | None = None
    all: bool = False
    max: Annotated[int, Meta(ge=1, le=MOST_EVER)] = MOST
    force: bool = False
    anyway: bool = False
    dry_run: bool = False

    def selection(self, desk: Desk, states: Sequence[LetterState]) -> Selection:
        """The letters that are meant. Raises UsageError where nothing is said."""
        if not (self.all or self.letters or self.source or self.code or self.since or self.until or self.where):
            raise UsageError("which dead letters? Say letters, source, code, since, until, where, or all")
        now = desk.clock.now()
        return Selection(
            sources=self.source,
            names=tuple(LetterName.parse(text) for text in self.letters),
            reason=self.code,
            since=ago(self.since, now, "since"),
            until=ago(self.until, now, "until"),
            states=frozenset(states),
            where=self.where,
        )


class MendBody(LettersBody, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What is changed in dead letters. `value`: the whole new record of one letter."""

    set: dict[str, msgspec.Raw] = {}
    """Values by path, such as `data.amount`: as they stand here, numbers by their literal text."""
    unset: tuple[str, ...] = ()
    value: str | None = None

    def texts(self) -> dict[str, str]:
        """`set` as texts of JSON. Raises UsageError where nothing is changed, or one record is for many letters."""
        if not (self.set or self.unset or self.value is not None):
            raise UsageError("nothing to mend: say set, unset, or value")
        if self.value is not None and len(self.letters) != 1:
            raise UsageError("value is the record of one letter: name one")
        return {path: bytes(raw).decode() for path, raw in self.set.items()}


class PartyBody(ReasonBody, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A party."""

    kind: str
    party: PartyId


class EnterBody(PartyBody, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A party to be put on a list."""

    expires: str | None = None
    """A length of time such as `7d`, or an ISO time."""


class RemoveBody(PartyBody, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """An entry that a person made. `entry`: its id; None: the only one."""

    entry: str | None = None


class SpeakBody(PartyBody, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What rules listed a party for. `rule`: `<source>.<rule>`; None: all."""

    rule: str | None = None


class DecisionBody(PartyBody, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A decision on a case."""

    decision: Verdict
    lift: bool = False
    keep: bool = False
    allow_for: str | None = None
