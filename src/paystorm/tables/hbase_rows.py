"""Rows of HBase tables: get, scan by blocks, put, swap on a condition, remove. Names of tables are HBase's own here."""

import contextlib
import threading
from collections.abc import Iterator, Sequence
from functools import partial
from typing import Any, NamedTuple

from paystorm.errors import TablesError
from paystorm.tables import hbase_cells as cells
from paystorm.tables.hbase_calls import AbsentTableError, ThriftServer, idl, one_after_another

PUT_ROWS, PUT_BYTES = 4000, 4 << 20  # in one call: whichever comes first
SWAPS, SWAP_BYTES = 64, 4 << 20  # sent without waiting for their answers
READ_ROWS, READ_BYTES = 1000, 4 << 20  # the most that a call asks for, and what it aims at
FIRST_ROWS, UNKNOWN_ROWS = 16, 128  # asked for first, and at most, while the size of a table's rows is unknown
GROWTH = 8
LOOK_FIRST = 8  # rows put where absent from which on it pays to look which are there
SWEEP_AGE_MS = 600_000
"""A mark of removal is swept when it is this old by the server's clock: far above what servers' clocks may differ."""
MISSES = 20
"""A table is made when it was asked for so often and was absent."""
TRIES = 20


class Block(NamedTuple):
    """Some rows of a scan."""

    rows: list[tuple[bytes, bytes]]
    last: bytes | None
    """The last key looked at, which may be out of the range in reverse; None: there was none."""
    removed: int
    """How many marks of removal were passed over."""
    more: bool
    """Whether there may be rows behind it."""


class Put(NamedTuple):
    """Rows to be put into a table at a version."""

    table: str
    rows: Sequence[tuple[bytes, bytes]]
    version: int


class _Pace:
    """How many rows of a table to ask for at once, so that an answer stays small whatever their size."""

    def __init__(self) -> None:
        self.rows = FIRST_ROWS

    def learn(self, largest: int) -> None:
        """Take in the size of the largest row of an answer, in bytes; 0: it had none."""
        if largest:
            self.rows = max(1, min(READ_BYTES // largest, self.rows * GROWTH, READ_ROWS))
        elif self.rows < UNKNOWN_ROWS:
            self.rows = min(self.rows * GROWTH, UNKNOWN_ROWS)


class HBaseRows:
    """The rows of HBase tables, by key as paystorm knows them. Usable from several threads."""

    def __init__(self, server: ThriftServer) -> None:
        self._server = server
        self._known: set[str] = set()  # tables seen there
        self._missed: dict[str, int] = {}  # how often a table was found absent
        self._making = threading.Lock()
        self._paces: dict[str, _Pace] = {}
        self._clock = 0
        """The newest of the server's own timestamps seen, ms: its clock is at or behind that."""

    # Tables

    def exists(self, table: str) -> bool:
        """Whether a table is there. One that is asked for often is made: an absent one costs fifty times as much."""
        if table in self._known:
            return True
        try:
            self._server.ask(table, "getRowWithColumns", b"k", [cells.HEAD], {}, repeat=True)
        except AbsentTableError:
            self._missed[table] = missed = self._missed.get(table, 0) + 1
            if missed % MISSES == 0:
                with contextlib.suppress(TablesError):  # perhaps this user may only read
                    self._create(table)
            return table in self._known
        self._known.add(table)
        return True

    def make(self, table: str) -> None:
        """Make a table where there is none; others may do the same at this moment."""
        if not self.exists(table):
            self._create(table)

    def _create(self, table: str) -> None:
        family = idl.ColumnDescriptor(
            name=cells.FAMILY + b":",
            maxVersions=1,
            compression=b"NONE",  # what is large has been compressed by whoever wrote it
            bloomFilterType=b"ROW",
            blockCacheEnabled=True,
        )

        def create(client: Any) -> None:
            with contextlib.suppress(idl.AlreadyExists):
                client.createTable(_name(table), [family])

        with self._making:  # of several threads one asks
            if table not in self._known:
                self._server.call(table, create, repeat=True)
                self._known.add(table)

    @contextlib.contextmanager
    def _in(self, table: str) -> Iterator[None]:
        """After a failure look again whether the table is there."""
        try:
            yield
        except TablesError:
            self._known.discard(table)
            raise

    # Reading

    def get(self, table: str, keys: Sequence[bytes]) -> dict[bytes, cells.Cell]:
        """What stands in rows, by key, marks of removal included. Those where nothing stands are left out."""
        found: dict[bytes, cells.Cell] = {}
        at = 0 if self.exists(table) else len(keys)
        while at < len(keys):
            pace = self._paces.setdefault(table, _Pace())
            some = [cells.row_key(table, key) for key in keys[at : at + pace.rows]]
            at += len(some)
            with self._in(table):
                answer = self._server.ask(table, "getRows", some, {}, repeat=True)
            found.update(self._taken(table, answer, pace))
        return found

    def block(self, table: str, start: bytes, stop: bytes | None, wanted: int, *, reverse: bool) -> Block:
        """The next rows of a scan, about `wanted` at most, marks of removal included. No scanner is left open."""
        if (stop is not None and stop <= start) or not self.exists(table):
            return Block([], None, 0, False)
        pace = self._paces.setdefault(table, _Pace())
        wanted = min(wanted, pace.rows)
        begin, end = cells.span(start, stop, reverse=reverse)
        # In reverse the row at `stop` may come too.
        asked = wanted + (1 if reverse and stop is not None else 0)
        scan = idl.TScan(startRow=begin, stopRow=end, caching=asked, reversed=reverse or None)

        def read(client: Any) -> list[Any]:
            scanner = client.scannerOpenWithScan(_name(table), scan, {})
            client._send("scannerGetList", id=scanner, nbRows=asked)
            client._send("scannerClose", id=scanner)
            try:
                rows: list[Any] = client._recv("scannerGetList")
            finally:
                client._recv("scannerClose")
            return rows

        with self._in(table):
            answer = self._server.call(table, read, repeat=True)
        found = self._taken(table, answer, pace)
        self._sweep(table, found)
        inside = [(k, c.value) for k, c in found.items() if k >= start and (stop is None or k < stop)]
        live = [(k, v) for k, v in inside if v is not None]
        last = cells.key_of(answer[-1].row) if answer else None
        return Block(live, last, len(inside) - len(live), len(answer) == asked)

    def _taken(self, table: str, answer: Sequence[Any], pace: _Pace) -> dict[bytes, cells.Cell]:
        """An answer's rows by key, in its order."""
        found = {}
        largest = 0
        for row in answer:
            cell = cells.cell_of(table, row.row, row.columns)
            if cell is None:
                continue
            found[cells.key_of(row.row)] = cell
            largest = max(largest, cell.size)
            if self._clock < cell.timestamp < cells.VERSION_0:
                self._clock = cell.timestamp
        pace.learn(largest)
        return found

    # Writing

    def put(self, puts: Sequence[Put]) -> None:
        """Put rows at their versions, one after another; of two with one key and version the last."""
        calls: list[dict[str, Any]] = []
        held = 0
        for table in dict.fromkeys(put.table for put in puts):
            self.make(table)
        for batch, size in (each for put in puts for each in _batches(put)):
            if calls and (len(calls) == SWAPS or held + size > PUT_BYTES):
                self._put(calls)
                calls, held = [], 0
            calls.append(batch)
            held += size
        if calls:
            self._put(calls)

    def _put(self, calls: list[dict[str, Any]]) -> None:
        tables = list(dict.fromkeys(call["tableName"].decode() for call in calls))
        with contextlib.ExitStack() as stack:
            for table in tables:
                stack.enter_context(self._in(table))
            send = partial(one_after_another, api="mutateRowsTs", calls=calls)
            self._server.call(", ".join(tables), send, repeat=True)

    def swap(self, table: str, key: bytes, expected: bytes | None, cell: bytes) -> bool:
        """Put a cell only where `expected` stands (None: nothing, not even a mark of removal); says whether it was put.

        Never tried twice. Raises LostReplyError where it may have been put.
        """
        return self._swaps(table, [(key, expected, cell)])[0]

    def _swaps(self, table: str, swaps: Sequence[tuple[bytes, bytes | None, bytes]]) -> list[bool]:
        done: list[bool] = []
        while len(done) < len(swaps):
            calls: list[dict[str, Any]] = []
            size = 0
            for key, expected, cell in swaps[len(done) : len(done) + SWAPS]:
                size += len(cell) + len(expected or b"")
                if calls and size > SWAP_BYTES:
                    break
                calls.append(
                    {
                        "tableName": _name(table),
                        "row": cells.row_key(table, key),
                        "column": cells.HEAD,
                        "value": expected,
                        "mput": idl.Mutation(column=cells.HEAD, value=cell),
                        "attributes": {},
                    }
                )
            with self._in(table):
                done += self._server.call(
                    table, partial(one_after_another, api="checkAndPut", calls=calls), repeat=False
                )
        return done

    def put_if_absent(self, table: str, rows: Sequence[tuple[bytes, bytes]]) -> list[bool]:
        """Put each row where nothing stands, or a mark of removal; says for each whether it was put."""
        new = [(key, cells.one_cell(table, value)) for key, value in rows]
        self.make(table)
        put = [False] * len(new)
        left = list(range(len(new)))
        held: dict[bytes, cells.Cell] = {}
        if len(new) >= LOOK_FIRST:
            held = self.get(table, [key for key, _ in new])
        for _ in range(TRIES):
            left = [i for i in left if new[i][0] not in held or held[new[i][0]].value is None]
            swaps = [(new[i][0], cells.REMOVED if new[i][0] in held else None, new[i][1]) for i in left]
            for i, done in zip(left, self._swaps(table, swaps), strict=True):
                put[i] = done
            left = [i for i in left if not put[i]]
            if not left:
                return put
            held = self.get(table, list({new[i][0] for i in left}))
        raise TablesError(f"table {table}: row {new[left[0]][0]!r} keeps being put and removed by others; try again")

    def remove(self, table: str, keys: Sequence[bytes]) -> None:
        """Mark rows as removed, whatever stands in them.

        First at the server's time, which covers what was put on a condition; then what stands at a version is covered
        at that version. Reading before would fetch values that may be large.
        """
        if not self.exists(table):
            return
        for at in range(0, len(keys), PUT_ROWS):
            some = list(dict.fromkeys(keys[at : at + PUT_ROWS]))
            marks = [_row(cells.row_key(table, key), [(cells.HEAD, cells.REMOVED)]) for key in some]
            with self._in(table):
                self._server.ask(table, "mutateRows", marks, {}, repeat=False)
            versioned: dict[int, list[Any]] = {}
            for mark, cell in zip(marks, map(self.get(table, some).get, some), strict=True):
                if cell is not None and cell.value is not None and cell.timestamp >= cells.VERSION_0:
                    versioned.setdefault(cell.timestamp, []).append(mark)
            for stamp, batch in versioned.items():
                with self._in(table):
                    self._server.ask(table, "mutateRowsTs", batch, stamp, {}, repeat=False)

    def _sweep(self, table: str, found: dict[bytes, cells.Cell]) -> None:
        """Delete old marks of removal for good.

        A delete of HBase hides all at or below its timestamp, also what is put later; so it is given the time of the
        marks: a row put since stands above it. Marks at a version stay: the next row put may stand at that version.
        """
        old = {k: c.timestamp for k, c in found.items() if c.value is None and c.timestamp < self._clock - SWEEP_AGE_MS}
        if not old:
            return
        deletes = [
            idl.BatchMutation(
                row=cells.row_key(table, key), mutations=[idl.Mutation(isDelete=True, column=cells.FAMILY)]
            )
            for key in old
        ]
        # They are passed over all the same: the next scan tries again.
        with contextlib.suppress(TablesError):
            self._server.ask(table, "mutateRowsTs", deletes, max(old.values()), {}, repeat=False)


def _batches(put: Put) -> Iterator[tuple[dict[str, Any], int]]:
    """The calls that put rows, and the bytes of each."""
    stamp = cells.timestamp(put.table, put.version)
    batch: list[Any] = []
    size = 0

    def call() -> dict[str, Any]:
        return {"tableName": _name(put.table), "rowBatches": batch, "timestamp": stamp, "attributes": {}}

    for key, value in dict(put.rows).items():
        if batch and (len(batch) == PUT_ROWS or size + len(value) > PUT_BYTES):
            yield call(), size
            batch, size = [], 0
        batch.append(_row(cells.row_key(put.table, key), cells.cells(put.table, value)))
        size += len(value)
    if batch:
        yield call(), size


def _name(table: str) -> bytes:
    return table.encode()


def _row(row: bytes, columns: Sequence[tuple[bytes, bytes]]) -> Any:
    return idl.BatchMutation(row=row, mutations=[idl.Mutation(column=column, value=value) for column, value in columns])
