"""Types are made known to msgspec by one thread, whoever comes first."""

import subprocess
import sys

MANY_AT_ONCE = """
import sys, threading
sys.setswitchinterval(1e-6)
from paystorm.packing import prepare_types
from paystorm.source import Source
plain = {"name": "pay", "topic": "pay", "enforces": True, "fields": [{"name": "event_time", "type": "time",
         "required": True}], "parties": []}
go = threading.Barrier(16)
def work():
    go.wait()
    prepare_types()
    assert Source.from_dict(plain).name == "pay"
threads = [threading.Thread(target=work) for _ in range(16)]
[t.start() for t in threads]
[t.join() for t in threads]
"""


def test_many_threads_may_decode_a_type_for_the_first_time_together() -> None:
    for _ in range(3):
        subprocess.run([sys.executable, "-c", MANY_AT_ONCE], check=True, timeout=60)
