"""Where the desk stands: the storage, the sources, and whose acts need a second person."""

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from functools import cached_property
from typing import Any

from paystorm.clock import SECOND, Clock
from paystorm.errors import ConfigError, UsageError
from paystorm.log.base import Log
from paystorm.resources import Resources
from paystorm.settings import Settings
from paystorm.source import Source
from paystorm.tables.base import Tables
from paystorm.warehouse.base import Warehouse

MAX_NAME = 256
MAX_REASON = 10_000
YEAR_10000 = 253_402_300_800 * SECOND
_UNITS = {"s": 1, "m": 60, "h": 3600, "d": 86_400, "w": 7 * 86_400}
APPROVALS = ("lists",)
"""What `approvals` of config.json can ask for."""


@dataclass(frozen=True, slots=True)
class Who:
    """A person who does something, and why. Raises UsageError for what is too long, or nobody."""

    by: str
    reason: str

    def __post_init__(self) -> None:
        if not 1 <= len(self.by) <= MAX_NAME:
            raise UsageError(f"who does it must have 1 to {MAX_NAME} characters, got {len(self.by)}")
        if len(self.reason) > MAX_REASON:
            raise UsageError(f"the reason must have at most {MAX_REASON:,} characters, got {len(self.reason):,}")

    def with_reason(self) -> "Who":
        """The same. Raises UsageError where no reason is said."""
        if not self.reason.strip():
            raise UsageError("a reason is needed (--reason): it is kept with what is done")
        return self


@dataclass(frozen=True)
class Desk:
    """What the acts work with."""

    resources: Resources
    sources: Mapping[str, Source]
    """By name, with the options of the environment."""
    options: Mapping[str, Any] = field(default_factory=dict)
    """The environment's options: the settings of validity are among them."""
    approvals: frozenset[str] = frozenset()
    """What takes a second person (`approvals_of`)."""

    @property
    def tables(self) -> Tables:
        """The tables."""
        return self.resources.tables

    @property
    def log(self) -> Log:
        """The log."""
        return self.resources.log

    @property
    def warehouse(self) -> Warehouse:
        """The warehouse."""
        return self.resources.warehouse

    @property
    def clock(self) -> Clock:
        """The clock."""
        return self.resources.clock

    def source(self, name: str) -> Source:
        """The source of that name. Raises UsageError where there is none."""
        if name not in self.sources:
            raise UsageError(f"no source {name!r}; there are {', '.join(self.sources)}")
        return self.sources[name]

    def some(self, names: Iterable[str] = ()) -> list[Source]:
        """The sources of these names, or all."""
        return [self.source(name) for name in names] or list(self.sources.values())

    def kinds(self) -> list[str]:
        """The kinds of party that any source knows, sorted."""
        return sorted({kind for source in self.sources.values() for kind in source.kinds()})

    def check_kind(self, kind: str) -> None:
        """Raise UsageError for a kind that no party can have: an entry of it would never cover anybody."""
        if kind not in self.kinds():
            raise UsageError(f"no party is of kind {kind!r}; there are {', '.join(self.kinds())}")

    @cached_property
    def spreading(self) -> int:
        """How long a change of the lists may take to reach every decision, and that decision its row, µs."""
        return 2_000 * int(self.settings()["refreshBoundMs"])

    def settings(self) -> Settings:
        """The environment's settings."""
        return Settings(self.options)


def approvals_of(config: Mapping[str, Any], env: Mapping[str, Any], name: str = "ENV") -> frozenset[str]:
    """What takes a second person, as `approvals` of config.json or of an environment says. Raises ConfigError.

    `{"lists": true}`: changes of the lists by hand. What an environment says stands over what the file says.
    """
    found: dict[str, bool] = {}
    named = ("approvals", config.get("approvals", {})), (f"envs.{name}.approvals", env.get("approvals", {}))
    for where, section in named:
        if not isinstance(section, Mapping):
            raise ConfigError(f'config.json: {where} must be an object such as {{"lists": true}}, got {section!r}')
        for what, wanted in section.items():
            if what not in APPROVALS:
                raise ConfigError(f"config.json: {where}.{what}: only {', '.join(APPROVALS)} can take an approval")
            if not isinstance(wanted, bool):
                raise ConfigError(f"config.json: {where}.{what} must be true or false, got {wanted!r}")
            found[what] = wanted
    return frozenset(what for what, wanted in found.items() if wanted)


def length(text: str) -> int | None:
    """A length of time such as `30m`, `12h`, `7d`, `2w`, in µs; None where the text is not one."""
    match = re.fullmatch(r"([1-9][0-9]{0,5})([smhdw])", text)
    return int(match[1]) * _UNITS[match[2]] * SECOND if match else None


def moment(text: str, what: str) -> int:
    """An ISO time (UTC where it has no zone), µs. Raises UsageError naming `what`."""
    try:
        at = datetime.fromisoformat(text)
        at = at if at.tzinfo is not None else at.replace(tzinfo=UTC)
        return (at.astimezone(UTC) - datetime(1970, 1, 1, tzinfo=UTC)) // timedelta(microseconds=1)
    except (ValueError, OverflowError):
        raise UsageError(f"{what} must be a length such as 30m, 12h, 7d, or an ISO time, got {text!r}") from None


def ahead(text: str | None, now: int, what: str = "--expires") -> int | None:
    """A time to come: a length from `now` on, or an ISO time; µs. Raises UsageError."""
    if text is None:
        return None
    span = length(text)
    if span is None:
        return moment(text, what)
    if now + span >= YEAR_10000:
        raise UsageError(f"{what} {text}: that is after the year 9999: leave it out for an entry without end")
    return now + span


def ago(text: str | None, now: int, what: str) -> int | None:
    """A time gone by: a length before `now`, or an ISO time; µs. Raises UsageError."""
    if text is None:
        return None
    span = length(text)
    return moment(text, what) if span is None else now - span


def utc(us: int | None) -> datetime | None:
    """A point in time, from µs since 1970-01-01 UTC."""
    return None if us is None else datetime(1970, 1, 1, tzinfo=UTC) + timedelta(microseconds=us)


def few(texts: Sequence[str], most: int = 3) -> str:
    """The first few of some texts, and how many more there are."""
    rest = f" and {len(texts) - most:,} more" if len(texts) > most else ""
    return ", ".join(texts[:most]) + rest
