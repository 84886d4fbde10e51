"""Manifests: what a file of the archive holds, chained to the manifest before it, and signed."""

from __future__ import annotations

from dataclasses import dataclass
from hashlib import sha256
from typing import Any, Final, NamedTuple

from evsession.canonical import dumps, loads
from evsession.errors import CorruptArchive, UnknownFormat
from evsession.wire import START, Position, StreamId, id_text, parse_id

FORMAT: Final = 1
"""The newest form of manifests and lines that this version reads, and the one that it writes."""

_MALFORMED: Final = (ValueError, LookupError, TypeError, AttributeError)


class Fork(NamedTuple):
    """From file `number` on the archive goes on after `id`: what earlier files hold beyond it, a failover has lost."""

    number: int
    id: StreamId


class Start(NamedTuple):
    """The event after which a file begins, all forks that its manifest tells of, and whether events are missing.

    `is_proven` says that the event itself still stands in the log.
    """

    after: Position
    forks: tuple[Fork, ...] = ()
    is_gap: bool = False
    is_proven: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class Manifest:
    """One file of the archive.

    number: 1 for the first file of a shard, then one more each.
    after: where the file goes on: the `last` of the file before, unless a failover or a trim came between.
    first, last, count: the events in it.
    size, sha256: of its lines, uncompressed, so that they stay the same whatever compresses them.
    previous: the digest of the manifest before, empty for the first.
    forks: every one so far, so that the newest manifest tells of all.
    is_gap: whether the log was trimmed, or begun anew, before all that comes between `after` and `first` was archived.
    key_id, signature: who vouches for it; both are outside of the digest.
    """

    namespace: str
    shard: str
    number: int
    after: Position
    first: Position
    last: Position
    count: int
    size: int
    sha256: str
    previous: str
    forks: tuple[Fork, ...] = ()
    is_gap: bool = False
    key_id: str = ""
    signature: bytes = b""

    @property
    def content(self) -> bytes:
        """What is signed: all but the signature and its key."""
        return dumps(self._fields())

    @property
    def digest(self) -> str:
        """What the next manifest names this one by, 64 hex digits. It is the same whoever signed."""
        return sha256(self.content).hexdigest()

    def _fields(self) -> dict[str, Any]:
        return {
            "format": FORMAT,
            "namespace": self.namespace,
            "shard": self.shard,
            "number": self.number,
            "file": file_name(self.number),
            "after": _spoken(self.after),
            "first": _spoken(self.first),
            "last": _spoken(self.last),
            "count": self.count,
            "size": self.size,
            "sha256": self.sha256,
            "previous": self.previous,
            "forks": [[fork.number, id_text(fork.id)] for fork in self.forks],
            "gap": self.is_gap,
        }

    def pack(self) -> bytes:
        """Return the manifest as it stands in its file: JSON in one line."""
        return dumps(self._fields() | {"key_id": self.key_id, "signature": self.signature.hex()}) + b"\n"


def unpack_manifest(name: str, raw: bytes) -> Manifest:
    """Return a manifest from its file; its signature is not checked yet.

    Raises:
        CorruptArchive: this is no manifest; `name` says which file it was.
        UnknownFormat: a newer version wrote it.
    """
    try:
        fields = loads(raw)
        if (format_ := fields["format"]) != FORMAT:
            raise UnknownFormat(what=f"the manifest {name}", found=str(format_), known=str(FORMAT))
        manifest = _manifest(fields)
    except _MALFORMED as error:
        raise CorruptArchive(name, "is no manifest") from error
    if manifest.pack() != raw:
        raise CorruptArchive(name, "is no manifest as evsession writes it")
    return manifest


def _manifest(fields: dict[str, Any]) -> Manifest:
    return Manifest(
        namespace=fields["namespace"],
        shard=fields["shard"],
        number=fields["number"],
        after=_heard(fields["after"]),
        first=_heard(fields["first"]),
        last=_heard(fields["last"]),
        count=fields["count"],
        size=fields["size"],
        sha256=fields["sha256"],
        previous=fields["previous"],
        forks=tuple(Fork(number, parse_id(id_.encode())) for number, id_ in fields["forks"]),
        is_gap=fields["gap"],
        key_id=fields["key_id"],
        signature=bytes.fromhex(fields["signature"]),
    )


def _spoken(position: Position) -> dict[str, str]:
    return {"id": id_text(position.id), "event_id": position.event.hex()}


def _heard(fields: dict[str, str]) -> Position:
    return Position(parse_id(fields["id"].encode()), bytes.fromhex(fields["event_id"]))


def file_name(number: int) -> str:
    """Return the name of a file of events."""
    return f"{number:08d}.jsonl.zst"


def manifest_name(number: int) -> str:
    """Return the name of a manifest."""
    return f"{number:08d}.json"


JOB: Final = "archive"
"""The name of the archiver's turn and checkpoint in the store."""


class Checkpoint(NamedTuple):
    """How far the archive of a shard has come, as Redis holds it.

    `position` is the last event that is safe, `number` and `digest` name the last manifest. `pending` is the last event
    of the file that is being written: whoever takes over writes the very same file.
    """

    position: Position = START
    number: int = 0
    digest: str = ""
    pending: StreamId | None = None

    def pack(self) -> bytes:
        """Return the checkpoint as the store holds it; it begins with the id, which the store reads."""
        pending = "-" if self.pending is None else id_text(self.pending)
        text = f"{id_text(self.position.id)} {self.position.event.hex()} {self.number} {self.digest or '-'} {pending}"
        return text.encode()

    @classmethod
    def unpack(cls, raw: bytes) -> Checkpoint:
        """Return the checkpoint that the store held, or the very first.

        Raises:
            UnknownFormat: a newer version wrote it.
        """
        if not raw:
            return cls()
        try:
            id_, event, number, digest, pending = raw.split(b" ")
            return cls(
                position=Position(parse_id(id_), bytes.fromhex(event.decode())),
                number=int(number),
                digest=digest.decode().replace("-", ""),
                pending=None if pending == b"-" else parse_id(pending),
            )
        except ValueError as error:
            known = "id, event id, number, digest, pending"
            raise UnknownFormat(what="the archive's checkpoint", found=repr(raw[:80]), known=known) from error


def bound_of(number: int, forks: tuple[Fork, ...]) -> StreamId | None:
    """Return the id beyond which a file holds a history that was lost; None if it holds none."""
    return min((fork.id for fork in forks if fork.number > number), default=None)
