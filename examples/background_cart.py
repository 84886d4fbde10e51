"""A cart whose order is confirmed in a background task; run `python examples/background_cart.py` to see when."""

import os

from fastapi import BackgroundTasks, FastAPI

from evsession import CookiePolicy, Session, SessionManager, SessionMiddleware
from evsession.fastapi import CurrentSession

manager = SessionManager.from_url(
    os.environ.get("EVSESSION_URL", "memory://"),
    secret_key=os.environ.get("EVSESSION_SECRET_KEY"),
    cookie=CookiePolicy.for_localhost(),
)
app = FastAPI()
app.add_middleware(SessionMiddleware, manager=manager)


@app.post("/cart/{item}")
async def add(item: str, session: CurrentSession) -> None:
    """Begin a session with the first item; visitors who only look have none."""
    session.setdefault("cart", []).append(item)


@app.post("/orders")
async def order(session: CurrentSession, tasks: BackgroundTasks) -> dict[str, list[str]]:
    """Turn the cart into an order. This much is committed before the answer leaves."""
    items: list[str] = session.pop("cart", [])
    session["orders"] = {**session.get("orders", {}), "1": "paid"}
    tasks.add_task(confirm, session, "1")
    return {"ordered": items}


def confirm(session: Session, number: str) -> None:
    """Write the mail after the answer has left; what changes here is committed when the task is done.

    If the visitor signs out meanwhile, it is dropped and logged: no session comes back. A job that takes longer than a
    request should keeps `session.info.id` and calls `manager.update`, as in job_worker.py.
    """
    session["orders"][number] = "confirmed"


@app.get("/orders")
async def orders(session: CurrentSession) -> dict[str, str]:
    """List the orders."""
    found: dict[str, str] = session.get("orders", {})
    return found


@app.get("/history")
async def history(session: CurrentSession) -> list[dict[str, object]]:
    """Return what each event has set."""
    return [dict(event.set) for event in await manager.audit.history(session)]


if __name__ == "__main__":
    from fastapi.testclient import TestClient

    with TestClient(app) as client:
        client.post("/cart/tea")
        print(client.post("/orders").json(), client.get("/orders").json())
        print(client.get("/history").json())
