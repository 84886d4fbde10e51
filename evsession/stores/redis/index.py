"""The index of users on one server: which sessions each may have."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from evsession.store import Indexed, Member, Users, in_order
from evsession.stores.redis.keys import user_key, user_of, users_pattern
from evsession.stores.redis.link import Link
from evsession.stores.redis.scripts import ENTER, LEAVE, MEMBERS


class RedisIndex:
    """The part of a `RedisStore` that keeps the index; `link` returns the open connection."""

    def __init__(self, namespace: str, link: Callable[[], Link]) -> None:
        self._namespace = namespace
        self._link = link

    async def enter(self, user: str, sid: str, keep: int, device: bytes, *, anew: bool, lists: bool) -> Indexed:
        """Put a session into the index of its user; return all of it if asked."""
        key, flags = self._key(user), (int(anew), int(lists))
        now, was_there, pairs = await self._link().run(ENTER, (key,), sid, keep, device, *flags)
        return Indexed(now, _members(pairs), bool(was_there))

    async def leave(self, user: str, sid: str, at: int | None) -> bool:
        """Take a session out of the index, if it entered then."""
        return bool(await self._link().run(LEAVE, (self._key(user),), sid, "" if at is None else at))

    async def members(self, user: str) -> Indexed:
        """Return the sessions that a user may have."""
        now, pairs = await self._link().run(MEMBERS, (self._key(user),))
        return Indexed(now, _members(pairs))

    async def users(self, cursor: str, count: int) -> Users:
        """Return a page of the users that have an index."""
        pattern = users_pattern(self._namespace)
        after, keys = await self._link().call(b"SCAN", cursor or "0", b"MATCH", pattern, b"COUNT", count)
        found = (user_of(self._namespace, key) for key in keys)
        return Users([user for user in found if user is not None], "" if after == b"0" else after.decode())

    def _key(self, user: str) -> bytes:
        return user_key(self._namespace, user)


def _members(pairs: Sequence[Any]) -> list[Member]:
    return in_order(_member(sid.decode(), value) for sid, value in zip(pairs[::2], pairs[1::2], strict=True))


def _member(sid: str, value: bytes) -> Member:
    at, _, device = value.partition(b" ")
    return Member(sid, int(at), device)
