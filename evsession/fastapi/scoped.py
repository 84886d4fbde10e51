"""Dependencies that know under which key of the scope their session is."""

from __future__ import annotations

from copy import copy
from typing import Self, cast


class Scoped:
    """A dependency on the session of one middleware, which is in the scope under that one's `scope_key`."""

    def __init__(self, scope_key: str = "session") -> None:
        self.scope_key = scope_key
        self._by_key: dict[str, Self] = {scope_key: cast("Self", self)}

    def of(self, scope_key: str) -> Self:
        """Return the same dependency on the session of another middleware of the app.

        It is one object for each key, so FastAPI calls it once a request, and tests can override it.
        """
        if scope_key not in self._by_key:
            self._by_key[scope_key] = other = copy(self)
            other._is_of(scope_key)
        return self._by_key[scope_key]

    def _is_of(self, scope_key: str) -> None:
        self.scope_key = scope_key
