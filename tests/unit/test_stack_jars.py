"""Jars are fetched once, whole, and by one process at a time. Maven is a script here: what it fetches is no matter."""

import threading
from pathlib import Path

import pytest

from paystorm.errors import StackError
from paystorm.stack import jars, machine, standard
from paystorm.stack.kafka import Kafka

MAVEN = """#!/bin/sh
echo run >> {folder}/runs
for word; do case $word in -DoutputDirectory=*) out=${{word#*=}};; esac; done
sleep 0.5
echo one > $out/one.jar
{then}
echo two > $out/two.jar
"""


@pytest.fixture
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("PATH", f"{tmp_path}/bin:/usr/bin:/bin")
    (tmp_path / "bin").mkdir()
    (tmp_path / "storm.xml").write_text("<project/>")
    return tmp_path


def set_maven(place: Path, then: str = "") -> None:
    path = place / "bin" / "mvn"
    path.write_text(MAVEN.format(folder=place, then=then))
    path.chmod(0o755)


def fetch(place: Path, told: list[str] | None = None) -> Path:
    tell = told.append if told is not None else lambda text: None
    return jars.have_jars(place / "storm.xml", place / "cache", tell)


def test_jars_are_fetched_once(place: Path) -> None:
    set_maven(place)
    told: list[str] = []
    folder = fetch(place, told)
    assert sorted(path.name for path in folder.iterdir()) == ["one.jar", "two.jar"]
    assert fetch(place) == folder
    assert (place / "runs").read_text() == "run\n"
    assert told[0] == "storm: fetching its jars with Maven, once"
    assert told[-1].startswith("storm: 2 jars")


def test_another_pom_has_another_folder(place: Path) -> None:
    set_maven(place)
    first = fetch(place)
    (place / "storm.xml").write_text("<project></project>")
    assert fetch(place) != first


def test_a_fetch_that_fails_leaves_nothing_and_names_the_reason(place: Path) -> None:
    set_maven(place, "echo '[INFO] x'; echo '[ERROR] no such artifact'; exit 1")
    with pytest.raises(StackError, match=r"storm: its jars were not fetched: no such artifact \(all of it in .*log\)"):
        fetch(place)
    assert [path.suffix for path in (place / "cache").iterdir() if path.is_dir()] == []
    set_maven(place)
    assert len(list(fetch(place).iterdir())) == 2


def test_what_a_killed_fetch_has_left_is_cleared_away(place: Path) -> None:
    set_maven(place)
    left = place / "cache" / f".{jars.folder_of(place / 'storm.xml', place / 'cache').name}.half"
    left.mkdir(parents=True)
    fetch(place)
    assert not left.exists()


def test_two_processes_do_not_fetch_at_once(place: Path) -> None:
    set_maven(place)
    told: list[str] = []
    threads = [threading.Thread(target=fetch, args=(place, told)) for _ in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(timeout=30)
    assert (place / "runs").read_text() == "run\n"
    assert any("another process fetches these jars" in text for text in told)


def test_the_cache_is_where_the_environment_says(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("PAYSTORM_JARS", str(tmp_path))
    assert jars.cache_folder() == tmp_path
    monkeypatch.delenv("PAYSTORM_JARS")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    assert jars.cache_folder() == tmp_path / "paystorm" / "jars"


def test_every_server_has_a_pom() -> None:
    for server in [*standard(), Kafka(version="4.3")]:
        assert jars.pom_of(server.pom).is_file()


def test_missing_maven_is_named_with_the_way_out(place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", str(place / "bin"))
    with pytest.raises(StackError, match=r"Maven is missing.*install it \(Debian: apt-get install maven\)"):
        fetch(place)


@pytest.fixture
def find_java(monkeypatch: pytest.MonkeyPatch) -> object:
    monkeypatch.delenv("JAVA_HOME", raising=False)
    machine.find_java.cache_clear()
    yield machine.find_java
    machine.find_java.cache_clear()


def set_java(place: Path, version: str) -> None:
    path = place / "bin" / "java"
    path.write_text(f"#!/bin/sh\necho 'openjdk version \"{version}\" 2024-01-01' >&2\n")
    path.chmod(0o755)


@pytest.mark.usefixtures("find_java")
def test_missing_java_is_named_with_the_way_out(place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", str(place / "bin"))
    with pytest.raises(StackError, match=r"Java 17 is missing: install it .*openjdk-17.*or set JAVA_HOME"):
        machine.find_java()


@pytest.mark.usefixtures("find_java")
@pytest.mark.parametrize("version", ["11.0.2", "1.8.0_402", "24", "26.0.1"])
def test_java_of_another_release_is_refused(place: Path, version: str) -> None:
    set_java(place, version)
    with pytest.raises(StackError, match=rf'says openjdk version "{version}".*: Java 17 to 23 is needed'):
        machine.find_java()


@pytest.mark.usefixtures("find_java")
@pytest.mark.parametrize("version", ["17.0.15", "17", "21.0.1"])
def test_java_that_will_do_is_found(place: Path, version: str) -> None:
    set_java(place, version)
    assert machine.find_java() == place / "bin" / "java"
