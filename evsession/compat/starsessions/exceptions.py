"""The errors of starsessions, in evsession's tree."""

from __future__ import annotations

from typing import ClassVar

from evsession.errors import ConfigError, EvsessionError


class SessionError(EvsessionError):
    """What starsessions raises by itself."""


class SessionNotLoaded(SessionError):
    """The session was used before it was loaded."""

    solution: ClassVar[str] = 'Call "await load_session(connection)", or add SessionAutoloadMiddleware.'

    def __init__(self, text: str) -> None:
        super().__init__(f"{text} {self.solution}")


class ImproperlyConfigured(SessionError, ConfigError):
    """A setting is missing or wrong."""
