"""Versions of the source and of its rules: which epoch a record belongs to, and what a rule's version spans (0001)."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields
from fractions import Fraction
from math import ceil, floor
from typing import Any

from paystorm.oracle.model import OracleError
from paystorm.oracle.validity import Settings

DENY_BY_DEFAULT = frozenset({"account", "device"})
MOST_UNITS = 10**38 - 1
"""Where a sum saturates, in units of the field's last fraction digit."""
Figures = Mapping[str, str] | int | None


@dataclass(frozen=True, slots=True)
class Measure:
    """What a rule counts; `what` is count, sum or distinct, `cap` 0 except for distincts."""

    kind: str
    role: str
    what: str
    field: str
    cap: int
    interval: str


@dataclass(frozen=True)
class Rule:
    """A rule as declared, keys that are absent filled with their defaults."""

    name: str
    kind: str
    role: str = "either"
    measure: str = "count"
    field: str | None = None
    interval: str = "1d"
    limit: Figures = None
    factor: str | None = None
    baseline: Figures = None
    action: str | None = None
    expires_after: int | None = None
    cap: int | None = None

    @classmethod
    def of(cls, plain: Mapping[str, Any]) -> "Rule":
        """From plain data. Raises OracleError for a rule with neither or both of limit and factor."""
        known = {f.name for f in fields(cls)}
        rule = cls(**{key: value for key, value in plain.items() if key in known})
        if (rule.limit is None) == (rule.factor is None):
            raise OracleError(f"rule {rule.name}: has either a limit or a factor, got {dict(plain)!r}")
        return rule

    @property
    def denies(self) -> bool:
        """Whether a hit puts the party on the blacklist."""
        return (self.action or ("deny" if self.kind in DENY_BY_DEFAULT else "review")) == "deny"

    def measured(self) -> Measure:
        """What the rule counts. Raises OracleError for a distinct without a whole number as limit."""
        cap = 0
        if self.measure == "distinct":
            if not isinstance(self.limit, int):
                raise OracleError(f"rule {self.name}: a distinct needs a whole number as limit, got {self.limit!r}")
            cap = self.limit + 1 if self.cap is None else self.cap
        return Measure(self.kind, self.role, self.measure, self.field or "", cap, self.interval)

    def threshold(self, currency: str, scale: int) -> int | None:
        """The figure in units of 10^-scale that must be exceeded (limit) or reached by the interval before (baseline).

        None where the rule says nothing of the currency.
        """
        given = self.limit if self.factor is None else self.baseline
        if isinstance(given, Mapping):
            if currency not in given:
                return None
            exact = Fraction(given[currency]) * 10**scale
        else:
            exact = Fraction(given or 0)
        units: int = floor(exact) if self.factor is None else ceil(exact)
        return units

    def holds(self, now: int, before: int, threshold: int, saturates: bool) -> bool:
        """Whether the figures, in units, are a hit.

        A saturated sum is over every limit; in growth it is compared as the figure it is.
        """
        if self.factor is None:
            return now > threshold or (saturates and now == MOST_UNITS)
        factor = Fraction(self.factor)
        return before >= threshold and now * factor.denominator >= factor.numerator * before


@dataclass(frozen=True)
class Version:
    """A version of the source; its place in the list is the epoch of its records."""

    number: int
    rules: Mapping[str, Rule]
    settings: Settings
    first: Mapping[int, int]


@dataclass(frozen=True)
class RuleVersion:
    """A rule that consecutive epochs `first` to `last` share unchanged.

    counted_from: the first epoch from which its measure has been there without a break.
    """

    rule: Rule
    number: int
    first: int
    last: int
    counted_from: int


def versions_of(source: Mapping[str, Any], given: Sequence[Mapping[str, Any]]) -> list[Version]:
    """The versions of the source, ascending. Raises OracleError where the numbers do not ascend."""
    plain = given or [{"number": 0, "rules": source.get("rules", ())}]
    found = []
    for version in plain:
        rules = [Rule.of(rule) for rule in version.get("rules", ())]
        # A key may have come through JSON, where every key is text.
        first = {int(partition): offset for partition, offset in version.get("first", {}).items()}
        settings = Settings.of(version.get("settings", {}))
        found.append(Version(version["number"], {rule.name: rule for rule in rules}, settings, first))
        if len(found) > 1 and found[-2].number >= version["number"]:
            raise OracleError(f"versions: numbers must ascend, got {version['number']} after {found[-2].number}")
    return found


def epoch_of(versions: Sequence[Version], partition: int, offset: int) -> int:
    """The last version whose first offset is not above the record's; 0 where there is none."""
    for epoch in range(len(versions) - 1, 0, -1):
        if versions[epoch].first.get(partition, 0) <= offset:
            return epoch
    return 0


def rule_versions_of(versions: Sequence[Version]) -> list[RuleVersion]:
    """Every version of every rule, also of rules that are no longer there, by rule and ascending."""
    names = {name: None for version in versions for name in version.rules}
    found = []
    for name in names:
        first = 0
        for epoch, version in enumerate(versions):
            rule = version.rules.get(name)
            if epoch == 0 or rule != versions[epoch - 1].rules.get(name):
                first = epoch
            ends = epoch + 1 == len(versions) or rule != versions[epoch + 1].rules.get(name)
            if rule is not None and ends:
                since = _counted_from(versions, rule.measured(), epoch)
                found.append(RuleVersion(rule, versions[first].number, first, epoch, since))
    return found


def _counted_from(versions: Sequence[Version], measure: Measure, last: int) -> int:
    """The first epoch from which some rule with this measure has been there without a break up to `last`."""
    epoch = last
    while epoch > 0 and any(rule.measured() == measure for rule in versions[epoch - 1].rules.values()):
        epoch -= 1
    return epoch
