"""Party ids as small whole numbers, so that counting is arithmetic on arrays."""

from typing import Final

import numpy as np
import numpy.typing as npt
import polars as pl

from paystorm.shards import shards_of

Codes = npt.NDArray[np.uint32]
_HASH_SEED: Final = 0
FEW = 64
"""Of so few ids each is looked up by itself: that costs less than a cast."""
MOST_KNOWN = 4096
"""Ids that an interner holds for that."""
CHUNKS = 3
"""Pieces of memory that the ids may lie in: taking them out of more costs several times as much."""
PLACES = 4
"""Places of the table of guesses for each id, at least; of 4 bytes each."""


class Interner:
    """The ids of one kind of party as dense codes, in the order in which they were first seen by this process.

    Codes mean nothing outside the process. `shards[code]` is the shard that the party belongs to.
    """

    def __init__(self, kind: str, shards: int) -> None:
        self.kind = kind
        self._count = shards
        self._type = pl.Categorical(pl.Categories.random())
        # All ids by code, twice: polars forgets the codes once no column of the type is left, and texts are sooner
        # compared. Code 0 is taken for the empty text.
        self._ids = pl.Series([""], dtype=self._type)
        self._names = pl.Series([""], dtype=pl.String)
        self._guesses: Codes = np.zeros(1 << 14, dtype=np.uint32)
        """A code for each place that a hash of an id points to: right, or that of another id with the same place."""
        self._known: dict[str, int] = {"": 0}
        """The codes of all ids, while there are not too many."""
        self.shards: npt.NDArray[np.uint16] = np.zeros(1024, dtype=np.uint16)
        self.size = 1

    def codes(self, ids: pl.Series) -> Codes:
        """The code of each id (no nulls); new ids get new codes. Shape (n,)."""
        known = self._known
        if len(ids) > FEW or len(known) < self.size or self.size + len(ids) > MOST_KNOWN:
            return self._guess(ids)
        texts = ids.to_list()
        fresh = [text for text in dict.fromkeys(texts) if text not in known]
        if fresh:
            # Polars numbers them in this order too.
            self._meet(pl.Series(fresh, dtype=pl.String).cast(self._type), fresh)
        return np.array([known[text] for text in texts], dtype=np.uint32)

    def _guess(self, ids: pl.Series) -> Codes:
        """The codes by the table of guesses: each is compared, and only those that are wrong are cast.

        A cast costs 0.06 to 0.15 µs an id, a guess a quarter of that.
        """
        if len(ids) == 0:
            return np.zeros(0, dtype=np.uint32)
        ids = ids.rechunk()
        places = self._places(ids)
        codes: Codes = self._guesses[places]
        wrong = ids != self._names[pl.Series(codes)]
        if wrong.any():
            at = np.flatnonzero(wrong.to_numpy())
            codes[at] = self._cast(ids[pl.Series(at.astype(np.uint32))])
            self._learn(ids[pl.Series(at.astype(np.uint32))], codes[at])
        return codes

    def _learn(self, ids: pl.Series, codes: Codes) -> None:
        if self.size * PLACES > len(self._guesses):
            self._guesses = np.zeros(1 << (self.size * PLACES).bit_length(), dtype=np.uint32)
            ids, codes = self._names, np.arange(self.size, dtype=np.uint32)
        self._guesses[self._places(ids)] = codes

    def _places(self, ids: pl.Series) -> npt.NDArray[np.int64]:
        hashes = ids.hash(_HASH_SEED).to_numpy()
        return (hashes & np.uint64(len(self._guesses) - 1)).astype(np.int64)

    def _cast(self, ids: pl.Series) -> Codes:
        codes: Codes = ids.cast(self._type).to_physical().to_numpy()
        top = int(codes.max()) + 1
        if top > self.size:
            fresh = pl.Series(np.arange(self.size, top, dtype=np.uint32)).cat.to(self._type)
            self._meet(fresh, fresh.cast(pl.String).to_list())
        return codes

    def names(self, codes: Codes) -> pl.Series:
        """The ids of codes."""
        return self._names[pl.Series(codes)]

    def _meet(self, fresh: pl.Series, names: list[str]) -> None:
        """Find the shards of the codes from `size` on: once for each party, not for each event."""
        top = self.size + len(names)
        if top > len(self.shards):
            grown = np.zeros(max(top, 2 * len(self.shards)), dtype=np.uint16)
            grown[: self.size] = self.shards[: self.size]
            self.shards = grown
        self._ids.extend(fresh)
        self._names.append(pl.Series(names, dtype=pl.String))
        if self._names.n_chunks() > CHUNKS:
            self._names = self._names.rechunk()
        self.shards[self.size : top] = shards_of(self.kind, names, self._count)
        if top > MOST_KNOWN:
            self._known = {}
        else:
            self._known.update(zip(names, range(self.size, top), strict=True))
        self.size = top
