"""The commands in the README and docs/: each can be parsed by the program, and blocks marked `<!-- run -->` are run."""

import io
import itertools
import json
import re
import shlex
import shutil
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import typer

from paystorm.cli.main import build, main

ROOT = Path(__file__).resolve().parents[2]
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]
FENCE = re.compile(r"^(?P<mark><!-- run -->\n)?```(?P<language>\w*)\n(?P<text>.*?)^```$", re.MULTILINE | re.DOTALL)
SHELL = ("sh", "bash", "console", "")
OPERATORS = {"|", "||", "&&", ";", "&", ">", ">>", "<"}
CLUSTERS = ("stack", "prod")
ENDLESS = ("serve", "metrics", "demo", "simulate")
NO_DATA = ("generate", "doctor", "new-source")
"""Commands without a data folder."""
"""Commands that go on until they are ended, or take long: not run here, but with `--once`."""


@dataclass(frozen=True)
class Line:
    page: str
    run: bool
    words: tuple[str, ...]
    """Of one command, without what it is piped from or into."""
    piped: bool

    def __str__(self) -> str:
        return f"{self.page}: {shlex.join(self.words)}"


def lines() -> Iterator[Line]:
    """The commands of all blocks, in order; then those of blocks that are set in by four blanks, which are not run."""
    for page in PAGES:
        whole = page.read_text()
        set_in = FENCE.sub("", whole) if page.name != "commands.md" else ""  # whose usage is no command
        for given in re.findall(r"^ {4}((?:\.venv/bin/)?(?:paystorm|make|sparse) .*)$", set_in, re.MULTILINE):
            yield from _commands(page.name, False, given.removesuffix("\\"))
        for block in FENCE.finditer(whole):
            if block["language"] not in SHELL:
                continue
            for given in block["text"].replace("\\\n", " ").splitlines():
                text = given.removeprefix("$ ")
                program = text.split(" ", 1)[0].removeprefix(".venv/bin/")
                if program in ("paystorm", "make", "sparse"):
                    yield from _commands(page.name, block["mark"] is not None, text)


def _commands(page: str, run: bool, text: str) -> Iterator[Line]:
    lexer = shlex.shlex(text, posix=True, punctuation_chars="|&;<>")
    lexer.whitespace_split = True
    words: list[str] = []
    redirected = False
    first = True
    for word in [*lexer, ";"]:
        if word in OPERATORS:
            if words and not redirected:
                yield Line(page, run, (words[0].removeprefix(".venv/bin/"), *words[1:]), piped=not first)
            redirected, first, words = word in (">", ">>", "<"), word in (";", "&&"), []
        else:
            words.append(word)


ALL = list(lines())


def test_there_are_commands_and_some_of_them_are_run() -> None:
    assert len([line for line in ALL if line.words[0] == "paystorm"]) > 15
    own = {"backtest.md", "extending.md", "ingest.md", "investigation.md", "monitoring.md"}
    assert {line.page for line in ALL if line.run} >= {"README.md", *own}
    assert {line.page for line in ALL} >= {"chaos.md", "deployment.md", "simulator.md", "stack.md"}


def parse(command: Any, arguments: list[str], parent: Any = None) -> None:
    """Parse as the program would, and run nothing."""
    inner = getattr(command, "commands", None)
    if inner is None:
        command.make_context(command.name, arguments, parent=parent)
        return
    at = next(i for i, word in enumerate(arguments) if not word.startswith("-"))
    assert arguments[at] in inner, f"there is no command {arguments[at]}"
    parse(inner[arguments[at]], arguments[at + 1 :], command.make_context(command.name, [*arguments[:at], "x"]))


def test_every_paystorm_command_is_one_that_the_program_takes() -> None:
    root = typer.main.get_command(build(None))
    wrong = []
    for line in ALL:
        if line.words[0] == "paystorm":
            try:
                parse(root, [word for word in line.words[1:] if word != "…"])
            except Exception as error:
                wrong.append(f"{line}: {getattr(error, 'message', error)}")
    assert wrong == []


def test_every_make_target_and_every_submitted_topology_is_there() -> None:
    targets = set(re.findall(r"^(\w+):", (ROOT / "Makefile").read_text(), re.MULTILINE))
    envs = json.loads((ROOT / "config.json").read_text())["envs"]
    wrong = []
    for line in ALL:
        words = list(line.words)
        if words[0] == "make":
            wrong += [str(line) for word in words[1:] if "=" not in word and word not in targets]
        if words[0] == "sparse":
            named = dict(itertools.pairwise(words))
            topology, env = named.get("-n", named.get("--name")), named.get("-e", named.get("--environment"))
            known = topology is None or topology in ("rides", "NAME") or (ROOT / f"topologies/{topology}.py").is_file()
            if not known or (env is not None and env not in (*envs, "ENV")):
                wrong.append(str(line))
    assert wrong == []


# Running them.


def _options(words: list[str]) -> set[str]:
    """The options that the command has."""
    command: Any = typer.main.get_command(build(None))
    for word in words:
        if not hasattr(command, "commands"):
            break
        command = command.commands[word]
    return {text for parameter in command.params for text in parameter.opts}


def adapted(words: list[str], data: Path) -> list[str] | None:
    """What is run of a command here; None: nothing, it needs a cluster or does not end."""
    if any(env in words for env in CLUSTERS) or (words[0] in ENDLESS and "--once" not in words):
        return None
    options = _options(words)
    more = ["--data", str(data)] if "--data" in options else []
    assert more or words[0] in NO_DATA, f"{words[0]} has no --data: it would touch the project itself"
    if words[0] == "run" and "--until-idle" not in words:
        more.append("--until-idle")
    if "--watch" in words:
        more += ["--looks", "1"]
    return [*words, *more]


@pytest.mark.parametrize("page", sorted({line.page for line in ALL if line.run}))
def test_the_blocks_marked_to_be_run_do_run(
    page: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    data = tmp_path / "data"
    shutil.copy(ROOT / "config.json", tmp_path)  # what a command writes is written to a copy
    for name in ("topologies", "virtualenvs"):
        shutil.copytree(ROOT / name, tmp_path / name, ignore=shutil.ignore_patterns("__pycache__"))
    pays = [
        {"event_time": f"2025-01-01T10:00:{n:02}Z", "from_party": "u17", "to_party": f"u{n + 20}"} for n in range(40)
    ]
    pays.append({**pays[0], "amount": "-12.50", "currency": "EUR"})  # the letter purchase/0/40
    (tmp_path / "payments.ndjson").write_text("".join(f"{json.dumps(pay)}\n" for pay in pays))
    rides = [{"ride": f"r{n}", "event_time": f"2025-01-01T10:00:{n:02}Z", "customer": f"u{n % 7}"} for n in range(50)]
    (tmp_path / "sample.ndjson").write_text("".join(f"{json.dumps(ride)}\n" for ride in rides))
    if page != "README.md":
        assert main(["send", "purchase", "payments.ndjson", "--data", str(data)]) == 0
        assert main(["run", "purchase", "--until-idle", "--data", str(data)]) == 0
    ran = 0
    before = b""
    for line in (line for line in ALL if line.page == page and line.run and line.words[0] == "paystorm"):
        words = adapted(list(line.words[1:]), data)
        if words is None:
            continue
        if line.piped:
            monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(before)))
        code = main(words)
        told = capsys.readouterr()
        assert code == 0, f"{line}: code {code}: {told.err}"
        before = told.out.encode()
        ran += 1
    assert ran > 0
