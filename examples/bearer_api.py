"""An API for apps and programs without cookies; run `python examples/bearer_api.py` to see it answer."""

import os

from fastapi import FastAPI, HTTPException, WebSocket
from pydantic import BaseModel

from evsession import SessionManager, SessionMiddleware
from evsession.fastapi import CurrentSession, CurrentUserId, describe_sessions

manager = SessionManager.from_url(
    os.environ.get("EVSESSION_URL", "memory://"),
    secret_key=os.environ.get("EVSESSION_SECRET_KEY"),
    transports=("bearer",),  # ("cookie", "bearer") where browsers come too
)
app = FastAPI()
app.add_middleware(SessionMiddleware, manager=manager)
describe_sessions(app, manager)

PASSWORDS = {"ada": "lovelace"}  # an application asks its database, for a hash


class Credentials(BaseModel):
    """What a client signs in with."""

    user: str
    password: str


class Token(BaseModel):
    """What it gets, in the form that OAuth 2.0 has for it."""

    access_token: str
    token_type: str = "bearer"


@app.post("/token")
async def sign_in(credentials: Credentials, session: CurrentSession) -> Token:
    """Hand out a token; it opens the session until a logout, a timeout or a revocation ends that."""
    if PASSWORDS.get(credentials.user) != credentials.password:
        raise HTTPException(401, "wrong user or password")
    session.login(credentials.user)
    await session.save()
    if session.token is None:  # only where a login hands out a cookie
        raise HTTPException(500, "no token was issued")
    return Token(access_token=session.token.value)


@app.post("/notes")
async def note(text: str, session: CurrentSession, user: CurrentUserId) -> list[str]:
    """Keep a note in the session."""
    session.setdefault("notes", []).append(f"{user}: {text}")
    notes: list[str] = session["notes"]
    return notes


@app.websocket("/notes")
async def read_notes(websocket: WebSocket, session: CurrentSession, user: CurrentUserId) -> None:
    """Send the notes: a WebSocket takes the same header."""
    await websocket.accept()
    await websocket.send_json({"user": user, "notes": session.get("notes", [])})
    await websocket.close()


@app.delete("/token")
async def sign_out(session: CurrentSession) -> None:
    """End the session, and with it the token."""
    session.logout()


if __name__ == "__main__":
    from fastapi.testclient import TestClient

    with TestClient(app) as client:
        token = client.post("/token", json={"user": "ada", "password": "lovelace"}).json()["access_token"]
        headers = {"Authorization": f"Bearer {token}"}
        answer = client.post("/notes?text=hello", headers=headers)
        headers["Session-Version"] = answer.headers["session-version"]  # see what was written, on any worker
        with client.websocket_connect("/notes", headers=headers) as socket:
            print(socket.receive_json())
        client.delete("/token", headers=headers)
        refused = client.post("/notes?text=again", headers=headers)
        print(refused.status_code, refused.headers["www-authenticate"].partition(",")[0])
