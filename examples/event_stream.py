"""An event stream that ends with its session: `uvicorn examples.event_stream:app`.

Sign in with `curl -c jar -X POST localhost:8000/login/ada`, listen with `curl -N -b jar localhost:8000/news`, and in
another window `curl -b jar -X POST localhost:8000/logout`.
"""

import asyncio
import os
from collections.abc import AsyncIterator

from fastapi import FastAPI
from fastapi.responses import StreamingResponse

from evsession import CookiePolicy, SessionManager, SessionMiddleware
from evsession.fastapi import CurrentSession, CurrentUserId

manager = SessionManager.from_url(
    os.environ.get("EVSESSION_URL", "memory://"),
    secret_key=os.environ.get("EVSESSION_SECRET_KEY"),
    cookie=CookiePolicy.for_localhost(),
)
app = FastAPI()
app.add_middleware(SessionMiddleware, manager=manager)

readers: set[asyncio.Queue[str]] = set()
"""Who reads the news, on this worker."""


@app.post("/login/{user}")
async def login(user: str, session: CurrentSession) -> None:
    """Sign in, after the password was checked."""
    session.login(user)


@app.get("/news")
async def news(user: CurrentUserId) -> StreamingResponse:
    """Stream the news. Nothing here asks whether the user is still signed in: the middleware ends the response."""
    return StreamingResponse(news_for(user), media_type="text/event-stream")


async def news_for(user: str) -> AsyncIterator[str]:
    """Yield what is published from now on, until somebody closes this: the browser, or the end of the session."""
    queue = asyncio.Queue[str]()
    readers.add(queue)
    try:
        yield f"data: good morning, {user}\n\n"
        while True:
            yield f"data: {await queue.get()}\n\n"
    finally:
        readers.remove(queue)


@app.post("/news")
async def publish(text: str) -> int:
    """Tell all readers; return how many there are."""
    for queue in readers:
        queue.put_nowait(text)
    return len(readers)


@app.post("/logout")
async def logout(session: CurrentSession) -> None:
    """End the session, and with it every stream that it has open, on whichever worker."""
    session.logout()
