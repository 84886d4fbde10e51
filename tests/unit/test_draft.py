"""From a base and an event to the bytes of a commit."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import pytest

from evsession.chain import FIRST
from evsession.codec import HEADER_LENGTH, Stored, check_head, unpack, unpack_event
from evsession.config import DEFAULT_REDACT, SessionPolicy
from evsession.draft import Draft, Drafter, Stamp
from evsession.errors import CodecError, SessionTooLarge
from evsession.events import Authenticated, Changes, Created, Ended, Event, Updated
from evsession.keys import Keyring
from evsession.redaction import PREFIX, Redactor
from evsession.store import EVENT_KEY
from evsession.wire import START, notice_key_id, notice_tag_is_good, unpack_notice

KEY, AUDIT_KEY = "a key that only these tests have, 01", "a key for auditors only, number 02.."
SID = "00" + "A" * 22
STAMP = Stamp(event_id=b"e" * 16, actor=b"admin joe", context=b'{"worker":"w"}', worker_time=1_234)
TAIL = b"%013d%013d%013d%013d%-24b%013d" % (1_000, 0, 5_000, 9_000, b"1-0", 1_000)
CREATED = Created(set_={"n": 1}, secret="s" * 43, control="0-0 x")


def _drafter(keys: Keyring | None = None, **limits: Any) -> Drafter:
    keys = keys or Keyring(KEY, namespace="shop")
    return Drafter(keys, Redactor(DEFAULT_REDACT), SessionPolicy(**limits), idle=1_800_000, absolute=43_200_000)


def _stored(draft: Draft, tail: bytes = TAIL) -> Stored:
    """Return what the store would hold, as a worker reads it."""
    return unpack(SID, draft.commit.prefix + tail + draft.commit.body)


# ── changes ──────────────────────────────────────────────────────────────────────────────────────────────────────────


def test_changes_know_what_is_secret_in_them() -> None:
    """By the names of keys, nested ones too."""
    changes = _drafter().changes(Changes(set_={"n": 1, "password": "x", "a": {"token": "y"}}, unset=("b",)))
    assert changes.set_ == {"n": 1, "password": "x", "a": {"token": "y"}}
    assert (changes.unset, sorted(changes.redacted)) == (("b",), ["/a/token", "/password"])


@pytest.mark.parametrize("value", [[1], {"a": [1]}, (1, 2), {"a": (1,)}])
def test_changes_share_no_container_with_their_origin(value: Any) -> None:
    """What a handler does to its list later is another change; tuples have become lists."""
    origin: Mapping[str, Any] = {"a": value, "n": 1}
    taken = _drafter().changes(Changes(set_=origin)).set_
    assert taken["a"] is not value
    assert "(" not in str(taken)


def test_changes_without_values_pass() -> None:
    """And flat ones are not copied."""
    drafter, flat = _drafter(), {"n": 1, "text": "x"}
    empty = Changes(unset=("a",))
    assert drafter.changes(empty) is empty
    assert drafter.changes(Changes(set_=flat)).set_ is flat


@pytest.mark.parametrize(
    ("values", "limits"),
    [
        ({"a": object()}, {}),
        ({"a": [object()]}, {}),
        ({"a" * 11: 1}, {"max_key_length": 10}),
        ({"a": [[[1]]]}, {"max_depth": 2}),
        ({1: 2}, {}),
    ],
)
def test_changes_that_cannot_be_stored_are_refused(values: Mapping[str, Any], limits: dict[str, Any]) -> None:
    """Before there is a draft."""
    with pytest.raises(CodecError):
        _drafter(**limits).changes(Changes(set_=values))


# ── stamps ───────────────────────────────────────────────────────────────────────────────────────────────────────────


def test_the_stamp_of_another_attempt_names_the_same_event() -> None:
    """With another number at its end, round and round."""
    attempts = [Stamp(event_id=b"e" * EVENT_KEY + end) for end in (b"\x00" * 4, b"\xff" * 4)]
    again = [attempt.again().event_id for attempt in attempts]
    assert again == [b"e" * EVENT_KEY + end for end in (b"\x00\x00\x00\x01", b"\x00" * 4)]


# ── drafts ───────────────────────────────────────────────────────────────────────────────────────────────────────────


def test_a_first_event_expects_nothing_and_sets_both_deadlines() -> None:
    """Its head continues the first of all heads."""
    draft = _drafter().draft(None, SID, CREATED, STAMP)
    commit = draft.commit
    assert (commit.sid, commit.expected, commit.type, commit.condition) == (SID, b"", "created", "")
    assert (commit.idle, commit.absolute, commit.first_version) == (1_800_000, 43_200_000, 0)
    assert (commit.event_id, commit.actor, commit.context, commit.worker_time) == (
        STAMP.event_id, STAMP.actor, STAMP.context, STAMP.worker_time,
    )  # fmt: skip
    assert unpack_event(commit.type, commit.data) == CREATED
    assert (draft.snapshot.version, draft.snapshot.data) == (1, {"n": 1})
    notice = unpack_notice(START, (1, 0), commit.notice)
    assert (notice.previous_head, notice.head, notice.link) == (FIRST, draft.head, draft.link)


def test_a_later_event_expects_the_head_of_its_base() -> None:
    """It leaves the absolute deadline alone, unless told."""
    drafter = _drafter()
    base = _stored(drafter.draft(None, SID, CREATED, STAMP))
    draft = drafter.draft(base, SID, Updated(set_={"n": 2}), STAMP, first_version=2, condition="idle")
    commit = draft.commit
    assert (commit.expected, commit.absolute, commit.first_version, commit.condition) == (base.head, 0, 2, "idle")
    assert (draft.snapshot.version, draft.snapshot.data, draft.raw) == (2, {"n": 2}, b'{"n":2}')
    assert drafter.draft(base, SID, Updated(), STAMP, absolute=7).commit.absolute == 7
    assert drafter.draft(None, SID, CREATED, STAMP, absolute=7).commit.absolute == 7


def test_what_is_accepted_is_what_a_worker_reads_back() -> None:
    """Byte by byte, and its head is good."""
    keys = Keyring(KEY, namespace="shop")
    draft = _drafter(keys).draft(None, SID, CREATED, STAMP)
    stored = _stored(draft)
    assert draft.accepted(TAIL) == stored
    assert (stored.created_at, stored.idle_at, stored.absolute_at, stored.last_id) == (1_000, 5_000, 9_000, "1-0")
    packed = draft.commit.prefix + TAIL + draft.commit.body
    assert len(packed) - len(draft.commit.body) == HEADER_LENGTH
    check_head(keys.head(keys.key_id) or b"", keys.redact(keys.key_id) or b"", stored, packed)


@pytest.mark.parametrize(
    "other",
    [
        lambda d: d.draft(None, SID, Created(set_={"n": 2}, secret="s" * 43, control="0-0 x"), STAMP),
        lambda d: d.draft(None, SID, CREATED, Stamp(event_id=b"f" * 16)),
        lambda d: d.draft(None, SID, CREATED, Stamp(event_id=b"e" * 16, actor=b"user 1")),
        lambda d: d.draft(None, SID[:-1] + "Q", CREATED, STAMP),
        lambda d: d.draft(_stored(d.draft(None, SID, CREATED, STAMP)), SID, CREATED, STAMP),
        lambda d: d.draft(
            None, SID, Authenticated(set_={"n": 1}, secret="s" * 43, control="0-0 x", user_id="1"), STAMP
        ),
    ],
)
def test_any_difference_makes_another_head(other: Any) -> None:
    """Data, event id, actor, session, the event before, type."""
    drafter = _drafter()
    draft = drafter.draft(None, SID, CREATED, STAMP)
    assert other(drafter).head != draft.head
    assert drafter.draft(None, SID, CREATED, STAMP).head == draft.head


def test_a_secret_stands_in_the_body_alone() -> None:
    """The event has a digest in its place, the message no data at all."""
    drafter = _drafter()
    changes = drafter.changes(Changes(set_={"password": "canary", "n": 1}))
    event = Created(set_=changes.set_, redacted=changes.redacted, secret="s" * 43, control="0-0 x")
    commit = drafter.draft(None, SID, event, STAMP).commit
    assert b"canary" in commit.body
    assert b"canary" not in commit.data + commit.notice + commit.prefix
    assert PREFIX.encode() in commit.data
    assert unpack_notice(START, (1, 0), commit.notice).data == b""


def test_a_secret_is_digested_once() -> None:
    """A later commit takes the digest from the state that it is based on; a worker that has not made it does not."""
    drafter, later = _drafter(), Updated(set_={"n": 1})
    first = Created(set_={"password": "a"}, redacted=("/password",), secret="s" * 43, control="")
    base = drafter.draft(None, SID, first, STAMP).accepted(TAIL)
    forged = base._replace(snapshot=base.snapshot._replace(data={"password": "b"}))  # no base has the head of another
    right, wrong = (_drafter().draft(stored, SID, later, STAMP).head for stored in (base, forged))
    assert drafter.draft(forged, SID, later, STAMP).head == right != wrong


def test_a_message_is_tagged_with_the_key_that_it_names() -> None:
    """So that who can only publish cannot write sessions."""
    keys = Keyring(KEY, namespace="shop")
    notice = _drafter(keys).draft(None, SID, CREATED, STAMP).commit.notice
    assert notice_key_id(notice) == keys.key_id
    assert notice_tag_is_good(keys.message(keys.key_id) or b"", notice)
    assert unpack_notice(START, (1, 0), notice).type == "created"


def test_an_audit_key_makes_the_heads() -> None:
    """Under its own id; tokens and messages stay with the secret key."""
    keys = Keyring(KEY, namespace="shop", audit_key=AUDIT_KEY)
    draft = _drafter(keys).draft(None, SID, CREATED, STAMP)
    assert draft.key_id == keys.audit_id != keys.key_id
    assert draft.commit.prefix[2:6].decode() == keys.audit_id
    assert draft.accepted(TAIL).key_id == keys.audit_id


class Keyless(Keyring):
    """A keyring that knows no key for heads."""

    def head(self, key_id: str) -> bytes | None:
        return None


def test_a_keyring_that_contradicts_itself_makes_no_draft() -> None:
    """It names a key for heads that it does not have."""
    with pytest.raises(KeyError):
        _drafter(Keyless(KEY, namespace="shop")).draft(None, SID, CREATED, STAMP)


def _big(size: int) -> Event:
    return Updated(set_={"big": "x" * size})


def test_a_session_over_a_limit_makes_no_draft() -> None:
    """The whole data count, not the change; removing and ending are always possible."""
    drafter = _drafter()
    base = _stored(drafter.draft(None, SID, Created(set_={"a": "x" * 80}, secret="s", control=""), STAMP))
    strict = _drafter(max_bytes=100, max_keys=2)
    with pytest.raises(SessionTooLarge) as caught:
        strict.draft(base, SID, _big(40), STAMP)
    assert (caught.value.limit, caught.value.largest_key) == (100, "a")
    with pytest.raises(SessionTooLarge, match="keys"):
        strict.draft(base, SID, Updated(set_={"b": 1, "c": 1}), STAMP)
    tiny = _drafter(max_bytes=10)
    assert tiny.draft(base, SID, Updated(unset=("a",)), STAMP).raw == b"{}"
    assert tiny.draft(base, SID, Ended(cause="logout"), STAMP).raw == b"{}"
    assert tiny.draft(base, SID, Updated(), STAMP).snapshot.version == 2


def test_an_end_empties_the_body() -> None:
    """What was in the session is nobody's business any more."""
    drafter = _drafter()
    base = _stored(drafter.draft(None, SID, CREATED, STAMP))
    draft = drafter.draft(base, SID, Ended(cause="revoked", reason="stolen"), STAMP)
    assert draft.commit.body == b'{"e":"revoked"}'
    assert draft.snapshot.ended == "revoked"
    assert _stored(draft).snapshot == draft.snapshot
