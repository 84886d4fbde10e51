"""Made-up visitors: their events are as real as anybody's."""

from __future__ import annotations

import json

from evsession import SessionManager
from evsession.audit.generate import generate
from tests.integration.test_command_line import KEY, command, settings
from tests.servers import Server


async def test_the_command_writes_events_that_verify(server: Server) -> None:
    """At least so many; a second time only where it is told to."""
    done = await command("generate", "--events", "400", "--json", **settings(server))
    assert done.exit_code == 0, done.output
    made = json.loads(done.stdout)
    assert 400 <= made["events"] < 3_000
    done = await command("verify", "--json", **settings(server))
    report = json.loads(done.stdout)
    assert (report["ok"], report["events"], report["sessions"]) == (True, made["events"], made["sessions"])
    done = await command("generate", "--events", "1", **settings(server))
    assert done.exit_code == 1
    assert "--add" in done.output
    done = await command("generate", "--events", "10", "--add", "--seed", "7", **settings(server))
    assert done.exit_code == 0, done.output
    assert "events of" in done.output


async def test_visitors_do_all_that_visitors_do() -> None:
    """Every kind of event but a new secret, secret values, staff that act, users who come again."""
    async with SessionManager.from_url("memory://", secret_key=KEY) as manager:
        made = await generate(manager.worker, 2_000)
        lines = await manager.worker.store.lines("00", (0, 0), 10_000)
        assert len(lines) == made.events
        assert {line[1] for line in lines} == {b"created", b"updated", b"authenticated", b"ended"}
        assert 0.5 * made.sessions < made.ended < 0.9 * made.sessions
        assert any(line[7] == b"admin joe" for line in lines)
        assert any(b"redacted:" in line[9] for line in lines)
        assert (await manager.audit.verify()).ok


async def test_the_same_seed_makes_the_same_visitors() -> None:
    """So that two runs of a benchmark measure the same."""
    stories = []
    for _ in range(2):
        async with SessionManager.from_url("memory://", secret_key=KEY) as manager:
            await generate(manager.worker, 300, seed=5)
            lines = await manager.worker.store.lines("00", (0, 0), 10_000)
            stories.append([(line[1], line[2], line[3], line[9]) for line in lines])
    assert stories[0] == stories[1]
