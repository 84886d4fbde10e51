"""The smallest app: `uvicorn examples.quickstart:app`, or `python examples/quickstart.py` to see it answer."""

import os

from fastapi import FastAPI, Request

from evsession import CookiePolicy, SessionManager, SessionMiddleware, session_of

manager = SessionManager.from_url(
    os.environ.get("EVSESSION_URL", "memory://"),  # or redis://localhost:6379/0, for many workers
    secret_key=os.environ.get("EVSESSION_SECRET_KEY"),  # needed as soon as the store is shared
    cookie=CookiePolicy.for_localhost(),  # on https leave it out: __Host-, Secure, HttpOnly, SameSite=Lax
)
app = FastAPI()
app.add_middleware(SessionMiddleware, manager=manager)


@app.post("/login/{user}")
async def login(request: Request, user: str) -> dict[str, str]:
    """Sign in, after the password was checked."""
    session_of(request).login(user)
    return {"hello": user}


@app.post("/cart/{item}")
async def add(request: Request, item: str) -> list[str]:
    """Edit in place; the change is seen and committed before the answer leaves."""
    cart: list[str] = request.session.setdefault("cart", [])
    cart.append(item)
    return cart


@app.post("/logout")
async def logout(request: Request) -> None:
    """End the session, everywhere and for good."""
    session_of(request).logout()


@app.get("/history")
async def history(request: Request) -> list[str]:
    """Return what happened to this session."""
    return [event.type for event in await manager.audit.history(session_of(request))]


if __name__ == "__main__":
    from fastapi.testclient import TestClient

    with TestClient(app) as client:
        client.post("/login/ada")
        client.post("/cart/tea")
        print(client.post("/cart/honey").json(), client.get("/history").json())
        client.post("/logout")
        print(client.get("/history").json())
