"""The documents say what the code does: every setting with its default, every dead-letter code."""

import json
import re
from pathlib import Path

from paystorm.settings import SETTINGS
from paystorm.validity import codes

DOCS = Path(__file__).resolve().parents[2] / "docs"


def test_every_setting_is_documented_with_its_default() -> None:
    text = (DOCS / "settings.md").read_text()
    rows = dict(re.findall(r"^\| `(\w+)` \| (\S+) \|", text, re.MULTILINE))
    defaults = {s.name: "none" if s.default is None else f"`{json.dumps(s.default)}`" for s in SETTINGS}
    assert rows == defaults


def test_every_dead_letter_code_is_documented() -> None:
    text = (DOCS / "validity.md").read_text()
    documented = set(re.findall(r"`([a-z0-9]+(?:_[a-z0-9]+)+|repeated|missing|empty|negative)`", text))
    assert {str(code.value) for code in codes.Code} <= documented
