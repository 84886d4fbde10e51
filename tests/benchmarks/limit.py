"""The limit study: the shortest cached read one can write by hand, to know what there is to gain."""

from __future__ import annotations

import secrets
from hashlib import blake2b
from typing import Any

from starlette.types import ASGIApp, Message, Receive, Scope, Send


class LimitStudy:
    """Sessions in a dict. It never expires, checks, tells a cache apart or writes anything but the first state."""

    def __init__(self, app: ASGIApp) -> None:
        self.app = app
        self._sids: dict[bytes, str] = {}
        self._sessions: dict[str, dict[str, Any]] = {}

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        for name, value in scope["headers"]:
            if name == b"cookie" and value.startswith(b"session="):
                sid = self._sids[blake2b(value[8:], digest_size=16).digest()]
                scope["session"] = dict(self._sessions[sid])
                await self.app(scope, receive, send)
                return
        await self._begin(scope, receive, send)

    async def _begin(self, scope: Scope, receive: Receive, send: Send) -> None:
        session: dict[str, Any] = {}
        scope["session"] = session
        token = secrets.token_urlsafe(48)

        async def with_cookie(message: Message) -> None:
            if message["type"] == "http.response.start" and session:
                self._sids[blake2b(token.encode(), digest_size=16).digest()] = token
                self._sessions[token] = session
                message["headers"] = [*message["headers"], (b"set-cookie", f"session={token}".encode())]
            await send(message)

        await self.app(scope, receive, with_cookie)
