"""A bolt that adds a field: the category of the merchant, from a file that somebody else keeps.

Copy it to src/bolts/merchant_category.py. In a topology it is one line, and the look-up takes its events:

    category = MerchantCategoryBolt.spec(inputs={validation: Grouping.SHUFFLE}, config={"merchants.file": "m.json"})
    lookup = BlacklistLookupBolt.spec(inputs={category: Grouping.SHUFFLE}, par=1)

A payment to a merchant that the file does not know cannot be processed *yet*: it is named, parked, and tried again on
the retry schedule. Until then it is in no count, and the records behind it go on.
"""

import json
from pathlib import Path

import polars as pl

from paystorm.named import CannotProcess, TransformBolt

KINDS, PARTY = "to_kind", "to_party"
"""The fields of a purchase that say who is paid."""


class MerchantCategoryBolt(TransformBolt):
    """Adds `merchant_category`, null for payments to no merchant. Option `merchants.file`: JSON, merchant → it."""

    def prepare(self) -> None:
        """Nothing is read before the first chunk."""
        self.file = Path(self.option("merchants.file"))
        self.read_at: tuple[int, int] | None = None
        self.categories: dict[str, str] = {}

    def transform(self, events: pl.DataFrame) -> pl.DataFrame:
        """The events with the column; raises CannotProcess naming those whose merchant is not known."""
        self._refresh()
        merchant = pl.when(pl.col(KINDS) == "merchant").then(pl.col(PARTY))
        category = merchant.replace_strict(self.categories, default=None, return_dtype=pl.String)
        made = events.with_columns(merchant_category=category)
        unknown = made.filter(merchant.is_not_null() & pl.col("merchant_category").is_null())
        if len(unknown):
            rows = unknown.select("log_offset", PARTY).iter_rows()
            raise CannotProcess({offset: f"merchant {name} has no category in {self.file}" for offset, name in rows})
        return made

    def _refresh(self) -> None:
        """Read the file again where it has changed. A broken file fails the chunk, without a name: it comes again."""
        status = self.file.stat()
        if self.read_at != (status.st_mtime_ns, status.st_size):
            self.categories = json.loads(self.file.read_text())
            self.read_at = status.st_mtime_ns, status.st_size
