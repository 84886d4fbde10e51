"""Names of keys and channels. All that one script touches carries one hash tag, so that it stays within one slot."""

from __future__ import annotations

import re
from hashlib import blake2b
from typing import Final

from evsession.errors import ConfigError

_NAMESPACE: Final = re.compile(r"[A-Za-z0-9_.-]{1,64}")


class Keys:
    """The keys of one shard, made once. The tag is ``{namespace:shard}``."""

    __slots__ = (
        "again", "archive", "birth", "channel", "end", "ended", "expiry", "held", "latest", "log", "snapshots",
        "sweep_turn", "tag", "trimmed", "workers",
    )  # fmt: skip

    def __init__(self, namespace: str, shard: str) -> None:
        self.tag = tag = f"{{{namespace}:{shard}}}"
        self.log = f"{tag}:log".encode()
        self.snapshots = f"{tag}:s:".encode()
        self.expiry = f"{tag}:exp".encode()
        self.ended = f"{tag}:ended".encode()
        self.end = f"{tag}:end".encode()
        self.trimmed = f"{tag}:trimmed".encode()
        self.birth = f"{tag}:birth".encode()
        self.workers = f"{tag}:workers".encode()
        self.sweep_turn = f"{tag}:turn:sweep".encode()
        self.archive = self.checkpoint("archive")
        self.latest = f"{tag}:latest".encode()
        self.held = f"{tag}:held".encode()
        self.again = f"{tag}:again".encode()
        self.channel = f"{tag}:feed:".encode()
        check_one_slot(self.channel, self.log, self.snapshots, self.expiry, self.end, self.birth, self.workers)

    def snapshot(self, sid: str) -> bytes:
        """Return the key of one session's snapshot."""
        return self.snapshots + sid.encode()

    def turn(self, job: str) -> bytes:
        """Return the key of the turn at a background job."""
        return f"{self.tag}:turn:{job}".encode()

    def checkpoint(self, job: str) -> bytes:
        """Return the key of what a background job left for its next holder."""
        return f"{self.tag}:{job}".encode()


def check_one_slot(*names: bytes) -> None:
    """Raise unless keys and channels belong to one slot of a cluster: a wrong tag passes unnoticed on one server.

    Raises:
        ConfigError: they do not, so that no script could touch them all and no message would arrive.
    """
    if len({hash_slot(name) for name in names}) > 1:
        msg = f"{', '.join(map(repr, names))} are not in one slot; give all that one script touches the same {{tag}}"
        raise ConfigError(msg)


def check_namespace(namespace: str) -> None:
    """Raise unless a namespace can stand within a hash tag.

    Raises:
        ConfigError: it is empty, longer than 64 characters, or has others than letters, digits and ``_ . -``.
    """
    if not _NAMESPACE.fullmatch(namespace):
        msg = f"namespace {namespace!r} must be 1 to 64 letters, digits, '_', '.' or '-', such as namespace=\"shop\""
        raise ConfigError(msg)


def meta_key(namespace: str) -> bytes:
    """Return the key of the hash that guards a namespace."""
    return f"{{{namespace}:meta}}".encode()


def user_key(namespace: str, user: str) -> bytes:
    """Return the key of the index of a user's sessions.

    256 tags spread the users over a cluster. A user id is any text of 1 to 256 characters; a brace in it does no harm,
    because the tag ends at the first.
    """
    tag = blake2b(user.encode(), digest_size=1).hexdigest()
    return f"{{{namespace}:u{tag}}}:u:{user}".encode()


def users_pattern(namespace: str) -> bytes:
    """Return the glob that the keys of all users match; a namespace has no characters that mean something in it."""
    return f"{{{namespace}:u[0-9a-f][0-9a-f]}}:u:*".encode()


def user_of(namespace: str, key: bytes) -> str | None:
    """Return the user whose index has this key; None if it is none that `user_key` made."""
    user = key[len(namespace) + 9 :].decode(errors="replace")
    return user if user_key(namespace, user) == key else None


def hash_slot(key: bytes) -> int:
    """Return the cluster slot of a key or channel.  Source: Redis cluster specification, CRC-16 of the hash tag."""
    start = key.find(b"{")
    end = key.find(b"}", start + 1) if start >= 0 else -1
    tag = key[start + 1 : end] if end > start + 1 else key
    crc = 0
    for byte in tag:
        crc ^= byte << 8
        for _ in range(8):
            crc = ((crc << 1) ^ 0x1021) & 0xFFFF if crc & 0x8000 else (crc << 1) & 0xFFFF
    return crc % 16_384
