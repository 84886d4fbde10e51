"""Protection against forged requests, for apps whose forms and scripts send cookies."""

# FastAPI resolves annotations of callable objects only if they are no strings, so nothing is postponed here.

import os
from typing import Annotated, Final

from fastapi import Depends, Request
from starlette.requests import HTTPConnection

from evsession.bearer import token_sent
from evsession.csrf import SAFE_METHODS, SALT_BYTES, is_from_here, is_good, make
from evsession.fastapi.dependencies import Required
from evsession.fastapi.openapi import SessionScheme
from evsession.fastapi.refusal import refused
from evsession.fastapi.scoped import Scoped
from evsession.keys import Keyring
from evsession.middleware import manager_of, session_of, transport_of

FIELD: Final = "csrf_token"
HEADER: Final = "x-csrf-token"

_FORMS: Final = ("application/x-www-form-urlencoded", "multipart/form-data")


class _CsrfToken(Scoped):
    async def __call__(self, connection: HTTPConnection) -> str:
        """Return a token for a form's hidden field ``csrf_token``, or for a script's header ``X-CSRF-Token``.

        It belongs to the session. A visitor who has none yet gets one that is good until somebody signs in.
        """
        sid, since = _session_of(connection, self.scope_key)
        return make(manager_of(connection, self.scope_key).worker.keys, sid, since, os.urandom(SALT_BYTES))


class _SameOrigin(Scoped):
    async def __call__(self, connection: HTTPConnection) -> None:
        """Refuse what does not come from a page of this site; bearer tokens are sent by no page that has none.

        Raises:
            HTTPException: the request comes from elsewhere, or does not say where from (403).
        """
        scope, allowed = connection.scope, manager_of(connection, self.scope_key).allowed_origins
        if _has_bearer_token(connection, self.scope_key):
            return
        if not is_from_here(scope["headers"], scope["scheme"], allowed):
            raise refused(connection, 403, "this request must come from a page of this site")


class _Csrf(SessionScheme):
    async def __call__(self, connection: HTTPConnection) -> None:
        """Refuse what another site may have sent.

        Raises:
            HTTPException: the request comes from elsewhere, or has no token of this session (403).
        """
        key = self.scope_key
        if connection.scope.get("method", "GET") in SAFE_METHODS or _has_bearer_token(connection, key):
            return
        await same_origin.of(key)(connection)
        manager = manager_of(connection, key)
        sid, since = _session_of(connection, key)
        if sid and not self._is_good(manager.worker.keys, await _sent(connection), sid, since):
            advice = f"send the page's token in the header {HEADER} or the field {FIELD}; reload the page for a new one"
            if isinstance(connection, Request):
                await connection.close()  # the files of a form that nobody will read
            raise refused(connection, 403, advice)

    @staticmethod
    def _is_good(keys: Keyring, text: str, sid: str, since: int) -> bool:
        return is_good(keys, text, sid, since) or (since == 0 and is_good(keys, text, "", 0))


def require_csrf(*, scope_key: str = "session") -> Required:
    """Return a dependency that answers 403 to requests which another site may have forged.

    Methods that change nothing pass, and so do bearer tokens, which no browser sends by itself. Others must come from a
    page of ours (``Sec-Fetch-Site``, else ``Origin``; `allowed_origins` are ours too) and, where there is a session,
    bring a token of it, from `CsrfToken`. Nobody needs a session for a token: one that was made for a visitor without
    is good for an anonymous session, and for none that is signed in.
    """
    return Required(_Csrf().of(scope_key))


def _has_bearer_token(connection: HTTPConnection, scope_key: str) -> bool:
    """Tell whether the session came with a header that no page of another site can send."""
    return transport_of(connection, scope_key) == "bearer" and token_sent(connection.scope["headers"]) is not None


def _session_of(connection: HTTPConnection, scope_key: str) -> tuple[str, int]:
    base = session_of(connection, scope_key).base
    return ("", 0) if base is None else (base.snapshot.sid, base.authenticated_at)


async def _sent(connection: HTTPConnection) -> str:
    if (text := connection.headers.get(HEADER)) is not None:
        return text
    kind = connection.headers.get("content-type", "").partition(";")[0].strip().lower()
    if kind not in _FORMS or not isinstance(connection, Request):
        return ""
    field = (await connection.form()).get(FIELD)
    return field if isinstance(field, str) else ""


csrf_token: Final = _CsrfToken()
same_origin: Final = _SameOrigin()

CsrfToken = Annotated[str, Depends(csrf_token)]
"""A token to put into a form or a page."""
