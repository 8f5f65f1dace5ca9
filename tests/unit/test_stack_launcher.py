"""Starting and ending servers: what is started, what is waited for, what is never touched."""

import json
import os
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from tests.unit.small_servers import Asked, Small, Upper, stack_of

from paystorm.errors import PaystormError, StackError, UsageError
from paystorm.stack import Server, Stack
from paystorm.stack.process import MARK, Process, start_of
from paystorm.stack.state import prepare_folder

Make = Callable[..., Stack]


@pytest.fixture
def make(tmp_path: Path) -> Iterator[Make]:
    """Stacks in one folder, of which nothing is left running."""
    made: list[Stack] = []

    def build(*servers: Server, told: list[str] | None = None, limit: float = 20.0) -> Stack:
        made.append(stack_of(tmp_path / "stack", *(servers or (Small(),)), told=told, limit=limit))
        return made[-1]

    yield build
    for stack in made[-1:]:
        stack.down()


def states(stack: Stack) -> dict[str, str]:
    return {each.server: each.state for each in stack.status()}


def connects(stack: Stack, name: str) -> bool:
    host, _, port = stack.address(name).rpartition(":")
    try:
        socket.create_connection((host, int(port)), timeout=2).close()
    except OSError:
        return False
    return True


def alive(pid: int) -> bool:
    return start_of(pid) is not None


def state_of(pid: int) -> str:
    return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]


def test_a_server_listens_after_up_and_not_after_down(make: Make) -> None:
    stack = make()
    assert states(stack) == {"small": "stopped"}
    assert stack.up() == ["small"]
    assert states(stack) == {"small": "running"}
    assert connects(stack, "small")
    assert stack.down() == ["small"]
    assert states(stack) == {"small": "stopped"}
    assert not connects(stack, "small")


def test_a_second_up_changes_nothing(make: Make) -> None:
    stack = make()
    stack.up()
    pid = stack.pid("small")
    assert stack.up() == []
    assert stack.pid("small") == pid


def test_what_a_server_needs_is_started_before_it_and_ended_after_it(make: Make) -> None:
    told: list[str] = []
    stack = make(Upper(), Small(), told=told)
    assert stack.up(["upper"]) == ["upper", "small"]
    assert [text.split(" after")[0] for text in told] == [
        "small: starting",
        "small: ready",
        "upper: starting",
        "upper: ready",
    ]
    stack.down()
    assert told[-2:] == ["upper: stopped", "small: stopped"]


def test_only_what_was_named_is_started_and_ended(make: Make) -> None:
    stack = make(Small(), Small(name="other"), Upper())
    stack.up(["other"])
    assert states(stack) == {"small": "stopped", "other": "running", "upper": "stopped"}
    assert stack.down(["upper"]) == []
    assert states(stack)["other"] == "running"


def test_a_kind_names_all_servers_of_it(make: Make) -> None:
    stack = make(Small(name="small-1"), Small(name="small-2"), Upper())
    assert stack.up(["small"]) == ["small-1", "small-2"]
    assert stack.address("small-1") != stack.address("small-2")


def test_a_server_s_own_name_names_no_other_of_its_kind(make: Make) -> None:
    stack = make(Small(), Small(name="small-2"))
    assert stack.up(["small"]) == ["small"]
    assert states(stack) == {"small": "running", "small-2": "stopped"}


def test_another_process_sees_the_same_stack_and_can_end_it(make: Make) -> None:
    make(Small()).up()
    stack = make(Small())
    assert states(stack) == {"small": "running"}
    assert stack.down() == ["small"]


def test_ports_are_kept_from_one_up_to_the_next(make: Make) -> None:
    stack = make()
    stack.up()
    address = stack.address("small")
    stack.down()
    stack.up()
    assert stack.address("small") == address


def test_a_kept_port_that_is_taken_is_chosen_anew_while_nothing_runs(make: Make) -> None:
    stack = make()
    stack.up()
    stack.down()
    with socket.socket() as taker:
        taker.bind(("127.0.0.1", stack.ports("small")["main"]))
        taker.listen()
        stack.up()
        assert stack.ports("small")["main"] != taker.getsockname()[1]
        assert connects(stack, "small")


def test_a_given_port_in_use_is_named_with_who_holds_it(make: Make) -> None:
    with socket.socket() as taker:
        taker.bind(("127.0.0.1", 0))
        taker.listen()
        port = taker.getsockname()[1]
        stack = make(Small(given={"main": port}))
        with pytest.raises(StackError, match=rf"small: port {port} .* in use by .*\(pid {os.getpid()}\): end that"):
            stack.up()
    assert states(stack) == {"small": "stopped"}


def test_one_port_for_two_servers_is_refused(make: Make) -> None:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    stack = make(Small(given={"main": port}), Upper(given={"main": port}))
    with pytest.raises(StackError, match=f"port {port} is both upper's main and small's main"):
        stack.up()


def test_an_address_of_another_machine_is_refused(make: Make) -> None:
    stack = make(Small(host="192.0.2.1", given={"main": 9092}))
    with pytest.raises(StackError, match=r"192\.0\.2\.1:9092 cannot be listened on.*an address of this machine"):
        stack.up()


def test_too_little_memory_is_said_before_anything_starts(make: Make) -> None:
    stack = make(Small(), Upper(needs_memory=10**9))
    with pytest.raises(StackError, match=r"MiB are available, 1,000,000,001 MiB are needed \(small 1, upper 1,000"):
        stack.up()
    assert states(stack) == {"small": "stopped", "upper": "stopped"}


def test_a_server_that_fails_is_named_with_its_last_words(make: Make) -> None:
    told: list[str] = []
    stack = make(Small(how="fails"), Upper(), told=told)
    with pytest.raises(StackError, match=r"small: ended after \d s, before it was ready: its log says why: .*small"):
        stack.up()
    assert "small | the disk is upside down" in told
    assert states(stack) == {"small": "died", "upper": "stopped"}


def test_a_server_that_is_not_ready_in_time_is_named(make: Make) -> None:
    stack = make(Small(how="deaf"), limit=1.0)
    with pytest.raises(StackError, match="small: not ready after 1 s"):
        stack.up()
    assert states(stack) == {"small": "starting"}


def test_up_waits_for_what_another_up_has_started(make: Make) -> None:
    impatient = make(limit=0.0)
    with pytest.raises(StackError, match="not ready after 0 s"):
        impatient.up()
    stack = make()
    pid = stack.pid("small")
    assert stack.up() == []
    assert states(stack) == {"small": "running"}
    assert stack.pid("small") == pid


def test_a_killed_server_has_died_and_up_starts_it_again(make: Make) -> None:
    stack = make()
    stack.up()
    pid = stack.pid("small")
    stack.kill("small")
    assert states(stack) == {"small": "died"}
    with pytest.raises(StackError, match="small does not run"):
        stack.kill("small")
    assert stack.up() == ["small"]
    assert stack.pid("small") != pid


def test_a_halted_server_goes_on_when_it_is_let_go_on(make: Make) -> None:
    stack = make()
    stack.up()
    stack.kill("small", signal.SIGSTOP)
    assert state_of(stack.pid("small")) == "T"
    stack.kill("small", signal.SIGCONT)
    assert state_of(stack.pid("small")) in "SR"


def test_a_halted_server_can_be_ended(make: Make) -> None:
    stack = make()
    stack.up()
    stack.kill("small", signal.SIGSTOP)
    assert stack.down() == ["small"]


def test_a_server_that_ignores_sigterm_is_killed(make: Make) -> None:
    stack = make(Small(how="stubborn"))
    stack.up()
    pid = stack.pid("small")
    stack.down()
    assert not alive(pid)


def test_children_that_outlive_a_killed_server_are_ended_with_it(make: Make) -> None:
    stack = make(Small(how="parent"))
    stack.up()
    main = stack.pid("small")
    (child,) = set(stack.processes("small")) - {main}
    stack.kill("small")
    assert alive(child), "a kill is for the server's own process alone"
    assert [each.children for each in stack.status()] == [1]
    assert stack.down() == ["small"]
    assert not alive(child)


def test_a_process_that_has_come_to_have_the_pid_is_not_touched(make: Make, tmp_path: Path) -> None:
    stack = make()
    stack.up()
    stack.kill("small")
    bystander = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(300)"])
    try:
        path = tmp_path / "stack" / "stack.json"
        state = json.loads(path.read_text())
        state["servers"]["small"] |= {"pid": bystander.pid, "start": start_of(bystander.pid)}
        path.write_text(json.dumps(state))
        assert states(stack) == {"small": "died"}
        with pytest.raises(StackError, match="does not run"):
            stack.kill("small")
        stack.down()
        assert bystander.poll() is None
    finally:
        bystander.kill()
        bystander.wait()


def test_a_process_of_another_start_time_is_another_process() -> None:
    child = subprocess.Popen(
        [sys.executable, "-c", "import time; time.sleep(300)"], env={**os.environ, MARK: "token/name"}
    )
    try:
        start = start_of(child.pid)
        assert start is not None
        assert not Process(child.pid, start + 1).send(signal.SIGKILL, "token/name")
        assert not Process(child.pid, start).send(signal.SIGKILL, "token/other")
        assert child.poll() is None
        assert Process(child.pid, start).send(signal.SIGKILL, "token/name")
    finally:
        child.kill()
        child.wait()


def test_two_ups_at_once_start_a_server_once(make: Make) -> None:
    stacks = [make(), make()]
    started: list[list[str]] = []
    threads = [threading.Thread(target=lambda s=s: started.append(s.up())) for s in stacks]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(timeout=30)
    assert sorted(started) == [[], ["small"]]


def test_a_folder_of_somebody_else_is_not_used(tmp_path: Path) -> None:
    (tmp_path / "letters").mkdir()
    with pytest.raises(StackError, match=r"it holds letters and no stack\.json: name a new or empty folder"):
        stack_of(tmp_path, Small()).up()
    assert [entry.name for entry in tmp_path.iterdir()] == ["letters"]


def test_a_folder_that_another_up_is_making_is_not_somebody_else_s(tmp_path: Path) -> None:
    for name in (".stack.json.42", "stack.lock", "warehouse"):
        (tmp_path / name).touch()
    prepare_folder(tmp_path)


def test_a_folder_whose_name_servers_cannot_bear_is_refused(tmp_path: Path) -> None:
    with pytest.raises(StackError, match="cannot bear ' ' in it"):
        stack_of(tmp_path / "two words", Small()).up()


def test_a_state_file_that_is_none_is_named(tmp_path: Path) -> None:
    (tmp_path / "stack.json").write_text("{")
    for act in (Stack.status, Stack.up, Stack.down):
        with pytest.raises(StackError, match=r"stack\.json: not readable .*: restore it"):
            act(stack_of(tmp_path, Small()))


def test_data_of_a_newer_version_is_not_given_to_an_older_one(make: Make) -> None:
    make(Small(version="4.3")).up()
    with pytest.raises(StackError, match=r"small runs in version 4\.3, not 3\.9: paystorm stack down small first"):
        make(Small(version="3.9")).up()
    make(Small(version="4.3")).down()
    with pytest.raises(StackError, match=r"written by version 4\.3, which 3\.9 cannot read"):
        make(Small(version="3.9")).up()
    assert make(Small(version="4.10")).up() == ["small"]


@pytest.mark.parametrize("act", [Stack.up, Stack.down, Stack.status, Stack.logs])
def test_a_server_that_there_is_not_is_named_with_those_that_there_are(
    act: Callable[[Stack, list[str]], object], tmp_path: Path
) -> None:
    with pytest.raises(UsageError, match="no server 'mongo'; there are small, upper"):
        act(stack_of(tmp_path, Small(), Upper()), ["mongo"])


def test_a_server_is_run_with_its_prefix(make: Make) -> None:
    stack = make(Small(prefix=("env", "HOST_OF_TEST=one")))
    stack.up()
    assert b"HOST_OF_TEST=one" in Path(f"/proc/{stack.pid('small')}/environ").read_bytes()


def test_a_prefix_that_cannot_be_run_is_named(make: Make) -> None:
    with pytest.raises(StackError, match="small: no-such-command cannot be run: No such file or directory"):
        make(Small(prefix=("no-such-command",))).up()


@pytest.mark.parametrize(("command", "asked_again"), [(["false"], True), (["no-such-command"], True), (None, False)])
def test_a_server_is_ended_by_its_own_command_or_by_sigterm(
    make: Make, command: list[str] | None, asked_again: bool
) -> None:
    """The command may fail; the one of the last case ends the server, which SIGTERM would not."""
    stack = make(Asked(stop=command, how="" if asked_again else "stubborn"))
    stack.up()
    began = time.monotonic()
    assert stack.down() == ["small"]
    assert states(stack) == {"small": "stopped"}
    assert time.monotonic() - began < 10


def test_a_log_is_read_from_the_last_start_on(make: Make) -> None:
    stack = make()
    stack.up()
    stack.kill("small")
    began = time.monotonic()
    stack.up()
    assert stack.log("small").read_text() == "is here\nis here\n", "the log of before is kept"
    assert time.monotonic() - began < 20
    assert issubclass(StackError, PaystormError)
