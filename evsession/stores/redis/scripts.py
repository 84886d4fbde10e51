"""The Lua scripts, loaded from their files."""

from __future__ import annotations

from hashlib import sha1
from importlib.resources import files
from typing import Final, get_args


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


Words = tuple[bytes, bytes, bytes, bytes, bytes, bytes, bytes, bytes, bytes, bytes, bytes]
"""What varies from call to call: the last key and the first ten arguments."""


class Call:
    """Packs the calls of one script that have all but eleven words in common: those are packed once.

    Source: 16 µs of a commit were the packing of its 29 arguments; so it takes an eighth (instructions, counted).
    """

    __slots__ = ("_begin", "_count", "_end", "_keys", "_script")

    def __init__(self, script: Script, keys: tuple[bytes, ...], constant: tuple[bytes, ...]) -> None:
        """Take the keys and the last arguments that all calls have."""
        self._script = script
        self._keys = (b"%d" % (len(keys) + 1), *keys)
        self._count = 2 + len(self._keys) + len(get_args(Words)) + len(constant)
        self._begin = self._begun(b"EVALSHA", script.digest)
        self._end = _bulk(*constant) + b"\r\n"

    def _begun(self, command: bytes, script: bytes) -> bytes:
        return b"*%d%b" % (self._count, _bulk(command, script, *self._keys))

    def pack(self, words: Words) -> bytes:
        """Return the bytes of one call."""
        a, b, c, d, e, f, g, h, i, j, k = words
        n = _SIZES
        try:
            # One by one, because a loop over them takes twice as long (counted).
            parts = (
                self._begin, n[len(a)], a, n[len(b)], b, n[len(c)], c, n[len(d)], d, n[len(e)], e, n[len(f)], f,
                n[len(g)], g, n[len(h)], h, n[len(i)], i, n[len(j)], j, n[len(k)], k, self._end,
            )  # fmt: skip
        except IndexError:  # a long one
            return self._begin + _bulk(*words) + self._end
        return b"".join(parts)

    def pack_text(self, words: Words) -> bytes:
        """Return the bytes of the same call for a server that has forgotten the script."""
        return self._begun(b"EVAL", self._script.source) + _bulk(*words) + self._end


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
