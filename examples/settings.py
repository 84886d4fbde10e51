"""Settings from the environment: `EVSESSION_URL=redis://… EVSESSION_SECRET_KEY=… uvicorn examples.settings:app`.

`EVSESSION_NAMESPACE` names the app where several share a server, and a second key after a space is one that is being
replaced. What else is to be set from outside is the app's own to name: here `IDLE_MINUTES` and `DEVELOPMENT`.
"""

import os
from datetime import timedelta

from fastapi import FastAPI

from evsession import CookiePolicy, SessionManager, SessionMiddleware, SessionPolicy
from evsession.fastapi import CurrentSession, health_routes

manager = SessionManager.from_env(
    policy=SessionPolicy(idle_timeout=timedelta(minutes=float(os.environ.get("IDLE_MINUTES", "30")))),
    cookie=CookiePolicy.for_localhost() if os.environ.get("DEVELOPMENT") else CookiePolicy(),
)
app = FastAPI()
app.add_middleware(SessionMiddleware, manager=manager, exclude=["/health"])
app.include_router(health_routes(manager))


@app.post("/visit")
async def visit(session: CurrentSession) -> int:
    """Count the requests of a visitor."""
    session["visits"] = session.get("visits", 0) + 1
    visits: int = session["visits"]
    return visits
