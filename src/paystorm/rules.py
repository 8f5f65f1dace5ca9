"""Rules: what is counted by party and interval, and when that is a hit (SEMANTICS.md §4)."""

from decimal import Decimal, InvalidOperation
from typing import Literal

import msgspec

from paystorm.errors import ConfigError
from paystorm.intervals import Interval

Action = Literal["deny", "review"]

DENY_BY_DEFAULT = frozenset({"account", "device"})
"""Kinds whose rules deny unless the rule says otherwise; a shared address or the only shop must not shut itself out."""
MAX_CAP = 100_000


class Measure(msgspec.Struct, frozen=True, order=True):
    """What a rule counts: (kind, role, measure, interval). Rules with equal measures share their counts."""

    kind: str
    role: str
    measure: str
    """`count`, `sum(field)` or `distinct(field)<=cap`."""
    interval: str

    def label(self) -> str:
        """The measure as one word, for keys and exports."""
        return f"{self.kind}/{self.role}/{self.measure}/{self.interval}"


class Rule(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """A measure over an interval, with a limit or a growth, and an action.

    limit: a hit when the measure exceeds it; for a sum, a limit for each currency (decimal text).
    factor: a hit when the measure is at least `factor` times that of the interval right before, which was at least
    `baseline` (for a sum: a baseline for each currency; no baseline, no hit in that currency).
    """

    name: str
    kind: str
    role: str = "either"
    measure: Literal["count", "sum", "distinct"] = "count"
    field: str | None = None
    interval: str = "1d"
    limit: int | dict[str, str] | None = None
    factor: str | None = None
    baseline: int | dict[str, str] | None = None
    action: Action | None = None
    expires_after: int | None = None
    """Seconds after `since` at which the rule's entry expires; None: never."""
    cap: int | None = None
    """Of a distinct: the figure that is counted to; default limit + 1."""

    @property
    def acts(self) -> Action:
        """The action, with its default for the kind."""
        return self.action or ("deny" if self.kind in DENY_BY_DEFAULT else "review")

    @property
    def is_growth(self) -> bool:
        """Whether the rule compares with the interval before."""
        return self.factor is not None

    def measured(self) -> Measure:
        """What the rule counts. A distinct's cap is part of it: figures cut at other heights are other figures."""
        if self.measure == "count":
            what = "count"
        elif self.measure == "sum":
            what = f"sum({self.field})"
        else:
            what = f"distinct({self.field})<={self.counted_to()}"
        return Measure(self.kind, self.role, what, self.interval)

    def subject(self) -> tuple[str, str, str, str | None, str]:
        """What a rule of this name is about, over all its versions: everything it counts but a distinct's cap."""
        return self.kind, self.role, self.measure, self.field, self.interval

    def counted_to(self) -> int:
        """The cap of a distinct."""
        assert isinstance(self.limit, int)
        return self.cap if self.cap is not None else self.limit + 1

    def figures(self) -> dict[str, Decimal]:
        """Limit (or baseline, of a growth rule) by currency; of counts and distincts under the empty currency."""
        given = self.baseline if self.is_growth else self.limit
        if isinstance(given, dict):
            return {currency: Decimal(text) for currency, text in given.items()}
        return {"": Decimal(given if given is not None else 0)}

    def check(self, source: str) -> None:
        """Raise ConfigError for a rule that cannot be meant."""

        def bad(text: str) -> ConfigError:
            return ConfigError(f"rules.{source}.{self.name}: {text}")

        try:
            Interval.parse(self.interval)
        except ConfigError as error:
            raise bad(str(error)) from error
        if (self.limit is None) == (self.factor is None):
            raise bad("a rule has either a limit or a factor")
        if (self.measure == "count") != (self.field is None):
            raise bad("a sum or distinct names a field, a count does not")
        amounts = self.measure == "sum"
        for what, given in (("limit", self.limit), ("baseline", self.baseline)):
            if given is None:
                continue
            if isinstance(given, dict) != amounts:
                raise bad(f"{what} must be {'given by currency' if amounts else 'a whole number'}, got {given!r}")
            for currency, text in given.items() if isinstance(given, dict) else ():
                if not 1 <= len(currency) <= 16:
                    raise bad(f"{what}: a currency has 1 to 16 characters, got {currency!r}")
                value = _decimal(text)
                if value is None or value < 0 or value >= Decimal(10) ** 20:
                    raise bad(f"{what}.{currency} must be a decimal from 0 to below 10^20, got {text!r}")
            if isinstance(given, int) and not 0 <= given <= 10**12:
                raise bad(f"{what} must be 0 to 10^12, got {given}")
        if self.factor is not None:
            factor = _decimal(self.factor)
            if factor is None or not 1 < factor <= 1_000_000:
                raise bad(f"factor must be above 1 and at most 1,000,000, got {self.factor!r}")
            if self.measure == "distinct":
                raise bad("growth over a distinct is refused: a capped figure cannot be compared")
            if self.baseline is None:
                raise bad("growth needs a baseline: without one it fires for nearly everybody")
        elif self.baseline is not None:
            raise bad("baseline goes with factor")
        if self.measure == "distinct":
            if self.counted_to() > MAX_CAP:
                raise bad(f"cap must be at most {MAX_CAP}, got {self.counted_to()}")
            if isinstance(self.limit, int) and self.limit >= self.counted_to():
                raise bad(f"limit {self.limit} is above what is counted, cap {self.cap}: raise cap to {self.limit + 1}")
        elif self.cap is not None:
            raise bad("cap goes with distinct")
        if self.expires_after is not None and not 0 < self.expires_after <= 10**10:
            raise bad(f"expires_after must be above 0 and at most 10^10 seconds, got {self.expires_after}")


def _decimal(text: str) -> Decimal | None:
    try:
        value = Decimal(text)
    except InvalidOperation:
        return None
    exponent = value.as_tuple().exponent
    return value if value.is_finite() and isinstance(exponent, int) and exponent >= -18 else None
