"""Verifying the control log: who can write to Redis must not be able to undo a forced logout in silence."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from evsession import SessionManager
from evsession.view import CONTROL
from tests.integration.test_verify import kinds, manager_on
from tests.servers import Server

LOG = "{cli:ctl}:log"


async def revoked(manager: SessionManager) -> None:
    """Revoke some users, one of them twice."""
    for user in (1, 2, 1):
        await manager.revoke_user(user, reason="lost phone")


async def test_revocations_verify(any_server: Server) -> None:
    """On every server, and after old ones were removed."""
    async with manager_on(any_server) as manager:
        await revoked(manager)
        assert (await manager.audit.verify()).faults == []
        assert await manager.worker.store.expunge(-1_000) == 2
        report = await manager.audit.verify()
        assert report.faults == []
        assert [(one.shard, one.entries) for one in report.trimmed] == [(CONTROL, 2)]


async def test_exceptions_verify(server: Server) -> None:
    """Of the newest entry of a name, also where those before it were removed."""
    async with manager_on(server) as manager:
        await manager.revoke_user(1)
        for keep in ("old", "new", "new"):
            await manager.worker.revoker.append("user:1", manager.stamp(None, None), keep=keep, reason="", waits=False)
        assert (await manager.audit.verify()).faults == []
        assert await manager.worker.store.expunge(-1_000) == 3
        assert (await manager.audit.verify()).faults == []


def _again(server: Server, change: Callable[[bytes], bytes]) -> None:
    """Write the log anew, each value changed."""
    entries = server.cli("XRANGE", LOG, "-", "+")
    server.cli("DEL", LOG)
    for id_, fields in entries:
        server.cli("XADD", LOG, id_, *map(change, fields))


def _except(server: Server) -> None:
    """Keep a session alive in what is told of the newest entry of a name."""
    newest = server.cli("HGET", "{cli:ctl}:latest", "user:1")
    server.cli("HSET", "{cli:ctl}:latest", "user:1", newest + b" 00abc 0-0")


FORGERIES: dict[str, tuple[Callable[[Server], object], str]] = {
    "the name": (lambda server: _again(server, lambda value: value.replace(b"user:2", b"user:9")), "altered"),
    "the reason": (lambda server: _again(server, lambda value: value.replace(b"phone", b"house")), "altered"),
    "the stream's name alone": (
        lambda server: _again(server, lambda value: b"user:9" if value == b"user:2" else value),
        "altered",
    ),
    "the key": (lambda server: _again(server, lambda value: b"beef" if len(value) == 4 else value), "unknown_key"),
    "something else": (lambda server: server.cli("XADD", LOG, "*", "hello", "world"), "foreign"),
    "an entry deleted": (
        lambda server: server.cli("XDEL", LOG, server.cli("XRANGE", LOG, "-", "+")[1][0]),
        "deleted",
    ),
    "the newest forgotten": (lambda server: server.cli("HDEL", "{cli:ctl}:latest", "user:2"), "forgotten"),
    "an older one named": (lambda server: server.cli("HSET", "{cli:ctl}:latest", "user:2", "1-1"), "forgotten"),
    "a name made up": (lambda server: server.cli("HSET", "{cli:ctl}:latest", "user:9", "1-1"), "unfounded"),
    "an exception made up": (_except, "unfounded"),
    "no id": (lambda server: server.cli("HSET", "{cli:ctl}:latest", "user:9", "soon"), "unfounded"),
    "a place made up": (lambda server: server.cli("APPEND", "{cli:ctl}:held", b"\0" * 9 + b"x" * 17), "unfounded"),
    "another issue made up": (lambda server: server.cli("HSET", "{cli:ctl}:again", "x" * 16, "1-1 {}"), "unfounded"),
    "the places forgotten": (lambda server: server.cli("DEL", "{cli:ctl}:held"), "forgotten"),
}


@pytest.mark.parametrize("name", FORGERIES)
async def test_a_revocation_that_somebody_changed_is_found(server: Server, name: str) -> None:
    """In the log, and in what workers read when they start."""
    async with manager_on(server) as manager:
        await revoked(manager)
    forge, expected = FORGERIES[name]
    forge(server)
    async with manager_on(server).reading() as reader:
        assert expected in kinds(await reader.audit.verify())
