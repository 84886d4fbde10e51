"""The mark of files that were removed on purpose."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Final

from evsession.archive.manifest import FORMAT
from evsession.canonical import dumps, loads
from evsession.errors import CorruptArchive

NAME: Final = "expired.json"

_MALFORMED: Final = (ValueError, LookupError, TypeError, AttributeError)


@dataclass(frozen=True, slots=True, kw_only=True)
class Mark:
    """Files of a shard up to `number` were removed because their time was over."""

    namespace: str
    shard: str
    number: int
    key_id: str = ""
    signature: bytes = b""

    @property
    def content(self) -> bytes:
        """What is signed."""
        return dumps(self._fields())

    def _fields(self) -> dict[str, Any]:
        return {"format": FORMAT, "namespace": self.namespace, "shard": self.shard, "expired": self.number}

    def pack(self) -> bytes:
        """Return the mark as it stands in its file."""
        return dumps(self._fields() | {"key_id": self.key_id, "signature": self.signature.hex()}) + b"\n"


def unpack_mark(name: str, raw: bytes, namespace: str, shard: str) -> Mark:
    """Return the mark of a shard from its file; its signature is not checked yet.

    Raises:
        CorruptArchive: it is no mark, or another shard's; `name` says which file it was.
    """
    try:
        fields = loads(raw)
        number, key_id, signature = fields["expired"], fields["key_id"], bytes.fromhex(fields["signature"])
        mark = Mark(namespace=namespace, shard=shard, number=number, key_id=key_id, signature=signature)
        is_whole = mark.pack() == raw and number > 0
    except _MALFORMED as error:
        raise CorruptArchive(name, "is no mark of removed files") from error
    if not is_whole:
        raise CorruptArchive(name, "is no mark of removed files as evsession writes it, or another shard's")
    return mark
