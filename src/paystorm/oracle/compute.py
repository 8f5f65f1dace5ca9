"""From the raw records to outcomes, event rows, counts and standing hits (docs/oracle.md, Computed)."""

import shutil
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from decimal import Context, Decimal
from pathlib import Path
from types import TracebackType
from typing import Any

from paystorm.oracle.aggregates import Facts
from paystorm.oracle.model import CellKey, Count, Given, Hit, Key, OracleError, Outcome
from paystorm.oracle.spool import EventSpool
from paystorm.oracle.validity import Checker, Event
from paystorm.oracle.versions import Rule, RuleVersion, Version, epoch_of, rule_versions_of, versions_of

_EXACT = Context(prec=100)
"""Amounts have at most 38 digits: no operation in this context rounds."""


class Numbering:
    """Numbers for texts (or pairs of them), in the order in which they are first seen."""

    def __init__(self, *first: Any) -> None:
        self.texts: list[Any] = list(first)
        self._numbers = {text: number for number, text in enumerate(first)}

    def of(self, text: Any) -> int:
        """The number of a text; a new one where it has none."""
        number = self._numbers.setdefault(text, len(self.texts))
        if number == len(self.texts):
            self.texts.append(text)
        return number

    def find(self, text: Any) -> int | None:
        """The number of a text that was seen, else None."""
        return self._numbers.get(text)


class Computed:
    """What the system must hold. Close it, or use it in a `with`: event rows and figures lie in a temporary folder."""

    def __init__(self, given: Given) -> None:
        self.source = given.source
        self.parked = given.parked
        self.versions: list[Version] = versions_of(given.source, given.versions)
        self.rule_versions: list[RuleVersion] = rule_versions_of(self.versions)
        self.outcomes: dict[Key, Outcome] = {}
        """Of every record but the parked ones."""
        self.hits: dict[CellKey, Hit] = {}
        """The standing hits, by rule, kind, party, interval_start and currency."""
        fields = given.source["fields"]
        amounts = [field for field in fields if field["type"] == "amount"]
        self._scales: dict[str, int] = {f["name"]: f.get("fraction_digits", 18) for f in amounts}
        self._currency: str | None = next((f["name"] for f in fields if f["type"] == "currency"), None)
        measures = [version.rule.measured() for version in self.rule_versions]
        self._amounts = sorted({m.field for m in measures if m.what == "sum"})
        self._ids = {name: Numbering() for name in sorted({m.field for m in measures if m.what == "distinct"})}
        self._kinds = Numbering(*sorted({m.kind for m in measures}))
        self._roles = Numbering(*dict.fromkeys(party["role"] for party in given.source["parties"]))
        self.parties = Numbering()
        self.currencies = Numbering("")
        self.folder = Path(tempfile.mkdtemp(prefix="paystorm-oracle-"))
        try:
            self.events = EventSpool(self.folder / "events")
            self.facts = Facts(self.folder, self._amounts, list(self._ids))
            self._read(given)
            self.facts.load()
            self._judge()
        except BaseException:
            self.close()
            raise

    def __enter__(self) -> "Computed":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """Close files and database, and remove the temporary folder."""
        for part in ("events", "facts"):
            if hasattr(self, part):
                getattr(self, part).close()
        shutil.rmtree(self.folder, ignore_errors=True)

    def counts(self) -> Iterator[Count]:
        """The figures of each rule of the last version, over all epochs since its measure's first."""
        for version in self.last_rules():
            rule = version.rule
            for party, start, currency, value in self.facts.rows(
                f"SELECT party, start, currency, value FROM {self.cells_of(version)}"
            ):
                kind, party_id = self.parties.texts[party]
                yield Count(rule.name, kind, party_id, start, self.currencies.texts[currency], self.figure(rule, value))

    def last_rules(self) -> list[RuleVersion]:
        """The rules of the last version of the source."""
        return [version for version in self.rule_versions if version.last == len(self.versions) - 1]

    def cells_of(self, version: RuleVersion) -> str:
        """The table of the figures that a version of a rule judges."""
        measure = version.rule.measured()
        kind = self._kinds.of(measure.kind)
        role = None if measure.role == "either" else 1 << self._roles.of(measure.role)
        return self.facts.cells(measure, kind, role, (version.counted_from, version.last))

    def scale(self, rule: Rule) -> int:
        """Fraction digits of the rule's figures: those of the field for a sum, else 0."""
        return self._scales[rule.field] if rule.measure == "sum" and rule.field is not None else 0

    def figure(self, rule: Rule, units: int) -> int | Decimal:
        """A figure from its units: an amount for a sum, else a whole number."""
        return Decimal(f"{units}E-{self.scale(rule)}") if rule.measure == "sum" else units

    def rule_version(self, name: str, number: int) -> RuleVersion | None:
        """The version of a rule that begins with the source's version `number`."""
        return next((v for v in self.rule_versions if v.rule.name == name and v.number == number), None)

    def events_of(self, kind: str, party: str) -> Iterator[Key]:
        """The valid events of a party in whatever role; of kinds that no rule is about, none."""
        number = self.parties.find((kind, party))
        if number is not None:
            yield from self.facts.events_of(number)

    def _read(self, given: Given) -> None:
        checker = Checker(given.source, given.topic)
        last: dict[int, int] = {}
        for partition, offset, timestamp_ms, value in given.records:
            if offset <= last.get(partition, -1):
                raise OracleError(
                    f"records: offsets must ascend within a partition, got {given.topic}/{partition}/{offset}"
                    f" after {last[partition]}"
                )
            last[partition] = offset
            key = (partition, offset)
            epoch = epoch_of(self.versions, partition, offset)
            # Parked records are checked too: one that claims a dead letter's replay keeps its claim.
            found = checker.check(partition, offset, timestamp_ms, value, self.versions[epoch].settings)
            if key in given.parked:
                continue
            if key in given.gave_up:
                self.outcomes[key] = Outcome(partition, offset, found.id, False, "record", "gave_up")
            elif isinstance(found, Event):
                self.outcomes[key] = Outcome(partition, offset, found.id, True)
                self.events.add(key, found)
                self._note(key, epoch, found)
            else:
                self.outcomes[key] = Outcome(partition, offset, found.id, False, found.field, found.code)

    def _note(self, key: Key, epoch: int, event: Event) -> None:
        """Write down what the rules count of an event."""
        roles = self._parties_of(event.values)
        if not roles:
            return
        currency = event.values[self._currency] if self._currency else None
        tail = Facts.tail(
            0 if currency is None else self.currencies.of(currency),
            [self._units(name, event.values[name]) for name in self._amounts],
            [None if (v := event.values[name]) is None else numbers.of(v) for name, numbers in self._ids.items()],
        )
        head = f"{epoch},{event.event_time // 1_000_000},{key[0]},{key[1]}"
        for (kind, party), bits in roles.items():
            number = self.parties.of((kind, party))
            self.facts.add(f"{head},{self._kinds.of(kind)},{bits},{number}", tail)

    def _parties_of(self, values: Mapping[str, Any]) -> dict[tuple[str, str], int]:
        """The parties of an event of the kinds that rules are about, each with the bits of its roles."""
        found: dict[tuple[str, str], int] = {}
        for declared in self.source["parties"]:
            party = values[declared["field"]]
            if party is None:
                continue
            kind_field = declared.get("kind_field")
            kind = (values[kind_field] if kind_field else None) or declared["kind"]
            if self._kinds.find(kind) is not None:
                found[kind, party] = found.get((kind, party), 0) | 1 << self._roles.of(declared["role"])
        return found

    def _units(self, field: str, value: Any) -> int | None:
        return None if value is None else int(_EXACT.scaleb(value, self._scales[field]))

    def _judge(self) -> None:
        """Find the standing hits; of several versions of a rule the earliest that holds makes the hit."""
        for version in sorted(self.rule_versions, key=lambda v: v.first):
            rule = version.rule
            sums = rule.measure == "sum"
            scale = self.scale(rule)
            texts: Sequence[str] = self.currencies.texts
            thresholds = [rule.threshold(currency, scale) for currency in (texts if sums else [""])]
            cells = self.facts.judged(self.cells_of(version), rule.interval, rule.factor is not None, version.first)
            for party, start, currency, now, before, _ in cells:
                threshold = thresholds[currency]
                if threshold is None or not rule.holds(now, before, threshold, saturates=sums):
                    continue
                kind, party_id = self.parties.texts[party]
                value = self.figure(rule, now)
                hit = Hit(rule.name, kind, party_id, start, texts[currency], version.number, value)
                self.hits.setdefault(hit.key, hit)


def compute(given: Given) -> Computed:
    """Compute everything. Raises OracleError where what is given cannot be meant."""
    return Computed(given)
