"""What a server's settings would lose: read once at start from INFO and CONFIG GET, and only warned about."""

from __future__ import annotations

import logging
from collections.abc import Awaitable, Callable, Mapping
from typing import Any

from evsession.errors import StoreUnavailable

log = logging.getLogger("evsession.redis")

Call = Callable[..., Awaitable[Any]]


def problems(settings: Mapping[str, str]) -> list[str]:
    """Return what in a server's settings can lose sessions, each with its fix; unknown settings are no problem."""
    found = []
    eviction = settings.get("maxmemory-policy", "noeviction")
    if eviction.startswith("allkeys"):
        found.append(
            f"maxmemory-policy is {eviction}, which silently deletes the log and living sessions;"
            " set maxmemory-policy noeviction, or volatile-ttl"
        )
    if settings.get("appendonly") == "no" and not settings.get("save"):
        found.append("neither appendonly nor save is on, so a restart loses all sessions; set appendonly yes")
    elif settings.get("appendonly") == "no":
        found.append("appendonly is off, so a crash loses the minutes since the last save; set appendonly yes")
    if settings.get("min-replicas-to-write") == "0" and settings.get("connected_slaves", "0") != "0":
        found.append(
            "min-replicas-to-write is 0, so a primary that is cut off goes on accepting writes that are lost later;"
            " set min-replicas-to-write 1"
        )
    return found


async def settings_of(call: Call, *sections: str) -> dict[str, str]:
    """Return what a server tells of its settings and of these sections of INFO; nothing of what it keeps to itself."""
    settings: dict[str, str] = {}
    for name in ("maxmemory-policy", "appendonly", "save", "min-replicas-to-write"):
        settings |= await _told(call, b"CONFIG", b"GET", name)
    for section in sections:
        settings |= await _told(call, b"INFO", section)
    return settings


async def warn(call: Call) -> None:
    """Log a warning for each problem; a server that does not tell its settings is taken as it is."""
    for problem in problems(await settings_of(call, "replication")):
        log.warning("%s", problem)


async def _told(call: Call, *command: bytes | str) -> dict[str, str]:
    try:
        reply = await call(*command)
    except StoreUnavailable as error:
        if error.outcome_unknown:
            raise
        return {}  # managed servers forbid CONFIG and INFO
    if isinstance(reply, bytes):
        lines = (line.partition(":") for line in reply.decode().splitlines())
        return {name: value for name, _, value in lines if value}
    texts = [text.decode() for text in reply]
    return dict(zip(texts[::2], texts[1::2], strict=True))
