"""Find a user's sessions, sign them out, and say what became of them, without a web app.

With the app's own settings in the environment: `EVSESSION_URL=redis://… EVSESSION_SECRET_KEY=…
python examples/admin_script.py ada --admin joe --ticket OPS-12`. The command `evsession revoke` does all this and more;
what a script of your own adds is what only your application knows.
"""

import argparse
import asyncio
import sys
from datetime import timedelta

from evsession import Actor, SessionManager

LONGEST_WAIT = timedelta(seconds=5)
"""For workers that hang: after 2.1 s at the default policy they serve nothing from memory, and the receipt says so."""


async def sign_out(manager: SessionManager, user: str, admin: Actor, ticket: str) -> bool:
    """End all sessions of a user; return whether no worker would serve one of them any more."""
    sessions = await manager.sessions_of(user)
    for info in sessions:
        print(f"{info.id}  {info.device}  from {info.address}  seen {info.last_seen}")
    with manager.acting_as(admin, ticket=ticket):
        receipt = await manager.revoke_user(user, reason="asked for by phone", timeout=LONGEST_WAIT)
    print(f"signed out, {receipt}")
    for info in sessions:
        print(await manager.audit.explain(info))
    return receipt.complete


async def main() -> int:
    """Return 0 once it is certain that nobody is served any more as this user."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("user")
    parser.add_argument("--admin", required=True, help="who does it: the audit trail keeps it")
    parser.add_argument("--ticket", required=True, help="where it was asked for")
    asked = parser.parse_args()
    async with SessionManager.from_env() as manager:
        return 0 if await sign_out(manager, asked.user, Actor.admin(asked.admin), asked.ticket) else 3


if __name__ == "__main__":
    sys.exit(asyncio.run(main()))
