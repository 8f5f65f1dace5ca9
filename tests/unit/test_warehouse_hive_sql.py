"""Which queries go to Hive: those that only read."""

import polars as pl
import pytest

from paystorm.errors import TablesError, UsageError
from paystorm.warehouse.hive_sql import checked_query, hive_type, table_of


@pytest.mark.parametrize(
    "sql",
    [
        "SELECT 1",
        " select * from purchase where data like '%insert into%'",
        "WITH q AS (SELECT 1 AS a) SELECT a FROM q;",
        "(SELECT 1) UNION ALL (SELECT 2)",
        "SHOW TABLES",
        "DESCRIBE purchase",
        "SELECT `insert`, `drop``x` FROM t",
        "SELECT 1 -- drop it's done",
        "SELECT 'a\\'; drop table x' AS a",
        'SELECT "a;b" AS a, concat("\\"", ";")',
        "SELECT a FROM t JOIN u USING (a)",
        "-- which\nSELECT 1",
        "SELECT created_at, updated FROM t",
    ],
)
def test_what_only_reads_is_passed_on_without_its_semicolon(sql: str) -> None:
    assert checked_query(sql) == sql.strip().removesuffix(";")


@pytest.mark.parametrize(
    "sql",
    [
        "",
        ";",
        "INSERT INTO t SELECT 1",
        "WITH q AS (SELECT 1) INSERT INTO t SELECT * FROM q",
        "with q as (select 1) from q insert overwrite table t select *",
        "FROM t INSERT OVERWRITE DIRECTORY '/tmp/x' SELECT *",
        "SELECT 1; DROP TABLE t",
        "SELECT '\\'; DROP TABLE t; --",
        "SELECT 'a' '; DROP TABLE t",
        "SELECT 1 -- '\n; DROP TABLE t -- '",
        "SELECT `a` FROM t /* ' */ ; DROP TABLE t -- '",
        "SET hive.execution.engine=mr",
        "ADD JAR /tmp/x.jar",
        "EXPLAIN SELECT 1",
        "dfs -ls /",
        "!ls",
        "SELECT TRANSFORM(a) USING 'cat' FROM t",
        "SELECT * FROM (FROM t MAP a USING 'cat') x",
        'SELECT * FROM (FROM t REDUCE a USING "cat") x',
        "SELECT reflect('java.lang.System', 'exit', 1)",
        "SELECT java_method('java.lang.System', 'exit', 1)",
        "SELECT in_file('a', '/etc/passwd')",
        "CREATE TABLE t AS SELECT 1",
        "'SELECT' 1",
        "`select` 1",
    ],
)
def test_what_does_more_than_read_is_refused(sql: str) -> None:
    with pytest.raises(UsageError, match="query: "):
        checked_query(sql)


def test_every_column_that_is_stored_has_a_type_in_hive() -> None:
    kinds = [pl.String(), pl.Int32(), pl.Int64(), pl.Boolean(), pl.Datetime("us"), pl.Decimal(38, 18)]
    assert [hive_type("c", kind) for kind in kinds] == [
        "STRING", "INT", "BIGINT", "BOOLEAN", "TIMESTAMP", "DECIMAL(38,18)",
    ]  # fmt: skip
    with pytest.raises(TablesError, match="column c is of type"):
        hive_type("c", pl.List(pl.String()))
    assert table_of("Customer-Service") == "customer_service"
