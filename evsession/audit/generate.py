"""Made-up visitors of a shop, who write real events by ordinary commits: something to measure and to try things on."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from hashlib import sha256
from random import Random
from typing import TYPE_CHECKING, Any, Final

import anyio

from evsession.audit.report import Progress
from evsession.canonical import dumps
from evsession.codec import Stored
from evsession.draft import Drafter, Stamp
from evsession.events import Authenticated, Changes, Created, Ended, Event, Updated
from evsession.store import Store
from evsession.tokens import new_sid

if TYPE_CHECKING:
    from evsession.worker import Worker

AT_ONCE: Final = 200
"""Visitors under way at the same time: so many commits share a round trip."""

TELL_EVERY: Final = 1_000
"""Events between two reports of progress."""

_TEA: Final = ("assam", "darjeeling", "earl grey", "genmaicha", "lapsang", "oolong", "rooibos", "sencha")
_ROUTES: Final = ("/", "/tea/{name}", "/cart", "/cart/{item}", "/checkout", "/account")


@dataclass(frozen=True, slots=True)
class Generated:
    """How much was written."""

    events: int
    sessions: int
    ended: int


class _Visitors:
    """Decides what visitors do: the same seed, the same visits, as far as their order on the server allows."""

    def __init__(self, drafter: Drafter, worker: str, shards: tuple[str, ...], seed: int) -> None:
        self._drafter = drafter
        self._worker = worker
        self._shards = shards
        self.random = Random(seed)

    def sid(self) -> str:
        """Return a new session's id."""
        return new_sid(self.random.choice(self._shards), self.random.randbytes(16))

    def stamp(self, now: int) -> Stamp:
        """Return who, where and when; now and then a member of staff acts."""
        actor = b"admin joe" if self.random.random() < 0.01 else b""
        context = [self._worker, f"POST {self.random.choice(_ROUTES)}", self._address()]  # as a request's usually is
        return Stamp(self.random.randbytes(16), actor, dumps(context), now)

    def _address(self) -> str:
        return f"10.{self.random.randrange(64)}.{self.random.randrange(256)}.0"

    def visit(self) -> Iterator[Event]:
        """Yield what one visitor does: most look around, half sign in, most of those sign out or are forgotten."""
        chance = self.random.random
        data: dict[str, Any] = {"theme": self.random.choice(("dark", "light")), "csrf_token": self._secret()}
        yield Created(**self._changes(data), secret=self._secret(), control="")
        cart: list[dict[str, Any]] = []
        for _ in range(int(chance() ** 2 * 8)):
            yield self._put_into(cart)
        if chance() < 0.5:
            user = str(int(1 + 50_000 * chance() ** 2))
            names = ("tenant:acme",) if chance() < 0.3 else ()
            changes = self._changes({"csrf_token": self._secret(), "locale": "en"})
            yield Authenticated(**changes, user_id=user, secret=self._secret(), control="", names=names)
            for _ in range(int(chance() ** 2 * 12)):
                yield self._put_into(cart)
        if chance() < 0.7:
            yield Ended(cause="logout") if chance() < 0.9 else Ended(cause="revoked", reason="reported as stolen")

    def _put_into(self, cart: list[dict[str, Any]]) -> Event:
        if len(cart) >= 4:
            cart.clear()
        cart.append({"tea": self.random.choice(_TEA), "grams": self.random.randrange(50, 500, 50)})
        return Updated(**self._changes({"cart": list(cart), "seen": self.random.randrange(1000)}))

    def _changes(self, data: dict[str, Any]) -> dict[str, Any]:
        changes = self._drafter.changes(Changes(set_=data))
        return {"set_": changes.set_, "redacted": changes.redacted}

    def _secret(self) -> str:
        return sha256(self.random.randbytes(16)).hexdigest()[:43]


async def generate(worker: Worker, events: int, *, seed: int = 0, progress: Progress | None = None) -> Generated:
    """Write at least so many events of made-up visitors, as fast as the store takes them.

    Raises:
        StoreUnavailable: the store did not answer.
    """
    await worker.ensure_open()
    run = _Run(worker, events, seed, progress or (lambda what, done, of: None))
    async with anyio.create_task_group() as visitors:
        for _ in range(min(AT_ONCE, events)):
            visitors.start_soon(run.visit_until_done)
    return Generated(run.events, run.sessions, run.ended)


class _Run:
    """One run of `generate`; its visitors go on until there are events enough, and nobody leaves in the middle."""

    def __init__(self, worker: Worker, wanted: int, seed: int, progress: Progress) -> None:
        self._store: Store = worker.store
        self._drafter = worker.drafter
        self._stamp = worker.stamp
        self._visitors = _Visitors(worker.drafter, worker.id, tuple(worker.store.shards), seed)
        self._wanted = wanted
        self._progress = progress
        self.events = self.sessions = self.ended = 0

    async def visit_until_done(self) -> None:
        """Make one visit after the other."""
        while self.events < self._wanted:
            self.sessions += 1
            await self._visit(self._visitors.sid())

    async def _visit(self, sid: str) -> None:
        stored: Stored | None = None
        for event in self._visitors.visit():
            draft = self._drafter.draft(stored, sid, event, self._visitors.stamp(self._stamp().worker_time))
            reply = await self._store.commit(draft.commit)
            stored = draft.accepted(reply.tail)
            self.events += 1
            if self.events % TELL_EVERY == 0:
                self._progress("writing", self.events, max(self._wanted, self.events))
        self.ended += stored is not None and stored.snapshot.ended is not None
