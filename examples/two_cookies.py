"""Two sessions in one app, visitors and staff, each with a cookie of its own; run `python examples/two_cookies.py`."""

import os
from datetime import timedelta
from typing import Annotated

from fastapi import Depends, FastAPI

from evsession import CookiePolicy, Session, SessionManager, SessionMiddleware, SessionPolicy
from evsession.fastapi import CurrentSession, OptionalUserId, current_session, current_user_id, describe_sessions

URL = os.environ.get("EVSESSION_URL", "memory://")
KEY = os.environ.get("EVSESSION_SECRET_KEY")

visitors = SessionManager.from_url(URL, secret_key=KEY, namespace="shop", cookie=CookiePolicy.for_localhost())
staff = SessionManager.from_url(
    URL,
    secret_key=KEY,
    namespace="staff",  # a log, keys and users of its own: neither's token opens a session of the other
    cookie=CookiePolicy(name="staff", path="/admin", same_site="strict", secure=False),  # on https: without the last
    policy=SessionPolicy(idle_timeout=timedelta(minutes=5), absolute_timeout=timedelta(hours=1)),
)
app = FastAPI()
app.add_middleware(SessionMiddleware, manager=visitors)
app.add_middleware(SessionMiddleware, manager=staff, scope_key="staff")  # the visitor's stays `request.session`
describe_sessions(app, visitors)
describe_sessions(app, staff, scope_key="staff")

StaffSession = Annotated[Session, Depends(current_session.of("staff"))]
StaffId = Annotated[str, Depends(current_user_id.of("staff"))]  # 401 for all others


@app.post("/login/{user}")
async def login(user: str, session: CurrentSession) -> None:
    """Sign in a visitor."""
    session.login(user)


@app.post("/admin/login/{user}")
async def login_staff(user: str, session: StaffSession) -> None:
    """Sign in one of the staff, after the second factor was checked."""
    session.login(user)


@app.get("/admin/whoami")
async def whoami(member: StaffId, visitor: OptionalUserId) -> list[str | None]:
    """Say who is signed in, and as whom in the shop."""
    return [member, visitor]


@app.post("/admin/sign-out/{user}")
async def sign_out(user: str, member: StaffId) -> int:
    """Sign a visitor out; staff who have the same name stay."""
    receipt = await visitors.revoke_user(user, reason=f"asked for by {member}")
    return len(receipt.confirmed)


if __name__ == "__main__":
    from fastapi.testclient import TestClient

    with TestClient(app) as client:
        client.post("/login/ada")
        print(client.get("/admin/whoami").status_code)
        client.post("/admin/login/ada")
        print(sorted(client.cookies), client.get("/admin/whoami").json())
        client.post("/admin/sign-out/ada")
        print(client.get("/admin/whoami").json())
