"""Touches: what the counting tasks get of a chunk: a row for each event and each of its parties that may be counted."""

from collections.abc import Iterable

import numpy as np
import numpy.typing as npt
import polars as pl

from paystorm.errors import ConfigError
from paystorm.rows import FEW, rows_of
from paystorm.rules import Rule
from paystorm.shards import shards_of
from paystorm.source import Party, Source

OWN_COLUMNS = ("log_offset", "event_time", "event_id", "application", "kind", "party", "roles", "lead", "denied")
"""log_offset Int64; event_time Datetime(us); event_id, application String; kind UInt8, its place in `source.kinds()`;
party String; roles UInt8, the bit 1 << i for role i of `source.roles(kind)`; lead Boolean, true on the first touch of
each event; denied Boolean. Behind them the fields that rules measure, and the currency where there is a sum, under
their own names."""
_OF_EVENTS = ("log_offset", "event_time", "event_id", "application")
"""Those that are columns of events."""
ADDED_COLUMNS = ("epoch", "arrival")
"""What the counting bolt adds."""
MAX_KINDS = 255
_NOBODY = pl.Series("party", dtype=pl.String)
MAX_ROLES = 8

Bytes = npt.NDArray[np.uint8]
Mask = npt.NDArray[np.bool_]


class TouchPlan:
    """How the touches of a source are made, for all its rules of all versions."""

    def __init__(self, source: Source, rules: Iterable[Rule]) -> None:
        """Raises ConfigError where kinds, roles or the names of measured fields do not fit the columns."""
        rules = list(rules)
        self._kinds = source.kinds()
        self._counted = frozenset(rule.kind for rule in rules) & frozenset(self._kinds)
        if len(self._kinds) > MAX_KINDS:
            raise ConfigError(f"source {source.name}: at most {MAX_KINDS} kinds of party, got {len(self._kinds)}")
        for kind in self._kinds:
            if len(source.roles(kind)) > MAX_ROLES:
                raise ConfigError(f"source {source.name}: a {kind} has at most {MAX_ROLES} roles")
        self.fields = _fields(source, rules)
        for name in self.fields:
            if name in OWN_COLUMNS + ADDED_COLUMNS:
                raise ConfigError(f"source {source.name}: a field that rules measure cannot be named {name}; rename it")
        parties = [_Column(party, source, self._counted) for party in source.parties]
        self._parties = [column for column in parties if column.counted]
        # The declarations before each that can have a party of the same kind.
        self._before = [
            [i for i in range(j) if self._parties[i].kinds & column.kinds] for j, column in enumerate(self._parties)
        ]
        defaults = zip(*(column.default for column in self._parties), strict=True)
        self._defaults = list(defaults) if self._parties else [(), (), ()]
        self._comparisons = self._compared()

    def touches(self, events: pl.DataFrame) -> pl.DataFrame:
        """The touches of decided events, in the events' order. `events` has the columns of `validity` and `verdict`."""
        height, width = events.height, len(self._parties)
        masks = self._few_masks(events) if height <= FEW else self._masks(events)
        kinds, roles, alive = self._cells(masks, height)
        cells = np.flatnonzero(alive)
        rows = cells // max(width, 1)
        lead = np.ones(len(rows), dtype=np.bool_)
        lead[1:] = rows[1:] != rows[:-1]
        every = pl.concat(
            [events.get_column(column.party.field).alias("party") for column in self._parties] or [_NOBODY]
        )
        taken = pl.Series(rows.astype(np.uint32))
        names = (*_OF_EVENTS, *self.fields)
        log_offset, event_time, event_id, application, *fields = (events.get_column(name)[taken] for name in names)
        return pl.DataFrame(
            [
                log_offset,
                event_time,
                event_id,
                application,
                pl.Series("kind", kinds.ravel()[cells]),
                every[pl.Series(((cells % max(width, 1)) * height + rows).astype(np.uint32))],
                pl.Series("roles", roles.ravel()[cells]),
                pl.Series("lead", lead),
                pl.Series("denied", masks["denied"][rows]),
                *fields,
            ]
        )

    def _masks(self, events: pl.DataFrame) -> dict[str, Mask]:
        """What the touches depend on, by name: see `_compared`."""
        compared = events.select(self._comparisons)
        return dict(zip(compared.columns, compared.to_numpy().T, strict=True))

    def _few_masks(self, events: pl.DataFrame) -> dict[str, Mask]:
        """`_masks`, value by value."""
        found = {"denied": [verdict == "denied" for verdict in events.get_column("verdict").to_list()]}
        ids = [events.get_column(column.party.field).to_list() for column in self._parties]
        for j, column in enumerate(self._parties):
            found[f"present {j}"] = [party is not None for party in ids[j]]
            said = events.get_column(column.party.kind_field).to_list() if column.party.kind_field else []
            for n, value in enumerate(column.by_value):
                found[f"kind {j} {n}"] = [kind == value for kind in said]
            for i in self._before[j]:
                found[f"same {i} {j}"] = [a is not None and a == b for a, b in zip(ids[i], ids[j], strict=True)]
        return {name: np.array(values, dtype=np.bool_) for name, values in found.items()}

    def _compared(self) -> list[pl.Expr]:
        """All comparisons of columns, for one pass: a pass for each costs more than the comparing."""
        wanted = {"denied": pl.col("verdict") == "denied"}
        for j, column in enumerate(self._parties):
            wanted[f"present {j}"] = pl.col(column.party.field).is_not_null()
            for n, value in enumerate(column.by_value):
                wanted[f"kind {j} {n}"] = pl.col(str(column.party.kind_field)) == value
            for i in self._before[j]:
                wanted[f"same {i} {j}"] = pl.col(self._parties[i].party.field) == pl.col(column.party.field)
        return [mask.fill_null(False).alias(name) for name, mask in wanted.items()]

    def _cells(self, masks: dict[str, Mask], height: int) -> tuple[Bytes, Bytes, Mask]:
        """Kind, roles, and whether it is a touch, for each event (row) and declared party (column)."""
        shape = height, len(self._parties)
        kinds, roles, alive = np.empty(shape, np.uint8), np.empty(shape, np.uint8), np.empty(shape, np.bool_)
        kinds[:], roles[:], alive[:] = self._defaults
        for j, column in enumerate(self._parties):
            for n, cell in enumerate(column.by_value.values()):
                where = masks[f"kind {j} {n}"]
                kinds[where, j], roles[where, j], alive[where, j] = cell
            alive[:, j] &= masks[f"present {j}"]
            for i in self._before[j]:
                same = masks[f"same {i} {j}"] & alive[:, i] & alive[:, j] & (kinds[:, i] == kinds[:, j])
                if same.any():
                    # One party in two roles of one event is one touch with both.
                    roles[same, i] |= roles[same, j]
                    alive[same, j] = False
        return kinds, roles, alive

    def split(self, touches: pl.DataFrame, shards: int, tasks: int) -> list[tuple[int, pl.DataFrame]]:
        """The touches by the counting task that has their shards (0 ≤ i < `tasks`), for each task that has any.

        Raises ConfigError where there are touches and no task.
        """
        if touches.is_empty():
            return []
        if not tasks:
            raise ConfigError("the topology has no component `counts`: name the WindowCountBolt so")
        if tasks == 1:
            return [(0, touches)]
        turn = np.empty(touches.height, dtype=np.int64)
        kinds = touches.get_column("kind").to_numpy()
        party = touches.get_column("party")
        for kind in np.unique(kinds).tolist():
            rows = np.flatnonzero(kinds == kind)
            # One by one costs half of what it takes to find the distinct ids first.
            found = shards_of(self._kinds[kind], party[pl.Series(rows.astype(np.uint32))].to_list(), shards)
            turn[rows] = np.asarray(found, dtype=np.int64) % tasks
        parts = [(i, np.flatnonzero(turn == i)) for i in range(tasks)]
        return [(i, rows_of(touches, rows)) for i, rows in parts if len(rows)]


class _Column:
    """One declaration of a party: which kind and role each event's id has."""

    def __init__(self, party: Party, source: Source, counted: frozenset[str]) -> None:
        self.party = party
        all_kinds = source.kinds()
        values = source.field(party.kind_field).values if party.kind_field is not None else ()
        self.kinds = frozenset({party.kind, *values}) & counted
        self.counted = bool(self.kinds)
        self.default = self._cell(party.kind, source, all_kinds)
        self.by_value = {value: self._cell(value, source, all_kinds) for value in values if value != party.kind}

    def _cell(self, kind: str, source: Source, all_kinds: tuple[str, ...]) -> tuple[int, int, bool]:
        return all_kinds.index(kind), 1 << source.roles(kind).index(self.party.role), kind in self.kinds


def columns_read(source: Source, rules: Iterable[Rule]) -> frozenset[str]:
    """The columns of events that a look-up reads, to decide and to make touches; it adds those of the decision."""
    parties = {party.field for party in source.parties} | {p.kind_field for p in source.parties if p.kind_field}
    return frozenset({*_OF_EVENTS, *parties, *_fields(source, list(rules))})


def _fields(source: Source, rules: list[Rule]) -> tuple[str, ...]:
    """The fields that rules measure, as far as they are declared, and the currency where there is a sum."""
    declared = {field.name for field in source.fields}
    names = {rule.field for rule in rules}
    if any(rule.measure == "sum" for rule in rules):
        names.add(source.currency())
    return tuple(field.name for field in source.fields if field.name in names & declared)
