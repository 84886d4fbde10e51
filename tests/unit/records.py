"""A record of each kind of event, as `manager.audit` would have read it."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any, Final

from evsession.events import CAUSES, Actor, Authenticated, Created, Ended, Event, RecordedEvent, Renewed, Updated
from evsession.export.record import Record, record_of

AT: Final = datetime(2026, 11, 21, 8, 30, 0, 123_000, tzinfo=UTC)
SID: Final = "00c3RhcmZpc2hzdGFyZmlzaA"
CONTEXT: Final = {"worker": "ab12", "method": "POST", "route": "/cart/{item}", "address": "203.0.113.0", "region": "eu"}


def record(event: Event, type_: str, *, user_id: str | None = "42", **more: Any) -> Record:
    """Return the record of an event."""
    whole: dict[str, Any] = {"id": "1700000000000-0", "version": 3, "at": AT, "actor": None, "context": CONTEXT} | more
    ended = event if isinstance(event, Ended) else None
    return record_of(
        RecordedEvent(
            session_id=SID,
            type=type_,
            user_id=user_id,
            set=event.set_,
            unset=event.unset,
            cause=None if ended is None else ended.cause,
            reason="" if ended is None else ended.reason,
            cursor="",
            event=event,
            **whole,
        )
    )


LOGIN: Final = Authenticated(
    set_={"a": 1}, user_id="42", secret="", control="", names=("tenant:acme",), detected=True, facts={"mfa": True}
)

ALL: Final[dict[str, Record]] = {
    "created": record(Created(secret="", control="", set_={"theme": "dark"}), "created", user_id=None, version=1),
    "authenticated": record(LOGIN, "authenticated"),
    "impersonation": record(LOGIN, "authenticated", actor=Actor.admin("joe")),
    "login by a service": record(LOGIN, "authenticated", actor=Actor.service("billing"), context={}),
    "updated": record(Updated(set_={"cart": ["tea"], "ü": None}, unset=("old",)), "updated"),
    "updated by nobody": record(Updated(unset=("old",)), "updated", user_id=None, context={}),
    "renewed": record(Renewed(secret="", phase="issued"), "renewed"),
    "renewed by nobody": record(Renewed(secret="", phase="rotated"), "renewed", user_id=None),
    **{f"ended {cause}": record(Ended(cause=cause), "ended") for cause in sorted(CAUSES)},  # type: ignore[arg-type]
    "ended by an admin": record(Ended(cause="revoked", reason="lost phone"), "ended", actor=Actor.admin("joe")),
    "ended by the sweeper": record(
        Ended(cause="idle"), "ended", actor=Actor.system("sweeper"), context={"worker": "x"}
    ),
    "ended anonymous": record(Ended(cause="idle"), "ended", user_id=None),
    "named_revoked": Record(
        id="1700000000001-0",
        shard="ctl",
        type="named_revoked",
        at=AT,
        name="user:42",
        cause="revoked",
        reason="left the company",
        actor=Actor.admin("joe"),
    ),
}
