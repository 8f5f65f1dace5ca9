"""Makes a failing scenario small: leaves out what the failure does not need, until nothing more can be left out."""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from typing import Any, TypeVar

import msgspec

from paystorm.testing.scenario import Named, Scenario, Send, Shares, Stage, Start
from paystorm.testing.simulate import Story, run
from paystorm.testing.topology import Shape

Item = TypeVar("Item")
PLAIN = {"flushMs": 0, "flushRecords": 1, "countsMemoryBytes": 1 << 28, "snapshotRows": 512, "allowedLateness": 86_400}
"""Settings of a start that hides nothing: they take the place of those drawn, one by one."""


class Shrinker:
    """Tries smaller scenarios as long as `most` runs allow, and keeps each that fails still, be it otherwise."""

    def __init__(
        self, most: int = 300, runs: Callable[[Scenario], Story] = run, told: Callable[[str], None] = lambda text: None
    ) -> None:
        self._left = most
        self._run = runs
        self._told = told

    def shrink(self, scenario: Scenario, story: Story) -> tuple[Scenario, Story]:
        """The smallest scenario that was found, and its story. `story` is that of the failing `scenario`."""
        if isinstance(scenario.spoilt, Shares):
            named = self._try(replace(scenario, spoilt=story.spoilt))
            if named is None:  # it fails by its numbers only as it was drawn
                return scenario, story
            scenario, story = named
        best = scenario, story
        while self._left > 0:
            size = _size(best[0])
            for smaller in (_faults, _stages, _records, _settings, _kinds):
                best = self._keep(best, smaller)
            if _size(best[0]) >= size:
                break
        return best

    def _keep(
        self, best: tuple[Scenario, Story], smaller: Callable[[Scenario], Iterator[Scenario]]
    ) -> tuple[Scenario, Story]:
        """Try what `smaller` gives, beginning anew behind each that still fails."""
        going = True
        while going and self._left > 0:
            going = False
            for scenario in smaller(best[0]):
                if self._left <= 0:
                    break
                found = self._try(scenario)
                if found is not None:
                    best, going = found, True
                    self._told(f"{scenario.records()} records, {len(scenario.spoilt)} faults")  # type: ignore[arg-type]
                    break
        return best

    def _try(self, scenario: Scenario) -> tuple[Scenario, Story] | None:
        self._left -= 1
        story = self._run(scenario)
        return (scenario, story) if story.found else None


def _size(scenario: Scenario) -> int:
    assert isinstance(scenario.spoilt, Named)
    return scenario.records() + 5 * len(scenario.spoilt) + 5 * len(scenario.stages) + len(scenario.source.rules)


def _without(items: Sequence[Item]) -> Iterator[list[Item]]:
    """All but one part of the items, for parts of a half, a quarter, … down to a single one."""
    parts = 2
    while items and parts <= 2 * len(items):
        count = min(parts, len(items))
        for i in range(count):
            first, after = len(items) * i // count, len(items) * (i + 1) // count
            yield [*items[:first], *items[after:]]
        parts *= 4


def _faults(scenario: Scenario) -> Iterator[Scenario]:
    spoilt = scenario.spoilt
    assert isinstance(spoilt, Named)
    every: list[tuple[str, Any]] = [
        *(("write", n) for n in sorted(spoilt.writes)),
        *(("read", n) for n in sorted(spoilt.reads)),
        *(("delivery", n) for n in sorted(spoilt.deliveries)),
    ]
    for kept in _without(every):
        yield replace(
            scenario,
            spoilt=Named(
                {n: fault for n, fault in spoilt.writes.items() if ("write", n) in kept},
                frozenset(n for n in spoilt.reads if ("read", n) in kept),
                {n: fault for n, fault in spoilt.deliveries.items() if ("delivery", n) in kept},
            ),
        )
    if scenario.poison:
        yield replace(scenario, poison={})


def _stages(scenario: Scenario) -> Iterator[Scenario]:
    first = next((i for i, stage in enumerate(scenario.stages) if isinstance(stage, Start)), 0)
    head, rest = scenario.stages[: first + 1], scenario.stages[first + 1 :]
    for kept in _without(rest):
        yield replace(scenario, stages=(*head, *kept))
    simpler = (replace(scenario, month=False), replace(scenario, fresh_end=False), replace(scenario, plain=True))
    yield from (other for other in simpler if other != scenario)


def _records(scenario: Scenario) -> Iterator[Scenario]:
    """Fewer records: of all sendings together, by place."""
    places = [
        (i, j) for i, stage in enumerate(scenario.stages) if isinstance(stage, Send) for j in range(len(stage.records))
    ]
    for kept in _without(places):
        wanted = set(kept)
        stages: list[Stage] = [
            replace(stage, records=tuple(record for j, record in enumerate(stage.records) if (i, j) in wanted))
            if isinstance(stage, Send)
            else stage
            for i, stage in enumerate(scenario.stages)
        ]
        yield replace(scenario, stages=tuple(stages))


def _settings(scenario: Scenario) -> Iterator[Scenario]:
    for i, stage in enumerate(scenario.stages):
        if not isinstance(stage, Start):
            continue
        simple = Shape(naming=stage.shape.naming)
        smaller = [replace(stage, shape=simple)] if stage.shape != simple else []
        smaller += [
            replace(stage, options={**stage.options, name: value})
            for name, value in PLAIN.items()
            if stage.options.get(name) != value
        ]
        for start in smaller:
            yield replace(scenario, stages=(*scenario.stages[:i], start, *scenario.stages[i + 1 :]))


def _kinds(scenario: Scenario) -> Iterator[Scenario]:
    """Fewer rules; those that some version changes stay."""

    named = {name for stage in scenario.stages if isinstance(stage, Start) for name in stage.options}
    rules = scenario.source.rules
    for rule in rules:
        if len(rules) > 1 and not any(name.startswith(f"rules.pay.{rule.name}.") for name in named):
            kept = tuple(other for other in rules if other is not rule)
            yield replace(scenario, source=msgspec.structs.replace(scenario.source, rules=kept))
