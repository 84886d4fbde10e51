"""Every transition of a session lives here and nowhere else: evolve, fold, diff, rebase."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from functools import lru_cache
from typing import Any, Final, Literal, NamedTuple, assert_never

from evsession.canonical import same
from evsession.events import Authenticated, Cause, Changes, Created, Ended, Event, Renewed, Updated

_NOTHING: Final[Any] = object()
_PLAIN: Final = frozenset((str, int, bool))
"""Types whose values are equal exactly when their JSON is."""


class Renewal(NamedTuple):
    """What a session knows of the renewals of its secret; empty texts where there was none.

    `origin` is the secret that a login or rotation made, from which all later ones were renewed. `former` is the one
    that was replaced last, whose use after the grace is theft. `seed` says from what the newest was derived.
    Secrets stand as their SHA-256, as in `Snapshot.secrets`.
    """

    origin: str = ""
    former: str = ""
    seed: str = ""


NEVER_RENEWED: Final = Renewal()


EMPTY: Final[Mapping[str, Any]] = {}
"""What nobody fills: the data, facts and marks of a session that has none."""


class Snapshot(NamedTuple):
    """The folded state of one session at a version (0: before its first event).

    A tuple, because a frozen dataclass of as many fields takes 4 µs longer to make (measured), and every commit, every
    message of the feed and every event of a log that is folded makes one.

    Nobody changes `data` in place: snapshots share it. `secrets` holds the SHA-256 of each secret that opens the
    session, newest first. `control` is the control position that the worker had applied when the session began or was
    signed in. `remembered` says that the login asked for a cookie that outlives the browser. `marks` maps the JSON
    pointer of each redacted value to the version that set it. Deadlines, times and heads are no part of the state;
    `codec.Stored` has them.
    """

    sid: str
    version: int = 0
    data: Mapping[str, Any] = EMPTY
    user_id: str | None = None
    names: tuple[str, ...] = ()
    secrets: tuple[str, ...] = ()
    control: str = ""
    facts: Mapping[str, Any] = EMPTY
    marks: Mapping[str, int] = EMPTY
    detected: bool = False
    remembered: bool = False
    renewal: Renewal = NEVER_RENEWED
    ended: Cause | None = None

    @property
    def root(self) -> str:
        """The secret from which the present ones were renewed: the same for as long as nobody logs in or rotates."""
        return self.renewal.origin or (self.secrets[-1] if self.secrets else "")


def evolve(snapshot: Snapshot, event: Event) -> Snapshot:
    """Return the snapshot after one more event; the one given is untouched. What has ended stays ended."""
    if snapshot.ended is not None:
        return snapshot._replace(version=snapshot.version + 1)
    match event:
        case Updated():
            return _changed(snapshot, event, snapshot.secrets, snapshot.renewal)
        case Created():
            return _changed(snapshot, event, (event.secret,), NEVER_RENEWED, event.control)
        case Authenticated():
            return _authenticated(snapshot, event)
        case Renewed():
            secrets, renewal = _renewed(snapshot, event)
            return _changed(snapshot, event, secrets, renewal)
        case Ended():
            return Snapshot(sid=snapshot.sid, version=snapshot.version + 1, ended=event.cause)
        case _:
            assert_never(event)


def _changed(
    snapshot: Snapshot, event: Changes, secrets: tuple[str, ...], renewal: Renewal, control: str | None = None
) -> Snapshot:
    sid, version, data, user_id, names, _, before, facts, marks, detected, remembered, _, _ = snapshot
    version += 1
    data, marks = _data_after(data, event), marks_after(marks, event.set_, event.unset, event.redacted, version)
    control = before if control is None else control
    # By position, as names would double the time.
    return Snapshot(sid, version, data, user_id, names, secrets, control, facts, marks, detected, remembered, renewal)


def _authenticated(snapshot: Snapshot, event: Authenticated) -> Snapshot:
    version = snapshot.version + 1
    data = _data_after(snapshot.data, event)
    marks = marks_after(snapshot.marks, event.set_, event.unset, event.redacted, version)
    return Snapshot(
        snapshot.sid, version, data, event.user_id, event.names, (event.secret,), event.control, event.facts, marks,
        event.detected, event.remember > 0,
    )  # fmt: skip


def _renewed(snapshot: Snapshot, event: Renewed) -> tuple[tuple[str, ...], Renewal]:
    """Return the secrets after a renewal's event, newest first, and what is known of those before."""
    known = snapshot.renewal
    match event.phase:
        case "rotated":
            return (event.secret,), NEVER_RENEWED
        case "issued":
            return (event.secret, *snapshot.secrets[:1]), Renewal(snapshot.root, known.former, event.seed)
        case "used":
            former = snapshot.secrets[1] if len(snapshot.secrets) > 1 else known.former
            return (event.secret,), Renewal(snapshot.root, former, known.seed)
        case _:
            assert_never(event.phase)


Right = Literal["good", "new", "old", "former", "none"]
"""What a secret is good for.

`good` is the only one. `new` was issued by a renewal and has not been used so far; `old` is the one that it replaces,
which is good as long as that is so. `former` was replaced by one that has been used: it is good for a grace, and stolen
after it. `none` never was one, or a login or rotation has replaced it.
"""


def right_of(snapshot: Snapshot, secret: str) -> Right:
    """Return what the secret with this SHA-256 is good for in a session that lives."""
    if secret not in snapshot.secrets:
        return "former" if secret and secret == snapshot.renewal.former else "none"
    if len(snapshot.secrets) == 1:
        return "good"
    return "new" if secret == snapshot.secrets[0] else "old"


def _data_after(data: Mapping[str, Any], event: Changes) -> Mapping[str, Any]:
    if not event.set_ and not event.unset:
        return data
    after = {**data, **event.set_}
    for key in event.unset:
        after.pop(key, None)
    return after


def marks_after(
    marks: Mapping[str, int], set_: Mapping[str, Any], unset: Sequence[str], redacted: Sequence[str], version: int
) -> Mapping[str, int]:
    """Return what is marked after changes: no longer what they replace, and anew what is secret in them.

    What they leave alone is the very same mapping.
    """
    if marks and _are_replaced(marks, set_, unset):
        marks = {path: since for path, since in marks.items() if (key := key_of(path)) not in set_ and key not in unset}
    if not redacted:
        return marks
    since_now = dict.fromkeys(redacted, version)
    return {**marks, **since_now} if marks else since_now


def _are_replaced(marks: Mapping[str, int], set_: Mapping[str, Any], unset: Sequence[str]) -> bool:
    # A generator would take twice as long, and each change of a session with a secret value passes here.
    for path in marks:  # noqa: SIM110
        if (key := key_of(path)) in set_ or key in unset:
            return True
    return False


@lru_cache(maxsize=4096)
def key_of(path: str) -> str:
    """Return the top-level key that a JSON pointer leads into.  Source: RFC 6901."""
    return path.split("/", 2)[1].replace("~1", "/").replace("~0", "~")


def fold(snapshot: Snapshot, events: Iterable[Event]) -> Snapshot:
    """Return the snapshot after all events, in order."""
    for event in events:
        snapshot = evolve(snapshot, event)
    return snapshot


def diff(before: Mapping[str, Any], after: Mapping[str, Any]) -> Changes:
    """Return what turns one state of the data into another; values compare by their canonical JSON."""
    gone = () if before.keys() <= after.keys() else tuple(key for key in before if key not in after)
    return Changes(set_=_news(before, after), unset=gone)


def rebase(changes: Changes, data: Mapping[str, Any]) -> Changes:
    """Return the part of the changes that still changes something in other data.

    A request re-applies what it did, never its copy of the state: this is the whole merge.
    """
    changed = _news(data, changes.set_)
    return Changes(
        set_=changed,
        unset=tuple(key for key in changes.unset if key in data),
        redacted=tuple(path for path in changes.redacted if key_of(path) in changed),
    )


def _same(old: object, value: object) -> bool:
    return old == value if type(old) is type(value) and type(old) in _PLAIN else same(old, value)


def _news(data: Mapping[str, Any], values: Mapping[str, Any]) -> dict[str, Any]:
    """Return the values that the data has not; most are the very same objects, so that is asked first."""
    return {
        key: value
        for key, value in values.items()
        if (old := data.get(key, _NOTHING)) is not value and (old is _NOTHING or not _same(old, value))
    }
