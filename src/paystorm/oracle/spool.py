"""Event rows on disk: half a million rows with their raw data would fill the memory that the check may use."""

import marshal
from collections.abc import Iterator
from decimal import Decimal
from pathlib import Path

from paystorm.oracle.model import EventRow, Key
from paystorm.oracle.validity import Event


class EventSpool:
    """The rows of the valid events, in the order in which they were added, and found by partition and offset."""

    def __init__(self, path: Path) -> None:
        self._file = path.open("w+b")
        self._at: dict[Key, int] = {}
        self._end = 0

    def add(self, key: Key, event: Event) -> None:
        """Append a row."""
        # marshal is the quickest for texts and whole numbers and keeps them exactly; amounts go as a tuple of one text.
        values = {name: (str(value),) if isinstance(value, Decimal) else value for name, value in event.values.items()}
        row = (event.id, event.application, event.received_at, event.event_time, values, event.data)
        block = marshal.dumps(row)
        self._at[key] = self._end
        self._end += self._file.write(len(block).to_bytes(4, "big") + block)

    def get(self, key: Key) -> EventRow | None:
        """The row of a record, or None where the record is not a valid one."""
        at = self._at.get(key)
        if at is None:
            return None
        self._file.seek(at)
        size = int.from_bytes(self._file.read(4), "big")
        event_id, application, received_at, event_time, values, data = marshal.loads(self._file.read(size))
        restored = {name: Decimal(value[0]) if isinstance(value, tuple) else value for name, value in values.items()}
        return EventRow(*key, event_id, application, received_at, event_time, restored, data)

    def keys(self) -> list[Key]:
        """Partition and offset of every row, in the order in which they were added."""
        return list(self._at)

    def __iter__(self) -> Iterator[EventRow]:
        for key in self._at:
            row = self.get(key)
            assert row is not None
            yield row

    def __len__(self) -> int:
        return len(self._at)

    def close(self) -> None:
        """Close the file."""
        self._file.close()
