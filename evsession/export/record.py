"""One exported event, before it takes the form of a format: events of sessions, and revocations by name."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any

from evsession.events import Actor, Authenticated, RecordedEvent, Renewed
from evsession.export.owasp import term_of


@dataclass(frozen=True, slots=True, kw_only=True)
class Record:
    """An event and its name in OWASP's vocabulary.

    `id` and `shard` together name it; `name` is what was revoked, such as ``user:42``, and then there is no session.
    `facts` are those of a login, the phase of a renewal, and so on. `cursor` stands after it in its shard.
    """

    id: str
    shard: str
    type: str
    at: datetime
    session_id: str | None = None
    version: int | None = None
    user_id: str | None = None
    actor: Actor | None = None
    context: Mapping[str, Any] = field(default_factory=dict)
    set: Mapping[str, Any] = field(default_factory=dict)
    unset: tuple[str, ...] = ()
    facts: Mapping[str, Any] = field(default_factory=dict)
    cause: str | None = None
    reason: str = ""
    name: str | None = None
    cursor: str = ""

    @property
    def owasp(self) -> tuple[str, str] | None:
        """The term of OWASP's vocabulary and its level; None for what the vocabulary has no term for."""
        return term_of(self.type, self.user_id or self.name, self.cause, self.session_id)

    @property
    def milliseconds(self) -> int:
        """The time in ms since 1970."""
        return round(self.at.timestamp() * 1000)


def record_of(event: RecordedEvent) -> Record:
    """Return the record of an event that `manager.audit` has read."""
    return Record(
        id=event.id,
        shard=event.session_id[:2],
        type=event.type,
        at=event.at,
        session_id=event.session_id,
        version=event.version,
        user_id=event.user_id,
        actor=event.actor,
        context=event.context,
        set=event.set,
        unset=event.unset,
        facts=_facts(event),
        cause=event.cause,
        reason=event.reason,
        cursor=event.cursor,
    )


def _facts(event: RecordedEvent) -> dict[str, Any]:
    match event.event:
        case Authenticated(names=names, detected=detected, facts=facts):
            found = {"names": list(names), "detected": detected, "facts": dict(facts)}
            return {name: value for name, value in found.items() if value}
        case Renewed(phase=phase):
            return {"phase": phase}
        case _:
            return {}


def json_of(record: Record) -> dict[str, Any]:
    """Return a record as a line of JSON holds it."""
    owasp = record.owasp
    return {
        "id": record.id,
        "shard": record.shard,
        "type": record.type,
        "at": record.at.astimezone(UTC).isoformat(timespec="milliseconds"),
        "session_id": record.session_id,
        "version": record.version,
        "user_id": record.user_id,
        "name": record.name,
        "actor": None if record.actor is None else {"kind": record.actor.kind, "id": record.actor.id},
        "context": record.context,
        "set": record.set,
        "unset": record.unset,
        "facts": record.facts,
        "cause": record.cause,
        "reason": record.reason,
        "owasp": None if owasp is None else owasp[0],
        "level": "INFO" if owasp is None else owasp[1],
    }
