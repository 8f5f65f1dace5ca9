"""The id store of the ingest service as it fills: what an id costs in time, in memory and on disk.

    .venv/bin/python bench/ids.py [--ids 10000000] [--folder DIR] [--json]

Groups of 5,000 new ids are looked for and added, as the intake does, with the housekeeping of the service in between
(counted by itself: the service does it in a thread of its own). At every step, ids that are held, spread evenly over
all that came before, and ids that are not, are looked for. Times are CPU seconds of this process. Memory is that of the
process alone (`RssAnon`) and what it has mapped of the files (`RssFile`), which the system takes back when it needs it.
"""

import argparse
import json
import sys
import tempfile
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np

from paystorm.clock import SECOND, SystemClock
from paystorm.ingest.ids import IdStore

GROUP = 5_000
LOOKED_FOR = 20_000
"""Ids of each kind that are looked for at every step."""


@dataclass(frozen=True, slots=True)
class Row:
    """What was seen once so many ids were held."""

    ids: int
    added_a_second: float
    """New ids looked for and added, a CPU second."""
    housekeeping: float
    """CPU microseconds an id, of writing and merging."""
    known_a_second: float
    new_a_second: float
    anon_mib: float
    mapped_mib: float
    bytes_an_id: float
    runs: int


def keys_of(first: int, count: int) -> list[bytes]:
    """The keys of ids: 16 bytes each that look random, and can be made again."""
    counter = np.arange(first, first + count, dtype=np.uint64)
    both = np.empty((count, 2), dtype="<u8")
    for half, salt in ((0, 0x9E3779B97F4A7C15), (1, 0xD1B54A32D192ED03)):
        mixed = (counter + np.uint64(1)) * np.uint64(salt)
        for shift, factor in ((30, 0xBF58476D1CE4E5B9), (27, 0x94D049BB133111EB)):
            mixed = (mixed ^ (mixed >> np.uint64(shift))) * np.uint64(factor)
        both[:, half] = mixed ^ (mixed >> np.uint64(31))
    text = both.tobytes()
    return [text[at : at + 16] for at in range(0, len(text), 16)]


def memory() -> tuple[float, float]:
    """MiB of the process alone, and mapped."""
    fields = dict(line.split(":", 1) for line in Path("/proc/self/status").read_text().splitlines())
    return int(fields["RssAnon"].split()[0]) / 1024, int(fields["RssFile"].split()[0]) / 1024


def keep_house(store: IdStore) -> float:
    """What the service does meanwhile; CPU seconds."""
    began = time.process_time()
    if store.freeze():
        run = store.write()
        assert run is not None
        store.written(run)
    while group := store.to_merge():
        store.tidied(group, store.tidy(group))
    return time.process_time() - began


def looked_for(store: IdStore, keys: Sequence[bytes], *, held: bool) -> float:
    """Look-ups a CPU second, by groups."""
    began = time.process_time()
    for at in range(0, len(keys), GROUP):
        found = store.find(keys[at : at + GROUP])
        assert all((place is not None) == held for place in found)
    return len(keys) / (time.process_time() - began)


def fill(folder: Path, ids: int, step: int) -> list[Row]:
    """Fill a store; a row a step."""
    clock = SystemClock()
    store = IdStore(folder, clock, limit=ids + GROUP, hours=24)
    rows: list[Row] = []
    adding = housekeeping = 0.0
    content = b"\0" * 16
    for first in range(0, ids, GROUP):
        keys = keys_of(first, GROUP)
        at = clock.now() // SECOND
        began = time.process_time()
        assert not any(store.find(keys))
        store.add("purchase", 0, ((key, content, first + n, at) for n, key in enumerate(keys)))
        adding += time.process_time() - began
        housekeeping += keep_house(store)
        held = first + GROUP
        if held % step == 0 or held == ids:
            since = step if held % step == 0 else held % step
            spread = [key for n in range(LOOKED_FOR // 100) for key in keys_of(n * held // (LOOKED_FOR // 100), 100)]
            files = [path.stat().st_size for path in folder.glob("*.ids")]
            rows.append(
                Row(
                    ids=held,
                    added_a_second=since / adding,
                    housekeeping=housekeeping / since * 1e6,
                    known_a_second=looked_for(store, spread, held=True),
                    new_a_second=looked_for(store, keys_of(1 << 40, LOOKED_FOR), held=False),
                    anon_mib=memory()[0],
                    mapped_mib=memory()[1],
                    bytes_an_id=sum(files) / max(held - len(store._recent), 1),
                    runs=len(files),
                )
            )
            print(rows[-1], file=sys.stderr, flush=True)
            adding = housekeeping = 0.0
    store.close()
    return rows


def main() -> int:
    """The exit code."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--ids", type=int, default=10_000_000)
    parser.add_argument("--folder", type=Path, help="where the store is made; default: a temporary folder")
    parser.add_argument("--json", action="store_true")
    given = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="paystorm-ids-", dir=given.folder) as folder:
        rows = fill(Path(folder), max(GROUP, given.ids // GROUP * GROUP), max(GROUP, given.ids // GROUP // 10 * GROUP))
    if given.json:
        print(json.dumps([asdict(row) for row in rows], indent=2))
        return 0
    names = ("ids", "added/s", "house µs", "known/s", "new/s", "own MiB", "mapped MiB", "bytes/id", "runs")
    print("".join(f"{name:>12}" for name in names))
    for row in rows:
        print(
            "".join(
                f"{value:12,.0f}" if value >= 100 or name in ("ids", "runs") else f"{value:12.1f}"
                for name, value in asdict(row).items()
            )
        )
    return 0


if __name__ == "__main__":
    sys.exit(main())
