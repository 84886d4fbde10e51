"""How much a shard holds, how far its workers and its archiver are, and how long the feed takes."""

from __future__ import annotations

import asyncio
import secrets
from collections.abc import Mapping, Sequence
from typing import Any, Final, NamedTuple

from evsession.config import StorePolicy
from evsession.stores.redis.address import Address
from evsession.stores.redis.connection import login, open_connection, pack, unavailable
from evsession.stores.redis.keys import Keys, user_of
from evsession.stores.redis.link import Link

WEIGHED: Final = 50
"""Snapshots of a shard that are weighed to estimate what all of them take."""


SAMPLED: Final = 20_000
"""Keys of a server that are looked at to estimate how many are users'.
Source: twenty calls; where one key in ten is one, the estimate's standard deviation is 2 %."""

_PAGE: Final = 1_000


class Survey(NamedTuple):
    """One shard at one moment; times in ms on the server's clock, sizes in bytes as the server estimates them.

    `records` has what each worker's last heartbeat left, ``position time bound``. `overdue` is the earliest deadline
    that has passed and is not swept, 0 for none. `archived` is the archiver's checkpoint, empty without one.
    """

    now: int
    sessions: int
    ended: int
    overdue: int
    records: Mapping[str, bytes]
    archived: bytes
    log_bytes: int
    index_bytes: int
    snapshot_bytes: float


def records_of(reply: Sequence[bytes]) -> Mapping[str, bytes]:
    """Return what each worker's last heartbeat left; a name that is no text is none of ours."""
    pairs = zip(reply[::2], reply[1::2], strict=True)
    return {worker.decode(errors="backslashreplace"): record for worker, record in pairs}


async def survey(link: Link, keys: Keys) -> Survey:
    """Look at one shard."""
    seconds, microseconds = await link.call(b"TIME")
    now = int(seconds) * 1000 + int(microseconds) // 1000
    records = await link.call(b"HGETALL", keys.workers)
    overdue = await link.call(b"ZRANGEBYSCORE", keys.expiry, b"-inf", now, b"WITHSCORES", b"LIMIT", 0, 1)
    sids = await link.call(b"ZRANGE", keys.expiry, 0, WEIGHED - 1)
    weights = await asyncio.gather(*(_weight(link, keys.snapshot(sid.decode())) for sid in sids))
    return Survey(
        now=now,
        sessions=await link.call(b"ZCARD", keys.expiry),
        ended=await link.call(b"ZCARD", keys.ended),
        overdue=int(float(overdue[1])) if overdue else 0,
        records=records_of(records),
        archived=await link.call(b"GET", keys.archive) or b"",
        log_bytes=await _weight(link, keys.log),
        index_bytes=await _weight(link, keys.expiry) + await _weight(link, keys.ended),
        snapshot_bytes=sum(weights) / len(weights) if weights else 0.0,
    )


class UserIndex(NamedTuple):
    """The index of users of a namespace: how many have one, and the bytes that all of them take, both estimated."""

    users: int
    bytes: int


async def survey_users(link: Link, namespace: str) -> UserIndex:
    """Look at the index of users, by a sample: the server walks its keys in the order of their hashes."""
    cursor, page = await link.call(b"SCAN", b"0", b"COUNT", _PAGE)
    keys = set[bytes](page)
    while len(keys) < SAMPLED and cursor != b"0":
        cursor, page = await link.call(b"SCAN", cursor, b"COUNT", _PAGE)
        keys.update(page)
    found = [key for key in keys if user_of(namespace, key) is not None]
    share = 1.0 if cursor == b"0" else await link.call(b"DBSIZE") / len(keys)
    weights = await asyncio.gather(*(_weight(link, key) for key in found[:WEIGHED]))
    users = round(len(found) * share)
    return UserIndex(users, round(users * sum(weights) / len(weights)) if weights else 0)


async def _weight(link: Link, key: bytes) -> int:
    return int(await link.call(b"MEMORY", b"USAGE", key) or 0)


async def feed_latency(link: Link, address: Address, policy: StorePolicy, keys: Keys, probes: int) -> Sequence[float]:
    """Publish to a channel that nobody else hears, and return how long each message took to come back, in seconds.

    Raises:
        StoreUnavailable: the server did not answer, or a message did not come back within the command time-out.
    """
    loop, timeout = asyncio.get_running_loop(), policy.command_timeout.total_seconds()
    heard: asyncio.Queue[float] = asyncio.Queue()

    def push(_message: list[Any]) -> None:
        heard.put_nowait(loop.time())

    channel = keys.channel + b"probe-" + secrets.token_hex(8).encode()
    connection = await open_connection(address, timeout, handshake=login(address, "evsession-probe"), push=push)
    try:
        connection.send(pack((b"SUBSCRIBE", channel)))
        await _next(heard, timeout)
        found = []
        for _ in range(probes):
            sent_at = loop.time()
            await link.call(b"PUBLISH", channel, b"probe")
            found.append(await _next(heard, timeout) - sent_at)
        return found
    finally:
        connection.abort("probed")


async def _next(heard: asyncio.Queue[float], timeout: float) -> float:
    try:
        async with asyncio.timeout(timeout):
            return await heard.get()
    except TimeoutError as error:
        raise unavailable(f"no message of the feed came within {timeout:g} s", outcome_unknown=False) from error
