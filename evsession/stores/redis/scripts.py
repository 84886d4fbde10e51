"""The Lua scripts, loaded from their files."""

from __future__ import annotations

from hashlib import sha1
from importlib.resources import files
from typing import Final


class Script:
    """One script: its text, and the digest under which a server that has seen it finds it."""

    __slots__ = ("digest", "name", "source")

    def __init__(self, name: str, *, append: Script | None = None) -> None:
        """Take the script's name, and the script that it calls as `append`, if it does."""
        self.name = name
        self.source = _without_comments((files(f"{__package__}.lua") / f"{name}.lua").read_text())
        if append is not None:
            self.source = b"local function append()\n%b\nend\n%b" % (append.source, self.source)
        self.digest = sha1(self.source, usedforsecurity=False).hexdigest().encode()


class Call:
    """Packs the calls of one script: what is the same in all of them, first keys and last arguments, once.

    Source: 16 µs of a commit were the packing of its 29 arguments; so it takes a third (measured, with cold caches).
    """

    __slots__ = ("_by_digest", "_by_text", "_end", "_middle")

    def __init__(self, script: Script, keys: tuple[bytes, ...], variable: int, constant: tuple[bytes, ...]) -> None:
        """Take the keys that all calls have, and say how many arguments vary, of which the first is one more key."""
        words = (b"%d" % (len(keys) + 1), *keys)
        count = 2 + len(words) + variable + len(constant)
        self._by_digest = b"*%d\r\n%b" % (count, _bulk(b"EVALSHA", script.digest, *words))
        self._by_text = b"*%d\r\n%b" % (count, _bulk(b"EVAL", script.source, *words))
        self._middle = b"$%d\r\n%b\r\n" * variable
        self._end = _bulk(*constant)

    def pack(self, *variable: bytes, by_text: bool = False) -> bytes:
        """Return the bytes of one call; `by_text` for a server that has forgotten the script."""
        words: list[bytes | int] = []
        for word in variable:
            words += (len(word), word)
        return (self._by_text if by_text else self._by_digest) + self._middle % tuple(words) + self._end


def _bulk(*words: bytes) -> bytes:
    return b"".join(b"$%d\r\n%b\r\n" % (len(word), word) for word in words)


def _without_comments(text: str) -> bytes:
    return "\n".join(line for line in text.splitlines() if line and not line.startswith("--")).encode()


ADVANCE: Final = Script("advance")
COMMIT: Final = Script("commit")
COUNT: Final = Script("count")
DUE: Final = Script("due")
ENTER: Final = Script("enter")
EXPUNGE: Final = Script("expunge")
FILL: Final = Script("fill")
GIVE: Final = Script("give")
HEARTBEAT: Final = Script("heartbeat")
LEAVE: Final = Script("leave")
MEMBERS: Final = Script("members")
PRUNE: Final = Script("prune")
RESTORE: Final = Script("restore", append=COMMIT)
RAISE: Final = Script("raise")
REVOKE: Final = Script("revoke")
SETTLE: Final = Script("settle")
TAKE: Final = Script("take")
TOUCH: Final = Script("touch")
TRIM: Final = Script("trim")
WALK: Final = Script("walk")
WITNESS: Final = Script("witness")

ALL: Final = (
    ADVANCE, COMMIT, DUE, ENTER, EXPUNGE, FILL, GIVE, HEARTBEAT, LEAVE, MEMBERS, PRUNE, RAISE, REVOKE, SETTLE, TAKE,
    TOUCH, TRIM, WALK, WITNESS,
)  # fmt: skip
