"""`paystorm prune`: one pass over the tables of a source that have a retention."""

from collections.abc import Mapping
from typing import Any

from paystorm.errors import UsageError
from paystorm.resources import Resources
from paystorm.retention.counts import prune_counts
from paystorm.retention.events import GRACE, EventPruner
from paystorm.retention.letters import prune_letters
from paystorm.retention.report import Went
from paystorm.retention.verdicts import prune_verdicts
from paystorm.settings import retention_of
from paystorm.source import Source
from paystorm.warehouse.folders import EventFolders


def prune_source(
    resources: Resources, source: Source, options: Mapping[str, Any], *, grace: float = GRACE, dry: bool = False
) -> list[Went]:
    """Remove what is over its retention; an item for each table that has one. Beside a running topology or not.

    Killed half-way, or run by two at once: run it again. grace: seconds for which files of events outlive their mark.
    dry: change nothing. Raises TablesError, LogError.
    """
    tables, clock = resources.tables, resources.clock
    kept = retention_of(source.name, options)
    done = []
    if "events" in kept:
        if not isinstance(resources.warehouse, EventFolders):
            raise UsageError("prune: this warehouse keeps no files in folders")
        pruner = EventPruner(tables, resources.warehouse, clock, grace=grace, dry=dry)
        done.append(pruner.run(source, kept["events"]))
    if "letters" in kept:
        done.append(prune_letters(tables, clock, source, kept["letters"], dry=dry))
    counts = prune_counts(resources, source, dry=dry)
    if counts is not None:
        done.append(counts)
    if "verdicts" in kept:  # last: some drivers cannot
        done.append(prune_verdicts(resources.log, clock, source, kept["verdicts"], dry=dry))
    return done
