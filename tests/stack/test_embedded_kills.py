"""The commands as processes: killed at random moments, stopped in order, and used beside each other."""

import json
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path
from random import Random
from typing import Any

import pytest

from paystorm.cli.export import WHAT
from paystorm.cli.folder import running_pid
from paystorm.cli.main import main
from paystorm.log.segments import MAX_VALUE
from paystorm.resources import open_embedded

ROUNDS = 10
A_ROUND = 1500
"""Records that are sent in each round."""
SOURCE = "purchase"
Captured = pytest.CaptureFixture[str]
MAIN = [sys.executable, "-c", "import sys; from paystorm.cli.main import main; sys.exit(main(sys.argv[1:]))"]


def start(data: Path, *arguments: str) -> subprocess.Popen[str]:
    """A command as a process of its own."""
    command = [*MAIN, *arguments, "--data", str(data)]
    return subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


def call(data: Path, capsys: Captured, *arguments: str, code: int = 0) -> str:
    """What a command prints, in this process."""
    capsys.readouterr()
    got = main([*arguments, "--data", str(data)])
    shown = capsys.readouterr()
    assert got == code, (arguments, shown.out, shown.err)
    return shown.out


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


def status(data: Path, capsys: Captured) -> dict[str, Any]:
    """The status of the source; its balance adds up."""
    (found,) = json.loads(call(data, capsys, "status", SOURCE, "--json"))
    assert found["adds_up"], found
    return dict(found)


def exact(data: Path, capsys: Captured) -> None:
    """All is screened, the balance adds up, and the oracle finds no difference."""
    call(data, capsys, "run", SOURCE, "--until-idle")
    found = status(data, capsys)
    assert (found["totals"]["lag"], found["totals"]["read"]) == (0, len(ids_in_log(data)))
    no_difference(data, capsys)


def no_difference(data: Path, capsys: Captured) -> None:
    """The oracle finds none."""
    (report,) = json.loads(call(data, capsys, "verify", SOURCE, "--json"))
    assert (report["ok"], report["differences"]) == (True, [])


def test_nothing_is_lost_or_counted_twice_whenever_run_and_send_are_killed(tmp_path: Path, capsys: Captured) -> None:
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
            wait_for("run", lambda r=runner: running_pid(data, SOURCE) == r.pid)
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
        status(data, capsys)
        if n == ROUNDS // 2:
            exact(data, capsys)
    exact(data, capsys)
    found = ids_in_log(data)
    assert len(found) == len(set(found))
    assert acknowledged <= set(found) <= offered


def test_everything_works_beside_a_running_source_which_ends_in_order(tmp_path: Path, capsys: Captured) -> None:
    data, random = tmp_path / "data", Random(5)
    texts = lines(random, 9_000, 0)
    runner = start(data, "run", SOURCE)
    sender = start(data, "send", SOURCE, "-")
    fed = threading.Event()

    def feed() -> None:
        assert sender.stdin is not None
        for i in range(0, len(texts), 100):
            sender.stdin.write("\n".join(texts[i : i + 100]) + "\n")
            sender.stdin.flush()
            time.sleep(0.06)
        sender.stdin.close()
        fed.set()

    feeding = threading.Thread(target=feed)
    try:
        wait_for("run", lambda: running_pid(data, SOURCE) == runner.pid)
        feeding.start()
        call(data, capsys, "run", SOURCE, "--until-idle", code=2)
        wait_for("records", lambda: status(data, capsys)["totals"]["accepted"] > 500)
        call(data, capsys, "lists", "add", "account", "v7", "--reason", "seen")
        call(data, capsys, "lists", "show")
        for kind in WHAT:
            call(data, capsys, "export", kind, "--source", SOURCE)
        call(data, capsys, "query", f"SELECT verdict, count(*) FROM {SOURCE} GROUP BY ALL")
        before = status(data, capsys)["totals"]["read"]
        no_difference(data, capsys)  # it holds the spouts, and lets them go on
        assert not fed.is_set()
        wait_for("more records", lambda: status(data, capsys)["totals"]["read"] > before + 100)
        for text in ("INT", "TERM"):
            runner.send_signal(getattr(signal, f"SIG{text}"))
            out, err = runner.communicate(timeout=40)
            assert (runner.returncode, "Traceback" in err) == (130 if text == "INT" else 0, False), err
            assert out.startswith(f"{SOURCE}: ")
            assert "not finished" not in err
            found = status(data, capsys)
            assert (found["running"], found["pid"]) == (False, None)
            no_difference(data, capsys)  # nothing was in flight
            if text == "INT":
                read = found["totals"]["read"]
                runner = start(data, "run", SOURCE)
                wait_for("run", lambda least=read: status(data, capsys)["totals"]["read"] > least)
        feeding.join(30)
        assert sender.wait(30) == 0
    finally:
        for process in (runner, sender):
            if process.poll() is None:
                process.kill()
    exact(data, capsys)
    assert sorted(ids_in_log(data)) == sorted(json.loads(text)["transaction_id"] for text in texts)
    sql = f"SELECT count(*) AS n FROM {SOURCE} WHERE verdict = 'denied' AND verdict_reason = 'person'"
    (row,) = json.loads(call(data, capsys, "query", sql, "--json"))
    assert row["n"] > 0
