"""Which version of its source a record belongs to, and the start of a new version (SEMANTICS.md §4, decision 0001)."""

from collections.abc import Callable, Iterable, Mapping

from paystorm.errors import FencedError, TablesError
from paystorm.log.base import Log
from paystorm.settings import Settings
from paystorm.source import Source
from paystorm.stores.versions import Version, add_version, check_subjects, first_offset, load_firsts, load_versions
from paystorm.tables.base import Tables

Fence = Callable[[Tables, str, int, int, int], None]
"""`stores.journal.fence_shards`: (tables, source, shards, generation, now µs)."""
ADD_TRIES = 20


class Epochs:
    """The versions of a source in one partition: the last one whose first offset is not above a record's is in force.

    A version without a first offset in the partition was replaced before anybody read the partition under it.
    """

    def __init__(self, firsts: Mapping[int, int]) -> None:
        """`firsts`: the first offset by version."""
        self._firsts = sorted(firsts.items())

    def at(self, offset: int) -> int:
        """The number of the version in force at an offset."""
        return max((number for number, first in self._firsts if first <= offset), default=0)

    def next_change(self, offset: int) -> int | None:
        """The first offset above `offset` that another version may be in force at; None: none is known."""
        return min((first for _, first in self._firsts if first > offset), default=None)


def settle_version(tables: Tables, log: Log, source: Source, settings: Settings, now: int) -> Version:
    """The version of the source with these rules and settings: the newest one, or a new one behind it. `now` in µs.

    Raises TablesError where others keep adding versions, ConfigError for a rule that counts something else than the
    rule of its name did before.
    """
    validity = settings.validity()
    for _ in range(ADD_TRIES):
        versions = load_versions(tables, source.name)
        newest = versions[-1] if versions else None
        if newest is not None and newest.same_as(source.rules, validity):
            return newest
        check_subjects(source.name, versions, source.rules)
        made = Version(
            number=0 if newest is None else newest.number + 1,
            rules=source.rules,
            validity=validity,
            partitions=log.partitions(source.topic),
            shards=settings["shards"] if newest is None else newest.shards,
            made_at=now,
        )
        add_version(tables, source.name, made)  # where another task was faster, its version is looked at next
    raise TablesError(
        f"{source.name}: topologies with different rules keep starting; run one of them: paystorm status {source.name}"
    )


def settle_firsts(
    tables: Tables,
    log: Log,
    source: Source,
    version: Version,
    partitions: Iterable[int],
    *,
    now: int,
    fence: Fence,
) -> dict[int, Epochs]:
    """Put the first offsets of a version in these partitions where they are absent; returns the versions by partition.

    First every counting task with older memory is made to lose: what lies at or behind a first offset must not be
    counted under an older version. A task that finds its version's row but not its first offsets cannot know whether
    the task that put the row came as far as that, so it does it again.
    """
    wanted = list(partitions)
    known = load_firsts(tables, source.name)
    if version.number > 0 and any((version.number, p) not in known for p in wanted):
        fence(tables, source.name, version.shards, version.number, now)
    versions = load_versions(tables, source.name)
    for p in wanted:
        for v in versions:
            from_zero = v.number == 0 or p >= v.partitions
            if (v.number, p) not in known and (from_zero or v.number == version.number):
                end = 0 if from_zero else log.end_offset(source.topic, p)
                known[v.number, p] = first_offset(tables, source.name, v, p, end)
    return {p: Epochs({n: first for (n, q), first in known.items() if q == p}) for p in wanted}


def check_newest(tables: Tables, source: str, version: Version) -> None:
    """Raise FencedError where a newer version of the source has started: this task is a left-over."""
    newest = load_versions(tables, source)[-1:]
    if newest and newest[0].number > version.number:
        raise FencedError(
            f"{source}: version {newest[0].number} of the source has started, this topology runs version "
            f"{version.number} and stops reading: kill it, or submit it again"
        )
