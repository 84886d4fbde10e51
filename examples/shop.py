"""A shop on shared sessions: `evsession demo` runs two workers of it, `uvicorn examples.shop:app` one alone.

A person logs in, fills a cart and changes preferences; the page tells for every read which worker served it, from its
own memory or from the server, and shows the session's events as they arrive.
"""

from __future__ import annotations

import asyncio
import json
import os
from collections.abc import AsyncIterator
from contextlib import suppress
from datetime import timedelta
from pathlib import Path
from typing import Annotated, Any

from fastapi import Body, FastAPI, HTTPException, Request, WebSocket
from fastapi.responses import FileResponse, JSONResponse, RedirectResponse, StreamingResponse
from starlette.middleware.cors import CORSMiddleware

from evsession import (
    AuditPolicy,
    CookiePolicy,
    RecordedEvent,
    SessionEnded,
    SessionManager,
    SessionMiddleware,
    session_of,
)

WORKER = int(os.environ.get("SHOP_WORKER", "1"))
"""The number of this process; the page names it."""

ADDRESSES = os.environ.get("SHOP_ADDRESSES", "").split()
"""Where all workers are, in the order of their numbers; the page may ask each of them."""

os.environ.setdefault("EVSESSION_URL", "memory://")
manager = SessionManager.from_env(
    namespace="shop",
    cookie=CookiePolicy.for_localhost(),
    audit=AuditPolicy(context=lambda connection: {"served_by": WORKER}),
)
app = FastAPI(title="evsession demo shop")
app.add_middleware(SessionMiddleware, manager=manager, exclude=["/shop"])
app.add_middleware(
    CORSMiddleware, allow_origins=ADDRESSES, allow_credentials=True, allow_methods=["*"], allow_headers=["*"]
)

Name = Annotated[str, Body(embed=True, pattern=r"^[\w .-]{1,40}$")]
Key = Annotated[str, Body(embed=True, pattern=r"^[a-z0-9_]{1,32}$")]


# ── what a person does ───────────────────────────────────────────────────────────────────────────────────────────────


@app.get("/")
async def root() -> RedirectResponse:
    """Lead to the page."""
    return RedirectResponse("/shop")


@app.get("/shop")
async def page() -> FileResponse:
    """Serve the page, the same for everybody: the path is excluded, so that no session is loaded for it."""
    return FileResponse(Path(__file__).with_suffix(".html"), headers={"cache-control": "no-cache"})


@app.post("/login")
async def login(request: Request, user: Name) -> dict[str, bool]:
    """Sign in. A real shop checks a password first."""
    session = session_of(request)
    session.login(user)
    session["since"] = f"worker {WORKER}"
    return {"ok": True}


@app.post("/cart/add")
async def add_to_cart(request: Request, item: Name) -> dict[str, bool]:
    """Put an item into the cart: the list is edited in place, and the change is seen."""
    session = session_of(request)
    session.setdefault("cart", [])
    session["cart"].append(item)
    return {"ok": True}


@app.post("/set")
async def set_preference(
    request: Request, key: Key, value: Annotated[str, Body(embed=True, max_length=200)]
) -> dict[str, bool]:
    """Change one preference. Others that are changed at the same moment, on any worker, stay changed too."""
    session_of(request)[f"pref_{key}"] = value
    return {"ok": True}


@app.post("/like")
async def like(request: Request) -> dict[str, int]:
    """Count. Of two writers of one key the last one wins, so a counter goes through `manager.update`."""
    session = session_of(request)
    if session.info.id is None:
        session["likes"] = 0
        await session.save()
    return {"likes": await manager.update(session, one_more)}


def one_more(data: dict[str, Any]) -> int:
    """Add one; it runs again, on the newest data, when somebody else was quicker."""
    data["likes"] = data.get("likes", 0) + 1
    return int(data["likes"])


@app.post("/logout")
async def logout(request: Request) -> dict[str, bool]:
    """End the session, for good."""
    session_of(request).logout()
    return {"ok": True}


@app.post("/sign-out-everywhere")
async def sign_out_everywhere(request: Request) -> dict[str, Any]:
    """End all sessions of this user, on all workers, and tell what the receipt says."""
    user = session_of(request).info.user_id
    if user is None:
        raise HTTPException(401)
    receipt = await manager.revoke_user(user, reason="signed out everywhere", timeout=timedelta(seconds=10))
    return {"says": str(receipt), "complete": receipt.complete, "ms": receipt.elapsed.total_seconds() * 1000}


@app.websocket("/live")
async def live(websocket: WebSocket) -> None:
    """Stay open as long as the session lives. Nothing here looks after that: the middleware closes it with 4401."""
    await websocket.accept()
    await websocket.send_text(session_of(websocket).info.user_id or "nobody")
    async for _ in websocket.iter_text():
        pass  # the page has nothing to say


# ── a request that takes its time ────────────────────────────────────────────────────────────────────────────────────

told_to_go_on: dict[str | None, asyncio.Event] = {}


@app.post("/slow-write")
async def slow_write(request: Request, seconds: float = 1.5) -> JSONResponse:
    """Load the session, wait until told or for some seconds, then write. After a logout meanwhile, that is refused."""
    session = session_of(request)
    await wait_until_told(session.info.id, min(seconds, 10))
    session["note"] = f"written {seconds:g} s late"
    try:
        await session.save()
    except SessionEnded as error:
        return JSONResponse({"refused": error.cause}, status_code=409)
    return JSONResponse({"written": session.info.version})


async def wait_until_told(session_id: str | None, seconds: float) -> None:
    """Return when told, or after some seconds."""
    told = told_to_go_on[session_id] = asyncio.Event()
    with suppress(TimeoutError):
        async with asyncio.timeout(seconds):
            await told.wait()
    told_to_go_on.pop(session_id, None)


@app.get("/slow-write/{session_id}")
async def is_slow_write_waiting(session_id: str) -> dict[str, bool]:
    """Tell whether a slow write of a session has begun."""
    return {"waiting": session_id in told_to_go_on}


@app.post("/slow-write/{session_id}")
async def tell_slow_write(session_id: str) -> dict[str, bool]:
    """Tell a slow write to go on."""
    told = told_to_go_on.get(session_id)
    if told is not None:
        told.set()
    return {"ok": told is not None}


# ── what a person sees ───────────────────────────────────────────────────────────────────────────────────────────────


@app.get("/whoami")
async def whoami(request: Request, fresh: bool = False) -> dict[str, Any]:
    """Tell what this worker holds of the session, and where it came from; with `fresh` ask the server anyway."""
    session = session_of(request)
    source = session.info.source
    if fresh:
        await session.revalidate()
    info = session.info
    return {
        "worker": WORKER,
        "workers": ADDRESSES,
        "source": source,
        "session_id": info.id,
        "version": info.version,
        "user": info.user_id,
        "data": dict(session),
        "conflicts": manager.stats().conflicts,
    }


@app.get("/history")
async def history(request: Request) -> list[dict[str, Any]]:
    """Return the events of this session, oldest first."""
    return [told(event) for event in await manager.audit.history(session_of(request))]


@app.get("/events")
async def events(request: Request) -> StreamingResponse:
    """Stream the events of this session as they happen, on whichever worker."""
    return StreamingResponse(lines_of(session_of(request).info.id), media_type="text/event-stream")


async def lines_of(session_id: str | None) -> AsyncIterator[str]:
    """Yield each event once. What this worker's own memory says costs no trip; the log is read only for news."""
    seen = 0
    while session_id is not None:
        info = await manager.get(session_id)
        if info is None or info.version > seen:
            for event in await manager.audit.history(session_id):
                if event.version > seen:
                    seen = event.version
                    yield f"data: {json.dumps(told(event))}\n\n"
        if info is None:
            break
        await asyncio.sleep(0.05)
    yield "event: over\ndata: {}\n\n"


def told(event: RecordedEvent) -> dict[str, Any]:
    """Return an event as the page shows it. Secret values, such as a card's number, are digests in the log already."""
    return {
        "version": event.version,
        "type": event.type,
        "at": event.at.isoformat(),
        "worker": event.context.get("served_by"),
        "user": event.user_id,
        "set": dict(event.set),
        "unset": event.unset,
        "cause": event.cause,
    }
