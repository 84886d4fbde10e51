"""One worker process, told what to do line by line: ``python -m tests.chaos.node SETTINGS``, JSON both ways.

`SETTINGS` names the server's `url`; `drop` is the share of feed messages that get lost on their way in, `delay` the
seconds by which the reply of a fill may come late; `without_guard` takes one guard away: "lease" or "gap"; `hasty` is
for a server that hangs on purpose.
"""

from __future__ import annotations

import asyncio
import json
import logging
import random
import sys
import time
from collections.abc import Sequence
from datetime import timedelta
from pathlib import Path
from typing import Any

from evsession import CachePolicy, SessionEnded, SessionManager, SessionPolicy, StoreUnavailable
from evsession.cache import Cache
from evsession.store import FillReply
from evsession.view import Beat, View
from tests.chaos.apps import HASTY, PATIENCE, Browser, app_of, manager_of
from tests.chaos.readers import Readers


def without(guard: str) -> None:
    """Take one guard out of the cache, in this process."""
    match guard:
        case "lease":
            Cache._serve = _serve_for_ever  # type: ignore[method-assign]
        case "gap":
            Cache._take = _taking_whatever_comes(Cache._take)  # type: ignore[method-assign]


def _serve_for_ever(self: Cache, changed: View) -> None:
    for view in self._views.values():
        view.serve_until = float("inf")


def _taking_whatever_comes(take: Any) -> Any:
    def taking(self: Cache, view: View, prev: Any, id_: tuple[int, int], part: bytes) -> None:
        if view.position is not None and id_ > view.position.id:
            view.position = prev
        take(self, view, prev, id_, part)

    return taking


class Node:
    """One manager, the faults around it, and the work that a test gives it. Each public method is one command."""

    def __init__(self, manager: SessionManager) -> None:
        self.manager = manager
        self.app = app_of(manager)
        self.readers = Readers(self.app)

    def harm(self, drop: float, delay: float) -> None:
        """Lose a share of the feed's messages, and hold back one of four replies to fills for up to `delay` seconds."""
        replica, store = self.manager.worker.replica, self.manager.worker.store
        on_message, fill = replica.on_message, store.fill

        def on_some_messages(shard: str, message: bytes) -> None:
            if random.random() >= drop:
                on_message(shard, message)

        async def fill_slowly(sid: str, beats: Sequence[Beat] = ()) -> FillReply:
            reply = await fill(sid, beats)
            if random.random() < 0.25:
                await asyncio.sleep(random.random() * delay)
            return reply

        replica.on_message = on_some_messages  # type: ignore[method-assign]
        if delay:
            store.fill = fill_slowly  # type: ignore[method-assign]

    async def storm(self, sessions: list[list[str]], seconds: float, path: str) -> dict[str, Any]:
        """Read and write at random; leave one line for each read and each acknowledged write in a file."""
        storm = Storm(self, [(sid, Browser(self.app, token)) for sid, token in sessions])
        await storm.blow(seconds)
        await asyncio.to_thread(Path(path).write_text, "".join(storm.lines))
        stats = self.manager.stats()
        return {"counts": storm.counts, "cache": {name: getattr(stats.cache, name) for name in stats.cache.__slots__}}

    async def set_own_keys(self, cookie: str, name: str, number: int) -> list[int]:
        """Set one key each from many requests at once; return their statuses."""
        answers = [Browser(self.app, cookie).get(f"/set/{name}{key}/{key}") for key in range(number)]
        return [answer.status for answer in await asyncio.gather(*answers)]

    async def count(self, sid: str, number: int) -> int:
        """Add one to the counter many times at once; return how many of these were acknowledged."""
        return len(await asyncio.gather(*(self.manager.update(sid, _bump) for _ in range(number))))

    async def write_until_gone(self, cookie: str, name: str, writers: int) -> dict[str, int]:
        """Write and read from many browsers until each has found its session gone 20 times in a row."""
        seen = {"alive": 0, "gone": 0, "back": 0}

        async def write(writer: int) -> None:
            number = in_a_row = 0
            was_gone = False
            while in_a_row < 20:
                number += 1
                await Browser(self.app, cookie).get(f"/set/{name}{writer}/{number}")
                is_gone = (await Browser(self.app, cookie).get("/read")).held == {}
                seen["gone" if is_gone else "back" if was_gone else "alive"] += 1
                in_a_row, was_gone = in_a_row + 1 if is_gone else 0, was_gone or is_gone
                await asyncio.sleep(0)

        await asyncio.gather(*(write(writer) for writer in range(writers)))
        return seen

    async def read(self, cookie: str) -> dict[str, Any]:
        """Read one session as a browser does."""
        answer = await Browser(self.app, cookie).get("/read")
        return {"status": answer.status, **(json.loads(answer.body) if answer.status == 200 else {})}

    async def logout(self, cookie: str) -> int:
        """Sign out; return the status."""
        return (await Browser(self.app, cookie).get("/logout")).status

    # ── forced logout ────────────────────────────────────────────────────────────────────────────────────────────────

    async def sign_in(self, user: str, times: int) -> list[str]:
        """Sign a user in from many browsers; return their cookies."""
        browsers = [Browser(self.app) for _ in range(times)]
        await asyncio.gather(*(browser.get(f"/login/{user}") for browser in browsers))
        return [str(browser.cookie) for browser in browsers]

    async def seat(self, user: str, generation: int, cookies: list[str]) -> None:
        """Read these sessions from now on."""
        self.readers.seat(user, generation, cookies)

    async def start_reading(self, readers: int) -> None:
        """Begin to read at random."""
        self.readers.start(readers)

    async def stop_reading(self) -> dict[str, Any]:
        """Read no more; return how often, and when each generation of a user was served last."""
        await self.readers.stop()
        return {"reads": self.readers.reads, "served": self.readers.served}

    async def connect(self, user: str, cookies: list[str]) -> None:
        """Hold a socket open for each cookie."""
        for cookie in cookies:
            await self.readers.connect(user, cookie)

    async def closed(self, user: str) -> list[float]:
        """Return when each of a user's sockets was closed."""
        async with asyncio.timeout(60):
            return await self.readers.closed(user)

    async def open_sockets(self) -> list[int]:
        """Return how many sockets are open here, by this test's count and by the manager's."""
        return [self.readers.open(), self.manager.stats().open]

    async def revoke(self, user: str, timeout: float) -> dict[str, Any]:
        """Sign a user out everywhere; return the receipt, and when it was asked for and had."""
        asked_at = time.monotonic()
        receipt = await self.manager.revoke_user(user, timeout=timedelta(seconds=timeout))
        facts = {name: getattr(receipt, name) for name in ("id", "complete", "confirmed", "fenced", "pending")}
        return facts | {"asked_at": asked_at, "had_at": time.monotonic(), "said": str(receipt)}

    async def name(self) -> str:
        """Return the worker's id."""
        return self.manager.worker.id


def _bump(data: dict[str, Any]) -> int:
    data["n"] = n = data.get("n", 0) + 1
    data["at"] = time.monotonic()
    return int(n)


class Storm:
    """Random reads and writes of many sessions, half of them on few, each noted with this machine's monotonic time."""

    def __init__(self, node: Node, sessions: list[tuple[str, Browser]]) -> None:
        self.counts = {"reads": 0, "hits": 0, "refused": 0, "writes": 0, "failed": 0}
        self.lines: list[str] = []
        """``r index time n`` before a read that showed n; ``w index time n`` after the write of n was acknowledged."""
        self._manager = node.manager
        self._sessions = sessions
        self._few = max(1, len(sessions) // 40)

    async def blow(self, seconds: float) -> None:
        """Go on for some seconds."""
        end = time.monotonic() + seconds
        await asyncio.gather(
            *(self._read_until(end) for _ in range(8)),
            *(self._write_until(end) for _ in range(2)),
        )

    def _any(self) -> int:
        return random.randrange(self._few if random.random() < 0.5 else len(self._sessions))

    async def _read_until(self, end: float) -> None:
        while (now := time.monotonic()) < end:
            index = self._any()
            answer = await self._sessions[index][1].get("/read")
            if answer.status == 200 and answer.held:
                self.counts["reads"] += 1
                self.counts["hits"] += answer.source == "memory"
                self.lines.append(f"r {index} {now:.6f} {answer.held['n']}\n")
            else:
                self.counts["refused"] += 1
            await asyncio.sleep(0.003 if random.random() < 0.5 else 0)

    async def _write_until(self, end: float) -> None:
        while time.monotonic() < end:
            index = self._any()
            try:
                n = await self._manager.update(self._sessions[index][0], _bump)
            except (StoreUnavailable, SessionEnded):
                self.counts["failed"] += 1
                await asyncio.sleep(0.05)
            else:
                self.counts["writes"] += 1
                self.lines.append(f"w {index} {time.monotonic():.6f} {n}\n")
            await asyncio.sleep(random.random() * 0.03)


async def _commands() -> asyncio.StreamReader:
    reader = asyncio.StreamReader(limit=2**24)
    await asyncio.get_running_loop().connect_read_pipe(lambda: asyncio.StreamReaderProtocol(reader), sys.stdin)
    return reader


async def main(
    url: str,
    *,
    drop: float = 0,
    delay: float = 0,
    without_guard: str = "",
    staleness: float = 0.5,
    stale_for: float = 0,
    hasty: bool = False,
) -> None:
    """Serve commands until the input ends."""
    logging.basicConfig(level=logging.CRITICAL)
    without(without_guard)
    manager = manager_of(
        url,
        patience=HASTY if hasty else PATIENCE,
        cache=CachePolicy(
            max_staleness=timedelta(seconds=staleness),
            on_outage="stale" if stale_for else "refuse",
            stale_for=timedelta(seconds=stale_for),
        ),
        policy=SessionPolicy(max_keys=5000, anonymous_per_second=100_000),
    )
    node = Node(manager)
    node.harm(drop, delay)
    commands = await _commands()
    async with manager:
        print(json.dumps("ready"), flush=True)
        while line := await commands.readline():
            name, arguments = json.loads(line)
            print(json.dumps(await getattr(node, name)(**arguments)), flush=True)


if __name__ == "__main__":
    asyncio.run(main(**json.loads(sys.argv[1])))
