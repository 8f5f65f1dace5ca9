"""`paystorm verify` of a source that runs, or was stopped with records in flight."""

from collections.abc import Iterator
from pathlib import Path

import msgspec
import pytest
from payments_world import PARTITIONS, SOURCE, Running, payments
from verify_world import verify

from paystorm.clock import ManualClock
from paystorm.errors import UsageError
from paystorm.resources import Resources, open_embedded
from paystorm.stores.checkpoints import load_checkpoint
from paystorm.stores.control import Hold, load_held, load_hold, put_hold
from paystorm.tables.keys import key
from paystorm.verify.source import verify_source


def test_a_source_stopped_with_records_in_flight_is_not_verified(resources: Resources) -> None:
    held = load_checkpoint(resources.tables, "pay", "pay", 0)
    assert held is not None
    earlier = msgspec.structs.replace(held, committed=held.committed - 1, read=held.read - 1)
    resources.tables.put("pay.offsets", [(key("pay", 0), earlier.encode())])
    with pytest.raises(UsageError, match="stopped with records in flight; let it run"):
        verify(resources)


class SteppingClock(ManualClock):
    """Whoever sleeps lets the topology run."""

    running: Running | None = None

    def sleep(self, seconds: float) -> None:
        if self.running is None:
            self.advance(seconds)
        else:
            self.running.driver.run_until(lambda: False, seconds=seconds)


@pytest.fixture
def live(tmp_path: Path) -> Iterator[Running]:
    clock = SteppingClock()
    resources = open_embedded(tmp_path, clock)
    resources.log.create_topic("pay", PARTITIONS)
    clock.running = Running(resources, maxPendingRecords=40)
    yield clock.running
    resources.close()


def test_a_running_source_holds_is_verified_and_goes_on(live: Running) -> None:
    live.resources.log.append("pay", payments(200, 7))
    live.resources.log.append("pay", payments(200, 8))
    assert live.driver.run_until(lambda: sum(s.progress().read for s in live.spouts()) > 60, seconds=20)
    report = verify_source(live.resources, SOURCE, hold=True, timeout=60)
    assert [str(d) for d in report.differences] == []
    assert 0 < report.records < 400
    assert load_hold(live.resources.tables, "pay") is None
    live.settle()
    assert not load_held(live.resources.tables, "pay")
    assert verify_source(live.resources, SOURCE, hold=True, timeout=60).records == 400


def test_a_source_that_does_not_come_to_rest_in_time_goes_on_too(live: Running) -> None:
    live.settle()
    clock = live.clock
    assert isinstance(clock, SteppingClock)
    clock.running = None
    with pytest.raises(UsageError, match="still in flight after 3 s; allow more time") as error:
        verify_source(live.resources, SOURCE, hold=True, timeout=3)
    assert "\n" not in str(error.value)
    assert load_hold(live.resources.tables, "pay") is None


def test_a_source_that_another_holds_is_left_alone(live: Running) -> None:
    live.settle()
    put_hold(live.resources.tables, "pay", Hold(by="somebody", until=live.clock.now() + 10**7))
    with pytest.raises(UsageError, match="held by somebody"):
        verify_source(live.resources, SOURCE, hold=True, timeout=3)
    assert load_hold(live.resources.tables, "pay") is not None
