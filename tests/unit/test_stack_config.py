"""What config.json says of a stack, and what servers make of it."""

import json
import re
from pathlib import Path
from typing import Any

import pytest

from paystorm.cli.main import main
from paystorm.cli.stack import Follower, last_lines
from paystorm.errors import ConfigError, StackError
from paystorm.project import Project
from paystorm.stack import Kafka, Server, Stack, Supervisor, standard
from paystorm.stack.config import StackConfig, read_stack
from paystorm.stack.server import Site
from paystorm.stack.state import State, save

GOOD: dict[str, Any] = {
    "nimbus": "127.0.0.1:6627",
    "stack": {"folder": "stack-data", "kafka": "3.9"},
    "options": {
        "paystorm.kafka.brokers": "127.0.0.1:9092",
        "paystorm.hbase": "localhost:9090",
        "paystorm.hive": "127.0.0.1",
    },
}
Captured = pytest.CaptureFixture[str]


def read(env: Any, root: Path = Path("/project")) -> StackConfig:
    return read_stack(Project(root, {"envs": {"stack": env, "local": {}}}), "stack")


def with_stack(**changes: Any) -> dict[str, Any]:
    return {**GOOD, "stack": {**GOOD["stack"], **changes}}


def site_of(server: Server, servers: list[Server]) -> Site:
    ports = {s.name: {port: 1000 * n + m for m, port in enumerate(s.ports)} for n, s in enumerate(servers, 1)}
    peers: dict[str, list[Any]] = {}
    for s in servers:
        peers.setdefault(s.kind, []).append((s.host, ports[s.name]))
    at = Path("/stack") / server.name
    return Site(at, at / "x.log", Path("/java"), Path("/jars"), ports[server.name], peers)


def test_the_section_says_where_everything_is() -> None:
    config = read(GOOD)
    assert config.folder == Path("/project/stack-data")
    assert config.addresses == {
        "nimbus": ("127.0.0.1", 6627),
        "kafka": ("127.0.0.1", 9092),
        "hbase-thrift": ("127.0.0.1", 9090),
        "hive": ("127.0.0.1", 10000),
    }


def test_a_server_without_an_address_gets_a_free_port() -> None:
    servers = {s.name: s for s in standard(addresses=read({"stack": {"folder": "x"}}).addresses)}
    assert all(not server.given for server in servers.values())


def test_servers_listen_where_the_addresses_say() -> None:
    servers = {s.name: s for s in standard(addresses=read(GOOD).addresses)}
    assert servers["kafka"].given == {"broker": 9092}
    assert servers["hbase"].given == {}
    assert {name: s.given["thrift"] for name, s in servers.items() if "thrift" in s.given} == {
        "nimbus": 6627,
        "hbase-thrift": 9090,
        "hive": 10000,
    }


@pytest.mark.parametrize(
    ("env", "message"),
    [
        ({"nimbus": "x:1"}, r"envs\.stack\.stack is missing: .*name an environment that has one with -e"),
        (with_stack(folder=""), r"stack\.folder must be a folder, got ''"),
        (with_stack(kafka="2.8"), r"stack\.kafka must be one of 3\.9, 4\.3, got '2\.8'"),
        (with_stack(slots=0), r"stack\.slots must be a whole number from 1 to 32, got 0"),
        (with_stack(worker_heap_mb="1g"), r"stack\.worker_heap_mb must be a whole number .* got '1g'"),
        (with_stack(brokers=3), r"stack\.brokers: no such setting; there are folder, kafka, slots, worker_heap_mb"),
        ({**GOOD, "nimbus": "h:0"}, r"nimbus must be host:port, got 'h:0'"),
        ({**GOOD, "options": {"paystorm.kafka.brokers": "a:1,b:2"}}, r"brokers must be one host:port for a stack"),
        ({**GOOD, "options": []}, r"envs\.stack\.options must be an object"),
        (None, r"envs has no 'stack'; there are local, stack"),
    ],
)
def test_a_bad_setting_is_named_with_its_value(env: Any, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        read(env)


def test_a_supervisor_has_a_port_for_each_worker_and_their_heap() -> None:
    servers = standard(slots=3, worker_heap=700)
    supervisor = next(s for s in servers if isinstance(s, Supervisor))
    site = site_of(supervisor, servers)
    text = supervisor.files(site)["conf/storm.yaml"]
    assert json.loads(text.split("supervisor.slots.ports: ")[1].splitlines()[0]) == [3001, 3002, 3003]
    assert "-Xmx700m" in text
    assert supervisor.memory > 3 * 700


def test_supervisors_of_one_machine_have_names_and_addresses_of_their_own() -> None:
    """Storm takes supervisors of one host name for one machine."""
    found = [s for s in standard(supervisors=3) if isinstance(s, Supervisor)]
    assert [s.name for s in found] == ["supervisor", "supervisor-2", "supervisor-3"]
    assert len({s.host for s in found}) == 3


def test_settings_of_storm_go_over_the_launcher_s() -> None:
    config = read(with_stack(supervisors=2, storm={"nimbus.task.timeout.secs": 77}))
    servers = standard(supervisors=config.supervisors, storm=config.storm)
    for server in servers:
        if server.kind in ("nimbus", "supervisor"):
            text = server.files(site_of(server, servers))["conf/storm.yaml"]
            assert [line for line in text.splitlines() if "task.timeout" in line] == ["nimbus.task.timeout.secs: 77"]


def test_workers_find_streamparse_run_beside_this_python() -> None:
    servers = standard()
    supervisor = next(s for s in servers if isinstance(s, Supervisor))
    first = Path(supervisor.environment(site_of(supervisor, servers))["PATH"].split(":")[0])
    assert (first / "streamparse_run").exists()


def test_kafka_of_an_unknown_version_is_refused() -> None:
    with pytest.raises(StackError, match=r"version must be one of 3\.9, 4\.3, got '1\.0'"):
        Kafka(version="1.0")


def test_each_port_of_a_server_is_told_to_it() -> None:
    """Else it would take its default, and meet another stack there."""
    servers = [*standard(), Kafka(name="kafka4", version="4.3")]
    for server in servers:
        site = site_of(server, servers)
        text = " ".join([*server.files(site).values(), *server.command(site)])
        for port, number in site.ports.items():
            assert re.search(rf"\b{number}\b", text), (server.name, port)


@pytest.fixture
def project(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    (tmp_path / "config.json").write_text(json.dumps({"envs": {"stack": GOOD, "bare": {"nimbus": "x"}}}))
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.mark.usefixtures("project")
def test_status_of_a_stack_that_never_ran(capsys: Captured) -> None:
    assert main(["stack", "status", "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert {each["server"]: each["state"] for each in found} == {s.name: "stopped" for s in standard()}
    assert found[3]["ports"] == {"broker": 9092}
    assert main(["stack", "status", "kafka"]) == 0
    assert "kafka" in capsys.readouterr().out


def test_down_of_a_stack_that_never_ran_makes_nothing(project: Path, capsys: Captured) -> None:
    assert main(["stack", "down"]) == 0
    assert capsys.readouterr().out == "stopped: nothing, none of them ran\n"
    assert not (project / "stack-data").exists()


@pytest.mark.usefixtures("project")
@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (
            ["up", "mongo"],
            "no server 'mongo'; there are zookeeper, nimbus, supervisor, kafka, hbase, hbase-thrift, hive",
        ),
        (["up", "--kafka", "5.0"], "kafka: version must be one of 3.9, 4.3, got '5.0'"),
        (["status", "-e", "bare"], "envs.bare.stack is missing"),
        (["logs", "-n", "-1"], "greater than or equal to 0"),
    ],
)
def test_a_mistake_is_one_line(arguments: list[str], message: str, capsys: Captured) -> None:
    assert main(["stack", *arguments]) == 2
    shown = capsys.readouterr().err
    assert message in shown
    assert shown.count("\n") == 1


def test_the_folder_can_be_another(project: Path, capsys: Captured) -> None:
    (project / "letters").mkdir()
    assert main(["stack", "up", "--folder", str(project)]) == 2
    assert "it holds config.json and no stack.json" in capsys.readouterr().err


def test_kafka_keeps_the_version_that_has_written_its_data(project: Path, capsys: Captured) -> None:
    folder = project / "stack-data"
    folder.mkdir()
    save(folder, State(versions={"kafka": "4.3"}))
    assert main(["stack", "up", "kafka", "--kafka", "3.9"]) == 2
    assert "written by version 4.3, which 3.9 cannot read" in capsys.readouterr().err


def test_logs_show_the_last_lines(project: Path, capsys: Captured) -> None:
    folder = project / "stack-data" / "logs"
    folder.mkdir(parents=True)
    (folder / "kafka.log").write_text("one\ntwo\nthree \x1b[31m red\n")
    assert main(["stack", "logs", "-n", "2"]) == 0
    shown = capsys.readouterr().out
    assert shown == f"==> kafka: {folder / 'kafka.log'} <==\ntwo\nthree  [31m red\n"


def test_a_follower_shows_whole_lines_once_and_a_log_that_is_begun_anew(tmp_path: Path) -> None:
    log = tmp_path / "a.log"
    log.write_text("old\n")
    follower = Follower()
    follower.skip(log)
    assert list(follower.news(log)) == []
    with log.open("a") as file:
        file.write("first\nhalf")
    assert list(follower.news(log)) == ["first"]
    with log.open("a") as file:
        file.write(" a line\n")
    assert list(follower.news(log)) == ["half a line"]
    log.write_text("anew\n")
    assert list(follower.news(log)) == ["anew"]
    assert last_lines(log, 5) == ["anew"]


def test_logs_of_workers_are_the_supervisor_s(tmp_path: Path) -> None:
    stack = Stack(tmp_path / "stack")
    log = stack.folder / "supervisor" / "logs" / "workers-artifacts" / "pay-1" / "6700" / "worker.log"
    log.parent.mkdir(parents=True)
    log.write_text("x\n")
    save(stack.folder, State(ports={"supervisor": {"thrift": 1}}))
    assert stack.logs(["supervisor"]) == {"worker pay-1 6700": log}
