"""What a campaign comes to, as a table for people."""

from collections.abc import Iterator, Sequence
from statistics import median

from paystorm.chaos.campaign import Outcome
from paystorm.chaos.faults import FAULTS

COLUMNS = ("fault", "times", "undone after", "first commit after", "caught up after", "wrong")


def rows(outcomes: Sequence[Outcome]) -> Iterator[tuple[str, ...]]:
    """A row for each fault that was done, in the order of `FAULTS`; times as median and longest, in seconds."""
    for name in FAULTS:
        done = [outcome for outcome in outcomes if outcome.fault == name]
        if done:
            yield (
                name,
                str(len(done)),
                _span([o.undone for o in done]),
                _span([o.first_commit for o in done if o.first_commit is not None]),
                _span([o.caught_up for o in done if o.caught_up is not None]),
                str(sum(not o.ok for o in done)),
            )


def markdown(outcomes: Sequence[Outcome]) -> str:
    """The rows as a table of a document."""
    lines = [COLUMNS, ("---", *("---:" for _ in COLUMNS[1:])), *rows(outcomes)]
    return "".join(f"| {' | '.join(line)} |\n" for line in lines)


def _span(seconds: Sequence[float]) -> str:
    if not seconds:
        return "–"
    longest = "" if len(seconds) == 1 else f" (longest {max(seconds):.1f})"
    return f"{median(seconds):.1f} s{longest}"
