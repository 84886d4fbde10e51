"""One of several processes that sign the same users in at the same moment; prints what became of each login.

Run with the server's url, and how many users, logins of each at once and sessions of each there may be. First the
oldest sessions give way, then, for as many other users, the newest are refused.
"""

from __future__ import annotations

import asyncio
import json
import sys
from datetime import timedelta

from evsession import CachePolicy, SessionManager, SessionPolicy, StorePolicy
from evsession.config import OnLimit
from tests.conftest import PATIENT
from tests.integration.apps import KEY, Browser, app_of

MAX_STALENESS = timedelta(milliseconds=500)


def manager_of(url: str, on_limit: OnLimit, most: int) -> SessionManager:
    """Return a worker whose users may have so many sessions."""
    policy = SessionPolicy(max_sessions=most, on_limit=on_limit)
    cache = CachePolicy(max_staleness=MAX_STALENESS)
    return SessionManager.from_url(
        url, secret_key=KEY, namespace="shop", policy=policy, cache=cache, patience=StorePolicy(**PATIENT)
    )


async def compete(manager: SessionManager, users: int, at_once: int) -> None:
    """Sign each user in, several times at once, and say what was answered and what token was handed out."""
    app, on_limit = app_of(manager), manager.policy.on_limit

    async def sign_in(user: str) -> tuple[str, int, str | None]:
        browser = Browser()
        answer = await browser.visit(app, lambda session: session.login(user))
        return user, answer.status, browser.token

    for number in range(users):
        for login in await asyncio.gather(*(sign_in(f"{on_limit} {number}") for _ in range(at_once))):
            print(json.dumps(login), flush=True)


async def main(url: str, users: int, at_once: int, most: int) -> None:
    """Compete under the one rule, then under the other."""
    async with manager_of(url, "evict_oldest", most) as evicts, manager_of(url, "reject", most) as rejects:
        print("ready", flush=True)
        sys.stdin.readline()
        for manager in (evicts, rejects):
            await compete(manager, users, at_once)


if __name__ == "__main__":
    asyncio.run(main(sys.argv[1], *map(int, sys.argv[2:])))
