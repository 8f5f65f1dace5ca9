"""The log in memory keeps the contract of all logs."""

import pytest
from tests.contract.log_contract import LogContract

from paystorm.clock import ManualClock
from paystorm.log.base import Log, OutRecord
from paystorm.testing import MemoryLog


class TestMemoryLog(LogContract):
    @pytest.fixture
    def log(self) -> Log:
        return MemoryLog(ManualClock())


def test_a_gap_is_read_over() -> None:
    log = MemoryLog(ManualClock())
    log.create_topic("t", 1)
    log.append("t", [OutRecord(b"a")])
    log.skip("t", 0, 3)
    assert log.append("t", [OutRecord(b"b")]) == [(0, 4)]
    log.skip("t", 0, 2)
    batch = log.read("t", 0, 0, max_records=10, max_bytes=100)
    assert batch is not None
    assert (batch.offsets.tolist(), batch.next) == ([0, 4], 7)
    rest = log.read("t", 0, 5, max_records=10, max_bytes=100)
    assert rest is not None
    assert (len(rest), rest.next) == (0, 7)
