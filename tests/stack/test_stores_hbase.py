"""The stores' own tests over tables in a real HBase."""

from collections.abc import Callable, Iterator, Sequence
from typing import Any

import pytest
from hypothesis import settings
from tests.stack.hbase_tools import drop, new_prefix, tables_of
from tests.stack.servers import HBaseServers
from tests.unit.test_checkpoints import (  # noqa: F401
    test_a_checkpoint_never_moves_back,
    test_a_move_whose_reply_was_lost_is_no_loss,
    test_a_stale_mover_loses_and_changes_nothing,
    test_the_first_checkpoint_stays_whoever_else_begins,
)
from tests.unit.test_index import (  # noqa: F401
    test_a_loaded_index_is_what_its_owner_had,
    test_a_snapshot_of_a_task_that_wakes_covers_no_newer_one,
    test_of_two_owners_one_wins_and_the_other_is_told,
    test_refused_offsets_count_as_applied_until_lifted_below_the_floor_too,
    test_rows_not_marked_published_are_found_again,
)
from tests.unit.test_journal import (  # noqa: F401
    CrashError,
    JournalMachine,
    test_a_snapshot_of_a_shard_leaves_the_others_alone,
    test_an_old_writer_that_wakes_after_its_rows_were_folded_and_deleted_loses,
    test_an_old_writers_snapshot_covers_nothing_newer,
    test_fencing_makes_every_older_task_lose_its_next_write_in_all_shards,
    test_fencing_reaches_shards_that_nobody_has_written,
    test_rows_whose_effects_are_not_published_outlive_the_snapshot,
    test_seals_stay_and_every_load_puts_one,
)
from tests.unit.test_letters import (  # noqa: F401
    log,
    test_nothing_comes_back_to_a_letter_that_was_pruned,
    test_of_letters_stored_at_once_each_has_its_own_time,
    test_whoever_stores_a_letter_late_covers_none_that_died_before_and_publishes_that,
    verdicts,
)
from tests.unit.test_list_copy import (  # noqa: F401
    test_a_breaker_is_opened_once_and_old_changes_cover_no_newer_one,
    test_a_breaker_leaves_would_deny_and_closing_it_denies_again,
    test_a_change_is_seen_once_the_refresh_interval_has_passed,
    test_a_copy_loads_what_stands_in_the_rows_of_every_registered_source,
    test_a_copy_older_than_the_bound_decides_nothing,
    test_a_long_list_misses_nobody,
    test_a_source_registered_later_arrives_by_the_feed,
    test_acts_that_cannot_be_meant_are_refused,
    test_an_act_that_was_left_half_done_is_finished_by_the_next_reader,
    test_entries_expire_and_come_back_with_the_wall_clock,
    test_lift_confirm_allow_and_remove_reach_the_copy,
    test_publishing_again_writes_the_same_history_rows,
    test_two_acts_at_one_instant_are_two_acts,
)
from tests.unit.test_stores_cases import test_of_several_cases_of_a_party_the_one_opened_first_stands  # noqa: F401

from paystorm.clock import ManualClock
from paystorm.errors import TablesError
from paystorm.stores.lists import register_source
from paystorm.tables.hbase import HBaseTables

pytestmark = pytest.mark.long


class FailingTables(HBaseTables):
    """Tables in HBase that fail on demand, as those of the stores' tests do."""

    broken = False
    break_before = ""
    left: int | None = None
    """Rows that are still written before the process dies; None: it does not."""

    def _may(self, call: str) -> None:
        if self.broken or self.break_before == call:
            self.break_before = ""
            raise TablesError("tables: not now")

    def feed_read(self, feed: str, cursor: bytes, *, limit: int = 10_000) -> tuple[list[bytes], bytes]:
        self._may("feed_read")
        return super().feed_read(feed, cursor, limit=limit)

    def feed_end(self, feed: str) -> bytes:
        self._may("feed_end")
        return super().feed_end(feed)

    def feed_append(self, feed: str, items: Sequence[bytes]) -> None:
        self._may("feed_append")
        super().feed_append(feed, items)

    def put_if_absent(self, table: str, rows: Sequence[tuple[bytes, bytes]]) -> list[bool]:
        self._may(f"put {table}")
        return super().put_if_absent(table, rows)

    def put(self, table: str, rows: Sequence[tuple[bytes, bytes]], *, version: int = 0) -> None:
        self._one_by_one(rows, lambda some: HBaseTables.put(self, table, some, version=version))

    def delete(self, table: str, keys: Sequence[bytes]) -> None:
        self._one_by_one(keys, lambda some: HBaseTables.delete(self, table, some))

    def _one_by_one(self, rows: Sequence[Any], write: Callable[[Sequence[Any]], None]) -> None:
        if self.left is None:
            write(rows)
            return
        for row in rows:
            if self.left == 0:
                raise CrashError
            self.left -= 1
            write([row])


@pytest.fixture
def tables(hbase_server: HBaseServers, request: pytest.FixtureRequest) -> Iterator[HBaseTables]:
    with tables_of(hbase_server.host, hbase_server.port, kind=FailingTables) as tables:
        if "clock" in request.fixturenames or "history" in request.node.name:
            register_source(tables, "pay")
        yield tables


@pytest.fixture
def clock() -> ManualClock:
    return ManualClock()


def test_tasks_that_take_a_shard_from_each_other_lose_nothing(hbase_server: HBaseServers) -> None:
    class OnHBase(JournalMachine):
        def __init__(self) -> None:
            super().__init__()
            self.prefix = new_prefix()
            self.tables = FailingTables(hbase_server.host, hbase_server.port, prefix=self.prefix)

        def teardown(self) -> None:
            self.tables.close()
            drop(hbase_server.host, hbase_server.port, self.prefix)

    OnHBase.TestCase.settings = settings(max_examples=5, stateful_step_count=20, deadline=None)
    OnHBase.TestCase("runTest").runTest()
