"""SnapshotStore: sessions in whatever keeps a dict under an id, such as a service behind HTTP.

A backend is any object with the three coroutines of `Backend`. It is given a digest of a session's id, and a dict that
any JSON service can hold: what it knows opens no session. There is no log, and with it goes what a log is for: nothing
is cached, there is no history, nothing can be revoked by name, and of two workers that write one session at the same
moment the last one wins. What needs a log raises `Unsupported`.
"""

from __future__ import annotations

import logging
import time
from base64 import b64decode, b64encode
from binascii import Error as Base64Error
from collections.abc import Awaitable, Callable, Mapping, Sequence
from hashlib import sha256
from typing import Any, Final, NamedTuple, NoReturn, Protocol, TypeVar
from weakref import WeakValueDictionary

import anyio

from evsession.codec import HEADER_LENGTH
from evsession.config import StorePolicy
from evsession.control import Image
from evsession.errors import ConfigError, CorruptSnapshot, EvsessionError, StoreUnavailable, Unsupported
from evsession.patience import RETRY_AFTER
from evsession.store import (
    EVENT_KEY,
    Commit,
    CommitReply,
    CommitStatus,
    Counters,
    FeedListener,
    FillReply,
    Indexed,
    NamedRevoked,
    RevokeReply,
    TouchReply,
    Turn,
    Users,
    Witness,
)
from evsession.stores.shard import ABSOLUTE, AUTHENTICATED, CREATED, HEAD, IDLE, NEW_SECRET, SECRET, deadlines_of
from evsession.view import Beat, BeatReply
from evsession.wire import START, Entry, Line, Position, StreamId, id_text

R = TypeVar("R")

COROUTINES: Final = ("get_session_data", "save_session_data", "delete_session_data")

log = logging.getLogger("evsession.snapshots")


class Backend(Protocol):
    """What keeps dicts under ids. Whatever it raises counts as an outage of the store."""

    async def get_session_data(self, session_id: str, /) -> dict[str, Any] | None:
        """Return what was saved under an id, None if nothing was."""

    async def save_session_data(self, session_id: str, data: dict[str, Any], /) -> object:
        """Keep a dict of texts and numbers under an id, in the place of an earlier one.

        Its ``expires_at``, in ms since 1970, says when it may be deleted.
        """

    async def delete_session_data(self, session_id: str, /) -> object:
        """Forget an id; one that is not there is no error."""


def check_backend(backend: object) -> None:
    """Raise `ConfigError` unless an object has the three coroutines."""
    missing = [name for name in COROUTINES if not callable(getattr(backend, name, None))]
    if missing:
        msg = f"backend= of type {type(backend).__name__} has no {', '.join(missing)}; add async def {missing[0]}(…)"
        raise ConfigError(msg)


class Saved(NamedTuple):
    """A packed snapshot, and which event it is of: the first `EVENT_KEY` bytes of its id, in hex."""

    packed: bytes
    event: str


class SnapshotStore:
    """The Store protocol over a backend of three coroutines.

    A request costs one call, a change three: get, get again to see that nothing came between, save. Within a process
    nothing can come between; another process can, and then the last one wins. Deadlines are by the clocks of the
    workers' machines, which must agree.
    """

    is_remote: bool = True
    has_log: bool = False
    shards: Sequence[str] = ("00",)

    def __init__(
        self, backend: Backend, *, policy: StorePolicy | None = None, clock: Callable[[], int] | None = None
    ) -> None:
        check_backend(backend)
        self._backend = backend
        self._timeout = (policy or StorePolicy()).command_timeout
        self._clock = clock or _wall_clock
        self._turns: WeakValueDictionary[str, anyio.Lock] = WeakValueDictionary()

    def __repr__(self) -> str:
        return f"SnapshotStore({type(self._backend).__name__})"

    async def open(self, worker: str, bound: int, listener: FeedListener) -> None:
        """Begin anew: locks belong to an event loop."""
        self._turns = WeakValueDictionary()

    async def close(self) -> None:
        """Do nothing: the backend is its owner's."""

    def abandon(self) -> None:
        """Do nothing: the backend is its owner's."""

    def follow(self, shard: str, incarnation: str) -> None:
        """Do nothing: there is no feed."""

    async def claim(self, fields: Mapping[str, str]) -> Mapping[str, str]:
        return fields

    async def advise(self) -> None:
        """Do nothing: a backend tells nothing of itself."""

    async def raise_to(self, field: str, number: int) -> int:
        """Do nothing: what is kept for all workers concerns the log."""
        return number

    # ── sessions ─────────────────────────────────────────────────────────────────────────────────────────────────────

    async def commit(self, commit: Commit) -> CommitReply:
        async with self._turn(commit.sid):
            is_first = not commit.expected and not commit.first_version
            old = None if is_first else await self._get(commit.sid)
            now = self._clock()
            if old is None and commit.expected:
                return CommitReply("gone", commit.sid, now)
            if old is not None and (status := _refusal(commit, old, now)):
                return CommitReply(status, commit.sid, now, packed=old.packed)
            tail = _tail(commit, old, now)
            if commit.type == "ended":
                await self._ask(self._backend.delete_session_data(digest_of(commit.sid)), is_write=True)
            else:
                await self._save(commit.sid, Saved(commit.prefix + tail + commit.body, _event_of(commit)))
            return CommitReply("ok", commit.sid, now, START.id, tail)

    async def fill(self, sid: str, beats: Sequence[Beat] = ()) -> FillReply:
        answers = await self.heartbeat(beats)
        saved = await self._get(sid)
        now = self._clock()
        if saved is not None and now >= min(deadlines_of(saved.packed)):
            async with self._turn(sid):
                await self._ask(self._backend.delete_session_data(digest_of(sid)), is_write=True)
            saved = None
        return FillReply(sid, now, None if saved is None else saved.packed, answers)

    async def touch(self, sid: str, idle: int) -> TouchReply:
        async with self._turn(sid):
            saved, now = await self._get(sid), self._clock()
            if saved is None or now >= min(deadlines_of(saved.packed)):
                return TouchReply(sid, now, None)
            idle_at, absolute_at = deadlines_of(saved.packed)
            if now + idle > idle_at:
                idle_at = now + idle
                packed = b"%b%013d%b" % (saved.packed[: IDLE.start], idle_at, saved.packed[IDLE.stop :])
                await self._save(sid, saved._replace(packed=packed))
            return TouchReply(sid, now, (idle_at, absolute_at))

    async def heartbeat(self, beats: Sequence[Beat]) -> Sequence[BeatReply]:
        """Answer that nothing was missed: there is no log in which it could stand, and nothing is cached."""
        return [BeatReply("ok", "", START) for _ in beats]

    def _turn(self, sid: str) -> anyio.Lock:
        turn = self._turns.get(sid)
        if turn is None:
            turn = self._turns[sid] = anyio.Lock()
        return turn

    async def _get(self, sid: str) -> Saved | None:
        found = await self._ask(self._backend.get_session_data(digest_of(sid)), is_write=False)
        return None if found is None else _unpacked(sid, found)

    async def _save(self, sid: str, saved: Saved) -> None:
        await self._ask(self._backend.save_session_data(digest_of(sid), packed_for(saved)), is_write=True)

    async def _ask(self, answer: Awaitable[R], *, is_write: bool) -> R:
        try:
            with anyio.fail_after(self._timeout.total_seconds()):
                return await answer
        except EvsessionError:
            raise
        except TimeoutError as error:
            raise _unavailable(f"did not answer within {self._timeout}", is_write) from error
        except Exception as error:  # whatever a backend raises, its owner can tell from the log
            log.exception("the session backend raised")
            raise _unavailable(f"raised {type(error).__name__}", is_write) from error

    # ── what there is none of ────────────────────────────────────────────────────────────────────────────────────────

    async def due(self, shard: str, limit: int) -> Sequence[str]:
        """Return nothing: a session that is past its deadline is deleted when it is asked for."""
        return ()

    async def settle(self, shard: str, sid: str) -> None:
        """Do nothing: there is no index of deadlines."""

    async def trim(self, shard: str, keep: int) -> int:
        """Remove nothing: there is no log."""
        return 0

    async def records(self, shard: str) -> Mapping[str, bytes]:
        """Return nothing: workers do not know of each other."""
        return {}

    async def forget(self, shard: str, worker: str, record: bytes) -> None:
        """Do nothing: there are no records."""

    async def read(self, shard: str, start: Position, count: int) -> Sequence[Entry]:
        _without_log("reading the log")

    async def lines(self, shard: str, after: StreamId, count: int) -> Sequence[Line]:
        _without_log("reading the log")

    async def counters(self, shard: str) -> Counters:
        _without_log("looking at the log")

    async def restore(self, commit: Commit, header: bytes) -> CommitReply:
        _without_log("rebuilding a session")

    async def deadline(self, sid: str) -> int | None:
        _without_log("the index of deadlines")

    async def snapshots(self, cursor: int, count: int) -> tuple[int, Sequence[tuple[str, bytes]]]:
        _without_log("listing sessions")

    async def walk(self, sid: str, limit: int, before: StreamId | None = None) -> Sequence[Entry]:
        _without_log("the history of a session")

    async def enter(self, user: str, sid: str, keep: int, device: bytes = b"", *, anew: bool = True) -> Indexed:
        """Do nothing: there is no index of users."""
        return Indexed(self._clock(), ())

    async def leave(self, user: str, sid: str, at: int | None = None) -> bool:
        """Do nothing: there is no index of users."""
        return False

    async def members(self, user: str) -> Indexed:
        _without_log("listing the sessions of a user")

    async def users(self, cursor: str = "", count: int = 1000) -> Users:
        _without_log("listing users")

    async def take_turn(self, shard: str, job: str, holder: str, length: int) -> Turn | None:
        _without_log(f"the job {job!r}")

    async def give_turn(self, shard: str, job: str, holder: str, fence: int) -> None:
        _without_log(f"the job {job!r}")

    async def advance(self, shard: str, job: str, holder: str, fence: int, checkpoint: bytes) -> bool:
        _without_log(f"the job {job!r}")

    async def revoke(self, entry: NamedRevoked) -> RevokeReply:
        _without_log("revocation by name")

    async def image(self) -> Image:
        """Return an empty control log."""
        return Image({}, b"")

    async def expunge(self, keep: int) -> int:
        """Remove nothing: the control log is empty."""
        return 0

    async def witness(self, shard: str, position: Position) -> Witness:
        _without_log("a receipt")

    async def replicated(self, timeout: int) -> int:
        """Return 0: there are no replicas to wait for."""
        return 0

    async def primary_for(self) -> float:
        """Return a time without end: there is no failover to notice."""
        return float("inf")

    async def checkpoint(self, shard: str, job: str) -> bytes:
        _without_log(f"the job {job!r}")


def digest_of(sid: str) -> str:
    """Return the id that a backend is given: the SHA-256 of a session's id, 64 hex digits."""
    return sha256(sid.encode()).hexdigest()


def packed_for(saved: Saved) -> dict[str, Any]:
    """Return what a backend is given to keep; `body` is text, because services rewrite JSON (1.0 becomes 1)."""
    return {
        "expires_at": min(deadlines_of(saved.packed)),
        "event": saved.event,
        "header": b64encode(saved.packed[:HEADER_LENGTH]).decode(),
        "body": saved.packed[HEADER_LENGTH:].decode(),
    }


def _unpacked(sid: str, data: Mapping[str, Any]) -> Saved:
    try:
        header = b64decode(data["header"], validate=True)
        if len(header) != HEADER_LENGTH:
            raise CorruptSnapshot(sid)
        saved = Saved(header + data["body"].encode(), str(data["event"]))
        deadlines_of(saved.packed)
    except (KeyError, TypeError, ValueError, AttributeError, Base64Error) as error:
        raise CorruptSnapshot(sid) from error
    return saved


def _event_of(commit: Commit) -> str:
    return commit.event_id[:EVENT_KEY].hex()


def _refusal(commit: Commit, old: Saved, now: int) -> CommitStatus | None:
    if old.packed[HEAD] != commit.expected:
        return "ok" if commit.first_version and old.event == _event_of(commit) else "conflict"
    idle_at, absolute_at = deadlines_of(old.packed)
    if commit.type != "ended":
        return "ended" if now >= min(idle_at, absolute_at) else None
    named = {"": now, "idle": idle_at, "absolute": absolute_at}
    awaited = named[commit.condition] if commit.condition in named else int(commit.condition)
    return "alive" if now < awaited else None


def _tail(commit: Commit, old: Saved | None, now: int) -> bytes:
    """Return the store's part of a header; as there is no log, the last entry's place is the start of one."""
    stamp = b"%013d" % now
    created = old.packed[CREATED] if old else stamp
    kept = old.packed[AUTHENTICATED] if old else b"0" * 13
    authenticated = stamp if commit.type == "authenticated" else kept
    absolute_at = now + commit.absolute if commit.absolute or not old else int(old.packed[ABSOLUTE])
    last_id = id_text(START.id).encode()
    secret = old.packed[SECRET] if old and commit.type not in NEW_SECRET else stamp
    return b"%b%b%013d%013d%-24b%b" % (created, authenticated, now + commit.idle, absolute_at, last_id, secret)


def _without_log(what: str) -> NoReturn:
    raise Unsupported(what, "a snapshot backend keeps no log: give the sessions a server, url='redis://…'")


def _unavailable(detail: str, is_write: bool) -> StoreUnavailable:
    return StoreUnavailable(RETRY_AFTER, f"the backend {detail}", outcome_unknown=is_write)


def _wall_clock() -> int:
    return time.time_ns() // 1_000_000
