"""The feed: one connection of its own, which never retries by itself, so that no loss goes unseen."""

from __future__ import annotations

import asyncio
import random
from contextvars import Context
from typing import Any

from evsession.config import StorePolicy
from evsession.errors import StoreUnavailable
from evsession.store import FeedListener
from evsession.stores.redis.address import Address
from evsession.stores.redis.connection import Connection, login, open_connection, pack


class Feed:
    """Subscriptions to the channels of several shards, for one event loop; its task lives until `close`."""

    def __init__(self, address: Address, policy: StorePolicy, name: str, listener: FeedListener) -> None:
        self._address = address
        self._timeout = policy.command_timeout.total_seconds()
        self._back_off_limit = policy.resubscribe_at_most.total_seconds()
        self._handshake = login(address, name)
        self._listener = listener
        self._shards: dict[bytes, str] = {}
        self._changed = asyncio.Event()
        self._connection: Connection | None = None
        self._subscribed: set[bytes] = set()
        # It outlives the request that happened to open the store, so it has nothing of that: neither span nor actor.
        task = asyncio.get_running_loop().create_task(self._run(), name="evsession-feed", context=Context())
        self._task = task

    def follow(self, shard: str, channel: bytes) -> None:
        """Subscribe to a channel in place of what the shard followed before."""
        if self._shards.get(channel) == shard:
            return
        self._shards = {known: of for known, of in self._shards.items() if of != shard} | {channel: shard}
        self._changed.set()

    async def close(self) -> None:
        """End the connection and the task."""
        self._task.cancel()
        await asyncio.wait([self._task])

    async def _run(self) -> None:
        failures = 0
        while True:
            await self._wait_until_wanted()
            try:
                failures = await self._follow_until_lost(failures)
            except StoreUnavailable:
                failures += 1
            for shard in self._shards.values():
                self._listener.on_gap(shard)
            if failures:
                await asyncio.sleep(min(self._back_off_limit, 0.02 * 2**failures) * random.uniform(0.5, 1))

    async def _wait_until_wanted(self) -> None:
        while not self._shards:
            self._changed.clear()
            await self._changed.wait()

    async def _follow_until_lost(self, failures: int) -> int:
        self._subscribed = set()
        lost = self._changed.set
        connection = await open_connection(
            self._address, self._timeout, handshake=self._handshake, push=self._on_push, lost=lost
        )
        self._connection = connection
        try:
            while connection.is_open:
                self._changed.clear()
                self._subscribe(connection)
                if not await self._changes_within(self._timeout):
                    await connection.call(pack(("PING",)))
                failures = 0
        finally:
            connection.abort("feed ended")
            self._connection = None
        return failures

    async def _changes_within(self, seconds: float) -> bool:
        try:
            async with asyncio.timeout(seconds):
                await self._changed.wait()
        except TimeoutError:
            return False
        return True

    def _subscribe(self, connection: Connection) -> None:
        wanted = set(self._shards)
        if old := self._subscribed - wanted:
            connection.send(pack((b"UNSUBSCRIBE", *old)))
        if new := wanted - self._subscribed:
            connection.send(pack((b"SUBSCRIBE", *new)))
        self._subscribed = wanted

    def _on_push(self, push: list[Any]) -> None:
        kind, channel, payload = push
        shard = self._shards.get(channel)
        if shard is None:
            return
        if kind == b"message":
            self._listener.on_message(shard, payload)
        else:
            self._listener.on_gap(shard)
