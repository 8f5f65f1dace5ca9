"""The documents say what the code does: every setting with its default, dead-letter code, command and column."""

import json
import re
from pathlib import Path

import pytest

from paystorm.cli import reference
from paystorm.cli.export import WHAT
from paystorm.cli.main import BROKEN_PIPE, COMMANDS, INTERRUPTED
from paystorm.cli.verify import DIFFERENCES
from paystorm.connections import CONNECTIONS
from paystorm.errors import PaystormError
from paystorm.settings import SETTINGS
from paystorm.validity import codes

DOCS = Path(__file__).resolve().parents[2] / "docs"


def test_every_setting_is_documented_with_its_default() -> None:
    text = (DOCS / "settings.md").read_text()
    rows = dict(re.findall(r"^\| `(\w+)` \| (\S+) \|", text, re.MULTILINE))
    defaults = {s.name: "none" if s.default is None else f"`{json.dumps(s.default)}`" for s in SETTINGS}
    assert rows == defaults


def test_every_connection_is_documented_with_its_default() -> None:
    text = (DOCS / "settings.md").read_text()
    rows = dict(re.findall(r"^\| `(paystorm\.[\w.]+)` \| (\S+) \|", text, re.MULTILINE))
    assert rows == {c.name: "none" if c.default is None else f"`{json.dumps(c.default)}`" for c in CONNECTIONS}


def test_every_dead_letter_code_is_documented() -> None:
    text = (DOCS / "validity.md").read_text()
    documented = set(re.findall(r"`([a-z0-9]+(?:_[a-z0-9]+)+|repeated|missing|empty|negative)`", text))
    assert {str(code.value) for code in codes.Code} <= documented


def test_the_page_of_commands_is_what_the_program_says(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "37")
    page = (DOCS / "commands.md").read_text()
    assert page == reference.render(), "run: .venv/bin/python -m paystorm.cli.reference > docs/commands.md"
    for name in COMMANDS:
        assert f"## paystorm {name}" in page


def test_every_export_and_its_columns_are_documented() -> None:
    documented = {name: list(columns) for name, (_, columns) in reference.COLUMNS.items()}
    assert documented == {name: list(schema) for name, (schema, _) in WHAT.items()}


def test_the_exit_codes_of_the_program_are_documented() -> None:
    table = set(re.findall(r"^\| (\d+) \|", reference.INTRO, re.MULTILINE))
    assert {str(code) for code in (0, DIFFERENCES, PaystormError.exit_code, INTERRUPTED, BROKEN_PIPE)} == table
