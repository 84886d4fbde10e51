"""The simulated network: each worker's store, whose requests, replies and feed messages are late, lost or doubled."""

from __future__ import annotations

import asyncio
import random
from collections.abc import Callable, Coroutine, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import timedelta
from typing import Any, Final, TypeVar

from evsession.control import Image
from evsession.errors import StoreUnavailable
from evsession.store import (
    Commit,
    CommitReply,
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
from evsession.view import Beat, BeatReply
from evsession.wire import Entry, Line, Position, StreamId, split_message, unpack_notice
from tests.simulation.model import SHARD, Primary
from tests.simulation.scheduler import VirtualLoop

R = TypeVar("R")

TIMEOUT: Final = 0.25
"""Seconds until a worker gives a reply up."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Weather:
    """How likely each fault is, for one message; a seed draws one weather for each schedule."""

    slow: float = 0.0
    lost_request: float = 0.0
    lost_reply: float = 0.0
    lost_read: float = 0.0
    """How often a read of the log, which is a repair, is lost beside that."""
    lost_message: float = 0.0
    doubled_message: float = 0.0
    hung_up: float = 0.0
    """How often a client hangs up before it is answered."""

    @classmethod
    def drawn(cls, chance: random.Random) -> Weather:
        """Return a weather: each fault absent, rare or frequent."""
        slow, request, reply, message, doubled = (chance.choice((0.0, 0.05, 0.3)) for _ in range(5))
        return cls(
            slow=slow,
            lost_request=request / 2,
            lost_reply=reply,
            lost_read=chance.choice((0.0, 0.0, 0.9)),
            lost_message=2 * message,
            doubled_message=doubled,
            hung_up=0.03,
        )


CALM: Final = Weather()


class Network:
    """What lies between the workers and the primary."""

    def __init__(self, loop: VirtualLoop, primary: Primary, chance: random.Random) -> None:
        self.loop = loop
        self.primary = primary
        self.chance = chance
        self.weather = CALM
        self.down_until = 0.0
        self.links: list[Link] = []
        primary.tell = self._publish

    def delay(self) -> float:
        """Return how long one message takes: mostly a millisecond or two, sometimes longer than anybody waits."""
        chance = self.chance.random
        if chance() >= self.weather.slow:
            return 0.0005 + 0.002 * chance()
        return chance() * self.chance.choice((0.02, 0.2, 0.4))

    def happens(self, probability: float) -> bool:
        """Draw whether a fault happens."""
        return probability > 0 and self.chance.random() < probability

    @property
    def is_down(self) -> bool:
        """Whether nobody serves just now."""
        return self.loop.now < self.down_until

    def _publish(self, shard: str, incarnation: str, message: bytes) -> None:
        for link in self.links:
            if link.subscriptions.get(shard) != incarnation or self.happens(self.weather.lost_message):
                continue
            for _ in range(2 if self.happens(self.weather.doubled_message) else 1):
                self.loop.call_later(self.delay(), link.hear, shard, message, context=link.context)


@dataclass(slots=True)
class _Request:
    """One call on its way: what the server is to do, step by step, and what has been done."""

    answer: asyncio.Future[Any]
    steps: Sequence[Callable[[], Coroutine[Any, Any, Any]]]
    give_up_at: float
    results: list[Any] = field(default_factory=list)
    epoch: int | None = None


def _arrive(request: _Request) -> None:
    if not request.answer.done():
        request.answer.set_result(request.results)


def _fail(request: _Request) -> None:
    if not request.answer.done():
        request.answer.set_exception(_unavailable(outcome_unknown=True))


class Link:
    """The store of one worker: each call is a request, executed later, and a reply that comes later still, or never."""

    is_remote: bool = True
    has_log: bool = True
    shards: Final[Sequence[str]] = (SHARD,)

    def __init__(self, network: Network, owner: str) -> None:
        self.owner = owner
        self.context = network.loop.context_of(owner)
        self.subscriptions: dict[str, str] = {}
        self.heard: dict[bytes, float] = {}
        """When a message last told of the state with a head."""
        self._wanted: dict[str, str] = {}
        self._network = network
        self._outside = network.loop.context_of("network")
        self._listener: FeedListener | None = None
        network.links.append(self)

    # ── requests ─────────────────────────────────────────────────────────────────────────────────────────────────────

    async def _call(self, *steps: Callable[[], Coroutine[Any, Any, Any]]) -> list[Any]:
        """Have the steps executed in order, each in one go, others perhaps in between; return their results."""
        network = self._network
        answer = network.loop.create_future()
        if network.is_down and network.chance.random() < 0.5:
            raise _unavailable(outcome_unknown=False)
        request = _Request(answer, steps, network.loop.now + TIMEOUT)
        delay = network.delay()
        is_lost = network.happens(network.weather.lost_request)
        if is_lost or delay >= TIMEOUT:
            self._give_up(request)
        if not is_lost:
            network.loop.call_later(delay, self._execute, request, context=self._outside)
        return await answer  # type: ignore[no-any-return]

    def _later(self, callback: Callable[..., None], *args: Any) -> None:
        self._network.loop.call_later(self._network.delay(), callback, *args, context=self._outside)

    def _execute(self, request: _Request) -> None:
        network = self._network
        if network.is_down or request.epoch not in (None, network.primary.epoch):
            self._give_up(request)  # the connection breaks with the server that it leads to
            return
        request.epoch = network.primary.epoch
        for step in request.steps[len(request.results) :]:
            request.results.append(_result_of(step()))
            if step is not request.steps[-1] and network.happens(network.weather.slow):
                self._later(self._execute, request)
                return
        self._answer(request)

    def _answer(self, request: _Request) -> None:
        network, delay = self._network, self._network.delay()
        if network.loop.now + delay >= request.give_up_at or network.happens(network.weather.lost_reply):
            self._give_up(request)
        else:
            network.loop.call_later(delay, _arrive, request, context=self._outside)

    def _give_up(self, request: _Request) -> None:
        """Let the worker's time-out pass; the request itself may still be executed."""
        self._network.loop.call_at(request.give_up_at, _fail, request, context=self._outside)

    # ── the feed ─────────────────────────────────────────────────────────────────────────────────────────────────────

    def follow(self, shard: str, incarnation: str) -> None:
        if self._wanted.get(shard) != incarnation:
            self._wanted[shard] = incarnation
            self._later(self._subscribe, shard, incarnation)

    def _subscribe(self, shard: str, incarnation: str) -> None:
        if self._network.is_down:
            self._later(self._subscribe, shard, incarnation)
        elif self._wanted[shard] == incarnation:
            self.subscriptions[shard] = incarnation
            self._network.loop.call_later(self._network.delay(), self._gap, shard, context=self.context)

    def cut_feed(self, *, is_noticed: bool) -> None:
        """Lose the subscriptions; when that is noticed they are made again."""
        self.subscriptions.clear()
        if is_noticed:
            for shard, incarnation in self._wanted.items():
                self._network.loop.call_later(self._network.delay(), self._gap, shard, context=self.context)
                self._later(self._subscribe, shard, incarnation)

    def resubscribe(self) -> None:
        """Notice at last that the feed is silent."""
        for shard, incarnation in self._wanted.items():
            if self.subscriptions.get(shard) != incarnation:
                self._later(self._subscribe, shard, incarnation)

    def hear(self, shard: str, message: bytes) -> None:
        """Take in one message."""
        for prev, id_, part in split_message(message):
            self.heard[unpack_notice(prev, id_, part).head] = self._network.loop.now
        if self._listener is not None:
            self._listener.on_message(shard, message)

    def _gap(self, shard: str) -> None:
        if self._listener is not None:
            self._listener.on_gap(shard)

    # ── the store ────────────────────────────────────────────────────────────────────────────────────────────────────

    async def open(self, worker: str, bound: int, listener: FeedListener) -> None:
        self._listener = listener

    async def close(self) -> None:
        self._listener = None

    def abandon(self) -> None:
        """Nothing is open."""

    async def claim(self, fields: Mapping[str, str]) -> Mapping[str, str]:
        return await self._one(lambda: self._network.primary.claim(fields))

    async def raise_to(self, field: str, number: int) -> int:
        return await self._one(lambda: self._network.primary.raise_to(field, number))

    async def commit(self, commit: Commit) -> CommitReply:
        return await self._one(lambda: self._network.primary.commit(commit))

    async def fill(self, sid: str, beats: Sequence[Beat] = ()) -> FillReply:
        primary = self._network.primary
        *answers, filled = await self._call(
            *(lambda beat=beat: primary.heartbeat([beat]) for beat in beats), lambda: primary.fill(sid)
        )
        return FillReply(sid, filled.now, filled.packed, [answer for (answer,) in answers])

    async def heartbeat(self, beats: Sequence[Beat]) -> Sequence[BeatReply]:
        primary = self._network.primary
        answers = await self._call(*(lambda beat=beat: primary.heartbeat([beat]) for beat in beats))
        return [answer for (answer,) in answers]

    async def touch(self, sid: str, idle: int) -> TouchReply:
        return await self._one(lambda: self._network.primary.touch(sid, idle))

    async def read(self, shard: str, start: Position, count: int) -> Sequence[Entry]:
        if self._network.happens(self._network.weather.lost_read):
            await asyncio.sleep(TIMEOUT)
            raise _unavailable(outcome_unknown=True)
        return await self._one(lambda: self._network.primary.read(shard, start, count))

    async def lines(self, shard: str, after: StreamId, count: int) -> Sequence[Line]:
        return await self._one(lambda: self._network.primary.lines(shard, after, count))

    async def restore(self, commit: Commit, header: bytes) -> CommitReply:
        return await self._one(lambda: self._network.primary.restore(commit, header))

    async def deadline(self, sid: str) -> int | None:
        return await self._one(lambda: self._network.primary.deadline(sid))

    async def counters(self, shard: str) -> Counters:
        return await self._one(lambda: self._network.primary.counters(shard))

    async def snapshots(self, cursor: int, count: int) -> tuple[int, Sequence[tuple[str, bytes]]]:
        return await self._one(lambda: self._network.primary.snapshots(cursor, count))

    async def walk(self, sid: str, limit: int, before: StreamId | None = None) -> Sequence[Entry]:
        return await self._one(lambda: self._network.primary.walk(sid, limit, before))

    async def due(self, shard: str, limit: int) -> Sequence[str]:
        return await self._one(lambda: self._network.primary.due(shard, limit))

    async def settle(self, shard: str, sid: str) -> None:
        await self._one(lambda: self._network.primary.settle(shard, sid))

    async def enter(self, user: str, sid: str, keep: int, device: bytes = b"", *, anew: bool = True) -> Indexed:
        return await self._one(lambda: self._network.primary.enter(user, sid, keep, device, anew=anew))

    async def leave(self, user: str, sid: str, at: int | None = None) -> bool:
        return await self._one(lambda: self._network.primary.leave(user, sid, at))

    async def members(self, user: str) -> Indexed:
        return await self._one(lambda: self._network.primary.members(user))

    async def users(self, cursor: str = "", count: int = 1000) -> Users:
        return await self._one(lambda: self._network.primary.users(cursor, count))

    async def records(self, shard: str) -> Mapping[str, bytes]:
        return {}

    async def forget(self, shard: str, worker: str, record: bytes) -> None:
        """Nothing is kept of workers."""

    async def advise(self) -> None:
        """Nothing is wrong with the settings."""

    async def revoke(self, entry: NamedRevoked) -> RevokeReply:
        return await self._one(lambda: self._network.primary.revoke(entry))

    async def image(self) -> Image:
        """Read the control log as a server does: the names in one step, what is held of them in another."""
        primary = self._network.primary
        early, late = await self._call(primary.image, primary.image)
        return Image(early.names, late.held, late.again)

    async def expunge(self, keep: int) -> int:
        return 0  # the simulation trims by itself

    async def witness(self, shard: str, position: Position) -> Witness:
        return await self._one(lambda: self._network.primary.witness(shard, position))

    async def replicated(self, timeout: int) -> int:
        return 0

    async def primary_for(self) -> float:
        return float("inf")

    async def trim(self, shard: str, keep: int) -> int:
        return 0  # the simulation trims by itself

    async def take_turn(self, shard: str, job: str, holder: str, length: int) -> Turn | None:
        return await self._one(lambda: self._network.primary.take_turn(shard, job, holder, length))

    async def give_turn(self, shard: str, job: str, holder: str, fence: int) -> None:
        await self._one(lambda: self._network.primary.give_turn(shard, job, holder, fence))

    async def advance(self, shard: str, job: str, holder: str, fence: int, checkpoint: bytes) -> bool:
        return await self._one(lambda: self._network.primary.advance(shard, job, holder, fence, checkpoint))

    async def checkpoint(self, shard: str, job: str) -> bytes:
        return await self._one(lambda: self._network.primary.checkpoint(shard, job))

    async def _one(self, step: Callable[[], Coroutine[Any, Any, R]]) -> R:
        (result,) = await self._call(step)
        return result  # type: ignore[no-any-return]


def _result_of(coroutine: Coroutine[Any, Any, R]) -> R:
    """Run a coroutine that never waits."""
    try:
        coroutine.send(None)
    except StopIteration as done:
        return done.value  # type: ignore[no-any-return]
    msg = "the memory store waited"
    raise RuntimeError(msg)


def _unavailable(*, outcome_unknown: bool) -> StoreUnavailable:
    return StoreUnavailable(timedelta(seconds=1), "simulated", outcome_unknown=outcome_unknown)
