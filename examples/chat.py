"""A chat whose sockets close with their sessions; run `python examples/chat.py` to see it."""

import os

from fastapi import FastAPI, Request, WebSocket
from starlette.websockets import WebSocketDisconnect

from evsession import CookiePolicy, SessionManager, SessionMiddleware, session_of

manager = SessionManager.from_url(
    os.environ.get("EVSESSION_URL", "memory://"),
    secret_key=os.environ.get("EVSESSION_SECRET_KEY"),
    cookie=CookiePolicy.for_localhost(),
)
app = FastAPI()
app.add_middleware(SessionMiddleware, manager=manager)

room: dict[WebSocket, str] = {}
"""Who is in the room, on this worker."""

ended: list[str] = []
"""Why sessions ended; an application would tidy up what it keeps for them."""


@app.post("/login/{user}")
async def login(request: Request, user: str) -> None:
    """Sign in, after the password was checked."""
    session_of(request).login(user)


@app.post("/logout")
async def logout(request: Request) -> None:
    """End the session: every socket that it has open, on whichever worker, closes with code 4401."""
    session_of(request).logout()


@app.websocket("/chat")
async def chat(websocket: WebSocket) -> None:
    """Pass on what is said. Nothing here asks whether the user is still signed in."""
    user = session_of(websocket).info.user_id
    if user is None:
        await websocket.close(4401, "sign in first")
        return
    await websocket.accept()
    room[websocket] = user
    try:
        async for text in websocket.iter_text():
            await say(f"{user}: {text}")
    finally:
        del room[websocket]
        await say(f"{user} has left")


async def say(text: str) -> None:
    """Tell everybody in the room."""
    for websocket in tuple(room):
        try:
            await websocket.send_text(text)
        except WebSocketDisconnect:
            continue  # closed at this moment; its own handler takes it out of the room


@manager.on_ended
def note(session_id: str, cause: str) -> None:
    """Hear of every session that ends, on every worker."""
    ended.append(cause)


if __name__ == "__main__":
    from fastapi.testclient import TestClient

    with TestClient(app) as ada:
        bob = TestClient(app)
        bob.portal = ada.portal  # both in one event loop, as on one worker
        ada.post("/login/ada")
        bob.post("/login/bob")
        with ada.websocket_connect("/chat") as hers, bob.websocket_connect("/chat") as his:
            hers.send_text("hello")
            print(his.receive_text())
            print(hers.receive_text())
            ada.post("/logout")
            try:
                hers.receive_text()
            except WebSocketDisconnect as closed:
                print(closed.code, closed.reason)
            print(his.receive_text())
        print(ended)
