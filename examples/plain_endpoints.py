"""Plain `def` endpoints: nothing here is async; run `python examples/plain_endpoints.py` to see it answer."""

import os
from datetime import timedelta

from fastapi import FastAPI

from evsession import CookiePolicy, SessionManager, SessionMiddleware
from evsession.fastapi import CsrfToken, CurrentUserId, OptionalUserId, Request, require_csrf, require_recent_login

manager = SessionManager.from_url(
    os.environ.get("EVSESSION_URL", "memory://"),
    secret_key=os.environ.get("EVSESSION_SECRET_KEY"),
    cookie=CookiePolicy.for_localhost(),
)
app = FastAPI(dependencies=[require_csrf()])
app.add_middleware(SessionMiddleware, manager=manager)


@app.get("/")
def home(user: OptionalUserId, token: CsrfToken) -> dict[str, str | None]:
    """Greet, and give the page its token."""
    return {"user": user, "csrf_token": token}


@app.post("/login/{user}")
def login(user: str, request: Request) -> None:
    """Sign in, after the password was checked; the commit runs when this thread is done."""
    request.session.login(user)


@app.post("/cart/{item}")
def add(item: str, request: Request, user: CurrentUserId) -> list[str]:
    """Edit in place, as in any endpoint."""
    cart: list[str] = request.session.setdefault("cart", [])
    cart.append(item)
    return cart


@app.post("/address", dependencies=[require_recent_login(timedelta(minutes=10))])
def move(request: Request) -> str:
    """Do what needs a password that was typed lately."""
    request.session.rotate()
    return "moved"


@app.post("/logout")
def logout(request: Request) -> None:
    """End the session."""
    request.session.logout()


if __name__ == "__main__":
    from fastapi.testclient import TestClient

    with TestClient(app, headers={"Origin": "http://testserver"}) as client:
        client.post("/login/ada")
        print(client.post("/cart/tea").status_code, "without the page's token")
        page = client.get("/").json()
        headers = {"X-CSRF-Token": page["csrf_token"]}
        print(page["user"], client.post("/cart/tea", headers=headers).json())
        print(client.post("/address", headers=headers).json())
        client.post("/logout", headers=headers)
        print(client.get("/").json()["user"], client.post("/cart/tea").status_code)
