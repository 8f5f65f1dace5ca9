"""Finding and reading a project: one-line errors that name file, place and way out."""

import json
import re
from pathlib import Path
from typing import Any

import pytest

from paystorm.errors import ConfigError
from paystorm.project import Project, find_root

ROOT = Path(__file__).parents[2]
TOPOLOGY = """
from streamparse import Grouping, Spout, Topology
from paystorm.source import Field, Source
from paystorm.storm import topology_config

SOURCE = Source(
    name="{name}",
    topic="{name}",
    enforces=False,
    fields=(Field(name="{field}", type="time", required=True),),
    parties=(),
)


class ASpout(Spout):
    outputs = ["chunk"]


class ATopology(Topology):
    config = topology_config(SOURCE)
    spout = ASpout.spec()
"""


def config(**changes: Any) -> dict[str, Any]:
    """A config.json's content."""
    return {
        "topology_specs": "topologies/",
        "applications": {"shop": "a"},
        "envs": {
            "local": {"embedded": {"data": "data", "partitions": 4}, "options": {"maxOffsetBehind": 5}},
            "prod": {"nimbus": "n1", "options": {}},
        },
        **changes,
    }


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """A small project with the sources a and b."""
    (tmp_path / "topologies").mkdir()
    for name in "ab":
        (tmp_path / "topologies" / f"{name}.py").write_text(TOPOLOGY.format(name=name, field="event_time"))
    (tmp_path / "config.json").write_text(json.dumps(config()))
    return tmp_path


def refusal(root: Path, content: object, env: str = "local") -> str:
    """What is said of a config.json."""
    (root / "config.json").write_text(content if isinstance(content, str) else json.dumps(content))
    with pytest.raises(ConfigError) as caught:
        Project.load(root).env(env)
    assert "\n" not in str(caught.value)
    return str(caught.value)


def topology_refusal(root: Path, text: str) -> str:
    """What is said of a topology file."""
    (root / "topologies" / "b.py").write_text(text)
    with pytest.raises(ConfigError) as caught:
        Project.load(root).sources()
    assert "\n" not in str(caught.value)
    return str(caught.value)


def test_sources_and_topologies_are_named_by_source(root: Path) -> None:
    project = Project.load(root)
    assert list(project.sources()) == list(project.topologies()) == ["a", "b"]
    assert project.topologies()["a"].__name__ == "ATopology"


def test_the_root_is_found_from_a_folder_below(root: Path) -> None:
    assert find_root(root / "topologies") == root


def test_the_root_is_found_from_the_installed_location(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    assert find_root() == ROOT


def test_a_missing_config_is_named(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=re.escape(f"no config.json in {tmp_path} or above it")):
        Project.load(tmp_path)


def test_an_environment_is_read(root: Path) -> None:
    env = Project.load(root).env()
    assert env.embedded is not None
    assert (env.embedded.data, env.embedded.partitions) == (root / "data", 4)
    assert env.options == {"maxOffsetBehind": 5}
    assert env.applications == {"shop": "a"}
    assert Project.load(root).env("prod").embedded is None


def test_applications_of_an_environment_stand_in_for_those_of_the_file(root: Path) -> None:
    envs = {"local": {"embedded": {"data": "d"}, "applications": {"web": "b"}}}
    (root / "config.json").write_text(json.dumps(config(envs=envs)))
    assert Project.load(root).env().applications == {"web": "b"}


@pytest.mark.parametrize(
    ("changes", "text"),
    [
        ({"envs": []}, "config.json: envs must be an object, got []"),
        ({"envs": {"prod": {}}}, "config.json: envs has no 'local'; there are prod"),
        ({"envs": {"local": 1}}, "config.json: envs.local must be an object, got 1"),
        (
            {"envs": {"local": {}}},
            "config.json: envs.local must have embedded (a data folder) or nimbus (a host)",
        ),
        (
            {"envs": {"local": {"embedded": {}}}},
            "config.json: envs.local.embedded.data is missing: it must be text",
        ),
        (
            {"envs": {"local": {"embedded": {"data": "d", "partitions": True}}}},
            "config.json: envs.local.embedded.partitions must be a whole number, got true",
        ),
        (
            {"envs": {"local": {"embedded": {"data": "d", "partitions": 0}}}},
            "config.json: envs.local.embedded.partitions must be 1 to 1024, got 0",
        ),
        (
            {"envs": {"local": {"embedded": {"data": "d"}, "options": {"maxOffsetBehind": -1}}}},
            "config.json: envs.local.options.maxOffsetBehind must be ≥ 0, got -1",
        ),
        (
            {"envs": {"local": {"embedded": {"data": "d"}, "options": {"rules.c.x.limit": 1}}}},
            "config.json: envs.local.options.rules.c.x.limit: no source 'c'; there are a, b",
        ),
        ({"applications": {"shop": "c"}}, "config.json: applications.shop: no source 'c'; there are a, b"),
        ({"topology_specs": 5}, "config.json: topology_specs must be text, got 5"),
    ],
)
def test_a_bad_config_is_refused_in_one_line(root: Path, changes: dict[str, Any], text: str) -> None:
    assert refusal(root, config(**changes)) == text


def test_broken_json_is_named_with_its_line(root: Path) -> None:
    assert "config.json line 3: not JSON: Expecting ',' delimiter" in refusal(root, '{\n"a": 1\n"b": 2}')


def test_a_config_that_is_no_object_is_refused(root: Path) -> None:
    assert refusal(root, "[1]").endswith("config.json must hold an object, got [1]")


def test_a_key_that_stands_twice_is_refused(root: Path) -> None:
    assert refusal(root, '{"envs": {}, "envs": {}}') == "config.json: key 'envs' stands twice in one object"


def test_bytes_that_are_not_utf8_are_named_with_their_line(root: Path) -> None:
    (root / "config.json").write_bytes(b'{\n"a": "\xff"}')
    with pytest.raises(ConfigError, match=r"config\.json line 2: not UTF-8"):
        Project.load(root)


def test_a_missing_topology_folder_is_named(root: Path) -> None:
    assert refusal(root, config(topology_specs="nowhere/")) == (
        f"config.json: topology_specs: no folder {root / 'nowhere'}"
    )


def test_a_topology_that_does_not_parse_is_named_with_its_line(root: Path) -> None:
    assert topology_refusal(root, "x = 1\ny = = 2\n") == "topologies/b.py line 2: invalid syntax"


def test_a_topology_that_raises_is_named_with_its_line(root: Path) -> None:
    assert topology_refusal(root, "x = 1\n\ny = z\n") == "topologies/b.py line 3: NameError: name 'z' is not defined"


def test_a_declaration_that_cannot_be_is_named_with_its_line(root: Path) -> None:
    said = topology_refusal(root, TOPOLOGY.format(name="b", field="when"))
    assert said.startswith("topologies/b.py line 6: source b: no field event_time")


def test_a_file_without_a_topology_is_refused(root: Path) -> None:
    assert topology_refusal(root, "x = 1\n") == "topologies/b.py: no Topology class in it"


def test_a_topology_without_a_source_is_refused(root: Path) -> None:
    text = TOPOLOGY.format(name="b", field="event_time").replace("topology_config(SOURCE)", "{}")
    assert topology_refusal(root, text) == (
        "topologies/b.py: ATopology has no source; write config = topology_config(SOURCE)"
    )


def test_two_sources_of_one_name_are_refused(root: Path) -> None:
    said = topology_refusal(root, TOPOLOGY.format(name="a", field="event_time"))
    assert said == "topologies/b.py: name 'a' is taken by source a"


def test_the_projects_own_environments_can_be_used() -> None:
    project = Project.load(ROOT)
    assert project.env("local").embedded is not None
    assert project.env("prod").plain["workers"]
    assert set(project.env().applications) == {"shop", "wallet", "refunds", "support", "web"}
