"""The tutorial's first program, sessions in memory: `uvicorn examples.tutorial_memory:app`."""

from typing import Any

from fastapi import FastAPI, HTTPException, Request

from evsession.compat.fastapi_sessions import SessionMiddleware

app = FastAPI()
app.add_middleware(
    SessionMiddleware,
    secret_key=b"a secret key that only this program has",
    cookie_name="my_app_session",
    cookie_https_only=False,
    autoload_cookie=True,
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
