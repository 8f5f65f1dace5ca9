"""The commands as processes: killed at random moments, stopped in order, and used beside each other."""

import json
import subprocess
import sys
import time
from pathlib import Path
from random import Random
from typing import Any

from paystorm.cli.folder import running_pid
from paystorm.log.segments import MAX_VALUE
from paystorm.resources import open_embedded

ROUNDS = 10
A_ROUND = 1500
"""Records that are sent in each round."""
SOURCE = "purchase"
MAIN = [sys.executable, "-c", "import sys; from paystorm.cli.main import main; sys.exit(main(sys.argv[1:]))"]


def start(data: Path, *arguments: str) -> subprocess.Popen[str]:
    """A command as a process of its own."""
    command = [*MAIN, *arguments, "--data", str(data)]
    return subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


def call(data: Path, *arguments: str, code: int = 0) -> str:
    """What a command prints, to its end."""
    done = subprocess.run(
        [*MAIN, *arguments, "--data", str(data)], capture_output=True, text=True, check=False, timeout=60
    )
    assert done.returncode == code, (arguments, done.stdout, done.stderr)
    assert "Traceback" not in done.stderr
    return done.stdout


def lines(random: Random, count: int, first: int) -> list[str]:
    """Payments with ids of their own, some parties busy enough for hits, some broken."""
    made = []
    for n in range(first, first + count):
        day = 1 + random.randrange(3)
        amount: Any = "x" if random.random() < 0.01 else random.randrange(1, 900)
        made.append(
            json.dumps(
                {
                    "transaction_id": f"t{n}",
                    "event_time": f"2025-01-0{day}T{random.randrange(24):02}:00:00Z",
                    "from_party": f"u{int(random.paretovariate(0.6)) % 400}",
                    "to_party": f"v{random.randrange(200)}",
                    "amount": amount,
                    "currency": "EUR",
                }
            )
        )
    return made


def ids_in_log(data: Path) -> list[str]:
    """The ids of all records, in no order."""
    resources = open_embedded(data)
    found = []
    for partition in range(resources.log.partitions(SOURCE)):
        at = 0
        while batch := resources.log.read(SOURCE, partition, at, max_records=10**6, max_bytes=MAX_VALUE):
            found += [json.loads(value)["data"]["transaction_id"] for value in batch.all_values()]
            at = batch.next
    resources.close()
    return found


def kill(process: subprocess.Popen[str]) -> None:
    """As `kill -9` does."""
    process.kill()
    process.communicate()


def wait_for(what: str, is_so: Any, seconds: float = 30.0) -> None:
    """Wait until something is so."""
    deadline = time.monotonic() + seconds
    while not is_so():
        assert time.monotonic() < deadline, f"{what}: not within {seconds} s"
        time.sleep(0.05)


def status(data: Path) -> dict[str, Any]:
    """The status of the source; its balance adds up."""
    (found,) = json.loads(call(data, "status", SOURCE, "--json"))
    assert found["adds_up"], found
    return dict(found)


def exact(data: Path) -> None:
    """All is screened, the balance adds up, and the oracle finds no difference."""
    call(data, "run", SOURCE, "--until-idle")
    found = status(data)
    assert (found["totals"]["lag"], found["totals"]["read"]) == (0, len(ids_in_log(data)))
    (report,) = json.loads(call(data, "verify", SOURCE, "--json"))
    assert (report["ok"], report["differences"]) == (True, [])


def test_nothing_is_lost_or_counted_twice_whenever_run_and_send_are_killed(tmp_path: Path) -> None:
    data, random = tmp_path / "data", Random(20250101)
    acknowledged: set[str] = set()
    offered: set[str] = set()
    random_texts = lines(random, A_ROUND * ROUNDS, 0)
    for n in range(ROUNDS):
        texts = random_texts[n * A_ROUND : (n + 1) * A_ROUND]
        ids = [json.loads(text)["transaction_id"] for text in texts]
        offered |= set(ids)
        runner = start(data, "run", SOURCE, "-o", f"chunkRecords={random.choice((50, 400, 10_000))}")
        sender = start(data, "send", SOURCE, "-")
        assert sender.stdin is not None
        # Most rounds get under way before they are killed; some are killed while they start.
        if random.random() < 0.8:
            wait_for("run", lambda r=runner: running_pid(data, SOURCE) == r.pid)  # type: ignore[misc]
        kill_sender = n % 3 == 2
        try:
            for i in range(0, len(texts), 100):
                sender.stdin.write("\n".join(texts[i : i + 100]) + "\n")
                sender.stdin.flush()
                time.sleep(random.random() * 0.02)
                if kill_sender and random.random() < 0.1:
                    kill(sender)
                    break
        except BrokenPipeError:
            assert kill_sender
        time.sleep(random.random() * 0.7)
        if random.random() < 0.5 or kill_sender:
            kill(runner)
        if sender.returncode is None and not kill_sender:
            out, err = sender.communicate(timeout=30)
            assert (sender.returncode, out.startswith(f"{A_ROUND:,} records sent")) == (0, True), err
            acknowledged |= set(ids)
        elif sender.returncode is None:
            kill(sender)
        if runner.returncode is None:
            time.sleep(random.random() * 0.5)
            kill(runner)
        if n % 4 == 3:
            exact(data)
    exact(data)
    found = ids_in_log(data)
    assert len(found) == len(set(found))
    assert acknowledged <= set(found) <= offered
