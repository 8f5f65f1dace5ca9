"""What is refused before sparse uploads anything, and what is filled in."""

import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from streamparse.util import get_topology_from_file

from paystorm.errors import ConfigError
from paystorm.submit import check_submit, prepare_submit

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture
def topology() -> Iterator[Any]:
    """The purchase topology, as sparse has it when it calls the hook; options are those of sparse, too."""
    path, modules = list(sys.path), set(sys.modules)
    yield get_topology_from_file(str(ROOT / "topologies" / "purchase.py"))
    sys.path[:] = path
    for name in set(sys.modules) - modules:
        if name == "purchase":
            del sys.modules[name]


def options(topology: Any, **more: Any) -> dict[str, Any]:
    return {
        **topology.config,
        "paystorm.kafka.brokers": "k:9092",
        "paystorm.hbase": "h:9090",
        "paystorm.warehouse": "stack-data/warehouse",
        "use_virtualenv": False,
        "sudo_user": None,
        "topology.workers": 1,
        **more,
    }


def test_folders_are_made_absolute_for_workers_that_run_elsewhere(topology: Any) -> None:
    given = options(topology)
    prepare_submit(ROOT, "purchase", "stack", given)
    assert given["paystorm.warehouse"] == str(ROOT / "stack-data/warehouse")


def test_parallelism_is_an_option(topology: Any) -> None:
    prepare_submit(ROOT, "purchase", "stack", options(topology, **{"parallelism.counts": 4, "parallelism.spout": 2}))
    thrift = topology.thrift_topology
    assert thrift.bolts["counts"].common.parallelism_hint == 4
    assert thrift.spouts["spout"].common.parallelism_hint == 2
    assert thrift.bolts["lookup"].common.parallelism_hint == 1


@pytest.mark.parametrize(
    ("more", "told"),
    [
        ({"maxOfsetBehind": 3}, "options.maxOfsetBehind: no such setting"),
        ({"retryInitialDelayMs": -1}, "retryInitialDelayMs must be ≥ 0, got -1"),
        ({"rules.purchase.account_per_day.limit": "x"}, "rules.purchase.account_per_day.limit must be a whole number"),
        ({"parallelism.counts": 0}, "parallelism.counts must be a whole number from 1 to 1024, got 0"),
        ({"parallelism.count": 2}, "parallelism.count: no such component; there are spout, "),
        ({"paystorm.hbase": None}, "paystorm.hbase is missing: a cluster's workers share no data folder"),
        ({"kafka.password": "x"}, "kafka.password: the Storm UI shows a topology's options to everybody"),
    ],
)
def test_a_bad_option_is_refused_by_name(topology: Any, more: dict[str, Any], told: str) -> None:
    with pytest.raises(ConfigError) as refused:
        prepare_submit(ROOT, "purchase", "stack", options(topology, **more))
    assert told in str(refused.value)


def test_sparse_ends_with_one_line_and_code_2(topology: Any, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        check_submit(ROOT, "purchase", "stack", options(topology, maxOfsetBehind=3))
    assert ended.value.code == 2
    assert capsys.readouterr().err.count("\n") == 1


def test_a_sink_may_not_gather_until_its_tuples_time_out(topology: Any) -> None:
    given = options(topology, flushMs=20_000, **{"topology.message.timeout.secs": 20})
    with pytest.raises(ConfigError, match=r"flushMs must be below topology\.message\.timeout\.secs, 20 s, got 20000:"):
        prepare_submit(ROOT, "purchase", "stack", given)
    prepare_submit(ROOT, "purchase", "stack", given | {"flushMs": 19_999})
    with pytest.raises(ConfigError, match=r"topology\.message\.timeout\.secs, 30 s"):  # Storm's own
        prepare_submit(ROOT, "purchase", "stack", options(topology, flushMs=30_000))


def test_a_task_has_no_threads_for_columns_unless_somebody_says_so(topology: Any) -> None:
    given = options(topology)
    prepare_submit(ROOT, "purchase", "stack", given)
    assert given["topology.environment"] == {"POLARS_MAX_THREADS": "1"}
    own = {"topology.environment": {"POLARS_MAX_THREADS": "4"}}
    given = options(topology, **own)
    prepare_submit(ROOT, "purchase", "stack", given)
    assert given["topology.environment"] == own["topology.environment"]
