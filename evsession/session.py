"""The dict that a handler holds: it records what the handler wants, and leaves all I/O to whoever bound it."""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import suppress
from dataclasses import replace
from datetime import timedelta
from typing import TYPE_CHECKING, Any, Final, Protocol, Self, TypeVar, cast

from evsession.canonical import check_key, check_scalar, check_value, dumps, is_flat, loads
from evsession.codec import Stored
from evsession.config import SessionPolicy
from evsession.control import name_of
from evsession.errors import CodecError, InvalidUserId, SessionDetached, SessionInvalid
from evsession.events import Actor, Cause, Changes
from evsession.info import SessionInfo, info_of
from evsession.models import LiveModel, merged, text_of
from evsession.plan import Login, Plan, detect, names_user, user_keys
from evsession.state import diff
from evsession.tokens import Purpose, Token, normalise_user_id

if TYPE_CHECKING:
    from _collections_abc import dict_items, dict_keys, dict_values

M = TypeVar("M")

_NOTHING: Final[Mapping[str, Any]] = {}

_fill: Final = dict.update
"""Copies a dict into an empty one; half the price of its constructor."""


LONGEST_REMEMBERED: Final = timedelta(days=400)
"""Browsers keep no cookie for longer.  Source: RFC 6265bis, 5.5."""


class Binding(Protocol):
    """What ties a session to its request: who can commit it, and whether a cookie can still be set."""

    source: str
    issued: Token | None

    def check_transport(self, transport: Purpose) -> None:
        """Raise `Unsupported` if the manager takes no such tokens."""

    def check_open(self, operation: str) -> None:
        """Raise `SessionDetached` if the request is over."""

    def needs_cookie(self, operation: str) -> None:
        """Raise `ResponseStarted` if no cookie can be set any more."""

    async def save(self, session: Session) -> None:
        """Commit what the session asks for."""

    async def revalidate(self, session: Session) -> None:
        """Bring the session to the newest state of the store, pending changes kept."""


class Session(dict[str, Any]):
    """The session of one request: a dict that JSON can hold, with Starlette's flags `accessed` and `modified`.

    Nested edits are seen (``session["cart"].append(x)``), equal values are no change. What is set is committed when the
    response starts; `save` commits at once. A counter that several requests change at a time needs `manager.update`.
    """

    __slots__ = (
        "_binding", "_ends", "_flat", "_login", "_models", "_policy", "_rotate", "accessed", "base", "is_dead",
        "modified",
    )  # fmt: skip

    def __init__(
        self,
        policy: SessionPolicy,
        base: Stored | None = None,
        flat: Mapping[str, Any] | None = None,
        is_dead: bool = False,
    ) -> None:
        # One of three objects that a cached read makes: arguments by position and few slots halve what it costs.
        if flat is not None:
            _fill(self, flat)
        elif base is not None:
            _fill(self, loads(base.raw))
        self._policy = policy
        self.base = base
        """The snapshot that this session was loaded from or last committed as."""
        self._flat = flat is not None or base is None
        self._binding: Binding | None = None
        self._login: Login | None = None
        self._ends: Cause | None = None
        self._rotate = False
        self._models: tuple[LiveModel, ...] = ()
        self.is_dead = is_dead
        """Whether the token that came was dead: writes are dropped unless a login follows."""
        self.accessed = False
        self.modified = False

    # ── Starlette's flags ────────────────────────────────────────────────────────────────────────────────────────────

    def mark_accessed(self) -> None:
        """Note that the response depends on the session."""
        self.accessed = True

    def mark_modified(self) -> None:
        """Note that the data may differ from what was loaded.

        Raises:
            SessionDetached: the request is over, and nobody would commit it.
        """
        if self._binding is not None:
            self._binding.check_open("a change")
        self.accessed = True
        self.modified = True

    # ── the dict ─────────────────────────────────────────────────────────────────────────────────────────────────────
    # The ways of reading are here for whoever reads scope["session"], or has a Starlette that marks nothing by itself.

    def __getitem__(self, key: str) -> Any:
        self.accessed = True
        return dict.__getitem__(self, key)

    def __contains__(self, key: object) -> bool:
        self.accessed = True
        return dict.__contains__(self, key)

    def get(self, key: str, default: Any = None, /) -> Any:
        """Return the value of a key, or the default."""
        self.accessed = True
        return dict.get(self, key, default)

    def keys(self) -> dict_keys[str, Any]:
        """Return a view of the keys."""
        self.accessed = True
        return super().keys()

    def values(self) -> dict_values[str, Any]:
        """Return a view of the values."""
        self.accessed = True
        return super().values()

    def items(self) -> dict_items[str, Any]:
        """Return a view of the pairs."""
        self.accessed = True
        return super().items()

    def __setitem__(self, key: str, value: Any) -> None:
        self._check(key, value)
        self.mark_modified()
        super().__setitem__(key, value)

    def _check(self, key: str, value: Any) -> None:
        check_key(key, self._policy)
        check_scalar(key, value)
        if value is not None and key in user_keys(self._policy):
            normalise_user_id(value)

    def __delitem__(self, key: str) -> None:
        self.mark_modified()
        super().__delitem__(key)

    def clear(self) -> None:
        """End the session, as `logout` does; values set afterwards begin a new one."""
        self.logout()

    def pop(self, key: str, *default: Any) -> Any:
        """Remove a key and return its value."""
        if key in self:
            self.mark_modified()
        return super().pop(key, *default)

    def popitem(self) -> tuple[str, Any]:
        """Remove the newest key and return it with its value."""
        self.mark_modified()
        return super().popitem()

    def setdefault(self, key: str, default: Any = None) -> Any:
        """Return the value of a key, set to the default where there was none."""
        if key not in self:
            self[key] = default
        return self[key]

    def update(self, *args: Any, **values: Any) -> None:
        """Set several keys; none if one of them cannot be set."""
        new = dict(*args, **values)
        for key, value in new.items():
            self._check(key, value)
        self.mark_modified()
        super().update(new)

    def __ior__(self, other: Any) -> Self:  # type: ignore[override,misc]
        self.update(other)
        return self

    def __copy__(self) -> dict[str, Any]:
        return dict(self)

    def __reduce__(self) -> Any:
        return dict, (dict(self),)

    # ── as an object ─────────────────────────────────────────────────────────────────────────────────────────────────

    def model(self, type_: type[M], key: str | None = None) -> M:
        """Return the session, or the value of one key, as an object of a class; the same one each time.

        Pydantic models, dataclasses and msgspec structs are checked when they are loaded and again when they are
        committed. What the session does not have yet gets the class's defaults, which are stored once they change.
        Change the object in place, or the dict, not both; what others have changed appears in it after `save` and
        `revalidate`.

        Raises:
            SessionInvalid: the data does not fit the class.
            Unsupported: the class is of no kind that can be checked.
        """
        self.accessed = True
        for live in self._models:
            if live.type is type_ and live.key == key:
                return cast("M", live.model)
        live = LiveModel(type_, key, self._text_of(key))
        self._models = (*self._models, live)
        return cast("M", live.model)

    def _text_of(self, key: str | None) -> bytes:
        if key is not None:
            return text_of(dict.get(self, key, _NOTHING))
        return text_of(self) if self.modified or not self._flat else self._raw

    def _gather(self) -> None:
        """Write into the dict what was changed in its objects."""
        for live in self._models:
            changes = live.changes()
            if changes is None:
                continue
            if live.key is not None:
                self[live.key] = merged(dict.get(self, live.key), *changes)
            else:
                self.update(changes[0])
                for name in changes[1]:
                    self.pop(name, None)
            live.written()

    def _gather_what_fits(self) -> None:
        """Do the same where nothing may be raised; `plan` will name what does not fit."""
        with suppress(SessionInvalid, CodecError, InvalidUserId):
            self._gather()

    def _renew_models(self, *, is_other: bool = False) -> None:
        """Let the objects follow the dict; one that it no longer fits is not live any more."""
        if self._models:
            self._models = tuple(one for one in self._models if one.renew(self._text_of(one.key), is_other=is_other))

    # ── who it is ────────────────────────────────────────────────────────────────────────────────────────────────────

    def login(
        self,
        user_id: object,
        *,
        names: Mapping[str, str] | None = None,
        facts: Mapping[str, Any] | None = None,
        remember: timedelta | None = None,
        actor: Actor | None = None,
        transport: Purpose | None = None,
    ) -> None:
        """Sign a user in: the secret is replaced, the old one dead at once; committed with the response.

        `user_id` is a str, int or UUID. `names` are further names the session can be revoked by, such as
        ``{"tenant": "acme"}``. `remember` keeps the user signed in for so long, used or not, at most 400 days, and the
        cookie in the browser when that is closed. If another user was signed in, that session ends and a new one begins
        with only what this request sets. `transport` says how the client gets its token; by default as this request's
        came.

        Raises:
            InvalidUserId: it cannot identify a user; nothing was changed.
            ResponseStarted: it is too late for a cookie; nothing was changed.
            Unsupported: the manager takes no tokens of this transport; nothing was changed.
            ValueError: `remember` is out of its range, or no session can have such a name; nothing was changed.
        """
        user = normalise_user_id(user_id)
        _check_remember(remember)
        self._bound("login").needs_cookie("login")
        if transport is not None:
            self._bound("login").check_transport(transport)
        named = tuple(name_of(kind, value) for kind, value in (names or {}).items())
        if self.is_dead:
            super().clear()
            self._renew_models(is_other=True)
        elif self.base is not None and self._ends is None and self.base.snapshot.user_id not in (None, user):
            self._switch()
        self._login = Login(
            user_id=user, names=named, facts=dict(facts or {}), remember=remember, actor=actor, transport=transport
        )
        self.mark_modified()

    def _switch(self) -> None:
        self._gather_what_fits()
        own = diff(self._origin, self).set_
        super().clear()
        super().update(own)
        self._ends = "switched"
        self._renew_models(is_other=True)

    def logout(self) -> None:
        """End the session; committed with the response. Values set afterwards begin a new, anonymous one."""
        self._bound("logout").check_open("logout")
        self.mark_modified()
        super().clear()
        self._login = None
        self._rotate = False
        if self.base is not None:
            self._ends = "logout"
        self._renew_models(is_other=True)

    def rotate(self) -> None:
        """Replace the secret, the old one dead at once; for a change of privileges that is no login.

        Raises:
            ResponseStarted: it is too late for a cookie; nothing was changed.
        """
        self._bound("rotate").needs_cookie("rotate")
        self.mark_modified()
        self._rotate = True

    async def save(self) -> None:
        """Commit now, and raise here what goes wrong; anywhere, WebSockets and streams included.

        Raises:
            SessionEnded: the session is over; the changes were dropped.
            SessionTooLarge, CodecError, SessionInvalid, InvalidUserId: the data cannot be stored; it is still pending.
            SessionLimitReached: there are too many sessions; nothing was written.
            ResponseStarted: a session cannot begin any more; nothing was written.
            StoreUnavailable: the store did not take it in time; with `outcome_unknown` it may have.
            SessionDetached: the request is over.
        """
        await self._bound("save").save(self)

    async def revalidate(self) -> None:
        """Load the newest state from the primary; pending changes are kept.

        Raises:
            SessionEnded: the session is over.
            StoreUnavailable: the store did not answer.
        """
        await self._bound("revalidate").revalidate(self)

    async def keepable(self) -> str:
        """Return the id under which a revocation may except this session, once the store has said that it lives.

        Raises:
            SessionDetached: it is not the session of a request under way, or was never committed.
            ResponseStarted: its new token could not be handed out any more.
            SessionEnded: it is over.
        """
        self._bound("keep=").needs_cookie("keep=")
        await self.revalidate()
        if self.base is None:
            raise SessionDetached("keep=")
        return self.base.snapshot.sid

    def _bound(self, operation: str) -> Binding:
        if self._binding is None:
            raise SessionDetached(operation)
        return self._binding

    @property
    def token(self) -> Token | None:
        """The bearer token that a commit of this request has handed out, such as the `save` after a `login`."""
        return None if self._binding is None else self._binding.issued

    # ── what it asks for ─────────────────────────────────────────────────────────────────────────────────────────────

    @property
    def _origin(self) -> Mapping[str, Any]:
        return _NOTHING if self.base is None else self.base.snapshot.data

    @property
    def _raw(self) -> bytes:
        return b"{}" if self.base is None else self.base.raw

    def might_differ(self) -> bool:
        """Tell quickly whether a plan could ask for anything; never False when it would."""
        if self._flat and not self._models:
            return self.modified
        try:
            self._gather()
            if self.modified or self._flat:
                return self.modified
            return dumps(self) != self._raw
        except (CodecError, SessionInvalid, InvalidUserId):
            return True  # `plan` will name the value

    def plan(self) -> Plan:
        """Return what is to be committed.

        Raises:
            CodecError: a value has no JSON form.
            InvalidUserId: the data names a user that cannot be one.
            SessionInvalid: an object that `model` gave does not fit its class any more.
        """
        self._gather()
        if self.is_dead and self._login is None and detect(self._policy, self) is None:
            return Plan(changes=Changes(set_=dict(self)))
        begins = self.base is None or self._ends is not None
        changes = self._since(_NOTHING if begins else self._origin)
        rotate = self._rotate and not begins
        plan = Plan(self._ends, begins, changes, self._login, rotate)
        return plan if plan.login is not None else self._with_detected_user(plan)

    def _since(self, before: Mapping[str, Any]) -> Changes:
        try:
            return diff(before, self)
        except CodecError:
            for key, value in self.items():
                check_value(key, value, self._policy)  # raises with the place of what has no JSON form
            raise

    def surviving(self) -> Plan:
        """Return what is to be committed although the handler raised: an end and a rotation, no data and no login."""
        if self.base is None:
            return Plan()
        was_user = self.base.snapshot.user_id is not None and detect(self._policy, self._origin) is not None
        if self._ends == "logout" or (self._ends is None and was_user and detect(self._policy, self) is None):
            return Plan(end="logout", begins=True)
        return Plan(rotate=self._rotate)

    def _with_detected_user(self, plan: Plan) -> Plan:
        if not plan.begins and not names_user(self._policy, plan.changes):
            return plan
        now = detect(self._policy, self)
        before = None if plan.begins else detect(self._policy, self._origin)
        known = None if plan.begins or self.base is None else self.base.snapshot.user_id
        if now in (before, known):
            return plan
        own = Changes(set_=plan.changes.set_)
        if now is None:
            rest = Changes(set_=dict(self))
            return plan if known is None else Plan(end="logout", begins=True, changes=rest)
        login = Login(user_id=now, detected=True)
        if known is None:
            return Plan(end=plan.end, begins=plan.begins, changes=plan.changes, login=login)
        return Plan(end="switched", begins=True, changes=own, login=login)

    def committed(self, stored: Stored | None, plan: Plan) -> None:
        """Go on from what a plan's commit produced; None when the session ended and no other began.

        What others changed meanwhile appears; what was set since the plan was made stays pending.
        """
        if self._models:
            self._gather_what_fits()
        if stored is None or dumps(self) != stored.raw:
            # The data still hold what a detected switch left behind: that is not pending, it belongs to another user.
            leaves = plan.end == "switched" and plan.login is not None and plan.login.detected
            expected = {**(_NOTHING if plan.begins and not leaves else self._origin), **plan.changes.set_}
            for key in plan.changes.unset:
                expected.pop(key, None)
            self._move(stored, diff(expected, self))
        else:
            self.base = stored
            self._flat = is_flat(stored.snapshot.data)
            self.modified = False
        self._login, self._ends, self._rotate = None, None, False
        self.is_dead = self.is_dead and stored is None

    def dropped(self, *, is_over: bool = False) -> None:
        """Give up what is pending; with `is_over` also the session, which is dead from now on."""
        self.is_dead = self.is_dead or is_over
        self._models = ()
        self._move(None if self.is_dead else self.base, Changes())
        self._login, self._ends, self._rotate = None, None, False

    def rebased(self, stored: Stored) -> None:
        """Move to a newer snapshot, pending changes kept."""
        self._gather_what_fits()
        self._move(stored, diff(self._origin, self))

    def _move(self, stored: Stored | None, pending: Changes) -> None:
        self.base = stored
        super().clear()
        super().update({**loads(self._raw), **pending.set_})
        for key in pending.unset:
            super().pop(key, None)
        self._flat = False
        self.modified = bool(pending.set_ or pending.unset)
        self._renew_models()

    @property
    def stale(self) -> bool:
        """Whether it is served past its lease, as the policy `on_outage="stale"` allows."""
        return self._binding is not None and self._binding.source == "stale"

    @property
    def info(self) -> SessionInfo:
        """What is known of the session beside its data, as of now.

        Raises:
            CodecError, SessionInvalid, InvalidUserId: the data could not be committed as it is.
        """
        changes = Changes() if self.is_dead else self.plan().changes
        source = "none" if self._binding is None else self._binding.source
        return replace(
            info_of(self.base, idle=self._policy.idle_timeout, stale=source == "stale", changes=changes), source=source
        )


def _check_remember(remember: timedelta | None) -> None:
    if remember is not None and not timedelta(seconds=1) <= remember <= LONGEST_REMEMBERED:
        msg = f"remember={remember} is out of range; pass a timedelta of a second to {LONGEST_REMEMBERED.days} days"
        raise ValueError(msg)


def sid_of(session: Session | SessionInfo | str) -> str | None:
    """Return the id of a session, given as itself, as its info or as its id; None if it was never committed."""
    if isinstance(session, str):
        return session
    if isinstance(session, Session):
        return None if session.base is None else session.base.snapshot.sid
    return session.id
