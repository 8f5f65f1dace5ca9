"""A failing run as a short story that a person can read: the records, the faults, the first broken invariant."""

import json
from collections.abc import Iterator
from typing import Any

from paystorm.testing.scenario import Act, Jump, Outage, Rewind, Scenario, Send, Sent, Start
from paystorm.testing.simulate import Story

MOST_RECORDS = 60
VALUE_CHARS = 160


def report(scenario: Scenario, story: Story) -> str:
    """The story, in the order in which it is to be read."""
    rules = ", ".join(rule.name for rule in scenario.source.rules)
    lines = [
        f"Seed {scenario.seed}: {scenario.records()} records, {story.inflicted} faults. "
        f"Topic {scenario.source.topic} of {scenario.partitions} partitions; rules {rules}"
        f"{'' if scenario.source.enforces else '; the source only watches'}.",
        "",
        "What is done:",
        *(f"  {line}" for line in _planned(scenario)),
        "",
        "What happens:",
        *(f"  {line}" for line in story.told),
        "",
        "What is not as it must be, first:",
        *(f"  {line}" for line in story.found[0].splitlines()[:12]),
    ]
    if len(story.found) > 1:
        lines.append(f"  ({len(story.found) - 1} more)")
    return "\n".join(lines)


def _planned(scenario: Scenario) -> Iterator[str]:
    ends = [0] * scenario.partitions
    shown = 0
    for stage in scenario.stages:
        if isinstance(stage, Send):
            for record in stage.records:
                if shown < MOST_RECORDS:
                    yield f"{record.partition}/{ends[record.partition]} is sent: {_text(record)}"
                shown += 1
                ends[record.partition] += 1 + record.gap
            yield f"{stage.seconds:g} s pass"
        elif isinstance(stage, Start):
            yield f"the topology {'is stopped and ' * stage.orderly}starts: {stage.shape}, {_options(stage.options)}"
        elif isinstance(stage, Act):
            yield "a person changes the lists"
        elif isinstance(stage, Outage):
            yield f"{stage.what} cannot be reached for {stage.seconds:g} s"
        elif isinstance(stage, Jump):
            yield f"the clock is set by {stage.seconds:+g} s"
        else:
            assert isinstance(stage, Rewind)
            yield "the process dies, and is started with an older committed offset"
    if shown > MOST_RECORDS:
        yield f"({shown - MOST_RECORDS} records are not shown)"
    if scenario.month:
        yield "a month passes"


def _text(record: Sent) -> str:
    text = record.value.decode("utf-8", "backslashreplace")
    return text if len(text) <= VALUE_CHARS else f"{text[:VALUE_CHARS]}… ({len(text)} characters)"


def _options(options: Any) -> str:
    return json.dumps(dict(options), separators=(",", ":"))
