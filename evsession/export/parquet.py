"""Parquet for analysts: one row an event, in groups, so that memory does not grow with the file."""

from __future__ import annotations

from collections.abc import Mapping
from types import TracebackType
from typing import Any, Final, Self

import pyarrow as pa
import pyarrow.parquet as pq

from evsession.canonical import dumps
from evsession.export.record import Record

ROWS: Final = 20_000
"""Rows of a group, of which one is in memory: some MB."""

# No column has the name of an SQL keyword, so that queries need no quotes.
SCHEMA: Final = pa.schema(
    [
        pa.field("id", pa.string(), nullable=False),
        pa.field("shard", pa.dictionary(pa.int16(), pa.string()), nullable=False),
        pa.field("type", pa.dictionary(pa.int16(), pa.string()), nullable=False),
        pa.field("happened_at", pa.timestamp("ms", tz="UTC"), nullable=False),
        pa.field("session_id", pa.string()),
        pa.field("version", pa.int64()),
        pa.field("user_id", pa.string()),
        pa.field("name", pa.string()),
        pa.field("actor_kind", pa.string()),
        pa.field("actor_id", pa.string()),
        pa.field("worker", pa.string()),
        pa.field("method", pa.string()),
        pa.field("route", pa.string()),
        pa.field("address", pa.string()),
        pa.field("context", pa.string(), metadata={"content": "JSON, what AuditPolicy.context added"}),
        pa.field("set_values", pa.string(), metadata={"content": "JSON"}),
        pa.field("unset_keys", pa.list_(pa.string())),
        pa.field("facts", pa.string(), metadata={"content": "JSON"}),
        pa.field("cause", pa.string()),
        pa.field("reason", pa.string()),
        pa.field("owasp", pa.string()),
        pa.field("level", pa.string()),
    ]
)
_IN_COLUMNS: Final = ("worker", "method", "route", "address")


class ParquetFile:
    """A Parquet file in the making: ``with ParquetFile(path) as file: file.add(record)``."""

    def __init__(self, place: Any) -> None:
        self._writer = pq.ParquetWriter(place, SCHEMA, compression="zstd")
        self._rows: list[dict[str, Any]] = []

    def add(self, record: Record) -> None:
        """Append an event."""
        self._rows.append(row_of(record))
        if len(self._rows) >= ROWS:
            self.flush()

    def flush(self) -> None:
        """Write what was added as one group."""
        if self._rows:
            self._writer.write_table(pa.Table.from_pylist(self._rows, SCHEMA))
            self._rows = []

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.flush()
        self._writer.close()


def row_of(record: Record) -> dict[str, Any]:
    """Return the row of an event."""
    context, owasp = record.context, record.owasp
    own = {name: value for name, value in context.items() if name not in _IN_COLUMNS}
    return {
        "id": record.id,
        "shard": record.shard,
        "type": record.type,
        "happened_at": record.at,
        "session_id": record.session_id,
        "version": record.version,
        "user_id": record.user_id,
        "name": record.name,
        "actor_kind": None if record.actor is None else record.actor.kind,
        "actor_id": None if record.actor is None else record.actor.id,
        **{name: _text(context, name) for name in _IN_COLUMNS},
        "context": _json(own),
        "set_values": _json(record.set),
        "unset_keys": list(record.unset),
        "facts": _json(record.facts),
        "cause": record.cause,
        "reason": record.reason or None,
        "owasp": None if owasp is None else owasp[0],
        "level": "INFO" if owasp is None else owasp[1],
    }


def _text(context: Mapping[str, Any], name: str) -> str | None:
    value = context.get(name)
    return None if value is None else str(value)


def _json(value: Mapping[str, Any]) -> str | None:
    return dumps(value).decode() if value else None
