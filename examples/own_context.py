"""Who did it and from where, in every event, as your application knows it; run `python examples/own_context.py`."""

import hmac
import os
from typing import Any

from fastapi import FastAPI
from starlette.requests import HTTPConnection

from evsession import Actor, AuditPolicy, CookiePolicy, SessionManager, SessionMiddleware
from evsession.fastapi import CurrentSession

ROBOT_KEY = os.environ.get("ROBOT_KEY", "what only the robot of the warehouse knows")


def context_of(connection: HTTPConnection) -> dict[str, Any]:
    """Return what each event is to say beside worker, route and address: here the shop, told by the host."""
    return {"shop": connection.url.hostname}


def actor_of(connection: HTTPConnection) -> Actor | None:
    """Return who acts; None is the visitor. A header proves nothing, unless it holds a secret."""
    sent = connection.headers.get("x-robot-key", "")
    return Actor.service("warehouse") if hmac.compare_digest(sent.encode(), ROBOT_KEY.encode()) else None


manager = SessionManager.from_url(
    os.environ.get("EVSESSION_URL", "memory://"),
    secret_key=os.environ.get("EVSESSION_SECRET_KEY"),
    cookie=CookiePolicy.for_localhost(),
    audit=AuditPolicy(
        context=context_of,
        actor=actor_of,
        trusted_proxies=("10.0.0.0/8",),  # they alone are believed when they say whom they connect
        address="full",  # by default its network is kept, and not the address
    ),
)
app = FastAPI()
app.add_middleware(SessionMiddleware, manager=manager)


@app.post("/cart/{item}")
async def add(item: str, session: CurrentSession) -> None:
    """Change the session, which is what makes an event; both functions run then, and for nothing else."""
    session.setdefault("cart", []).append(item)


@app.get("/history")
async def history(session: CurrentSession) -> list[str]:
    """Return who did what, from where."""
    return [
        f"{event.actor.id if event.actor else 'visitor'}: {event.set['cart'][-1]}, {event.context}"
        for event in await manager.audit.history(session)
    ]


if __name__ == "__main__":
    from fastapi.testclient import TestClient

    with TestClient(app, base_url="http://tea.localhost", client=("10.0.0.7", 5000)) as client:
        client.headers["X-Forwarded-For"] = "203.0.113.9"
        client.post("/cart/tea")
        client.post("/cart/sample", headers={"X-Robot-Key": ROBOT_KEY})
        print(*client.get("/history").json(), sep="\n")
