"""A sink that keeps every decided event as a line of JSON. Copy it to src/bolts/jsonl.py; in a topology it is one line:

    jsonl = JsonlBolt.spec(inputs=by_partition(lookup, spout), par=1, config={"jsonl.folder": "/var/spool/events"})

with `from bolts.jsonl import JsonlBolt` and `from paystorm.sink import by_partition` above. A batch is a file
`<folder>/<source>/<batch>.jsonl`; what is written and does not count yet is `.<batch>.staged` beside it.
"""

import os
from contextlib import suppress
from pathlib import Path

import polars as pl

from paystorm.sink import SinkBolt


class JsonlBolt(SinkBolt):
    """Option `jsonl.folder`: where the files go; every worker must see the same folder."""

    def open(self) -> None:
        """The folder of the source."""
        self.folder = Path(self.option("jsonl.folder")) / self.source.name

    def stage(self, name: str, events: pl.DataFrame) -> None:
        """Write the batch to a hidden file, and to the disk."""
        self.folder.mkdir(parents=True, exist_ok=True)
        with self._staged(name).open("wb") as file:
            as_text(events).write_ndjson(file)
            file.flush()
            os.fsync(file.fileno())
        self._sync()

    def place(self, name: str) -> None:
        """Rename the file: whoever reads the folder sees all of it or nothing."""
        with suppress(FileNotFoundError):  # placed by an earlier attempt
            self._staged(name).replace(self.folder / f"{name}.jsonl")
        if not (self.folder / f"{name}.jsonl").exists():
            raise FileNotFoundError(f"{self.folder}: batch {name} is neither staged nor placed: restore it")
        self._sync()

    def discard(self, prefix: str) -> None:
        """Remove hidden files that no index row names."""
        for path in self.folder.glob(f".{prefix}*.staged"):
            path.unlink(missing_ok=True)

    def _staged(self, name: str) -> Path:
        return self.folder / f".{name}.staged"

    def _sync(self) -> None:
        """A file's name is durable once its folder is."""
        fd = os.open(self.folder, os.O_RDONLY)
        try:
            os.fsync(fd)
        finally:
            os.close(fd)


def as_text(events: pl.DataFrame) -> pl.DataFrame:
    """The events with amounts and times as text: JSON has no exact numbers, and no times."""
    columns = []
    for name, kind in events.schema.items():
        if isinstance(kind, pl.Decimal):
            columns.append(pl.col(name).cast(pl.String))
        elif isinstance(kind, pl.Datetime):
            at = pl.col(name).dt.convert_time_zone("UTC") if kind.time_zone else pl.col(name)
            columns.append(at.dt.strftime("%Y-%m-%dT%H:%M:%S%.6fZ"))
    return events.with_columns(columns)
