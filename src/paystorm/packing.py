"""msgspec's knowledge of our types, built once and by one thread.

msgspec builds it when a type is first decoded, and is not safe against two threads that do so at the same moment (seen
with 0.22: a segmentation fault while several components of the embedded runner started together).
"""

import threading
from collections.abc import Iterator

import msgspec

_LOCK = threading.Lock()
_KNOWN: set[type[msgspec.Struct]] = set()


def prepare_types() -> None:
    """Build what msgspec needs for every Struct of ours that has been imported; the first call does it, others wait."""
    with _LOCK:
        for kind in _subclasses(msgspec.Struct):
            if kind not in _KNOWN and kind.__module__.startswith("paystorm."):
                msgspec.msgpack.Decoder(kind)
                _KNOWN.add(kind)


def _subclasses(kind: type[msgspec.Struct]) -> Iterator[type[msgspec.Struct]]:
    for child in kind.__subclasses__():
        yield child
        yield from _subclasses(child)
