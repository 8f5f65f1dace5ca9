"""The rules of all versions of a source, arranged for counting (decision 0001, points 2 to 6)."""

from dataclasses import dataclass
from decimal import Decimal
from fractions import Fraction

from paystorm.errors import ConfigError
from paystorm.intervals import Interval
from paystorm.rules import Measure, Rule
from paystorm.source import Source
from paystorm.stores.versions import Version, check_subjects
from paystorm.windows.wide import units


@dataclass(frozen=True, slots=True)
class Span:
    """A version of a rule: consecutive versions of the source that have it unchanged, epochs first..last.

    `counted_from` is the first epoch of its measure's counts. `figures` are limits (baselines, of growth) by currency,
    in the measure's units.
    """

    rule: Rule
    first: int
    last: int
    counted_from: int
    figures: dict[str, int]
    factor: tuple[int, int] | None


@dataclass(frozen=True, slots=True)
class Counted:
    """A measure with what is needed to count it."""

    measure: Measure
    label: str
    interval: Interval
    what: str
    """`count`, `sum` or `distinct`."""
    field: str | None
    digits: int
    """Fraction digits of a sum."""
    cap: int
    role_bit: int
    """The bit of its role in `roles`; 0 for either."""
    epochs: frozenset[int]
    """The versions of the source in which some rule has it."""
    rules: tuple[str, ...]


class RuleBook:
    """Measures and rule versions over all versions of a source so far."""

    def __init__(self, source: Source, versions: list[Version]) -> None:
        if not versions:
            raise ConfigError(f"source {source.name} has no version yet: its spout has not started")
        self.newest = versions[-1].number
        self.source = source
        self.measures: dict[str, Counted] = {}
        self.spans: dict[str, tuple[Span, ...]] = {}
        """By rule, in order of version."""
        check_subjects(source.name, versions)
        self._measures(versions)
        self._spans(versions)

    def of_kind(self, kind: str) -> list[Counted]:
        """The measures of a kind of party."""
        return [m for m in self.measures.values() if m.measure.kind == kind]

    def kinds(self) -> tuple[str, ...]:
        """The kinds that some rule counts, in the source's order."""
        counted = {m.measure.kind for m in self.measures.values()}
        return tuple(k for k in self.source.kinds() if k in counted)

    def _measures(self, versions: list[Version]) -> None:
        epochs: dict[str, set[int]] = {}
        by_label: dict[str, Rule] = {}
        names: dict[str, dict[str, None]] = {}
        for version in versions:
            for rule in version.rules:
                label = rule.measured().label()
                epochs.setdefault(label, set()).add(version.number)
                names.setdefault(label, {})[rule.name] = None
                by_label[label] = rule
        for label, rule in by_label.items():
            roles = self.source.roles(rule.kind)
            self.measures[label] = Counted(
                measure=rule.measured(),
                label=label,
                interval=Interval.parse(rule.interval),
                what=rule.measure,
                field=rule.field,
                digits=self.source.field(rule.field).fraction_digits if rule.measure == "sum" and rule.field else 0,
                cap=rule.counted_to() if rule.measure == "distinct" else 0,
                role_bit=0 if rule.role == "either" else 1 << roles.index(rule.role),
                epochs=frozenset(epochs[label]),
                rules=tuple(names[label]),
            )

    def _spans(self, versions: list[Version]) -> None:
        open_spans: dict[str, tuple[Rule, int]] = {}
        made: dict[str, list[Span]] = {}

        def close(name: str, last: int) -> None:
            rule, first = open_spans.pop(name)
            made.setdefault(name, []).append(self._span(rule, first, last))

        for version in versions:
            now = {rule.name: rule for rule in version.rules}
            for name in list(open_spans):
                if now.get(name) != open_spans[name][0]:
                    close(name, version.number - 1)
            for name, rule in now.items():
                open_spans.setdefault(name, (rule, version.number))
        for name in list(open_spans):
            close(name, self.newest)
        self.spans = {name: tuple(spans) for name, spans in made.items()}

    def _span(self, rule: Rule, first: int, last: int) -> Span:
        counted = self.measures[rule.measured().label()]
        start = first
        while start - 1 in counted.epochs:
            start -= 1
        factor = Fraction(Decimal(rule.factor)) if rule.factor is not None else None
        return Span(
            rule=rule,
            first=first,
            last=last,
            counted_from=start,
            figures={c: units(f, counted.digits, up=rule.is_growth) for c, f in rule.figures().items()},
            factor=(factor.numerator, factor.denominator) if factor is not None else None,
        )
