"""The tutorial's second program, sessions in a service over HTTP: `uvicorn examples.tutorial_backend:app`.

The service is the program beside it: `uvicorn examples.session_service:app --port 8001`.
"""

import os
from typing import Any

import httpx
from fastapi import FastAPI, HTTPException, Request

from evsession.compat.fastapi_sessions import SessionMiddleware


class ServiceBackend:
    """Keeps sessions in a service that answers `GET`, `PUT` and `DELETE` of ``/sessions/{id}``."""

    def __init__(self, base_url: str) -> None:
        self.base_url = base_url

    async def get_session_data(self, session_id: str) -> dict[str, Any] | None:
        """Ask the service for a session."""
        async with httpx.AsyncClient(base_url=self.base_url) as client:
            response = await client.get(f"/sessions/{session_id}")
        if response.status_code == 404:
            return None
        found: dict[str, Any] = response.raise_for_status().json()
        return found

    async def save_session_data(self, session_id: str, data: dict[str, Any]) -> None:
        """Have the service keep a session."""
        async with httpx.AsyncClient(base_url=self.base_url) as client:
            response = await client.put(f"/sessions/{session_id}", json=data)
        response.raise_for_status()

    async def delete_session_data(self, session_id: str) -> None:
        """Have the service forget a session."""
        async with httpx.AsyncClient(base_url=self.base_url) as client:
            response = await client.delete(f"/sessions/{session_id}")
        response.raise_for_status()


app = FastAPI()
app.add_middleware(
    SessionMiddleware,
    secret_key=b"a secret key that only this program has",
    cookie_name="my_app_session",
    cookie_https_only=False,
    autoload_cookie=True,
    backend=ServiceBackend(os.environ.get("SESSION_SERVICE", "http://127.0.0.1:8001")),
)


@app.post("/login")
async def login(request: Request) -> dict[str, str]:
    """Sign in, after the password was checked."""
    request.session.update({"user_id": 42, "username": "ada"})
    return {"message": "signed in"}


@app.get("/profile")
async def profile(request: Request) -> dict[str, Any]:
    """Say who is signed in."""
    username = request.session.get("username")
    if username is None:
        raise HTTPException(401, "not signed in")
    return {"user_id": request.session.get("user_id"), "username": username}


@app.post("/logout")
async def logout(request: Request) -> dict[str, str]:
    """End the session."""
    request.session.clear()
    return {"message": "signed out"}
