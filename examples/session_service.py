"""A service that keeps sessions for other programs: `uvicorn examples.session_service:app --port 8001`.

It sees digests and sealed snapshots, so it needs no more trust than a disk; put it where only your programs reach it.
"""

import time
from typing import Any

from fastapi import FastAPI, HTTPException

app = FastAPI()
kept: dict[str, dict[str, Any]] = {}


@app.get("/sessions")
async def count() -> int:
    """Forget what has expired, and say how much is left."""
    now = time.time() * 1000
    for session_id in [session_id for session_id, data in kept.items() if data["expires_at"] < now]:
        del kept[session_id]
    return len(kept)


@app.get("/sessions/{session_id}")
async def read(session_id: str) -> dict[str, Any]:
    """Return what is kept under an id."""
    if session_id not in kept:
        raise HTTPException(404, "no such session")
    return kept[session_id]


@app.put("/sessions/{session_id}", status_code=204)
async def write(session_id: str, data: dict[str, Any]) -> None:
    """Keep a session under an id."""
    kept[session_id] = data


@app.delete("/sessions/{session_id}", status_code=204)
async def remove(session_id: str) -> None:
    """Forget an id."""
    kept.pop(session_id, None)
