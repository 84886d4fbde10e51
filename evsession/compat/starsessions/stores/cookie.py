"""What takes the place of `CookieStore`: an error that says what to use."""

from __future__ import annotations

from evsession.errors import Unsupported


class CookieStore:
    """Refuses to be made: what lives in a cookie cannot be ended, merged or audited.

    Raises:
        Unsupported: always.
    """

    def __init__(self, secret_key: object = None) -> None:
        instead = "use InMemoryStore(), or RedisStore(connection=…) for several workers"
        raise Unsupported("keeping sessions in the cookie (CookieStore)", instead)
