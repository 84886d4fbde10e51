"""Why was it not saved? Three ways to lose a change, and what tells; run `python examples/debugging.py`."""

import logging
import os
import sys

from fastapi import BackgroundTasks, FastAPI

from evsession import CookiePolicy, SessionManager, SessionMiddleware
from evsession.fastapi import CurrentSession

manager = SessionManager.from_url(
    os.environ.get("EVSESSION_URL", "memory://"),
    secret_key=os.environ.get("EVSESSION_SECRET_KEY"),
    cookie=CookiePolicy.for_localhost(),
)
app = FastAPI()
app.add_middleware(SessionMiddleware, manager=manager)

logging.basicConfig(stream=sys.stdout, format="  %(levelname)s %(message)s")
logging.getLogger("evsession.request").setLevel(logging.DEBUG)  # one line for each request; never a value or token


@app.post("/note/{text}")
async def note(text: str, session: CurrentSession) -> dict[str, object]:
    """Say what this request found, and what it is about to commit."""
    session["note"] = text
    info = session.info
    return {"id": info.id, "version": info.version, "from": info.source, "commits": sorted(info.changes.set_)}


@app.post("/raises")
async def raises(session: CurrentSession) -> None:
    """Lose the change, as a database would roll back: nobody handles what is raised."""
    session["note"] = "never seen"
    raise RuntimeError


@app.post("/late")
async def late(session: CurrentSession, tasks: BackgroundTasks) -> None:
    """Lose it, if the visitor has no session yet: the response that could have set the cookie has left."""
    tasks.add_task(session.update, note="never seen")


@app.post("/leave")
async def leave(session: CurrentSession, tasks: BackgroundTasks) -> None:
    """Lose it: the session is over, and it is too late to begin another one."""
    session.logout()
    tasks.add_task(session.update, note="never seen")


@app.get("/sessions/{session_id}")
async def tell(session_id: str) -> list[str]:
    """Return all that was ever saved, and what became of the session; `evsession explain` does so in a terminal."""
    events = [f"{event.version} {event.type} {dict(event.set)}" for event in await manager.audit.history(session_id)]
    return [*events, str(await manager.audit.explain(session_id))]


if __name__ == "__main__":
    from fastapi.testclient import TestClient

    with TestClient(app, raise_server_exceptions=False) as client:
        for path in ("/late", "/note/tea", "/raises", "/note/tea", "/note/milk"):
            answer = client.post(path)
            print(path, answer.json() if answer.is_success else answer.status_code)
        client.post("/leave")
        print(*client.get(f"/sessions/{answer.json()['id']}").json(), sep="\n")
