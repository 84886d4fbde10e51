"""The Lua scripts, loaded from their files."""

from __future__ import annotations

from hashlib import sha1
from importlib.resources import files
from typing import Final


class Script:
    """One script: its text, and the digest under which a server that has seen it finds it."""

    __slots__ = ("digest", "name", "source")

    def __init__(self, name: str) -> None:
        self.name = name
        self.source = _without_comments((files(f"{__package__}.lua") / f"{name}.lua").read_text())
        self.digest = sha1(self.source, usedforsecurity=False).hexdigest().encode()


def _without_comments(text: str) -> bytes:
    return "\n".join(line for line in text.splitlines() if line and not line.startswith("--")).encode()


ADVANCE: Final = Script("advance")
COMMIT: Final = Script("commit")
COUNT: Final = Script("count")
DUE: Final = Script("due")
FILL: Final = Script("fill")
GIVE: Final = Script("give")
HEARTBEAT: Final = Script("heartbeat")
PRUNE: Final = Script("prune")
SETTLE: Final = Script("settle")
TAKE: Final = Script("take")
TOUCH: Final = Script("touch")
TRIM: Final = Script("trim")
WALK: Final = Script("walk")

ALL: Final = (ADVANCE, COMMIT, DUE, FILL, GIVE, HEARTBEAT, PRUNE, SETTLE, TAKE, TOUCH, TRIM, WALK)
