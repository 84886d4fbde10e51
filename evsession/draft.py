"""From a base and an event to the bytes of a commit, without I/O."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any, Final, NamedTuple

from evsession.canonical import DataLimits, check_key, check_size, check_value, dumps, dumps_to_keep, loads
from evsession.chain import FIRST, Heads
from evsession.codec import Stored, idle_of, pack_body, pack_prefix, pack_shown, split_body, status_of, type_of
from evsession.events import Authenticated, Changes, Ended, Event, Updated
from evsession.keys import Keyring
from evsession.redaction import NOTHING, Carried, Redactor, redact_changes, redact_snapshot
from evsession.state import Snapshot, evolve, key_of
from evsession.store import EVENT_KEY, Commit, Condition
from evsession.wire import START, Notice, tagged

_PLAIN: Final = frozenset((str, int, float, bool, type(None)))
"""Types whose values nobody can change, and which come back from JSON as they are."""


class Stamp(NamedTuple):
    """What a commit says beside its event: who, where, and by which clock of the worker (ms since 1970)."""

    event_id: bytes
    actor: bytes = b""
    context: bytes = b""
    worker_time: int = 0

    def again(self) -> Stamp:
        """Return the stamp of the next attempt, once nobody knows what became of this one; see `EVENT_KEY`."""
        event, attempt = self.event_id[:EVENT_KEY], int.from_bytes(self.event_id[EVENT_KEY:], "big")
        return self._replace(event_id=event + ((attempt + 1) % 2**32).to_bytes(4, "big"))


class Draft(NamedTuple):
    """A commit ready to be sent, and the snapshot that it will have produced once the store has accepted it."""

    commit: Commit
    notice: Notice
    snapshot: Snapshot
    raw: bytes
    head: bytes
    link: bytes
    key_id: str
    kept: Stored | None
    """The base, if all times but the idle deadline stay as they are there."""

    def accepted(self, tail: bytes) -> Stored:
        """Return the stored snapshot, given the part of the header that the store wrote."""
        _, _, snapshot, raw, head, link, key_id, kept = self
        idle_at, last_id = int(tail[26:39]), tail[52:76].rstrip().decode()
        if kept is not None:
            created_at, authenticated_at = kept.created_at, kept.authenticated_at
            absolute_at, secret_at = kept.absolute_at, kept.secret_at
        else:
            created_at, authenticated_at = int(tail[:13]), int(tail[13:26])
            absolute_at, secret_at = int(tail[39:52]), int(tail[76:])
        return Stored(
            snapshot, raw, head, link, key_id, created_at, authenticated_at, idle_at, absolute_at, last_id, secret_at
        )


class Drafter:
    """Makes drafts under one set of keys, limits and redaction patterns."""

    def __init__(self, keys: Keyring, redactor: Redactor, limits: DataLimits, *, idle: int, absolute: int) -> None:
        self._message_key, self._message_key_id = keys.signing.message, keys.signing.key_id
        self._audit_id = keys.audit_id
        head_key, self._redact_key = _audit_keys(keys)
        self._heads = Heads(head_key)
        self._redactor = redactor
        self._carried = Carried()
        self._limits = limits
        self.idle = idle
        self.absolute = absolute

    def changes(self, changes: Changes) -> Changes:
        """Return changes that passed the limits, share no container with their origin, and know what is secret in them.

        Raises:
            CodecError: a value or key has no JSON form, is too long or too deep; nothing was written.
        """
        if not changes.set_:
            return changes
        for key, value in changes.set_.items():
            check_key(key, self._limits)
            check_value(key, value, self._limits)
        values = changes.set_
        if not _PLAIN.issuperset(map(type, values.values())):
            values = loads(dumps(values))
        redacted = self._redactor.paths(values)
        if values is changes.set_ and not redacted:
            return changes
        return Changes(set_=values, unset=changes.unset, redacted=redacted)

    def draft(
        self,
        base: Stored | None,
        sid: str,
        event: Event,
        stamp: Stamp,
        *,
        first_version: int = 0,
        absolute: int = 0,
        condition: Condition = "",
    ) -> Draft:
        """Return the commit of an event on a base; without a base, of a new session's first event.

        `absolute` is the time to a new absolute deadline in ms; 0 leaves it, or takes the policy's for a new session.

        Raises:
            SessionTooLarge: the data after the event is over a limit; nothing was written.
        """
        before, is_new_data = (base.snapshot if base is not None else Snapshot(sid=sid)), bool(event.set_)
        if base is not None and before.marks and base.key_id != self._audit_id:
            event = _sealed_anew(before, event)
        snapshot = evolve(before, event)
        raw = dumps_to_keep(snapshot.data)
        if is_new_data:
            check_size(snapshot.data, raw, self._limits)
        event_id, actor, context, worker_time = stamp
        version, type_, key_id = snapshot.version, type_of(event), self._message_key_id
        previous, expected = (FIRST, b"") if base is None else (base.head, base.head)
        name, number = sid.encode(), b"%d" % version
        shown = redact_changes(self._redact_key, sid, version, event) if event.redacted else event.set_
        data = pack_shown(event, shown)
        link = self._heads.link(previous, (name, number, type_.encode(), event_id, actor, context, data))
        body = pack_body(snapshot, raw)
        covered = body
        if snapshot.marks:
            shown = self._shown(base, snapshot, shown)
            covered = _redacted(snapshot, raw, body, shown)
        head = self._heads.head(link, name, number, status_of(snapshot), covered)
        if snapshot.marks:
            self._carried.keep(sid, head, shown)
        told = b"" if event.redacted else data
        notice = Notice(START, START.id, sid, version, previous, head, link, event_id, key_id, type_, told)
        # By position, as are all of these tuples here: 16 names cost a microsecond more (measured).
        commit = Commit(
            sid, expected, event_id, first_version, pack_prefix(self._audit_id, head, link, snapshot), body,
            self._idle(base, event), absolute or (0 if base is not None else self.absolute), type_, condition, actor,
            context, data, worker_time, tagged(self._message_key, notice),
        )  # fmt: skip
        kept = base if type(event) is Updated and not absolute else None
        return Draft(commit, notice, snapshot, raw, head, link, self._audit_id, kept)

    def _shown(self, base: Stored | None, snapshot: Snapshot, news: Mapping[str, Any]) -> Mapping[str, Any]:
        """Return what the log has of each key with a secret value: as in the base, or as the event sets it."""
        known = self._carried.of(base.snapshot.sid, base.head) if base is not None else NOTHING
        if known and base is not None and snapshot.marks is base.snapshot.marks:
            return known
        keys, known = {key_of(path) for path in snapshot.marks}, {**known, **news}
        if not keys <= known.keys():
            known = redact_snapshot(self._redact_key, snapshot)
        return {key: known[key] for key in keys}

    def _idle(self, base: Stored | None, event: Event) -> int:
        if isinstance(event, Authenticated):
            return max(self.idle, event.remember)
        return self.idle if base is None else idle_of(base, self.idle)


def _redacted(snapshot: Snapshot, raw: bytes, body: bytes, shown: Mapping[str, Any]) -> bytes:
    """Return the form of a living session's body that heads cover, made from the body itself: only data differ."""
    before, after = split_body(body, raw)
    return before + dumps({**snapshot.data, **shown}) + after


def _sealed_anew(before: Snapshot, event: Event) -> Event:
    """Return the first event under another key, which sets all secret values again: their digests need the new key.

    Otherwise the state that its head covers would have digests that no event in the log has.
    """
    if isinstance(event, Ended):
        return event
    gone = {*event.set_, *event.unset}
    paths = tuple(path for path in before.marks if key_of(path) not in gone)
    values = {key: before.data[key] for key in map(key_of, paths)}
    return replace(event, set_={**values, **event.set_}, redacted=(*event.redacted, *paths))


def _audit_keys(keys: Keyring) -> tuple[bytes, bytes]:
    head, redact = keys.head(keys.audit_id), keys.redact(keys.audit_id)
    if head is None or redact is None:  # the keyring named this id itself
        raise KeyError(keys.audit_id)
    return head, redact
