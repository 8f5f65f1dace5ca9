"""The documents say what the code does: every setting with its default, dead-letter code, command and column."""

import json
import re
from pathlib import Path

import pytest

from paystorm.cli import backtest, reference, status
from paystorm.cli.doctor import FAILED, checks_of
from paystorm.cli.export import WHAT
from paystorm.cli.main import BROKEN_PIPE, COMMANDS, INTERRUPTED
from paystorm.cli.metrics import COUNTER, METRICS
from paystorm.cli.running import DEFAULTS
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


def test_what_paystorm_run_sets_otherwise_is_documented() -> None:
    text = (DOCS / "settings.md").read_text()
    rows = {name: int(value) for name, value in re.findall(r"`(\w+)` is (\d+)", text)}
    assert rows == {s.name: DEFAULTS[s.name] for s in SETTINGS if s.name in DEFAULTS}


def test_every_connection_is_documented_with_its_default() -> None:
    text = (DOCS / "settings.md").read_text()
    rows = dict(re.findall(r"^\| `(paystorm\.[\w.]+)` \| (\S+) \|", text, re.MULTILINE))
    assert rows == {c.name: "none" if c.default is None else f"`{json.dumps(c.default)}`" for c in CONNECTIONS}


def test_every_dead_letter_code_is_documented() -> None:
    text = (DOCS / "validity.md").read_text()
    documented = re.findall(r"^\|.*\| `(\w+)` \|$", text, re.MULTILINE)
    documented += re.findall(r"One code is given later than validation: `(\w+)`", text)
    assert set(documented) == {code.value for code in codes.Code}


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


def _rows(page: str, after: str) -> list[list[str]]:
    """The cells of the first table behind a heading, but for its two first lines."""
    text = (DOCS / page).read_text().split(f"\n{after}\n", 1)[1]
    table = re.search(r"(?:^\|.*\n)+", text, re.MULTILINE)
    assert table is not None
    return [[cell.strip() for cell in line.strip("|").split(" | ")] for line in table[0].splitlines()[2:]]


def _first(page: str, after: str) -> list[str]:
    return [cells[0].strip("`") for cells in _rows(page, after)]


def test_every_metric_is_documented_with_its_labels_and_meaning() -> None:
    declared = [
        [
            f"`{name}{'_total' if metric.kind == COUNTER else ''}`",
            metric.kind,
            ", ".join(f"`{label}`" for label in metric.labels),
            metric.doc,
        ]
        for name, metric in METRICS.items()
    ]
    assert [[cell.strip() for cell in row] for row in _rows("monitoring.md", "## paystorm metrics")] == declared


@pytest.mark.parametrize(
    ("page", "heading", "columns"),
    [
        ("monitoring.md", "## paystorm status", status.COLUMNS),
        ("monitoring.md", "### Tasks", status.TASK_COLUMNS),
        ("monitoring.md", "### Components", status.COMPONENT_COLUMNS),
        ("backtest.md", "| `no longer` | what only today's does |", backtest.COLUMNS),
    ],
)
def test_every_column_of_a_table_for_people_is_documented(page: str, heading: str, columns: tuple[str, ...]) -> None:
    assert tuple(_first(page, heading)) == columns


def test_every_check_of_the_doctor_is_documented() -> None:
    inner = {"supervisors", "table schemas"}
    made = {check.name for env in ("local", "stack") for check in checks_of(env, None)} | inner
    assert set(_first("monitoring.md", "## paystorm doctor")) == made
    assert FAILED == DIFFERENCES
