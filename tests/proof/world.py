"""A small namespace in memory, what somebody who owns the server could make of it, and what verifying finds then."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Iterator, Sequence
from copy import deepcopy
from dataclasses import dataclass, field
from datetime import timedelta
from typing import Any, Final

from evsession import AuditPolicy, SessionManager
from evsession.audit import Entries, Report
from evsession.audit.verify import verify
from evsession.codec import HEADER_LENGTH, PREFIX_LENGTH, Stored, unpack
from evsession.config import DEFAULT_REDACT
from evsession.draft import Stamp
from evsession.events import Authenticated, Created, Ended, Event, Renewed, Updated
from evsession.keys import Keyring
from evsession.stores.memory import MemoryStore
from evsession.stores.shard import Shard
from evsession.tokens import new_sid
from evsession.wire import START, Entry, StreamId, id_text

BEGAN: Final = 1_760_000_000_000
TIMEOUT: Final = timedelta(hours=12)


class Clock:
    """A server's clock that a test moves."""

    def __init__(self) -> None:
        self.now = BEGAN

    def __call__(self) -> int:
        return self.now


@dataclass
class World:
    """A shard as it lies in the server, for a test to change; `older` has every snapshot that each session ever had."""

    home: Shard
    other: Shard
    keys: Keyring
    now: int
    older: dict[str, list[bytes]] = field(default_factory=dict)

    @property
    def log(self) -> list[Entry]:
        """The entries, in order."""
        return self.home.log

    @property
    def snapshots(self) -> dict[str, bytes]:
        """The packed snapshots."""
        return self.home.snapshots

    def copy(self) -> World:
        """Return a world of its own to change."""
        return World(deepcopy(self.home), deepcopy(self.other), self.keys, self.now, self.older)

    def of(self, sid: str) -> list[Entry]:
        """Return the entries of one session."""
        return [entry for entry in self.log if entry.sid == sid]

    def put(self, at: int, **changes: Any) -> None:
        """Change an entry where it stands."""
        self.log[at] = self.log[at]._replace(**changes)

    def put_snapshot(self, sid: str, packed: bytes) -> None:
        """Put a snapshot in the place of a session's own."""
        self.home.snapshots[sid] = packed
        self.home.lapses.set(sid, self.now + 10**9)

    # ── what a careful forger puts right ─────────────────────────────────────────────────────────────────────────────

    def count_anew(self) -> None:
        """Make all counters fit to the log as it is."""
        self.home.end = self.log[-1].position if self.log else START
        self.home.added = len(self.log) + self.home.trimmed

    def link_anew(self) -> None:
        """Make all links, and what the headers of the snapshots say of the log, fit to the log as it is."""
        last: dict[str, StreamId] = {}
        for at, entry in enumerate(self.log):
            if entry.sid in last or entry.version == 1:
                self.log[at] = entry._replace(previous=id_text(last.get(entry.sid, (0, 0))))
            last[entry.sid] = entry.id
        for sid, packed in list(self.snapshots.items()):
            if own := self.of(sid):
                self.put_snapshot(sid, _dated(packed, own))

    def roll_back_snapshots(self) -> None:
        """Put back for each session the snapshot that it had when the log ended where it ends now."""
        for sid, packs in self.older.items():
            own = self.of(sid)
            if own:
                self.put_snapshot(sid, packs[own[-1].version - 1])
            else:
                self.snapshots.pop(sid, None)
                self.home.lapses.remove(sid)

    async def report(self, archive: Entries | None = None, jobs: int = 1) -> Report:
        """Verify it, with an archive or without, in one process or in several."""
        store = MemoryStore(shards=2, clock=lambda: self.now)
        store._tags = {"00": self.home, "01": self.other}
        return await verify(store, self.keys, absolute=TIMEOUT, archive=archive, jobs=jobs)

    async def kinds(self, archive: Entries | None = None) -> set[str]:
        """Return which kinds of faults verifying finds."""
        return {fault.kind for fault in (await self.report(archive)).faults}


class Kept:
    """An archive in memory, of what the logs were."""

    def __init__(self, world: World, less: int = 0) -> None:
        self._entries = {"00": world.log[: len(world.log) - less], "01": list(world.other.log)}

    async def between(self, shard: str, first: StreamId, last: StreamId) -> AsyncIterator[Entry]:
        """Yield entries as an archive does."""
        for entry in self._entries.get(shard, ()):
            if first <= entry.id <= last:
                yield entry


def _dated(packed: bytes, own: Sequence[Entry]) -> bytes:
    logins = [entry.id[0] for entry in own if entry.type == "authenticated"]
    secrets = [entry.id[0] for entry in own if entry.type in ("created", "authenticated", "renewed")]
    times = b"%013d%013d" % (own[0].id[0], logins[-1] if logins else 0)
    last = b"%-24b%013d" % (id_text(own[-1].id).encode(), secrets[-1] if secrets else own[0].id[0])
    return packed[:PREFIX_LENGTH] + times + packed[75:101] + last + packed[HEADER_LENGTH:]


class Teller:
    """Tells stories to a store by ordinary commits, and keeps every snapshot that they make."""

    def __init__(self, *, key: Sequence[str] = ("the key of those who prove, long enough",)) -> None:
        self.clock = Clock()
        self.store = MemoryStore(shards=2, clock=self.clock)
        self.older: dict[str, list[bytes]] = {}
        self._random = iter(range(1, 1_000_000))
        self.rotate(*key)

    def rotate(self, *key: str) -> None:
        """Go on under other keys, the first of which makes heads."""
        policy = AuditPolicy(redact=DEFAULT_REDACT)
        self.manager = SessionManager(self.store, secret_key=list(key), namespace="proof", audit=policy)

    def sid(self, shard: str = "00") -> str:
        """Return a new session's id."""
        return new_sid(shard, next(self._random).to_bytes(16, "big"))

    async def tell(self, sid: str, *events: Event, actor: bytes = b"", context: bytes = b'{"w":"abcd"}') -> None:
        """Commit events of one session, a second apart."""
        worker = self.manager.worker
        await worker.ensure_open()
        for event in events:
            self.clock.now += 1_000
            stamp = Stamp(next(self._random).to_bytes(16, "big"), actor, context, self.clock.now + 3)
            cached = await worker.replica.fill(sid)
            stored = None if cached is None else cached.stored
            assert await worker.committer.append(sid, stored, lambda _, event=event: event, stamp)  # type: ignore[misc]
            packed = self.store._shard(sid[:2]).snapshots[sid]
            self.older.setdefault(sid, []).append(packed)

    def world(self) -> World:
        """Return the store's content as it is now."""
        home, other = deepcopy(self.store._shard("00")), deepcopy(self.store._shard("01"))
        return World(home, other, self.manager.worker.keys, self.clock.now, dict(self.older))


def created(**data: Any) -> Created:
    """Return the first event of an anonymous session."""
    return Created(set_=data, secret="a" * 43, control="", redacted=secret_paths(data))


def login(user: str, **data: Any) -> Authenticated:
    """Return a login."""
    return Authenticated(
        set_=data, secret="b" * 43, control="", user_id=user, names=("tenant:acme",), redacted=secret_paths(data)
    )


def updated(*unset: str, **data: Any) -> Updated:
    """Return a change of the data."""
    return Updated(set_=data, unset=unset, redacted=secret_paths(data))


def renewed() -> Renewed:
    """Return a new secret."""
    return Renewed(secret="c" * 43, phase="rotated")


def ended() -> Ended:
    """Return a logout."""
    return Ended(cause="logout")


def secret_paths(data: dict[str, Any]) -> tuple[str, ...]:
    """Return the pointers of what is called `token`."""
    return tuple(f"/{name}" for name in data if name == "token")


async def small_world() -> World:
    """Return two living sessions, one that ended, and one of a single event, mixed with each other."""
    teller = Teller()
    ann, bob, eve, dan = (teller.sid() for _ in range(4))
    await teller.tell(ann, created(n=1, token="t-1"))
    await teller.tell(bob, login("42", cart=["tea"]))
    await teller.tell(eve, created())
    await teller.tell(ann, updated(n=2), login("7", role="user"))
    await teller.tell(eve, updated(a=1), ended(), actor=b"admin joe")
    await teller.tell(bob, updated("cart", theme="dark"), renewed())
    await teller.tell(dan, created(x=None))
    await teller.tell(ann, updated(n=3, token="t-2"), updated("token"))
    await teller.tell(bob, updated(n=1))
    await teller.tell(teller.sid("01"), created(n=5), updated(n=6))
    teller.clock.now += 700_000  # ended snapshots are gone
    teller.store._shard("00").purge(teller.clock.now)
    return teller.world()


def stored_of(world: World, sid: str) -> Stored:
    """Return a session's snapshot, unpacked."""
    return unpack(sid, world.snapshots[sid])


Change = Callable[[World], None]
Mutations = Iterator[tuple[str, Change]]
