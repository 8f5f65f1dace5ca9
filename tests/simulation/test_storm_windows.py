"""Storm's worked example of windows (its docs, Windowing, Watermarks): e1 to e10, sliding windows of 20 s every 10 s.

Its windows are sums of two neighbouring intervals of 10 s. There, e10 and e6 wait for a watermark; here nothing waits.
"""

import json

import msgspec

from paystorm.oracle import compute
from paystorm.rules import Rule
from paystorm.stores.versions import load_versions
from paystorm.testing import SOURCE, Shape, World, check
from paystorm.testing.checking import given
from paystorm.verify.counts import Figures, held_counts

FIRST = ("06:00:03", "06:00:05", "06:00:07", "06:00:18", "06:00:26", "06:00:36")
SECOND = ("08:00:25", "08:00:26", "08:00:27", "08:00:39")
WINDOWS = {
    "06:00:10": 3,  # e1 e2 e3
    "06:00:20": 4,  # e1 e2 e3 e4
    "06:00:30": 2,  # e4 e5
    "06:00:40": 2,  # e5 e6
    "06:00:50": 1,  # e6
    "08:00:30": 3,  # e7 e8 e9
}
MIDNIGHT = 1_767_139_200  # 2025-12-31


def _seconds(time: str) -> int:
    hours, minutes, seconds = map(int, time.split(":"))
    return MIDNIGHT + hours * 3600 + minutes * 60 + seconds


def test_storms_sliding_windows_are_sums_of_two_neighbouring_intervals() -> None:
    rule = Rule(name="per_10s", kind="account", role="sender", interval="10s", limit=1000)
    source = msgspec.structs.replace(SOURCE, rules=(rule,))
    world = World(1, source=source)
    process = world.start(Shape(), {"allowedLateness": 0})
    for batch in (FIRST, SECOND):
        for time in batch:
            data = {"event_time": f"2025-12-31T{time}Z", "payer": "p"}
            world.send(0, json.dumps({"ApplicationRef": "a", "data": data}).encode())
        process.run()
    assert not check(world)
    shards = load_versions(world.tables, "pay")[0].shards
    with compute(given(world)) as computed:
        figures = Figures(world.tables, "pay", shards)
        held = {c.interval_start: c.value for c in held_counts(figures, computed, source, {rule.name: rule})}
    for end, events in WINDOWS.items():
        at = _seconds(end)
        assert held.get(at - 20, 0) + held.get(at - 10, 0) == events, end
