"""From append to durable verdict at a steady rate: a producer beside the topology, times from the two logs."""

import json
import subprocess
import sys
import time
from pathlib import Path

import numpy as np

from paystorm.clock import SystemClock
from paystorm.generate import purchases
from paystorm.log.base import OutRecord
from paystorm.log.embedded import EmbeddedLog

RATE, SECONDS, WARM_UP = 10_000, 20, 5
"""Records a second; seconds in all; seconds at the start that do not count (loading, first files)."""
STEP = 0.01


def main() -> None:
    """Offer records while `bench/purchase.py` runs on the same data, then compare the logs' times."""
    data = Path(sys.argv[1])
    log = EmbeddedLog(data / "log", SystemClock())
    log.create_topic("purchase", 1)
    topology = subprocess.Popen(
        [sys.executable, Path(__file__).with_name("purchase.py"), data, "--rules=all", f"--records={RATE * SECONDS}",
         f"--seconds={SECONDS + 6}", "--option=flushMs=40", "--option=refreshMs=100"],
        stdout=subprocess.PIPE,
    )  # fmt: skip
    time.sleep(3)
    values = [v for block in purchases(RATE * SECONDS, seed=7, days=1) for v in block]
    began = time.perf_counter()
    each = round(RATE * STEP)
    for i in range(0, len(values), each):
        log.append("purchase", [OutRecord(v, partition=0) for v in values[i : i + each]])
        time.sleep(max(0.0, began + (i / each + 1) * STEP - time.perf_counter()))
    offered = len(values) / (time.perf_counter() - began)
    topology.communicate()
    appended = _times(log, "purchase")
    waits = [
        at - appended[int(key.split(b"/")[2])]
        for key, at in _keyed(log, "purchase-verdicts")
        if int(key.split(b"/")[2]) >= RATE * WARM_UP
    ]
    p50, p99, worst = np.percentile(waits, [50, 99, 100])
    print(json.dumps({"offered": offered, "verdicts": len(waits), "p50_ms": p50, "p99_ms": p99, "max_ms": worst}))


def _times(log: EmbeddedLog, topic: str) -> list[int]:
    times: list[int] = []
    while (batch := log.read(topic, 0, len(times), max_records=50_000, max_bytes=64 << 20)) is not None:
        times.extend(batch.timestamps.tolist())
    return times


def _keyed(log: EmbeddedLog, topic: str) -> list[tuple[bytes, int]]:
    out: list[tuple[bytes, int]] = []
    offset = 0
    while (batch := log.read(topic, 0, offset, max_records=50_000, max_bytes=64 << 20, keys=True)) is not None:
        assert batch.keys is not None
        out.extend(zip([k or b"" for k in batch.keys], batch.timestamps.tolist(), strict=True))
        offset = batch.next
    return out


if __name__ == "__main__":
    main()
