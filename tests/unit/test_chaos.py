"""The plan of faults, what is told of a recovery, and what is refused."""

import itertools
import time
from collections import Counter
from pathlib import Path

import pytest

from paystorm.chaos.campaign import Outcome
from paystorm.chaos.faults import FAULTS, FillDisk, Target
from paystorm.chaos.feeder import Feeder
from paystorm.chaos.plan import AWAY, QUIET, plan
from paystorm.chaos.processes import Running
from paystorm.chaos.report import COLUMNS, markdown
from paystorm.chaos.watch import CALM, SMALL_LAG, Recovery, Sample, recovery
from paystorm.clock import SystemClock
from paystorm.errors import LogError
from paystorm.log.base import OutRecord
from paystorm.nimbus import NimbusClient
from paystorm.stack import Stack
from paystorm.stack.process import Process

SMALL = 50
STRUCK = 100.0


def samples(*seen: tuple[int | None, int | None], every: float = 1.0) -> list[Sample]:
    """(committed, lag) at STRUCK and every second from then on; at the end calm for as long as it takes."""
    last = seen[-1]
    all_seen = [*seen, *((n, 0) for n in range(last[0] or 0, int(CALM) + 2 + (last[0] or 0)))]
    return [Sample(STRUCK + n * every, committed, lag) for n, (committed, lag) in enumerate(all_seen)]


def test_a_seed_gives_the_same_plan_again_and_another_seed_another() -> None:
    first, again = (list(plan(list(FAULTS), seed=7, each=2)) for _ in range(2))
    assert first == again
    assert first != list(plan(list(FAULTS), seed=8, each=2))


def test_each_fault_is_done_as_often_as_wanted() -> None:
    steps = list(plan(list(FAULTS), seed=1, each=3))
    assert {name: sum(step.fault == name for step in steps) for name in FAULTS} == dict.fromkeys(FAULTS, 3)
    assert all(QUIET[0] <= step.after <= QUIET[1] and AWAY[0] <= step.away <= AWAY[1] for step in steps)


def test_so_many_faults_are_different_ones_as_far_as_there_are() -> None:
    assert len({step.fault for step in plan(list(FAULTS), seed=3, count=4)}) == 4
    assert len(list(plan(["child", "worker"], seed=3, count=5))) == 5
    assert len(list(itertools.islice(plan(["child"], seed=3), 100))) == 100


def test_a_fault_that_nobody_felt_took_no_time() -> None:
    assert recovery(samples((0, 10), (100, 10), (200, 10)), STRUCK, SMALL) == Recovery(0.0, 0.0)


def test_the_first_commit_is_the_one_after_the_longest_standstill() -> None:
    seen = [(100, 10), (130, 20), *((130, 100),) * 8, (None, None), (250, 90), (400, 20)]
    felt = recovery(samples(*seen), STRUCK, SMALL)
    assert felt == Recovery(first_commit=11.0, caught_up=11.0)


def test_it_is_not_over_while_the_lag_is_large_unknown_or_was_so_a_moment_ago() -> None:
    calm = samples((100, 10))
    assert recovery(calm, STRUCK, SMALL) is not None
    for lag in (SMALL + 1, None):
        assert recovery([*calm, Sample(calm[-1].at + 1, 500, lag)], STRUCK, SMALL) is None
    assert recovery(calm[: int(CALM / 2)], STRUCK, SMALL) is None
    assert recovery([], STRUCK, SMALL) is None


def test_short_gaps_between_commits_are_no_standstill() -> None:
    gap = int(SMALL_LAG) - 1
    felt = recovery(samples((100, 10), *((100, 20),) * gap, (200, 10)), STRUCK, SMALL)
    assert felt == Recovery(0.0, 0.0)


def test_processes_are_told_apart_by_their_commands() -> None:
    def run(*command: str) -> Running:
        return Running(Process(1, 1), "supervisor", "t/supervisor", command)

    worker = run("java", "-server", "org.apache.storm.daemon.worker.Worker", "purchase-1-2", "host", "6700")
    assert worker.works_for("purchase-1-2")
    assert not worker.works_for("purchase-1-3")
    assert worker.component is None
    assert not run("java", "org.apache.storm.LogWriter", *worker.command).works_for("purchase-1-2")
    child = run("python", "/bin/streamparse_run", "-s json bolts.warehouse.WarehouseBolt")
    assert child.component == "bolts.warehouse.WarehouseBolt"


def test_the_machine_s_own_disk_is_not_filled(tmp_path: Path) -> None:
    target = Target(Stack(tmp_path / "servers"), NimbusClient("127.0.0.1:1"), "purchase", tmp_path)
    assert "no disk of its own" in (FillDisk.missing(target) or "")
    target = Target(target.stack, target.nimbus, "purchase", Path("/"))
    assert "larger than" in (FillDisk.missing(target) or "")


def test_the_table_has_a_row_for_each_fault_that_was_done() -> None:
    done = [
        Outcome("hive", "hive", 1.0, 10.0, 0.0, 0.0, 10, 10, ()),
        Outcome("child", "x", 2.0, 0.1, 4.0, 5.0, 10, 10, ()),
        Outcome("child", "x", 2.0, 0.3, None, None, 10, 10, ("lost",)),
    ]
    lines = markdown(done).splitlines()
    assert [line.split(" | ")[0] for line in lines[2:]] == ["| child", "| hive"]
    assert lines[2] == "| child | 2 | 0.2 s (longest 0.3) | 4.0 s | 5.0 s | 1 |"
    assert {line.count("|") for line in lines} == {len(COLUMNS) + 1}


class Refusing:
    """A log that acknowledges every third append."""

    def __init__(self) -> None:
        self.records: list[bytes] = []
        self.appends = 0

    def append(self, topic: str, records: list[OutRecord]) -> list[tuple[int, int]]:
        """Appends, and says so only now and then."""
        self.appends += 1
        self.records += [record.value for record in records]
        if self.appends % 3:
            raise LogError("away")
        return [(0, len(self.records) - len(records) + n) for n in range(len(records))]


def test_what_is_not_acknowledged_is_sent_again_and_counted_once() -> None:
    refusing = Refusing()
    feeder = Feeder(refusing, "purchase", SystemClock(), rate=5000, seed=1)  # type: ignore[arg-type]
    feeder.start()
    until = time.monotonic() + 30
    while feeder.sent < 2000 and time.monotonic() < until:
        time.sleep(0.01)
    feeder.stop()
    assert feeder.sent >= 2000
    appended = Counter(refusing.records)
    acknowledged = [value for value, times in appended.items() if times == 3]
    assert len(acknowledged) == feeder.sent
    assert feeder.refused == refusing.appends - feeder.sent // 1000
    assert feeder.ends()[0] <= len(refusing.records)


def test_what_the_sender_dies_of_is_told() -> None:
    class Broken:
        def append(self, topic: str, records: list[OutRecord]) -> list[tuple[int, int]]:
            raise ZeroDivisionError

    feeder = Feeder(Broken(), "purchase", SystemClock(), rate=100, seed=1)  # type: ignore[arg-type]
    feeder.start()
    feeder.join()
    with pytest.raises(ZeroDivisionError):
        feeder.ends()
