"""Dead letters that are settled: their bytes go some time after they were replayed or discarded.

The row itself stays, with field, code, sender and id: it is the record's outcome, it keeps a tuple that comes again
from burying the record anew, and what is read still adds up. The acts on it stay too, without the bytes of a mend.
"""

from collections.abc import Sequence

import msgspec

from paystorm.clock import SECOND, Clock
from paystorm.retention.report import Went
from paystorm.source import Source
from paystorm.stores.letters import (
    DeadLetter,
    LetterAct,
    acts_by_letter,
    acts_table,
    all_letters,
    put_pruned,
    state_after,
)
from paystorm.tables.base import Tables
from paystorm.tables.keys import key

SETTLED = ("replayed", "discarded")
REMOVED = "its bytes were removed after their retention"


def prune_letters(tables: Tables, clock: Clock, source: Source, seconds: int, *, dry: bool = False) -> Went:
    """One pass over the dead letters of a source. Raises TablesError; then run it again."""
    done = Went(source.name, "letters", seconds, "letters")
    before = clock.now() - seconds * SECOND
    acts = acts_by_letter(tables, source.name)
    open_, oldest, ever = 0, None, False
    for letter in all_letters(tables, source.name):
        mine = acts.get((letter.partition, letter.offset), [])
        settled = state_after(mine) in SETTLED
        if letter.pruned:
            ever = True
        elif settled and mine[-1].at <= before:
            if not dry:
                _empty_acts(tables, source.name, mine)
                # Last: until then it is looked at again
                put_pruned(tables, source.name, _emptied(letter))
            done.went += 1
        else:
            open_ += not settled and letter.dead_at <= before
            oldest = letter.dead_at if oldest is None else min(oldest, letter.dead_at)
    done.since = oldest if ever or done.went else None
    if open_:
        done.notes.append(f"{open_:,} older letters stay: they are neither replayed nor discarded")
    return done


def _empty_acts(tables: Tables, source: str, acts: Sequence[LetterAct]) -> None:
    for act in acts:
        if act.value is not None:
            row = key(act.partition, act.offset, act.n)
            without = msgspec.structs.replace(act, value=None)
            tables.replace(acts_table(source), row, msgspec.msgpack.encode(act), msgspec.msgpack.encode(without))


def _emptied(letter: DeadLetter) -> DeadLetter:
    error = None if letter.last_error is None else REMOVED
    return msgspec.structs.replace(letter, value=b"", detail=REMOVED, last_error=error, pruned=True)
