"""Sign in with OAuth 2 and Authlib: `uvicorn examples.oauth_login:app`, then open http://localhost:8000/login.

Authlib keeps state, nonce and PKCE verifier in `request.session`, each of them a secret that the log never holds. The
identity provider stands in the same program, so that it runs without one; give yours to `oauth.register` instead.
"""

import os
import secrets
from typing import Any

import httpx2
from authlib.integrations.starlette_client import OAuth, OAuthError
from fastapi import FastAPI, HTTPException, Request
from fastapi.responses import JSONResponse, RedirectResponse, Response

from evsession import CookiePolicy, SessionManager, SessionMiddleware, session_of

provider = FastAPI()
codes: dict[str, str] = {}


@provider.get("/authorize")
async def authorize(redirect_uri: str, state: str, code_challenge: str) -> Response:
    """Send the browser back with a code, after Ada has typed her password."""
    code = secrets.token_urlsafe(16)
    codes[code] = code_challenge
    return RedirectResponse(f"{redirect_uri}?code={code}&state={state}")


@provider.post("/token")
async def token(request: Request) -> Response:
    """Give a token for a code, once, to whoever began with its challenge."""
    form = dict(item.split("=", 1) for item in (await request.body()).decode().split("&"))
    challenge = codes.pop(form.get("code", ""), None)
    if challenge is None or "code_verifier" not in form:
        return JSONResponse({"error": "invalid_grant"}, status_code=400)
    return JSONResponse({"access_token": "of-ada", "token_type": "Bearer"})


@provider.get("/userinfo")
async def userinfo(request: Request) -> dict[str, str]:
    """Say who a token is of."""
    if request.headers.get("authorization") != "Bearer of-ada":
        raise HTTPException(401)
    return {"sub": "ada", "name": "Ada", "sid": "visit-1"}


oauth: Any = OAuth()  # Authlib comes without types
oauth.register(
    "idp",
    client_id="shop",
    client_secret="a secret between shop and provider",
    authorize_url="/idp/authorize",
    access_token_url="http://idp/token",
    api_base_url="http://idp/",
    client_kwargs={"code_challenge_method": "S256", "transport": httpx2.ASGITransport(provider)},
)

manager = SessionManager.from_url(
    os.environ.get("EVSESSION_URL", "memory://"),
    secret_key=os.environ.get("EVSESSION_SECRET_KEY"),
    cookie=CookiePolicy.for_localhost(),
)
app = FastAPI()
app.add_middleware(SessionMiddleware, manager=manager)
app.mount("/idp", provider)


@app.get("/login")
async def login(request: Request) -> Response:
    """Send the browser to the provider."""
    answer: Response = await oauth.idp.authorize_redirect(request, str(request.url_for("callback")))
    return answer


@app.get("/callback")
async def callback(request: Request) -> Response:
    """Sign in whom the provider names; the session can be revoked by the provider's own session id."""
    try:
        granted = await oauth.idp.authorize_access_token(request)
    except OAuthError as error:
        raise HTTPException(400, "the sign-in did not begin here, or took too long") from error
    user = (await oauth.idp.get("userinfo", token=granted)).raise_for_status().json()
    session = session_of(request)
    session.login(user["sub"], names={"idp": f"http://idp|{user['sid']}"})
    session["name"] = user["name"]
    return RedirectResponse("/me")


@app.get("/me")
async def me(request: Request) -> dict[str, Any]:
    """Say who is signed in, and what the session holds."""
    session = session_of(request)
    return {"user": session.info.user_id, "names": session.info.names, "data": dict(session)}
