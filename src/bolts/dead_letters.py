"""The bolt that stores records which are not valid, and tells who sent them."""

from typing import Any

from paystorm.chunk import LetterChunk
from paystorm.stores.letters import DeadLetter, store_letters
from paystorm.storm import ChunkBolt
from paystorm.verdicts import VerdictLog


class DeadLettersBolt(ChunkBolt):
    """Takes the stream `invalid` of validation. A repeated letter changes nothing, its verdict is published again."""

    def prepare(self) -> None:
        """The verdict topic."""
        self._verdicts = VerdictLog(self.here.resources.log, self.source.name, self.source.topic)

    def handle(self, tup: Any) -> None:
        """Store, publish, acknowledge."""
        chunk = self.chunk(LetterChunk, tup)
        now = self.clock.now()
        letters = [DeadLetter.of(letter, now) for letter in chunk.letters]
        store_letters(self.tables, self.source.name, self._verdicts, letters)
        self.done(tup)
