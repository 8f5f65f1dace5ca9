"""What a source loses where its topic no longer fits its checkpoints, and how it goes on (SEMANTICS.md §6)."""

from collections.abc import Iterator
from dataclasses import dataclass

from paystorm.errors import TablesError
from paystorm.resources import Resources
from paystorm.source import Source
from paystorm.stores.checkpoints import Checkpoint, load_checkpoints, move_checkpoint
from paystorm.stores.former import Former, add_former, load_former
from paystorm.stores.retry import all_parked, delete_parked


@dataclass(frozen=True, slots=True)
class Misfit:
    """How a topic no longer fits. Both empty: it does."""

    anew: dict[int, Checkpoint]
    """The topic was made anew, or ends below where the source stands: where each of its partitions was left."""
    skipped: dict[int, tuple[Checkpoint, int]]
    """Partitions that have lost offsets before they were processed: the checkpoint, and where the log starts now."""

    def __bool__(self) -> bool:
        return bool(self.anew or self.skipped)

    def lines(self) -> Iterator[str]:
        """What is to be said to a person."""
        if self.anew:
            ends = ", ".join(f"{p} at offset {held.committed}" for p, held in sorted(self.anew.items()))
            yield f"the topic was made anew; the former one's partitions were processed up to: {ends}"
            yield "what lay behind that is gone; the topic of now is read from its start, its partitions numbered on"
        for p, (held, start) in sorted(self.skipped.items()):
            yield f"partition {p}: offsets {held.committed} to {start - 1} are gone before they were processed"


def look(resources: Resources, source: Source) -> Misfit:
    """How the topic of a source fits what was read of it. Raises LogError, TablesError."""
    log, topic = resources.log, source.topic
    formers = load_former(resources.tables, topic)
    first = sum(len(former.ends) for former in formers)
    own = {
        p: held
        for (of, p), held in load_checkpoints(resources.tables, source.name).items()
        if of == topic and p >= first
    }
    if not own:
        return Misfit({}, {})
    topic_id, there = log.topic_id(topic), log.partitions(topic)
    anew = any(
        (None not in (held.topic_id, topic_id) and held.topic_id != topic_id)
        or p >= there
        or log.end_offset(topic, p) < held.committed
        for p, held in own.items()
    )
    if anew:
        return Misfit(own, {})
    starts = {p: log.start_offset(topic, p) for p in own}
    return Misfit({}, {p: (held, starts[p]) for p, held in own.items() if starts[p] > held.committed})


def reset_source(resources: Resources, source: Source, misfit: Misfit, by: str) -> None:
    """Let a stopped source go on with its topic as it is. Done twice it is the same.

    Raises TablesError where another changed the source meanwhile.
    """
    tables, topic = resources.tables, source.topic
    _forget_parked(resources, source, misfit)
    for p, (held, start) in misfit.skipped.items():
        new = Checkpoint(topic_id=held.topic_id, committed=start, read=held.read)
        if not move_checkpoint(tables, source.name, topic, p, held=held, new=new):
            raise TablesError(f"{source.name}: partition {p} moved meanwhile: is the source running? look at it again")
    if misfit.anew:
        formers = load_former(tables, topic)
        first = sum(len(former.ends) for former in formers)
        last = max(misfit.anew)
        ends = tuple(misfit.anew[p].committed if p in misfit.anew else 0 for p in range(first, last + 1))
        topic_id = next(iter(misfit.anew.values())).topic_id
        # From now on these are compared with no topic's id: theirs is gone.
        for (of, p), held in load_checkpoints(tables, source.name).items():
            if of == topic and p <= last and held.topic_id is not None:
                without = Checkpoint(topic_id=None, committed=held.committed, read=held.read)
                move_checkpoint(tables, source.name, topic, p, held=held, new=without)
        add_former(tables, topic, formers, Former(topic_id=topic_id, ends=ends, at=resources.clock.now(), by=by))


def _forget_parked(resources: Resources, source: Source, misfit: Misfit) -> None:
    """Parked records behind the checkpoint are gone with all that was there; those below keep their bytes, and wait."""
    gone = {p: held.committed for p, held in misfit.anew.items()}
    gone |= {p: held.committed for p, (held, _) in misfit.skipped.items()}
    for row in list(all_parked(resources.tables, source.name)):
        if row.partition in gone and row.offset >= gone[row.partition]:
            delete_parked(resources.tables, source.name, row)
