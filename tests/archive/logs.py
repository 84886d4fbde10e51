"""Logs to archive: events of a few sessions on a real server, and what an archive and a log have of them together."""

from __future__ import annotations

import os
import secrets
import signal
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from datetime import timedelta
from pathlib import Path
from typing import Any, Final

from fsspec.implementations.local import LocalFileSystem

from evsession.archive.archiver import Archiver
from evsession.archive.reader import Archive
from evsession.archive.signing import Signer, Trusted
from evsession.archive.target import Target
from evsession.keys import Keyring
from evsession.store import Store
from evsession.stores.redis import RedisStore
from evsession.wire import START, Entry, StreamId
from tests.contract.builder import Heard, begin, created, happened, updated
from tests.contract.conftest import PATIENT

RING: Final = Keyring("the key of those who archive in tests", namespace="shop")
SHARDS: Final = ("00", "01")
LAST: Final[StreamId] = (2**63, 0)
"""Later than any event."""

ALL_GONE: Final = timedelta(seconds=-1)
"""A retention that keeps nothing but what must be kept."""


@asynccontextmanager
async def opened(url: str, namespace: str) -> AsyncIterator[RedisStore]:
    """Open a store of two shards."""
    store = RedisStore(url, namespace=namespace, shards=len(SHARDS), policy=PATIENT)
    await store.open(f"archiver-{secrets.token_hex(2)}", 2_000, Heard())
    try:
        yield store
    finally:
        await store.close()


async def lived(store: Store, sessions: int, events: int) -> None:
    """Let sessions have events, in turns, spread over the shards."""
    states = [begin(SHARDS[n % len(SHARDS)]) for n in range(sessions)]
    for n in range(events):
        for at, state in enumerate(states):
            _, states[at] = await happened(store, state, updated(n=n, cart=["tea"]) if n else created())


async def logged(store: Store) -> dict[str, list[Entry]]:
    """Return all that the logs have."""
    return {shard: list(await store.read(shard, START, 100_000)) for shard in SHARDS}


async def archived(archive: Archive) -> dict[str, list[Entry]]:
    """Return all that the archive has."""
    return {shard: [entry async for entry in archive.between(shard, START.id, LAST)] for shard in SHARDS}


async def either(store: Store, archive: Archive) -> dict[str, list[Entry]]:
    """Return the archive and what the log has after it, as a reader puts them together."""
    past, now = await archived(archive), await logged(store)
    ends = {shard: past[shard][-1].id if past[shard] else START.id for shard in SHARDS}
    return {shard: past[shard] + [entry for entry in now[shard] if entry.id > ends[shard]] for shard in SHARDS}


def archive_in(folder: Path, files: Any = None, namespace: str = "shop") -> Archive:
    """Return an archive in a folder, through a file system with faults if one is given."""
    return Archive(Target(files or LocalFileSystem(), str(folder)), namespace)


def archiver(store: Store, archive: Archive, **options: Any) -> Archiver:
    """Return an archiver of small files, whose turn lapses soon."""
    usual: dict[str, Any] = {
        "signer": Signer.of(RING),
        "trusted": Trusted.of(RING),
        "turn": timedelta(seconds=0.4),
        "most_events": 40,
        "keep": ALL_GONE,
    }
    return Archiver(store=store, archive=archive, **usual | options)


def files_in(folder: Path, pattern: str) -> dict[str, bytes]:
    """Return the files below a folder whose names match, by their paths within it."""
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob(pattern) if path.is_file()}


class Torn(LocalFileSystem):  # type: ignore[misc]
    """Dies in the middle of writing the n-th file."""

    cachable = False

    def __init__(self, nth: int) -> None:
        super().__init__()
        self.left = nth

    def pipe_file(self, path: str, value: bytes, mode: str = "overwrite", **kwargs: Any) -> None:
        self.left -= 1
        super().pipe_file(path, value if self.left else value[: len(value) // 2])
        if not self.left:
            os.kill(os.getpid(), signal.SIGKILL)
