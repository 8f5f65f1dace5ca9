"""A spout and a bolt as streamparse's own examples have them: a JSON message a tuple."""

import json
import time
from pathlib import Path
from typing import Any, ClassVar

from streamparse import Bolt, ReliableSpout

RECORD = (
    '{"ApplicationRef":"shop","data":{"event_time":"2025-01-01T00:00:07Z","from_party":"u17","to_party":"u90210",'
    '"amount":"12.50","currency":"EUR"}}'
)
TELL_EVERY = 1000


class PlainSpout(ReliableSpout):  # type: ignore[misc]  # streamparse is not typed
    """Emits the same record again and again, reliably."""

    outputs: ClassVar[list[str]] = ["record"]

    def initialize(self, storm_conf: dict[str, Any], context: dict[str, Any]) -> None:
        """Called first."""
        self.sent = self.done = 0
        self.file = Path(storm_conf["plain.progress"])

    def next_tuple(self) -> None:
        """Emit one."""
        self.sent += 1
        self.emit([RECORD], tup_id=self.sent)

    def ack(self, tup_id: int) -> None:
        """Count what is complete, and say so now and then."""
        super().ack(tup_id)
        self.done += 1
        if self.done % TELL_EVERY == 0:
            with self.file.open("a") as file:
                file.write(f"{time.time()} {self.done}\n")


class PassOnBolt(Bolt):  # type: ignore[misc]  # streamparse is not typed
    """Takes a message apart, and passes it on."""

    outputs: ClassVar[list[str]] = ["record"]

    def process(self, tup: Any) -> None:
        """One message."""
        json.loads(tup.values[0])
        self.emit([tup.values[0]])
