"""The oracle shares no code with what it checks."""

import ast
import sys
from pathlib import Path

import paystorm.oracle

FOLDER = Path(paystorm.oracle.__file__).parent


def test_the_oracle_imports_only_the_standard_library_and_duckdb() -> None:
    allowed = set(sys.stdlib_module_names) | {"duckdb"}
    for path in sorted(FOLDER.rglob("*.py")):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            names = [alias.name for alias in node.names] if isinstance(node, ast.Import) else []
            if isinstance(node, ast.ImportFrom):
                assert node.level == 0, f"{path.name}: write imports out in full"
                names = [node.module or ""]
            for name in names:
                ours = name.startswith("paystorm.oracle")
                assert ours or name.split(".")[0] in allowed, f"{path.name} imports {name}"
