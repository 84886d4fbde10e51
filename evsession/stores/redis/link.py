"""The one connection for commands: opened when needed, opened again when lost, with a breaker in front of it.

While the server is away, a call costs microseconds: it fails at once, and a probe runs in the background at most every
`probe_every`.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable
from contextlib import suppress

import hiredis

from evsession.config import StorePolicy
from evsession.errors import StoreUnavailable
from evsession.patience import RETRY_AFTER
from evsession.stores.redis.address import Address
from evsession.stores.redis.connection import Connection, Reply, login, open_connection, pack, unavailable
from evsession.stores.redis.scripts import ALL, Script

_NEVER_PROMOTED = b"second_repl_offset:-1"
"""What INFO says of a server that has been the primary since its start.  Source: Redis' replication.c."""

_RECONNECT = ("READONLY", "MASTERDOWN", "LOADING", "NOAUTH")


class Link:
    """Commands to one server, for one event loop."""

    def __init__(self, address: Address, policy: StorePolicy, name: str) -> None:
        self._address = address
        self._timeout = policy.command_timeout.total_seconds()
        self._connect_timeout = policy.connect_timeout.total_seconds()
        self._probe_every = policy.probe_every.total_seconds()
        self._loop = asyncio.get_running_loop()
        self._handshake = login(address, name) + [pack(("SCRIPT", "LOAD", s.source)) for s in ALL]
        self._connection: Connection | None = None
        self._opening: asyncio.Task[Connection] | None = None
        self._why: StoreUnavailable | None = None
        self._probe_at = 0.0
        self._connected_at = self._loop.time()
        self._asked_of: Connection | None = None
        self.calls = 0
        self.resent = 0
        """How many scripts had to be sent again, so that they ran later than what was sent after them."""

    async def primary_for(self) -> float:
        """Return for how many seconds the server has been the primary for certain.

        At least since the connection was opened; since it was started, if it says that it was never promoted.
        """
        if self._connection is not None and self._asked_of is not self._connection:
            self._asked_of = connection = self._connection
            with suppress(StoreUnavailable):
                known = b"\n".join([await self.call(b"INFO", section) for section in (b"server", b"replication")])
                if self._connection is connection and b"role:master" in known and _NEVER_PROMOTED in known:
                    started = int(known.partition(b"uptime_in_seconds:")[2].split()[0]) - 1
                    self._connected_at = min(self._connected_at, self._loop.time() - started)
        return 0.0 if self._connection is None else self._loop.time() - self._connected_at

    async def run(self, script: Script, keys: tuple[bytes, ...], *args: bytes | str | int) -> Reply:
        """Run a script by its digest, or by its text if the server has forgotten it.

        Raises:
            StoreUnavailable: the server is away, refused, or did not answer in time.
        """
        self.calls += 1
        connection = self._connection or await self._open()
        reply = await connection.call(pack((b"EVALSHA", script.digest, len(keys), *keys, *args)))
        if isinstance(reply, hiredis.ReplyError):
            self._check_forgotten(reply)
            reply = await self.call(b"EVAL", script.source, len(keys), *keys, *args)
        return reply

    def begin(self, packed: bytes) -> Awaitable[Reply]:
        """Send a packed call at once if there is a connection; await its reply, which may be an error of the server.

        Raises:
            StoreUnavailable: the server is away, or did not answer in time.
        """
        self.calls += 1
        return self._begin_later(packed) if self._connection is None else self._connection.call(packed)

    async def _begin_later(self, packed: bytes) -> Reply:
        connection = await self._open()
        return await connection.call(packed)

    async def send_again(self, reply: hiredis.ReplyError, packed: bytes) -> Reply:
        """Send a script by its text, if its digest got this reply because the server has forgotten it.

        Raises:
            StoreUnavailable: it has not, and refused; or it is away, or did not answer in time.
        """
        self._check_forgotten(reply)
        return await self._send(packed)

    def _check_forgotten(self, reply: hiredis.ReplyError) -> None:
        if not str(reply).startswith("NOSCRIPT"):
            raise self._refused(reply)
        self.resent += 1

    async def call(self, *command: bytes | str | int) -> Reply:
        """Send one command.

        Raises:
            StoreUnavailable: the server is away, refused, or did not answer in time.
        """
        return await self._send(pack(command))

    async def _send(self, packed: bytes) -> Reply:
        self.calls += 1
        connection = self._connection or await self._open()
        reply = await connection.call(packed)
        if isinstance(reply, hiredis.ReplyError):
            raise self._refused(reply)
        return reply

    def _refused(self, reply: hiredis.ReplyError) -> StoreUnavailable:
        text = str(reply)
        # Before version 7 a script's error stands within a sentence.
        if self._connection is not None and any(code in text for code in _RECONNECT):
            self._connection.abort(text)
        return unavailable(text, outcome_unknown=False)

    async def _open(self) -> Connection:
        if self._opening is None and self._loop.time() >= self._probe_at:
            self._opening = self._loop.create_task(self._connect(), name="evsession-connect")
        if self._why is not None:
            raise StoreUnavailable(RETRY_AFTER, self._why.detail)
        if self._opening is None:
            raise unavailable("closed", outcome_unknown=False)
        return await self._opened(self._opening)

    async def _opened(self, opening: asyncio.Task[Connection]) -> Connection:
        # Waited for by many, so it goes on when one of them leaves, and its cancellation must not pass for theirs.
        await asyncio.wait([opening])
        if opening.cancelled():
            raise unavailable("closed", outcome_unknown=False)
        return opening.result()

    async def _connect(self) -> Connection:
        try:
            connection = await open_connection(
                self._address, self._connect_timeout, handshake=self._handshake, lost=self._on_lost
            )
        except StoreUnavailable as error:
            self._why = error
            self._probe_at = self._loop.time() + self._probe_every
            raise
        else:
            self._why = None
            self._connection = connection
            self._connected_at = self._loop.time()
            return connection
        finally:
            if self._opening is not None:
                self._opening.add_done_callback(_look_at)
                self._opening = None

    def _on_lost(self) -> None:
        self._connection = None

    def abandon(self, why: str = "the event loop is over") -> None:
        """End the connection at once."""
        if self._connection is not None:
            self._connection.abort(why)
            self._connection = None

    async def close(self) -> None:
        """End the connection and whatever is opening one."""
        if self._opening is not None:
            self._opening.cancel()
            await asyncio.wait([self._opening])
            self._opening = None
        self.abandon("closed")


def _look_at(task: asyncio.Task[Connection]) -> None:
    # A probe fails for nobody in particular; asking for its exception keeps asyncio from reporting it.
    if not task.cancelled():
        task.exception()
