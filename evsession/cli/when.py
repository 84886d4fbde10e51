"""Where a command that reads the log begins and ends, as a person writes it."""

from __future__ import annotations

import re
from datetime import UTC, datetime, timedelta
from typing import Annotated, Final

import typer

from evsession.errors import ConfigError

_UNITS: Final = {"s": "seconds", "m": "minutes", "h": "hours", "d": "days"}

Since = Annotated[
    str | None,
    typer.Option(metavar="WHEN", help="A time such as 2026-11-21T08:30, an age such as 15m or 7d, or a cursor."),
]
Until = Annotated[str | None, typer.Option(metavar="WHEN", help="A time, or an age; events before it.")]
User = Annotated[str | None, typer.Option("--user", metavar="ID", help="Only of sessions of this user.")]
OneSession = Annotated[str | None, typer.Option("--session", metavar="SESSION", help="Only of this session.")]
Types = Annotated[
    list[str] | None,
    typer.Option(
        "--type",
        metavar="TYPE",
        help="Only created, authenticated, updated, renewed, ended or named_revoked; repeat it.",
    ),
]
Route = Annotated[
    str | None, typer.Option("--route", metavar="PATTERN", help="Only of routes like this, * standing for anything.")
]


def since_of(text: str | None, otherwise: str) -> str | datetime:
    """Return where to begin, as `manager.audit.follow` takes it.

    Raises:
        ConfigError: it is neither a time, nor an age, nor a cursor.
    """
    if text is None or text in ("start", "now"):
        return text or otherwise
    from evsession.audit.cursor import Cursor

    try:
        Cursor.parse(text)
    except ConfigError:
        return time_of(text)
    return text


def time_of(text: str) -> datetime:
    """Return the time that a text names: as ISO 8601 has it, or so long ago.

    Raises:
        ConfigError: it names none.
    """
    if text == "now":
        return datetime.now(UTC)
    try:
        if text[-1:] in "smhd" and text[:-1].isdigit():
            return datetime.now(UTC) - duration(text)
        time = datetime.fromisoformat(text)
    except (ValueError, OverflowError) as error:  # so long ago that there are no years for it
        msg = f"{text!r} is no time; write 2026-11-21T08:30:00, or an age such as 15m, 2h or 7d"
        raise ConfigError(msg) from error
    return time if time.tzinfo is not None else time.replace(tzinfo=UTC)


def moment_of(text: str) -> int | datetime:
    """Return what a text names of a session's life: a version, or a time as `time_of` has it.

    Raises:
        ConfigError: it is neither.
    """
    if text.isdecimal() and text.isascii():
        return int(text)
    try:
        return time_of(text)
    except ConfigError as error:
        msg = f"{text!r} is neither a version nor a time; write 7, or 2026-11-21T08:30:00, or an age such as 15m or 2h"
        raise ConfigError(msg) from error


def pause_of(text: str) -> timedelta:
    """Return how long a command that stays shall rest between two rounds.

    Raises:
        ConfigError: it says no time, or one without any rest.
    """
    pause = duration(text)
    if not pause:
        msg = f"--every {text} leaves no time between two rounds; write 1s or more"
        raise ConfigError(msg)
    return pause


def duration(text: str) -> timedelta:
    """Return the time that a text such as ``90s``, ``5m``, ``1h`` or ``7d`` says.

    Raises:
        ConfigError: it says none.
    """
    match = re.fullmatch(r"(\d{1,9})([smhd])", text)
    if match is None:
        msg = f"{text!r} is no time; write a number and s, m, h or d, such as 60s or 7d"
        raise ConfigError(msg)
    return timedelta(**{_UNITS[match[2]]: int(match[1])})
