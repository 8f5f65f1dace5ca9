"""What a pass of `paystorm prune` did."""

from dataclasses import dataclass, field


@dataclass(slots=True)
class Went:
    """What went of one table of a source (of a dry run: what would)."""

    source: str
    table: str
    """`events`, `verdicts`, `counts` or `letters`."""
    retention: int
    """Seconds."""
    unit: str
    """What is counted."""
    went: int = 0
    since: int | None = None
    """What is left reaches back to this, µs since 1970-01-01 UTC; None: nothing is left, or nothing ever went."""
    notes: list[str] = field(default_factory=list)
    """Why something stays that is over its retention, and what else should be known."""
