"""Tuple trees: which tuples of spouts are under way, and what has become of them.

Storm's acker keeps the XOR of random edge ids of a tree; here everything is in one process, and a count of open
edges does. A tuple anchored to several others is an edge of each distinct tree among theirs.
"""

import threading
from collections import OrderedDict
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any


class Tree:
    """A spout's tuple with all that came of it."""

    __slots__ = ("done", "message_id", "number", "opened", "owner", "pending")

    def __init__(self, number: int, owner: Any, message_id: Any, opened: float, pending: int) -> None:
        self.number = number
        self.owner = owner
        """The spout instance that emitted it: a later instance of the same task has no part in it."""
        self.message_id = message_id
        self.opened = opened
        """Seconds of the clock's monotonic time."""
        self.pending = pending
        """Edges that are neither acked nor failed."""
        self.done = False


Trees = tuple[Tree, ...]


@dataclass(frozen=True, slots=True)
class OpenTree:
    """A tree that is not complete, for reports."""

    component: str
    task: int
    message_id: Any
    age: float
    """Seconds since it was emitted."""
    pending: int
    """Open edges."""

    def __str__(self) -> str:
        return f"{self.component} task {self.task} tuple {self.message_id!r}: {self.pending} open for {self.age:.1f} s"


class Acker:
    """All trees of a topology. Safe to use from several threads; `settled` is called without the lock."""

    def __init__(self, timeout: float, settled: Callable[[Tree, bool], None]) -> None:
        self._timeout = timeout
        self._settled = settled
        self._lock = threading.Lock()
        # In order of opening; with one timeout for all, that is the order of their ends too.
        self._open: OrderedDict[int, Tree] = OrderedDict()
        self._next = 0

    def __len__(self) -> int:
        return len(self._open)

    def open(self, owner: Any, message_id: Any, edges: int, now: float) -> Tree:
        """A new tree with its first edges. Without any it is complete at once."""
        with self._lock:
            self._next += 1
            tree = Tree(self._next, owner, message_id, now, edges)
            if edges:
                self._open[tree.number] = tree
            else:
                tree.done = True
        if not edges:
            self._settled(tree, True)
        return tree

    def grow(self, trees: Iterable[Tree], edges: int) -> None:
        """Add edges to each tree, before any of them can be acked. A tree that is done stays so."""
        with self._lock:
            for tree in trees:
                tree.pending += edges

    def ack(self, trees: Iterable[Tree]) -> None:
        """One edge of each tree is done. Too late for a tree that failed or timed out: ignored."""
        complete: list[Tree] = []
        with self._lock:
            for tree in trees:
                tree.pending -= 1
                if tree.pending == 0 and not tree.done:
                    self._close(tree)
                    complete.append(tree)
        for tree in complete:
            self._settled(tree, True)

    def fail(self, trees: Iterable[Tree]) -> None:
        """Each tree fails now, whatever its other edges do."""
        failed: list[Tree] = []
        with self._lock:
            for tree in trees:
                if not tree.done:
                    self._close(tree)
                    failed.append(tree)
        for tree in failed:
            self._settled(tree, False)

    def next_timeout(self) -> float | None:
        """Monotonic time at which the oldest tree times out; None without trees."""
        with self._lock:
            oldest = next(iter(self._open.values()), None)
        return None if oldest is None else oldest.opened + self._timeout

    def expire(self, now: float, limit: int | None = None) -> list[Tree]:
        """Fail the trees whose time is over, at most `limit`, oldest first; returns them."""
        expired: list[Tree] = []
        with self._lock:
            while self._open and (limit is None or len(expired) < limit):
                tree = next(iter(self._open.values()))
                if tree.opened + self._timeout > now:
                    break
                self._close(tree)
                expired.append(tree)
        for tree in expired:
            self._settled(tree, False)
        return expired

    def forget(self, owner: Any) -> None:
        """The owner is gone: nobody is to be told of its trees."""
        with self._lock:
            for tree in [tree for tree in self._open.values() if tree.owner is owner]:
                self._close(tree)

    def open_trees(self) -> list[Tree]:
        """A copy, oldest first."""
        with self._lock:
            return list(self._open.values())

    def _close(self, tree: Tree) -> None:
        tree.done = True
        del self._open[tree.number]
