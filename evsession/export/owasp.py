"""OWASP's names for what happened.

Source: OWASP Application Logging Vocabulary Cheat Sheet, sections "Authentication" and "Session Management".
"""

from __future__ import annotations

from typing import Final

_REASONS: Final = {"idle": "timeout", "absolute": "timeout"}
"""Where the cheat sheet has a word of its own for a cause."""


def term_of(type_: str, who: str | None, cause: str | None, session_id: str | None) -> tuple[str, str] | None:
    """Return the term for an event, with its arguments, and its level; None where the vocabulary has none.

    A change of a session's data has none: which of it is sensitive, only the application knows.
    """
    match type_:
        case "created":
            return _term("session_created"), "INFO"
        case "authenticated":
            return _term("authn_login_success", who), "INFO"
        case "renewed":
            return _term("session_renewed", who), "INFO"
        case "ended" if cause == "token_reused":
            return _term("authn_token_reuse", who, session_id), "CRITICAL"
        case "ended":
            return _term("session_expired", who, _REASONS.get(cause or "", cause)), "INFO"
        case "named_revoked":
            return _term("authn_token_revoked", who, "all"), "INFO"
        case _:
            return None


def _term(name: str, who: str | None = None, *more: str | None) -> str:
    arguments = ",".join(_argument(argument) for argument in (who, *more) if who is not None or more)
    return f"{name}:{arguments}" if arguments else name


def _argument(text: str | None) -> str:
    """Return an argument in which no separator or line break of the vocabulary stands."""
    return "" if text is None else "".join(c if c.isprintable() and c not in ",:" else "_" for c in text)
