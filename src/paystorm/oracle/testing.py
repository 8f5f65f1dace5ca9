"""The test kit: a log of records built in memory, for tests of the oracle and of what is held against it."""

import json
from collections.abc import Mapping, Sequence
from typing import Any

from paystorm.oracle.compute import Computed, compute
from paystorm.oracle.model import Given, Held

TIMESTAMP_MS = 1_704_110_400_000
"""2024-01-01T12:00:00Z, a Monday: the log's own timestamp unless a test says otherwise."""


class Log:
    """Records of one topic; offsets follow one another within a partition unless given."""

    def __init__(self, topic: str = "purchases") -> None:
        self.topic = topic
        self.records: list[tuple[int, int, int, bytes]] = []
        self._next: dict[int, int] = {}

    def add_raw(
        self, value: bytes | str, *, partition: int = 0, offset: int | None = None, timestamp_ms: int = TIMESTAMP_MS
    ) -> tuple[int, int]:
        """Append a value as it is; returns partition and offset. A text goes as UTF-8."""
        if offset is None:
            offset = self._next.get(partition, 0)
        self._next[partition] = offset + 1
        self.records.append((partition, offset, timestamp_ms, value.encode() if isinstance(value, str) else value))
        return partition, offset

    def add(
        self, data: Mapping[str, Any], *, envelope: Mapping[str, Any] | None = None, **place: int
    ) -> tuple[int, int]:
        """Append an event with this `data`, and further keys of the envelope; returns partition and offset."""
        value = {"ApplicationRef": "shop", "data": data, **(envelope or {})}
        return self.add_raw(json.dumps(value, ensure_ascii=False), **place)

    def compute(self, source: Mapping[str, Any], versions: Sequence[Mapping[str, Any]] = (), **given: Any) -> Computed:
        """What the oracle makes of the log."""
        return compute(Given(source, self.topic, self.records, versions, **given))


def held_of(computed: Computed) -> Held:
    """What a system without a fault would hold."""
    outcomes, events = list(computed.outcomes.values()), list(computed.events)
    return Held(outcomes, events, list(computed.counts()), list(computed.hits.values()))
