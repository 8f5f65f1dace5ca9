"""What must hold after a fault: each record has one outcome, the oracle finds no difference (SEMANTICS.md §3, §7)."""

from collections.abc import Callable, Iterator

from paystorm.chaos.campaign import Checked
from paystorm.cli.balance import balance_of
from paystorm.errors import LogError, PaystormError, TablesError, UsageError
from paystorm.resources import Resources
from paystorm.settings import Settings
from paystorm.source import Source
from paystorm.verify.source import Report, verify_source

HOLD_SECONDS = 180.0
TRIES = 5
"""How often what cannot be looked at now is looked at again: a server may have come back a moment ago."""
PAUSE = 3.0
SHOWN = 5


def check(resources: Resources, source: Source, settings: Settings, ends: Callable[[], dict[int, int]]) -> Checked:
    """Look at a running source. `ends`: by partition, what the sender was told it had appended."""
    for n in range(TRIES):
        try:
            acknowledged = ends()
            report = verify_source(resources, source, hold=True, timeout=HOLD_SECONDS, settings=settings, keep=SHOWN)
            problems = tuple(_problems(resources, source, report, acknowledged))
        except (UsageError, TablesError, LogError) as error:
            failed: PaystormError = error
            if n + 1 < TRIES:
                resources.clock.sleep(PAUSE)
            continue
        return Checked(report.records, problems)
    return Checked(0, (f"could not be verified: {failed}",))


def _problems(resources: Resources, source: Source, report: Report, acknowledged: dict[int, int]) -> Iterator[str]:
    if not report.ok:
        yield f"verify: {report.differing.total()} rows differ"
        yield from (str(difference) for difference in report.differences)
    balance = balance_of(resources, source)
    for p in balance.partitions:
        if p.missing:
            yield f"partition {p.partition} does not add up: {p.missing:+} records without an outcome"
        if p.end < acknowledged.get(p.partition, 0):
            yield f"partition {p.partition} ends at {p.end}: {acknowledged[p.partition]} were acknowledged"
    yield from balance.problems
