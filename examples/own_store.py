"""Sessions in a table of your own, three coroutines over SQLite: `uvicorn examples.own_store:app`, twice.

What such a backend can do, and what needs a log and raises `Unsupported`: docs/how-to/own-backend.md.
"""

import asyncio
import json
import os
import sqlite3
import time
from typing import Any

from fastapi import FastAPI

from evsession import CookiePolicy, SessionManager, SessionMiddleware
from evsession.fastapi import CurrentSession
from evsession.stores.snapshots import SnapshotStore


class Table:
    """Keeps sealed snapshots under digests: who reads the file opens no session, and what they change is refused."""

    def __init__(self, path: str) -> None:
        self.db = sqlite3.connect(path, isolation_level=None, check_same_thread=False)
        self.db.execute("create table if not exists sessions (id text primary key, expires_at integer, data text)")
        self.db.execute("delete from sessions where expires_at < ?", (time.time() * 1000,))

    async def get_session_data(self, session_id: str) -> dict[str, Any] | None:
        """Look a session up."""
        row = await self.run("select data from sessions where id = ?", session_id)
        return None if row is None else json.loads(row[0])

    async def save_session_data(self, session_id: str, data: dict[str, Any]) -> None:
        """Put it there, in the place of what was there."""
        await self.run("replace into sessions values (?, ?, ?)", session_id, data["expires_at"], json.dumps(data))

    async def delete_session_data(self, session_id: str) -> None:
        """Remove it."""
        await self.run("delete from sessions where id = ?", session_id)

    async def run(self, statement: str, *values: object) -> tuple[Any, ...] | None:
        """Run a statement in a thread, since a disk may make it wait; return its first row."""
        return await asyncio.to_thread(lambda: self.db.execute(statement, values).fetchone())


manager = SessionManager(
    SnapshotStore(Table(os.environ.get("SESSIONS_FILE", "sessions.db"))),
    secret_key=os.environ.get("EVSESSION_SECRET_KEY", "at least 32 characters of your own"),
    cookie=CookiePolicy.for_localhost(),
)
app = FastAPI()
app.add_middleware(SessionMiddleware, manager=manager)


@app.post("/visit")
async def visit(session: CurrentSession) -> int:
    """Count the requests of a visitor."""
    session["visits"] = session.get("visits", 0) + 1
    visits: int = session["visits"]
    return visits


@app.post("/leave")
async def leave(session: CurrentSession) -> None:
    """End the session; its row goes too."""
    session.logout()
