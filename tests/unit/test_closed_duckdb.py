"""A closed DuckDB reads the files that it is given, and nothing else, however it was opened."""

from collections.abc import Iterator
from pathlib import Path

import duckdb
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from metadata_extractors.closed_duckdb import Ahead, closed_connection, literal
from snapengine.errors import UsageError

SECRET = pa.table({"secret": [1]})


@pytest.fixture(params=[0, 1], ids=["opened when needed", "opened ahead"])
def ahead(request: pytest.FixtureRequest) -> Iterator[Ahead]:
    with Ahead(request.param) as found:
        yield found


@pytest.fixture
def files(tmp_path: Path) -> list[str]:
    paths = [str(tmp_path / f"{name}.parquet") for name in ("given", "other")]
    for path in paths:
        pq.write_table(pa.table({"a": [1, 2]}), path)
    return paths


def test_a_file_that_was_given_is_read_and_no_other(ahead: Ahead, files: list[str]) -> None:
    with closed_connection(files[:1], ahead=ahead) as connection:
        assert connection.execute(f"FROM read_parquet([{literal(files[0])}])").fetchall() == [(1,), (2,)]
        for sql in (
            f"FROM {literal(files[1])}",
            f"COPY (SELECT 1) TO {literal(files[1])}",
            "FROM glob('/*')",
        ):
            with pytest.raises(duckdb.PermissionException):
                connection.execute(sql)


@pytest.mark.parametrize(
    "sql",
    [
        "SET enable_external_access = true",
        "RESET enable_external_access",
        "SET GLOBAL enable_external_access = true",
        "SET allowed_paths = ['/etc/passwd']",
        "SET allowed_directories = ['/']",
        "SET lock_configuration = false",
        "SET memory_limit = '100GiB'",
        "SET python_enable_replacements = true",
        "FROM SECRET",
        "INSTALL httpfs",
        "ATTACH '/tmp/none.db'",
    ],
)
def test_nothing_opens_it_again(ahead: Ahead, files: list[str], sql: str) -> None:
    with closed_connection(files[:1], ahead=ahead) as connection, pytest.raises(duckdb.Error):
        connection.execute(sql)


def test_its_settings_are_those_that_were_asked_for(ahead: Ahead) -> None:
    sql = "SELECT current_setting('threads'), current_setting('TimeZone'), current_setting('memory_limit')"
    with closed_connection(threads=1, memory="64MiB", ahead=ahead) as connection:
        assert connection.execute(sql).fetchall() == [(1, "UTC", "64.0 MiB")]


def test_so_many_are_opened_ahead_and_further_ones_when_they_are_needed(files: list[str]) -> None:
    with Ahead(2) as ahead:
        for number in range(4):
            with closed_connection(files, ahead=ahead) as connection:
                connection.execute(f"CREATE TEMP TABLE mine AS SELECT {number} AS a")
                assert connection.execute("FROM mine").fetchall() == [(number,)]


def test_whether_used_or_not_none_is_open_afterwards(
    files: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    opened: list[duckdb.DuckDBPyConnection] = []
    connect = duckdb.connect

    def noted(given: str) -> duckdb.DuckDBPyConnection:
        opened.append(connect(given))
        return opened[-1]

    monkeypatch.setattr(duckdb, "connect", noted)
    with pytest.raises(KeyboardInterrupt), Ahead(3) as ahead, closed_connection(files, ahead=ahead):
        raise KeyboardInterrupt
    assert len(opened) == 3
    for connection in opened:
        with pytest.raises(duckdb.ConnectionException, match="closed"):
            connection.execute("SELECT 1")


def test_one_that_cannot_be_opened_ahead_says_so_where_it_is_needed(monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(*_: str) -> None:
        raise duckdb.IOException("no more")

    monkeypatch.setattr(duckdb, "connect", broken)
    with Ahead(1):
        pass
    with Ahead(1) as ahead, pytest.raises(duckdb.IOException), closed_connection(ahead=ahead):
        pass


def test_what_it_may_use_is_checked_before_one_is_taken() -> None:
    with Ahead(1) as ahead:
        for options in ({"threads": 0}, {"memory": "much"}):
            with pytest.raises(UsageError), closed_connection(ahead=ahead, **options):
                pass
