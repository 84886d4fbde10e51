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


_SHORT: Final = 1024
_SIZES: Final = tuple(b"\r\n$%d\r\n" % size for size in range(_SHORT))
"""What stands between a word and the next one of that size.  Source: made once, they save half of the packing."""


class Call:
    """Packs the calls of one script: what is the same in all of them, first keys and last arguments, once.

    Source: 16 µs of a commit were the packing of its 29 arguments; so it takes a quarter (measured, with cold caches).
    """

    __slots__ = ("_begin", "_count", "_end", "_script", "_words")

    def __init__(self, script: Script, keys: tuple[bytes, ...], variable: int, constant: tuple[bytes, ...]) -> None:
        """Take the keys that all calls have, and say how many arguments vary, of which the first is one more key."""
        words = (b"%d" % (len(keys) + 1), *keys)
        self._script, self._words = script, words
        self._count = 2 + len(words) + variable + len(constant)
        self._begin = self._begun(b"EVALSHA", script.digest)
        self._end = _bulk(*constant) + b"\r\n"

    def _begun(self, command: bytes, script: bytes) -> bytes:
        return b"*%d%b" % (self._count, _bulk(command, script, *self._words))

    def pack(self, *variable: bytes, by_text: bool = False) -> bytes:
        """Return the bytes of one call; `by_text` for a server that has forgotten the script."""
        parts = [self._begun(b"EVAL", self._script.source) if by_text else self._begin]
        for word in variable:
            size = len(word)
            parts += (_SIZES[size] if size < _SHORT else b"\r\n$%d\r\n" % size, word)
        parts.append(self._end)
        return b"".join(parts)


def _bulk(*words: bytes) -> bytes:
    return b"".join(b"\r\n$%d\r\n%b" % (len(word), word) for word in words)


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
