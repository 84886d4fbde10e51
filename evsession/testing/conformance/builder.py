"""Commits made by hand, with the real codec, chain, wire and keys, so that a store is tested with what it will get."""

from __future__ import annotations

import secrets
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any

from evsession.canonical import dumps
from evsession.chain import FIRST, head_of, link_of
from evsession.codec import (
    Stored,
    check_head,
    pack_body,
    pack_event,
    pack_prefix,
    redacted_body,
    status_of,
    type_of,
    unpack,
)
from evsession.events import Authenticated, Cause, Created, Ended, Event, Updated
from evsession.keys import Keyring
from evsession.state import Snapshot, evolve
from evsession.store import Commit, CommitReply, Condition, Store
from evsession.tokens import new_sid
from evsession.wire import Notice, id_text, notice_tag_is_good, pack_notice, split_message, unpack_notice

HALF_HOUR = 1_800_000
HALF_DAY = 43_200_000

KEYRING = Keyring("the secret of the contract suite, long enough", namespace="contract")
KEYS = KEYRING.signing


@dataclass(frozen=True, slots=True)
class State:
    """A session as one worker knows it: what its next commit builds on."""

    snapshot: Snapshot
    head: bytes = FIRST

    @property
    def sid(self) -> str:
        """The session's id."""
        return self.snapshot.sid


@dataclass(slots=True)
class Heard:
    """A listener that keeps what the feed brought, in order: (shard, message) and the shards of gaps."""

    messages: list[tuple[str, bytes]] = field(default_factory=list)
    gaps: list[str] = field(default_factory=list)

    def on_message(self, shard: str, message: bytes) -> None:
        self.messages.append((shard, message))

    def on_gap(self, shard: str) -> None:
        self.gaps.append(shard)

    def notices(self, shard: str = "00") -> list[Notice]:
        """Return all notices of a shard, each with a good tag."""
        parts = [part for of, message in self.messages if of == shard for part in split_message(message)]
        assert all(notice_tag_is_good(KEYS.message, part) for _, _, part in parts)
        return [unpack_notice(*part) for part in parts]


def begin(shard: str = "00") -> State:
    """Return a session before its first event."""
    return State(Snapshot(sid=new_sid(shard, secrets.token_bytes(16))))


def created(**data: Any) -> Created:
    """Return the first event of an anonymous session."""
    return Created(set_=data, secret="hash of a secret", control="")


def authenticated(user_id: str, **data: Any) -> Authenticated:
    """Return a login."""
    return Authenticated(set_=data, user_id=user_id, secret="hash of another", control="")


def updated(**data: Any) -> Updated:
    """Return a change of the data."""
    return Updated(set_=data)


def ended(cause: Cause) -> Ended:
    """Return the end of a session."""
    return Ended(cause=cause)


def commit_of(
    state: State,
    event: Event,
    *,
    event_id: bytes = b"",
    first_version: int = 0,
    idle: int = HALF_HOUR,
    absolute: int | None = None,
    condition: Condition = "",
    actor: bytes = b"",
    context: bytes = b"",
    worker_time: int = 0,
) -> tuple[Commit, State]:
    """Return the commit of one more event, and the session as it will be; the first sets the absolute deadline."""
    event_id = event_id or secrets.token_bytes(16)
    after = evolve(state.snapshot, event)
    data = pack_event(event, KEYS.redact, state.sid, after.version)
    link = link_of(KEYS.head, state.head, (event_id, type_of(event).encode(), actor, context, data))
    body = pack_body(after, dumps(after.data))
    covered = redacted_body(KEYS.redact, after, body)
    head = head_of(KEYS.head, link, state.sid.encode(), after.version, status_of(after), covered)
    notice = pack_notice(
        KEYS.message,
        sid=state.sid,
        version=after.version,
        previous_head=state.head,
        head=head,
        link=link,
        event_id=event_id,
        key_id=KEYS.key_id,
        type_=type_of(event),
        data=data,
    )
    is_first = state.snapshot.version == 0
    commit = Commit(
        sid=state.sid,
        expected=b"" if is_first else state.head,
        event_id=event_id,
        first_version=first_version,
        prefix=pack_prefix(KEYS.key_id, head, link, after),
        body=body,
        idle=idle,
        absolute=(HALF_DAY if is_first else 0) if absolute is None else absolute,
        type=type_of(event),
        condition=condition,
        actor=actor,
        context=context,
        data=data,
        worker_time=worker_time,
        notice=notice,
    )
    return commit, State(after, head)


def retried(commit: Commit) -> Commit:
    """Return the same commit as its worker repeats it when the reply was lost."""
    return commit._replace(first_version=int(commit.prefix[39:49]))


async def happened(store: Store, state: State, event: Event, **options: Any) -> tuple[CommitReply, State]:
    """Commit an event that nothing stands in the way of."""
    commit, after = commit_of(state, event, **options)
    reply = await store.commit(commit)
    assert (reply.status, reply.sid) == ("ok", state.sid)
    return reply, after


async def story(store: Store, events: Iterable[Event], shard: str = "00", **options: Any) -> State:
    """Commit the events of a new session one after the other."""
    state = begin(shard)
    for event in events:
        _, state = await happened(store, state, event, **options)
    return state


async def stored(store: Store, sid: str) -> Stored:
    """Return a session as the store has it, its head checked."""
    reply = await store.fill(sid)
    assert reply.sid == sid
    assert reply.packed is not None
    return opened(sid, reply.packed)


def opened(sid: str, packed: bytes) -> Stored:
    """Return a packed snapshot whose head is good."""
    found = unpack(sid, packed)
    check_head(KEYS.head, KEYS.redact, found, packed)
    return found


def state_of(found: Stored) -> State:
    """Return what the next commit builds on."""
    return State(found.snapshot, found.head)


def last_id(reply: CommitReply) -> str:
    """Return the id of the entry that a commit appended, as text."""
    assert reply.id is not None
    return id_text(reply.id)
