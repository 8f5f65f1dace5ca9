"""What all tables must do. A subclass provides the fixture `tables`."""

import threading
import uuid
from collections.abc import Callable

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from paystorm.errors import TablesError
from paystorm.tables.base import Tables

_KEYS = st.binary(max_size=3)


# Each example uses a table of its own; and each subclass runs the same test.
_ALLOWED = [HealthCheck.function_scoped_fixture, HealthCheck.differing_executors]


def _at_once(calls: list[Callable[[], None]]) -> None:
    """Run in a thread each, started together; raises what any of them raised."""
    barrier = threading.Barrier(len(calls))
    failures: list[BaseException] = []

    def run(call: Callable[[], None]) -> None:
        try:
            barrier.wait(10)
            call()
        except BaseException as e:
            failures.append(e)

    threads = [threading.Thread(target=run, args=(call,)) for call in calls]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    assert not failures, failures


class TablesContract:
    """The contract of `paystorm.tables.base.Tables`."""

    @pytest.fixture
    def name(self) -> str:
        return f"source-{uuid.uuid4().hex[:8]}.rows"

    def test_a_table_that_was_never_written_is_empty(self, tables: Tables, name: str) -> None:
        assert tables.get(name, b"k") is None
        assert tables.get_many(name, [b"a", b"b"]) == [None, None]
        assert list(tables.scan(name)) == []
        tables.delete(name, [b"k"])
        assert not tables.delete_if(name, b"k", b"v")
        assert not tables.replace(name, b"k", b"v", b"w")
        assert tables.feed_read(name, b"")[0] == []

    def test_get_many_answers_in_the_order_asked(self, tables: Tables, name: str) -> None:
        keys = [b"%d" % i for i in range(1200)]
        tables.put(name, [(k, b"v" + k) for k in keys[::2]])
        asked = [*reversed(keys), keys[4]]
        assert tables.get_many(name, asked) == [b"v" + k if int(k) % 2 == 0 else None for k in asked]

    def test_empty_keys_and_values_are_rows_too(self, tables: Tables, name: str) -> None:
        tables.put(name, [(b"", b""), (b"\x00", b"\x00")])
        assert tables.get(name, b"") == b""
        assert list(tables.scan(name)) == [(b"", b""), (b"\x00", b"\x00")]

    def test_values_may_be_megabytes(self, tables: Tables, name: str) -> None:
        values = {b"%d" % i: bytes([i]) * 3_000_000 for i in range(4)}
        tables.put(name, list(values.items()))
        assert dict(tables.scan(name)) == values

    @settings(max_examples=40, deadline=None, suppress_health_check=_ALLOWED)
    @given(
        rows=st.dictionaries(_KEYS, st.binary(max_size=3), max_size=12),
        bounds=st.tuples(_KEYS, st.none() | _KEYS),
        limit=st.none() | st.integers(0, 12),
        reverse=st.booleans(),
    )
    def test_a_scan_gives_the_rows_of_its_range_in_order(
        self,
        tables: Tables,
        name: str,
        *,
        rows: dict[bytes, bytes],
        bounds: tuple[bytes, bytes | None],
        limit: int | None,
        reverse: bool,
    ) -> None:
        start, stop = bounds
        tables.delete(name, [k for k, _ in tables.scan(name)])
        tables.put(name, list(rows.items()))
        chosen = sorted((k, v) for k, v in rows.items() if k >= start and (stop is None or k < stop))
        expected = (chosen[::-1] if reverse else chosen)[:limit]
        assert list(tables.scan(name, start, stop, limit=limit, reverse=reverse)) == expected

    @pytest.mark.parametrize("reverse", [False, True])
    def test_a_long_scan_may_write_to_the_table_that_it_reads(self, tables: Tables, name: str, reverse: bool) -> None:
        keys = [b"%05d" % i for i in range(2500)]
        tables.put(name, [(k, b"") for k in keys])
        seen = []
        for key, _ in tables.scan(name, reverse=reverse):
            seen.append(key)
            if len(seen) % 500 == 0:
                tables.put(name, [(key, b"seen")])
        assert seen == (keys[::-1] if reverse else keys)

    @settings(max_examples=40, deadline=None, suppress_health_check=_ALLOWED)
    @given(puts=st.lists(st.tuples(st.integers(0, 4), st.binary(max_size=2)), min_size=1, max_size=8))
    def test_a_row_is_never_covered_by_one_of_a_lower_version(
        self, tables: Tables, name: str, puts: list[tuple[int, bytes]]
    ) -> None:
        key = uuid.uuid4().bytes
        held = (-1, b"")
        for version, value in puts:
            tables.put(name, [(key, value)], version=version)
            held = (version, value) if version >= held[0] else held
            assert tables.get(name, key) == held[1]

    @settings(max_examples=60, deadline=None, suppress_health_check=_ALLOWED)
    @given(data=st.data())
    def test_every_mix_of_writes_gives_the_row_that_the_contract_says(
        self, tables: Tables, name: str, data: st.DataObject
    ) -> None:
        key = uuid.uuid4().bytes
        value: bytes | None = None
        version = highest = 0
        for _ in range(data.draw(st.integers(1, 10))):
            new = data.draw(st.binary(max_size=1))
            expected = data.draw(st.sampled_from([value or b"", b"x"]))
            match data.draw(st.sampled_from(["put", "if absent", "replace", "delete", "delete if"])):
                case "put":
                    # At a version below one that the row had before it was removed, either may be.
                    wanted = data.draw(st.integers(0 if value is not None and version == highest else highest, 5))
                    tables.put(name, [(key, new)], version=wanted)
                    if value is None or wanted >= version:
                        value, version = new, wanted
                case "if absent":
                    assert tables.put_if_absent(name, [(key, new)]) == [value is None]
                    if value is None:
                        value, version = new, 0
                case "replace":
                    assert tables.replace(name, key, expected, new) == (value == expected)
                    value = new if value == expected else value
                case "delete":
                    tables.delete(name, [key])
                    value = None
                case _:
                    assert tables.delete_if(name, key, expected) == (value == expected)
                    value = None if value == expected else value
            highest = max(highest, version)
            assert tables.get(name, key) == value
            assert list(tables.scan(name, key, key + b"\x00")) == ([] if value is None else [(key, value)])

    def test_a_row_put_right_after_its_removal_is_there(self, tables: Tables, name: str) -> None:
        for i in range(30):
            value = b"%d" % i
            assert tables.put_if_absent(name, [(b"k", value)]) == [True]
            assert tables.get(name, b"k") == value
            if i % 2:
                tables.delete(name, [b"k"])
            else:
                assert tables.delete_if(name, b"k", value)
            assert tables.get(name, b"k") is None

    def test_of_two_that_remove_one_row_exactly_one_wins(self, tables: Tables, name: str) -> None:
        rows = [(b"%d" % i, b"v") for i in range(30)]
        tables.put_if_absent(name, rows)
        won: list[list[bool]] = [[], []]

        def remove(me: int) -> None:
            for key, value in rows:
                won[me].append(tables.delete_if(name, key, value))

        _at_once([lambda: remove(0), lambda: remove(1)])
        assert [a + b for a, b in zip(*won, strict=True)] == [1] * 30
        assert list(tables.scan(name)) == []

    def test_a_scan_passes_over_many_removed_rows(self, tables: Tables, name: str) -> None:
        keys = [b"%05d" % i for i in range(1500)]
        tables.put(name, [(k, b"v") for k in keys])
        tables.delete(name, keys[1:-1])
        assert [k for k, _ in tables.scan(name)] == [keys[0], keys[-1]]
        assert [k for k, _ in tables.scan(name, keys[1], limit=1)] == [keys[-1]]
        assert [k for k, _ in tables.scan(name, stop=keys[-1], limit=1, reverse=True)] == [keys[0]]

    def test_of_rows_with_one_key_put_at_once_the_last_stands(self, tables: Tables, name: str) -> None:
        tables.put(name, [(b"k", b"1"), (b"l", b"2"), (b"k", b"3")])
        assert list(tables.scan(name)) == [(b"k", b"3"), (b"l", b"2")]

    def test_put_if_absent_says_of_each_row_whether_it_was_put(self, tables: Tables, name: str) -> None:
        tables.put(name, [(b"b", b"old")])
        assert tables.put_if_absent(name, [(b"a", b"1"), (b"b", b"2"), (b"c", b"3"), (b"a", b"4")]) == [
            True,
            False,
            True,
            False,
        ]
        assert tables.get_many(name, [b"a", b"b", b"c"]) == [b"1", b"old", b"3"]
        assert tables.put_if_absent(name, []) == []

    def test_replace_and_delete_if_look_at_the_value(self, tables: Tables, name: str) -> None:
        tables.put(name, [(b"k", b"1")])
        assert not tables.replace(name, b"k", b"0", b"2")
        assert tables.replace(name, b"k", b"1", b"2")
        assert not tables.delete_if(name, b"k", b"1")
        assert tables.get(name, b"k") == b"2"
        assert tables.delete_if(name, b"k", b"2")
        assert tables.get(name, b"k") is None

    def test_a_replaced_row_keeps_its_version(self, tables: Tables, name: str) -> None:
        tables.put(name, [(b"k", b"1")], version=5)
        assert tables.replace(name, b"k", b"1", b"2")
        tables.put(name, [(b"k", b"3")], version=4)
        assert tables.get(name, b"k") == b"2"

    def test_deleted_rows_are_gone_and_absent_ones_passed_over(self, tables: Tables, name: str) -> None:
        tables.put(name, [(b"a", b""), (b"b", b""), (b"c", b"")])
        tables.delete(name, [b"a", b"c", b"x"])
        assert [k for k, _ in tables.scan(name)] == [b"b"]

    def test_of_two_that_put_an_absent_row_exactly_one_wins(self, tables: Tables, name: str) -> None:
        rows = [[(b"%d" % i, bytes([me])) for i in range(30)] for me in range(2)]
        won: list[list[bool]] = [[], []]

        def put(me: int) -> None:
            for row in rows[me]:
                won[me] += tables.put_if_absent(name, [row])

        _at_once([lambda: put(0), lambda: put(1)])
        assert [a + b for a, b in zip(*won, strict=True)] == [1] * 30
        for i in range(30):
            assert tables.get(name, b"%d" % i) == bytes([won[1][i]])

    def test_of_two_that_replace_one_value_exactly_one_wins(self, tables: Tables, name: str) -> None:
        tables.put(name, [(b"n", b"0")])

        def add() -> None:
            for _ in range(20):
                done = False
                while not done:
                    old = tables.get(name, b"n")
                    assert old is not None
                    done = tables.replace(name, b"n", old, b"%d" % (int(old) + 1))

        _at_once([add, add])
        assert tables.get(name, b"n") == b"40"

    def test_tables_and_feeds_do_not_mix(self, tables: Tables) -> None:
        tag = uuid.uuid4().hex[:8]
        names = [tag, f"{tag}.a", f"{tag}.A", f"{tag}.a.b", f"shared.{tag}", f"x.{tag}"]
        for n in names:
            tables.put(n, [(b"k", n.encode())])
            tables.feed_append(n, [n.encode()])
        assert [tables.get(n, b"k") for n in names] == [n.encode() for n in names]
        assert [tables.feed_read(n, b"")[0] for n in names] == [[n.encode()] for n in names]

    @pytest.mark.parametrize("bad", ["", "a/b", "a b", 'a"', "ä", "a\n", ".a"])
    def test_a_name_that_is_not_allowed_is_refused(self, tables: Tables, bad: str) -> None:
        with pytest.raises(TablesError, match="name"):
            tables.get(bad, b"")
        with pytest.raises(TablesError, match="name"):
            list(tables.scan(bad))
        with pytest.raises(TablesError, match="name"):
            tables.put(bad, [(b"", b"")])
        with pytest.raises(TablesError, match="name"):
            tables.feed_read(bad, b"")

    def test_a_feed_is_read_in_steps_from_a_cursor(self, tables: Tables, name: str) -> None:
        items = [b"%d" % i for i in range(25)]
        tables.feed_append(name, items[:10])
        tables.feed_append(name, [])
        tables.feed_append(name, items[10:])
        seen: list[bytes] = []
        cursor = b""
        while True:
            some, cursor = tables.feed_read(name, cursor, limit=10)
            if not some:
                break
            assert len(some) <= 10
            seen += some
        assert list(dict.fromkeys(seen)) == items

    def test_all_that_comes_after_feed_end_is_read_from_it(self, tables: Tables, name: str) -> None:
        assert tables.feed_read(name, tables.feed_end(name))[0] == []
        early = tables.feed_end(name)
        tables.feed_append(name, [b"1", b"2"])
        end = tables.feed_end(name)
        tables.feed_append(name, [b"3"])
        assert b"3" in tables.feed_read(name, end)[0]
        assert {b"1", b"2", b"3"} <= set(tables.feed_read(name, early)[0])

    def test_a_feed_misses_nothing_while_several_append(self, tables: Tables, name: str) -> None:
        seen: set[bytes] = set()
        wanted = {b"%d:%d" % (me, i) for me in range(3) for i in range(25)}

        def append(me: int) -> None:
            for i in range(25):
                tables.feed_append(name, [b"%d:%d" % (me, i)])

        def follow() -> None:
            cursor = b""
            for _ in range(100_000):
                items, cursor = tables.feed_read(name, cursor, limit=7)
                seen.update(items)
                if seen == wanted:
                    return

        _at_once([follow, lambda: append(0), lambda: append(1), lambda: append(2)])
        assert seen == wanted
