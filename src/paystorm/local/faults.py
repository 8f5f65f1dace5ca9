"""What can be done to a message, and to the task that was to get it, in a simulation."""

from collections.abc import Callable
from dataclasses import dataclass

from paystorm.local.components import Message

ZOMBIE_ROUNDS = 2


@dataclass(frozen=True, slots=True)
class Delivery:
    """A message about to be processed."""

    component: str
    task: int
    now: float
    """Seconds of the clock's monotonic time."""
    message: Message


@dataclass(frozen=True, slots=True)
class Drop:
    """The message is lost. A lost ack or fail reaches the spout as a time-out."""


@dataclass(frozen=True, slots=True)
class Delay:
    """The message comes `seconds` later, behind what has come meanwhile."""

    seconds: float


@dataclass(frozen=True, slots=True)
class Duplicate:
    """The message is processed now, and a tuple or tick once more `seconds` later; its trees wait for both."""

    seconds: float = 0.0


@dataclass(frozen=True, slots=True)
class FailTree:
    """The message's trees fail, as if by another of their tuples; the message is processed all the same."""


@dataclass(frozen=True, slots=True)
class Kill:
    """The instance dies with all that waits for it.

    `silenced`: it first processes the message, but nothing that it sends arrives: a crash after a durable write
    and before the ack.
    """

    silenced: bool = False


@dataclass(frozen=True, slots=True)
class MakeZombie:
    """The task is replaced, and the old instance wakes after `seconds`, not knowing it.

    It then processes the message and all that waited for it, and after that `rounds` ticks (a bolt with ticks) or
    requests for a next tuple (a spout). What it sends arrives.
    """

    seconds: float
    rounds: int = ZOMBIE_ROUNDS


Fault = Drop | Delay | Duplicate | FailTree | Kill | MakeZombie
FaultPlan = Callable[[Delivery], Fault | None]
"""Asked before each delivery; None: nothing happens to it."""
