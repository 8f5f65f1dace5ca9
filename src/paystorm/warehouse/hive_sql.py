"""What paystorm says to Hive: which queries it passes on, and a column's type."""

import re

import polars as pl

from paystorm.errors import TablesError, UsageError

_TYPES: dict[type[pl.DataType], str] = {
    pl.String: "STRING",
    pl.Int32: "INT",
    pl.Int64: "BIGINT",
    pl.Boolean: "BOOLEAN",
    pl.Datetime: "TIMESTAMP",
}
_READING = ("select", "with", "show", "describe", "desc")
_WRITING = frozenset(
    (
        "insert",
        "overwrite",
        "into",
        "create",
        "drop",
        "alter",
        "truncate",
        "load",
        "delete",
        "update",
        "merge",
        "export",
    )
)
"""Hive lets a WITH lead to an INSERT; these words are reserved, so outside of quotes they mean just that."""
_REACHING_OUT = frozenset(("transform", "reflect", "reflect2", "java_method", "in_file"))
"""Parts of a SELECT that run programs of the server or read its files."""
_TOKEN = re.compile(
    r"""
    '(?:\\.|[^'\\])*' | "(?:\\.|[^"\\])*"   # texts
    | `(?:[^`]|``)*`                        # names
    | --[^\n\r]* | /\*.*?\*/                # comments
    """,
    re.VERBOSE | re.DOTALL,
)
_WORD = re.compile(r"[a-z_][a-z0-9_]*")
_PROGRAM = re.compile(r"\busing\s*''")
"""MAP and REDUCE … USING 'program'."""


def checked_query(sql: str) -> str:
    """The query as it is sent. Raises UsageError for what is not one statement that only reads."""
    sql = sql.strip()
    sql = sql[:-1] if sql.endswith(";") else sql
    bare = _TOKEN.sub(lambda m: "''" if m[0][0] in "'\"" else " ", sql).lower()
    words = _WORD.findall(bare)
    if not words or words[0] not in _READING or not bare.lstrip(" (\t\r\n").startswith(words[0]):
        raise UsageError("query: only SELECT, WITH, SHOW and DESCRIBE can be run")
    if ";" in bare:
        raise UsageError("query: only one statement can be run")
    if any(quote in bare.replace("''", "") for quote in "'\"`"):
        raise UsageError("query: a quote is not closed")
    if words[0] in ("select", "with"):
        refused = next((word for word in words if word in _WRITING), None)
        if refused is not None:
            raise UsageError(f"query: only reading is allowed, not {refused.upper()} (quote a name with `)")
        refused = next((word for word in words if word in _REACHING_OUT), None)
        if refused is not None or _PROGRAM.search(bare):
            raise UsageError(f"query: {refused or 'USING a program'} is not allowed: it reaches out of the warehouse")
    return sql


def hive_type(name: str, kind: pl.DataType) -> str:
    """Hive's type for a column. Raises TablesError where it has none."""
    if isinstance(kind, pl.Decimal):
        return f"DECIMAL({kind.precision},{kind.scale})"
    if type(kind) not in _TYPES:
        raise TablesError(f"hive: column {name} is of type {kind}, which the warehouse does not store")
    return _TYPES[type(kind)]


def table_of(source: str) -> str:
    """The name of a source's table."""
    return source.replace("-", "_").lower()
