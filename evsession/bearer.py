"""Bearer tokens for clients without cookies: what they send, and what they are sent.

A request carries ``Authorization: Bearer <token>``, and ``Session-Version: <version>`` once its client was told one:
the fence that a browser carries in its cookie. A response that hands out a token has it in ``Session-Token``; one that
wrote names the version that its client must see from now on. A credential of another form, such as a JWT, is somebody
else's and counts as none.
Source: RFC 6750, 2.1 (the header) and 2 (no request may use two ways at once).
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any, Final

from evsession.cookies import Found, Headers
from evsession.tokens import FENCE_DIGITS, Token, has_form

_SCHEME: Final = b"bearer "
_VERSION: Final = b"session-version"
_TOKEN: Final = b"session-token"

_ADVICE: Final = b"Bad Request: two session tokens; send the cookie or the Authorization header, not both."


def token_sent(headers: Iterable[tuple[bytes, bytes]]) -> Found:
    """Return the token in a request's ``authorization`` headers: a tuple if several differ, None without one."""
    found = dict.fromkeys(
        value[len(_SCHEME) :].strip(b" \t")
        for name, value in headers
        if name == b"authorization" and value[: len(_SCHEME)].lower() == _SCHEME
    )
    ours = tuple(value for value in found if has_form(value))
    return ours if len(ours) > 1 else next(iter(ours), None)


def version_seen(headers: Iterable[tuple[bytes, bytes]]) -> int:
    """Return the version that a client says it has seen; 0 without one, or for what is none."""
    said = (value.strip(b" \t") for name, value in headers if name == _VERSION)
    return max((int(text) for text in said if len(text) <= FENCE_DIGITS and text.isdigit()), default=0)


def has_token(found: Found) -> bool:
    """Tell whether a cookie's values hold a token, so that another one beside it would be one too many."""
    values = found if isinstance(found, tuple) else (found or b"",)
    return any(has_form(value) for value in values)


def news(version: int, token: Token | None = None) -> Headers:
    """Return the headers that tell a client its version, and its token if there is a new one."""
    handed_out = [(_TOKEN, token.value.encode())] if token is not None else []
    return [*handed_out, (_VERSION, b"%d" % version)]


def two_tokens(scope: Mapping[str, Any]) -> Sequence[dict[str, Any]]:
    """Return the messages that refuse a connection which brought two tokens: a 400, where a handshake can have one."""
    kind = "http.response"
    if scope["type"] == "websocket":
        kind = "websocket.http.response"
        if kind not in scope.get("extensions", {}):
            return [{"type": "websocket.close", "code": 1008, "reason": "two session tokens"}]
    headers = [
        (b"content-type", b"text/plain; charset=utf-8"),
        (b"content-length", b"%d" % len(_ADVICE)),
        (b"www-authenticate", b'Bearer error="invalid_request"'),
        (b"cache-control", b"no-store"),
    ]
    return [
        {"type": f"{kind}.start", "status": 400, "headers": headers},
        {"type": f"{kind}.body", "body": _ADVICE},
    ]
