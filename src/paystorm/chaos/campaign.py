"""Faults one after another while records flow; after each, what must hold is checked."""

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from random import Random

from paystorm.chaos.faults import FAULTS, Target
from paystorm.chaos.feeder import Feeder
from paystorm.chaos.plan import Step
from paystorm.chaos.watch import Watch
from paystorm.clock import Clock
from paystorm.errors import PaystormError

RECOVERY_SECONDS = 420.0
"""A source that has not caught up so long after a fault was undone will not."""
LOOK_EVERY = 0.5


@dataclass(frozen=True, slots=True)
class Checked:
    """What a look at everything found."""

    records: int
    """Records that were computed again."""
    problems: tuple[str, ...]
    """What does not hold; empty: all does."""


@dataclass(frozen=True, slots=True)
class Outcome:
    """A fault, and what came of it."""

    fault: str
    what: str
    """What it was done to."""
    at: float
    """Seconds from the campaign's start."""
    undone: float
    """Seconds from the fault until it was undone: a server ready again, a disk with room, halted processes woken."""
    first_commit: float | None
    caught_up: float | None
    """As of `Recovery`; None: it did not recover."""
    sent: int
    """Records acknowledged to the sender by then."""
    records: int
    problems: tuple[str, ...]

    @property
    def ok(self) -> bool:
        """It recovered, and everything holds."""
        return self.caught_up is not None and not self.problems


class Campaign:
    """Runs steps against a topology that is fed and watched already."""

    def __init__(
        self,
        target: Target,
        feeder: Feeder,
        watch: Watch,
        clock: Clock,
        *,
        check: Callable[[], Checked],
        tell: Callable[[str], None],
    ) -> None:
        self._target, self._feeder, self._watch, self._clock = target, feeder, watch, clock
        self._check, self._tell = check, tell
        self._began = clock.monotonic()

    def run(self, steps: Iterable[Step], *, seconds: float | None = None) -> Iterator[Outcome]:
        """Do the steps; no further one is begun after `seconds`, or after one that did not end well."""
        self.wait_for_flow()
        for step in steps:
            if seconds is not None and self._clock.monotonic() - self._began >= seconds:
                break
            self._rest(step.after)
            outcome = self._one(step)
            yield outcome
            if not outcome.ok:
                break

    def wait_for_flow(self) -> None:
        """Until the topology commits what is sent, and is not behind. Raises PaystormError where it never is."""
        began = self._clock.monotonic()
        while self._watch.recovery(began) is None:
            if self._clock.monotonic() - began > RECOVERY_SECONDS:
                raise PaystormError(
                    f"topology {self._target.topology} does not keep up with what is sent (last seen: "
                    f"{self._watch.last()}): look at its workers' logs, or send less with --rate"
                )
            self._rest(LOOK_EVERY)

    def _one(self, step: Step) -> Outcome:
        fault = FAULTS[step.fault](self._target, Random(step.seed))
        self._watch.forget()
        struck, what, problems = self._clock.monotonic(), "", []
        try:
            try:
                what = fault.strike()
                self._tell(f"{step.fault}: {what}")
                if not fault.waits:
                    self._rest(step.away)
            finally:
                fault.undo(self._watch.moved)
        except PaystormError as error:
            problems.append(str(error))
        undone = self._clock.monotonic()
        until = undone + RECOVERY_SECONDS
        while (felt := self._watch.recovery(struck)) is None and self._clock.monotonic() < until:
            self._rest(LOOK_EVERY)
        if felt is None:
            problems.append(f"not recovered within {RECOVERY_SECONDS:g} s, last seen: {self._watch.last()}")
        self._tell(f"{step.fault}: {'did NOT recover' if felt is None else 'caught up'}; verifying")
        checked = self._check()
        outcome = Outcome(
            fault=step.fault,
            what=what,
            at=struck - self._began,
            undone=undone - struck,
            first_commit=felt.first_commit if felt is not None else None,
            caught_up=felt.caught_up if felt is not None else None,
            sent=self._feeder.sent,
            records=checked.records,
            problems=(*problems, *checked.problems),
        )
        self._tell(told(outcome))
        return outcome

    def _rest(self, seconds: float) -> None:
        """Let records flow. Raises what the sender died of, if it did."""
        self._feeder.ends()
        self._clock.sleep(seconds)


def told(outcome: Outcome) -> str:
    """An outcome in one line."""
    if outcome.caught_up is None or outcome.first_commit is None:
        felt = "did NOT recover"
    else:
        felt = f"first commit after {outcome.first_commit:.1f} s, caught up after {outcome.caught_up:.1f} s"
    result = "no difference" if not outcome.problems else f"WRONG: {'; '.join(outcome.problems)}"
    return (
        f"{outcome.fault} ({outcome.what}), undone after {outcome.undone:.1f} s: {felt}; "
        f"{outcome.records:,} records verified: {result}"
    )
