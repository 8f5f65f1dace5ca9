"""What a seed does, as plain data: drawn before the run, so that parts of it can be left out and the rest stays."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from paystorm.local.faults import Fault
from paystorm.source import Source
from paystorm.testing.faulty import WriteFault
from paystorm.testing.topology import SOURCE, Shape


@dataclass(frozen=True, slots=True)
class Sent:
    """A record to be appended."""

    partition: int
    value: bytes
    gap: int = 0
    """Offsets that are left out behind it."""
    parties: tuple[tuple[str, str], ...] | None = None
    """Those of a record that is valid for certain."""


@dataclass(frozen=True, slots=True)
class Send:
    """Records are appended, and the topology runs for a while."""

    records: tuple[Sent, ...]
    seconds: float


@dataclass(frozen=True, slots=True)
class Start:
    """The topology starts anew; whatever ran is killed first, or stopped in order."""

    shape: Shape
    options: Mapping[str, Any]
    orderly: bool = False


@dataclass(frozen=True, slots=True)
class Act:
    """A person changes the lists, or closes a breaker."""

    seed: int


@dataclass(frozen=True, slots=True)
class Outage:
    """A part of the storage cannot be reached for a while, while the topology runs."""

    what: str
    """tables, log, warehouse: or of the tables one only, such as `journal`."""
    seconds: float


@dataclass(frozen=True, slots=True)
class Jump:
    """The wall clock is set forward or back."""

    seconds: float


@dataclass(frozen=True, slots=True)
class Rewind:
    """The process dies, and a committed offset is found as it was earlier."""

    seed: int


Stage = Send | Start | Act | Outage | Jump | Rewind


@dataclass(frozen=True, slots=True)
class Shares:
    """How much of everything is spoilt, 0 to 1."""

    writes: float = 0.0
    reads: float = 0.0
    deliveries: float = 0.0


@dataclass(frozen=True, slots=True)
class Named:
    """Exactly which writes, reads and deliveries are spoilt, by number: what `Shares` came to in a run."""

    writes: Mapping[int, WriteFault] = field(default_factory=dict)
    reads: frozenset[int] = frozenset()
    deliveries: Mapping[int, Fault] = field(default_factory=dict)

    def __len__(self) -> int:
        return len(self.writes) + len(self.reads) + len(self.deliveries)


@dataclass(frozen=True, slots=True)
class Scenario:
    """Everything that one run is made of."""

    seed: int
    partitions: int = 1
    source: Source = SOURCE
    stages: tuple[Stage, ...] = ()
    spoilt: Shares | Named = Shares()
    poison: Mapping[tuple[int, int], int] = field(default_factory=dict)
    """By partition and offset, how often every tuple that carries the record fails, nobody saying why."""
    month: bool = False
    """Whether it ends a month later, when every retry has been tried or given up."""
    fresh_end: bool = False
    """Whether the end is reached by a new process."""
    plain: bool = False
    """Whether what starts after a crash has one task of each, rather than any number."""
    retries: Mapping[str, float] = field(default_factory=dict)
    """Settings of the retry schedule, the same for all starts."""

    def records(self) -> int:
        """How many records are sent."""
        return sum(len(stage.records) for stage in self.stages if isinstance(stage, Send))
