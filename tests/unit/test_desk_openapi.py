"""The page of the desk, docs/investigation.md, and the description of its end points say the same."""

import re
from pathlib import Path
from typing import Any

from paystorm.desk import openapi
from paystorm.desk.cases import SORTS, VERDICTS
from paystorm.desk.letters import COLUMNS, STATES

PAGE = (Path(__file__).resolve().parents[2] / "docs" / "investigation.md").read_text()


def named(text: str) -> set[str]:
    """The names in backticks."""
    return set(re.findall(r"`(\w+)`", text))


def test_every_end_point_is_documented_with_its_parameters_and_members() -> None:
    rows = re.findall(r"^\| `(GET|POST) (/v1/[^`]+)` \| (.*)\|$", PAGE, re.MULTILINE)
    documented = {(method, path): named(text) for method, path, text in rows}
    schemas = openapi.schemas(["purchase"], ["account"])
    declared = {}
    for path, methods in openapi.paths().items():
        for method, said in methods.items():
            found = {p["name"] for p in said.get("parameters", ()) if p["in"] == "query"}
            if "requestBody" in said:
                body: Any = said["requestBody"]["content"]["application/json"]["schema"]["$ref"]
                found |= set(schemas[body.rsplit("/", 1)[1]]["properties"]) - {"reason"}
            declared[method.upper(), path] = found
    assert documented == declared


def test_every_schema_that_is_referred_to_is_there_and_none_is_left_over() -> None:
    schemas = openapi.schemas(["purchase"], ["account"])
    referred = set(re.findall(r"'#/components/schemas/(\w+)'", repr([openapi.paths(), schemas])))
    assert referred == set(schemas)


def test_every_column_of_a_condition_is_documented() -> None:
    (text,) = re.findall(r"Columns: (.*?)\n  `last_error`, `value`", PAGE, re.DOTALL)
    assert named(text) | {"last_error", "value"} == set(COLUMNS)


def test_every_state_decision_and_order_is_documented() -> None:
    (states,) = re.findall(r"^- \*\*States\.\*\* (.*?)A letter's outcome", PAGE, re.MULTILINE | re.DOTALL)
    assert named(states) == set(STATES)
    (decisions,) = re.findall(r"^- \*\*Decision\.\*\* (.*?)`--lift`", PAGE, re.MULTILINE | re.DOTALL)
    assert named(decisions) == set(VERDICTS)
    (orders,) = re.findall(r"^- \*\*Weight\.\*\* `--sort (.*?)Amounts", PAGE, re.MULTILINE | re.DOTALL)
    assert named(f"`{orders}") == set(SORTS)
