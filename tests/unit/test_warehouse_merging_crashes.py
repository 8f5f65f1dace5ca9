"""Merging, whoever dies, sleeps or comes between any two of its writes."""

import contextlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from merging_world import (
    HOUR,
    SETTINGS,
    DiedError,
    Storage,
    chunk,
    die,
    die_half_written,
    fill,
    filled,
    hour_files,
    moments,
    writes_watched,
)

from paystorm.errors import TablesError
from paystorm.stores.hours import Hours
from paystorm.verify.stored import files_in_place
from paystorm.warehouse.base import EventFile
from paystorm.warehouse.local import LocalWarehouse
from paystorm.warehouse.merging import Merged, Merger, hour_start


@pytest.mark.parametrize("act", [die, die_half_written])
def test_a_merge_that_dies_at_any_write_is_finished_by_the_next(tmp_path: Path, act: Callable[..., None]) -> None:
    whole = filled(tmp_path / "whole")
    count = moments(whole.merge)
    assert count > 20
    for at in range(count):
        storage = filled(tmp_path / str(at))
        before = storage.visible()
        with pytest.raises(DiedError), writes_watched(at, act):
            storage.merge()
        assert storage.visible() == before, at
        assert storage.differences() == [], at
        storage.clock.advance(SETTINGS.lease)
        storage.merge()
        assert storage.visible() == before, at
        assert storage.differences() == [], at
        storage.clock.advance(SETTINGS.grace)
        storage.merge()
        assert storage.visible() == before, at
        assert len(hour_files(storage)) == 5, at
        assert len(storage.warehouse.numbers("purchase", HOUR)) == 1, at


def test_a_removal_that_dies_at_any_write_is_finished_by_the_next(tmp_path: Path) -> None:
    def merged(folder: Path) -> Storage:
        storage = filled(folder)
        storage.merge()
        storage.clock.advance(SETTINGS.grace)
        return storage

    whole = merged(tmp_path / "whole")
    for at in range(moments(whole.merge)):
        storage = merged(tmp_path / str(at))
        before = storage.visible()
        with pytest.raises(DiedError), writes_watched(at, die):
            storage.merge()
        assert storage.visible() == before
        storage.merge()
        assert storage.visible() == before
        assert storage.differences() == []
        assert storage.warehouse.numbers("purchase", HOUR) == [1]


def test_of_two_merges_at_once_one_is_refused_or_loses(tmp_path: Path) -> None:
    """The second comes at any write of the first: while it lives, and once it seems dead."""
    whole = filled(tmp_path / "whole")
    count = moments(whole.merge)
    refused = lost = 0
    for at in range(count):
        for sleeps in (0.0, SETTINGS.lease):
            storage = filled(tmp_path / f"{at}-{sleeps}")
            before = storage.visible()
            other: list[Merged] = []

            def meanwhile(what: str, target: Any, storage: Storage = storage, sleeps: float = sleeps,
                          other: list[Merged] = other) -> None:  # fmt: skip
                storage.clock.advance(sleeps)
                other.append(storage.merge())

            with writes_watched(at, meanwhile):
                mine = storage.merge()
            assert mine.hours + other[0].hours == 1, (at, sleeps)
            refused += any("another merge is at work" in note for note in other[0].notes)
            lost += any("another merge" in note for note in mine.notes)
            assert storage.visible() == before, (at, sleeps)
            assert storage.differences() == [], (at, sleeps)
            storage.clock.advance(2 * SETTINGS.grace)
            storage.merge()
            assert storage.visible() == before, (at, sleeps)
            assert len(storage.warehouse.numbers("purchase", HOUR)) == 1, (at, sleeps)
    assert refused > 10
    assert lost > 10


def test_a_file_placed_at_any_moment_of_a_merge_is_seen_from_then_on(tmp_path: Path) -> None:
    whole = filled(tmp_path / "whole")
    for at in range(moments(whole.merge)):
        storage = filled(tmp_path / str(at))
        seen: list[Any] = []

        def meanwhile(what: str, target: Any, storage: Storage = storage, seen: list[Any] = seen) -> None:
            writer = storage.writer(2, at=hour_start(HOUR))
            writer.gather(chunk(2, 0, 5))
            writer.flush()
            seen.extend(storage.visible())

        with writes_watched(at, meanwhile):
            storage.merge()
        assert len(seen) == 53, at
        assert storage.visible() == seen, at
        storage.clock.advance(SETTINGS.grace)
        storage.merge()
        assert storage.visible() == seen, at
        assert storage.differences() == [], at


def test_a_writer_that_sleeps_at_any_write_while_its_hour_is_merged_and_cleared_does_no_harm(tmp_path: Path) -> None:
    def late(storage: Storage) -> None:
        writer = storage.writer(2, at=hour_start(HOUR))
        for i in range(2):
            writer.gather(chunk(2, i * 5, i * 5 + 5))
            writer.flush()

    whole = filled(tmp_path / "whole")
    count = moments(lambda: late(whole))
    for at in range(count):
        for clear in (False, True):
            storage = filled(tmp_path / f"{at}-{clear}")

            def meanwhile(what: str, target: Any, storage: Storage = storage, clear: bool = clear) -> None:
                storage.merge()
                if clear:
                    storage.clock.advance(SETTINGS.grace)
                    storage.merge()

            with writes_watched(at, meanwhile):
                try:
                    late(storage)
                except TablesError:  # its folder was removed under its hands: the tuples come again
                    assert clear
            late(storage)
            storage.clock.advance(SETTINGS.grace)
            storage.merge()
            assert len(storage.visible()) == 58, (at, clear)
            assert len(set(storage.visible())) == 58, (at, clear)
            assert storage.differences() == [], (at, clear)


def test_a_writer_that_dies_at_any_write_of_a_merged_hour_is_finished_by_the_next(tmp_path: Path) -> None:
    def late(storage: Storage) -> None:
        writer = storage.writer(2, at=hour_start(HOUR))
        writer.gather(chunk(2, 0, 5))
        writer.flush()

    def merge_begun(storage: Storage) -> None:
        """A merge that dies just before its swap."""
        with contextlib.suppress(DiedError), writes_watched(swap, die):
            storage.merge()

    whole = filled(tmp_path / "whole")
    with writes_watched() as seen:
        whole.merge()
    swap = max(i for i, name in enumerate(seen) if name == "replace") - 1
    begun = filled(tmp_path / "begun")
    merge_begun(begun)
    assert Hours(begun.tables).get("purchase", HOUR).merging == 1
    for at in range(moments(lambda: late(begun))):
        storage = filled(tmp_path / str(at))
        merge_begun(storage)
        with pytest.raises(DiedError), writes_watched(at, die):
            late(storage)
        storage.clock.advance(SETTINGS.lease)
        storage.merge()
        late(storage)
        assert len(storage.visible()) == len(set(storage.visible())) == 53, at
        storage.clock.advance(SETTINGS.grace)
        storage.merge()
        assert len(storage.visible()) == len(set(storage.visible())) == 53, at
        assert storage.differences() == [], at


def test_a_merge_that_wakes_when_another_has_removed_its_folder_is_given_up(tmp_path: Path) -> None:
    """The other dies behind the removal, and has not begun a merge of its own."""
    storage = Storage(tmp_path)
    fill(storage)
    before = storage.visible()

    class Dying(Merger):
        def _small(self, *args: Any) -> list[Any]:
            raise DiedError

    class Sleeper(Merger):
        def _renew(self, source: str, hour: str, number: int) -> None:
            super()._renew(source, hour, number)
            if not slept:
                slept.append(number)
                storage.clock.advance(SETTINGS.lease)
                with pytest.raises(DiedError):
                    Dying(storage.tables, storage.warehouse, storage.clock, SETTINGS).run("purchase")

    slept: list[int] = []
    lost = Sleeper(storage.tables, storage.warehouse, storage.clock, SETTINGS).run("purchase")
    assert slept
    assert (lost.hours, len(lost.notes)) == (0, 1)
    assert storage.visible() == before
    for _ in range(3):
        storage.clock.advance(SETTINGS.grace)
        storage.merge()
    assert storage.visible() == before
    assert storage.differences() == []


def test_a_file_placed_in_a_folder_that_was_replaced_just_then_outlives_that_folder(tmp_path: Path) -> None:
    """Its owner decides on the folder, sleeps through the swap, places the file and dies before he looks again."""
    storage = Storage(tmp_path)
    fill(storage)

    class Sleeper(LocalWarehouse):
        def _bring_one(self, file: EventFile, target: Path, number: int) -> None:
            assert storage.merge().hours == 1
            super()._bring_one(file, target, number)
            raise DiedError

    writer = storage.writer(2, at=hour_start(HOUR), warehouse=Sleeper(tmp_path, Hours(storage.tables)))
    writer.gather(chunk(2, 0, 5))
    with pytest.raises(DiedError):
        writer.flush()
    assert len(storage.visible()) == 48
    storage.clock.advance(SETTINGS.grace)
    assert storage.merge().removed == 1
    storage.writer(2, at=hour_start(HOUR)).flush()
    assert len(storage.visible()) == 53
    assert storage.differences() == []


def test_who_places_a_file_again_that_was_merged_meanwhile_does_not_double_it(tmp_path: Path) -> None:
    storage = Storage(tmp_path)
    fill(storage)
    files = list(files_in_place(storage.warehouse, "purchase"))
    before = storage.visible()
    storage.merge()
    storage.warehouse.place(files)
    assert storage.visible() == before
