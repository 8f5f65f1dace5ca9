"""A warehouse in memory: the two steps of `paystorm.warehouse.base.Warehouse`, nothing durable, no queries."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import polars as pl

from paystorm.errors import TablesError, UsageError
from paystorm.warehouse.base import NONE, Columns, EventFile
from paystorm.warehouse.local import LocalWarehouse


class MemoryWarehouse:
    """A `Warehouse` of one process and one thread."""

    def __init__(self) -> None:
        self.staged: dict[EventFile, pl.DataFrame] = {}
        self.placed: dict[EventFile, pl.DataFrame] = {}

    def stage(self, file: EventFile, frame: pl.DataFrame) -> None:
        """As `Warehouse.stage`."""
        self.staged[file] = frame

    def place(self, files: Sequence[EventFile]) -> None:
        """As `Warehouse.place`."""
        for file in files:
            if file in self.placed:
                continue
            frame = self.staged.pop(file, None)
            if frame is None:
                raise TablesError(f"warehouse: file {file.name} of {file.source} is neither staged nor in place")
            self.placed[file] = frame

    def discard_staged(self, source: str, keep: Sequence[str], *, prefix: str = "") -> None:
        """As `Warehouse.discard_staged`."""
        for file in list(self.staged):
            if file.source == source and file.name.startswith(prefix) and file.name not in keep:
                del self.staged[file]

    def read(self, file: EventFile) -> pl.DataFrame:
        """As `Warehouse.read`."""
        frame = self.placed.get(file, self.staged.get(file))
        if frame is None:
            raise TablesError(f"warehouse: no file {file.name} of {file.source}")
        return frame

    def events(self, source: str) -> list[pl.DataFrame]:
        """The events of each file in place."""
        return [frame for file, frame in self.placed.items() if file.source == source]

    def folders(self, source: str) -> list[Path]:
        """There are none: see `copied_to`."""
        return []

    def query(self, sql: str, known: Mapping[str, Columns] = NONE) -> tuple[list[str], list[tuple[Any, ...]]]:
        """Refused: see `copied_to`."""
        raise UsageError("query: a warehouse in memory has no queries; copy it to a folder first")

    def table(self, source: str) -> str:
        """There is none: see `copied_to`."""
        return source

    def copied_to(self, folder: Path) -> LocalWarehouse:
        """What is in place, as files in a folder, for whatever reads those."""
        local = LocalWarehouse(folder)
        for file, frame in self.placed.items():
            local.stage(file, frame)
        local.place(list(self.placed))
        return local

    def close(self) -> None:
        """Nothing to release."""
