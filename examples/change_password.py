"""Sign out everywhere after a change of password; run `python examples/change_password.py` to see who stays."""

import os

from fastapi import FastAPI, HTTPException
from pydantic import BaseModel

from evsession import CookiePolicy, SessionManager, SessionMiddleware
from evsession.fastapi import CurrentSession, CurrentUserId

manager = SessionManager.from_url(
    os.environ.get("EVSESSION_URL", "memory://"),
    secret_key=os.environ.get("EVSESSION_SECRET_KEY"),
    cookie=CookiePolicy.for_localhost(),
)
app = FastAPI()
app.add_middleware(SessionMiddleware, manager=manager)

passwords = {"ada": "lovelace"}
"""An application keeps hashes, in its database."""


class Change(BaseModel):
    """What the form sends."""

    old: str
    new: str


@app.post("/login/{user}")
async def login(user: str, password: str, session: CurrentSession) -> None:
    """Sign in with the password of the moment."""
    if passwords.get(user) != password:
        raise HTTPException(401, "wrong user or password")
    session.login(user)


@app.get("/me")
async def me(user: CurrentUserId) -> str:
    """Say who is signed in."""
    return user


@app.post("/password")
async def change_password(change: Change, session: CurrentSession, user: CurrentUserId) -> str:
    """Sign out whoever else has a session of this user, logins under way with the old password included."""
    if passwords[user] != change.old:
        raise HTTPException(403, "this is not your password")
    passwords[user] = change.new
    receipt = await manager.revoke_user(user, keep=session, reason="password changed")
    return f"signed out everywhere else: {receipt.complete}"


if __name__ == "__main__":
    from fastapi.testclient import TestClient

    with TestClient(app) as laptop:
        phone = TestClient(app)
        phone.portal = laptop.portal  # both in one event loop, as on one worker
        for device in (laptop, phone):
            device.post("/login/ada?password=lovelace")
        thief = dict(laptop.cookies)
        print(laptop.post("/password", json={"old": "lovelace", "new": "byron"}).json())
        print(laptop.get("/me").json(), phone.get("/me").status_code)
        laptop.cookies = thief
        print(laptop.get("/me").json()["detail"])
