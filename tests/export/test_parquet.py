"""Parquet: what DuckDB and pandas read."""

from __future__ import annotations

import re
from datetime import timedelta
from pathlib import Path
from typing import Any

import duckdb
import pyarrow.parquet as pq

from evsession.export import parquet
from evsession.export.parquet import ParquetFile
from tests.unit.records import ALL


def rows(query: str) -> list[Any]:
    """Return what DuckDB finds."""
    with duckdb.connect() as connection:
        return connection.execute(query).fetchall()


def test_duckdb_reads_every_event(tmp_path: Path) -> None:
    """Types, times, lists and JSON in it."""
    path = tmp_path / "audit.parquet"
    with ParquetFile(path) as file:
        for record in ALL.values():
            file.add(record)
    assert rows(
        "SELECT type, epoch_ms(happened_at), user_id, unset_keys, set_values->>'$.cart[0]' "
        f"FROM '{path}' WHERE type = 'updated' AND user_id = '42'"
    ) == [("updated", 1_795_249_800_123, "42", ["old"], "tea")]
    assert rows(f"SELECT cause, actor_id FROM '{path}' WHERE reason = 'lost phone'") == [("revoked", "joe")]
    assert rows(f"SELECT count(*) FROM '{path}'") == [(len(ALL),)]


def test_rows_go_out_in_groups(tmp_path: Path) -> None:
    """So memory is that of one group, however many there are."""
    path = tmp_path / "audit.parquet"
    with ParquetFile(path) as file:
        for _ in range(parquet.ROWS + 1):
            file.add(ALL["updated"])
            assert len(file._rows) < parquet.ROWS
    assert pq.ParquetFile(path).metadata.num_row_groups == 2
    assert pq.ParquetFile(path).metadata.num_rows == parquet.ROWS + 1


def test_a_file_without_events_is_a_table_without_rows(tmp_path: Path) -> None:
    """An analyst's query then finds nothing instead of failing."""
    with ParquetFile(tmp_path / "empty.parquet"):
        pass
    assert rows(f"SELECT count(*) FROM '{tmp_path}/empty.parquet'") == [(0,)]


def test_the_query_of_the_docs_answers(tmp_path: Path) -> None:
    """Copied from the page, run on a file of that name."""
    page = (Path(__file__).parents[2] / "docs" / "how-to" / "siem.md").read_text()
    query = page.partition("```sql\n")[2].partition("```")[0]
    with ParquetFile(tmp_path / "audit.parquet") as file:
        for name in ("authenticated", "ended by an admin"):
            file.add(ALL[name])
    assert rows(query.replace("audit.parquet", str(tmp_path / "audit.parquet"))) == [
        ("42", "joe", "lost phone", timedelta(0)),
    ]
    columns = page.partition("so that SQL needs no quotes: ")[2].partition(".")[0]
    assert re.findall(r"`(\w+)`", columns) == parquet.SCHEMA.names
