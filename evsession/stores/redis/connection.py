"""One pipelined connection: commands go out together, replies come back in order, each to its own future.

Whatever is asked while two batches are under way leaves with the next one: a hundred concurrent requests cost a few
system calls. A cancelled caller leaves its reply in the queue, where it is dropped: no reply can reach anybody else.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable
from typing import Any, Final, cast

import hiredis

from evsession.errors import StoreUnavailable
from evsession.patience import RETRY_AFTER
from evsession.stores.redis.address import Address

Reply = Any
"""What hiredis makes of a reply: bytes, int, list, None, or a `hiredis.ReplyError`."""

MAX_BATCHES: Final = 2
"""Batches under way at once.  Source: one leaves the server idle between batches, three coalesce less."""

LATE: Final = 0.1
"""Part of the time-out by which a timer may be late before the loop counts as blocked, not the server as silent."""

pack: Final[Callable[[tuple[bytes | str | int, ...]], bytes]] = cast(Any, hiredis.pack_command)
"""Packs one command; hiredis' stub knows one-element tuples only."""

_NOTHING: Final = object()
_PUSHES: Final = frozenset((b"message", b"subscribe", b"unsubscribe"))


class Connection(asyncio.Protocol):
    """A connection to one server; `push` receives what arrives unasked, `lost` is told once when it ends."""

    def __init__(
        self,
        timeout: float,
        push: Callable[[list[Any]], None] | None = None,
        lost: Callable[[], None] | None = None,
    ) -> None:
        self._loop = asyncio.get_running_loop()
        self._timeout = timeout
        self._push = push
        self._lost = lost
        self._reader = hiredis.Reader(notEnoughData=_NOTHING)
        self._transport: asyncio.Transport | None = None
        self._pending: deque[tuple[asyncio.Future[Reply], float]] = deque()
        """Who waits for a reply, and since when."""
        self._queued: list[bytes] = []
        self._batches: deque[int] = deque()
        self._replies = 0
        self._asked = 0
        self._is_flush_due = False
        self._watch: asyncio.TimerHandle | None = None
        self._listening_since = 0.0
        self._excused = -1
        self._why = "connection lost"
        self.batches_sent = 0

    @property
    def is_open(self) -> bool:
        """Whether commands can be sent."""
        return self._transport is not None and not self._transport.is_closing()

    def call(self, command: bytes) -> asyncio.Future[Reply]:
        """Send one packed command; its reply, an error included, becomes the future's result.

        The future raises `StoreUnavailable` when the connection ends or the time-out passes first.
        """
        future: asyncio.Future[Reply] = self._loop.create_future()
        if not self.is_open:
            future.set_exception(unavailable(self._why, outcome_unknown=False))
            return future
        self._pending.append((future, self._loop.time()))
        self._queued.append(command)
        self._asked += 1
        if not self._batches:
            self._flush()
        elif not self._is_flush_due and len(self._batches) < MAX_BATCHES:
            self._is_flush_due = True
            self._loop.call_soon(self._flush)
        if self._watch is None:
            self._watch = self._loop.call_later(self._timeout, self._check)
        return future

    def send(self, command: bytes) -> None:
        """Send a packed command whose answers are pushes."""
        if self._transport is not None:
            self._transport.write(command)

    def _flush(self) -> None:
        self._is_flush_due = False
        if self._queued and self._transport is not None:
            queued, self._queued = self._queued, []
            self._batches.append(self._asked)
            self.batches_sent += 1
            self._transport.write(queued[0] if len(queued) == 1 else b"".join(queued))

    def _check(self) -> None:
        watch, self._watch, now = self._watch, None, self._loop.time()
        if not self._pending:
            return
        if self._replies != self._excused and watch is not None and now - watch.when() > LATE * self._timeout:
            # This loop was held up, so replies may be waiting to be read; but once only, or silence would go unnoticed.
            self._listening_since, self._excused = now, self._replies
        left = max(self._pending[0][1], self._listening_since) + self._timeout - now
        if left > 0:
            self._watch = self._loop.call_later(left, self._check)
        else:
            self.abort(f"no reply within {self._timeout:g} s")

    def abort(self, why: str) -> None:
        """End the connection at once; all that wait for a reply learn why."""
        self._why = why
        if self._transport is not None:
            self._transport.abort()
        self._fail_all()
        self._tell_lost()

    # ── what asyncio calls ───────────────────────────────────────────────────────────────────────────────────────────

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast(asyncio.Transport, transport)

    def data_received(self, data: bytes) -> None:
        self._reader.feed(data)
        try:
            while (reply := self._reader.gets()) is not _NOTHING:
                self._deliver(reply)
        except hiredis.ProtocolError as error:
            self.abort(f"not the protocol of a Redis server: {error}")

    def _deliver(self, reply: Reply) -> None:
        if self._push is not None and isinstance(reply, list) and reply and reply[0] in _PUSHES:
            self._push(reply)
            return
        if not self._pending:
            self.abort("a reply that nobody asked for")
            return
        future, _ = self._pending.popleft()
        if not future.done():
            future.set_result(reply)
        self._replies += 1
        if self._batches and self._replies >= self._batches[0]:
            self._batches.popleft()
            if self._queued:
                self._flush()

    def connection_lost(self, exc: Exception | None) -> None:
        self._transport = None
        self._fail_all()
        self._tell_lost()

    def _tell_lost(self) -> None:
        # At once, not when asyncio closes the transport: a call in between would still come here, and fail.
        if self._lost is not None:
            lost, self._lost = self._lost, None
            lost()

    def _fail_all(self) -> None:
        if self._watch is not None:
            self._watch.cancel()
            self._watch = None
        unsent = len(self._queued)
        self._queued.clear()
        while self._pending:
            future, _ = self._pending.popleft()
            if not future.done():
                future.set_exception(unavailable(self._why, outcome_unknown=len(self._pending) >= unsent))


def unavailable(why: str, *, outcome_unknown: bool) -> StoreUnavailable:
    """Return the error for a server that did not do what it was asked."""
    return StoreUnavailable(RETRY_AFTER, f"Redis: {why}", outcome_unknown=outcome_unknown)


async def open_connection(
    address: Address,
    timeout: float,
    *,
    handshake: list[bytes],
    push: Callable[[list[Any]], None] | None = None,
    lost: Callable[[], None] | None = None,
) -> Connection:
    """Connect, log in and send the handshake's commands, all within the time-out.

    Raises:
        StoreUnavailable: nobody answers, or the server refused one of the commands.
    """
    connection = Connection(timeout, push, lost)
    try:
        async with asyncio.timeout(timeout):
            await address.connect(connection)
            for reply in await asyncio.gather(*(connection.call(command) for command in handshake)):
                if isinstance(reply, hiredis.ReplyError):
                    raise unavailable(str(reply), outcome_unknown=False)
    except (OSError, TimeoutError) as error:
        connection.abort("not connected")
        raise unavailable(f"{address}: {str(error) or 'no answer'}", outcome_unknown=False) from error
    except BaseException:
        connection.abort("not connected")
        raise
    return connection


def login(address: Address, name: str) -> list[bytes]:
    """Return the commands that open a connection for work."""
    commands: list[tuple[str | int, ...]] = []
    if address.password is not None:
        commands.append(("AUTH", *((address.username,) if address.username else ()), address.password))
    if address.db:
        commands.append(("SELECT", address.db))
    commands.append(("CLIENT", "SETNAME", name))
    return [pack(command) for command in commands]
