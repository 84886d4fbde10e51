"""Where the next file begins: after the checkpoint, unless a failover or a trim has come between."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Sequence

from evsession.archive.manifest import Checkpoint, Fork, Manifest, Start
from evsession.archive.reader import Archive
from evsession.archive.segment import entry_of
from evsession.store import Store
from evsession.wire import START, Position, StreamId, id_text, parse_id

log = logging.getLogger("evsession.archive")


async def start_of(store: Store, archive: Archive, shard: str, checkpoint: Checkpoint) -> Start | None:
    """Return where the next file of a shard begins; None when the log is empty.

    A checkpoint that is not in the log, although the log is old enough to have it, stands in a history that a failover
    took back: the archive goes on after the last event that both have. One that is older than the whole log means that
    what lay between was never archived, and that is said aloud.

    Raises:
        ArchiveUnavailable: the archive cannot be reached.
        CorruptArchive: it is not what its manifests say.
        StoreUnavailable: the store did not answer.
    """
    oldest = await store.lines(shard, START.id, 1)
    if not oldest:
        return None
    first = parse_id(oldest[0][0])
    newest = await archive.manifest(shard, checkpoint.number) if checkpoint.number else None
    forks = newest.forks if newest else ()
    if checkpoint.position == START:
        return Start(START, forks)
    if await _has(store, shard, checkpoint.position):
        return Start(checkpoint.position, forks, is_proven=True)
    if checkpoint.position.id < first:
        log.critical(
            "the log of shard %s begins at %s, the archive ends at %s: what lay between is lost; find out who trimmed",
            shard, id_text(first), id_text(checkpoint.position.id),
        )  # fmt: skip
        return Start(checkpoint.position, forks, is_gap=True)
    after = await _last_common(store, archive, shard, newest, first)
    log.critical(
        "a failover has taken back what the archive of shard %s holds after %s: it stays there, marked as lost",
        shard, id_text(after.id),
    )  # fmt: skip
    is_proven = after != START and await _has(store, shard, after)
    return Start(after, (*forks, Fork(checkpoint.number + 1, after.id)), is_proven=is_proven)


async def stand(store: Store, shard: str, positions: Sequence[Position]) -> bool:
    """Tell whether all of these stand in the log as it is now.

    Raises:
        StoreUnavailable: the store did not answer.
    """
    return all(await asyncio.gather(*(_has(store, shard, position) for position in positions)))


async def _has(store: Store, shard: str, position: Position) -> bool:
    page = await store.read(shard, position, 1)
    return bool(page) and page[0].position == position


async def _last_common(
    store: Store, archive: Archive, shard: str, newest: Manifest | None, first: StreamId
) -> Position:
    """Return the last archived event that the log has too, or that it is too young to have."""
    manifest = newest
    while manifest is not None:
        if manifest.first.id < first or await _has(store, shard, manifest.first):
            return await _last_within(store, archive, manifest, first)
        manifest = await archive.manifest(shard, manifest.number - 1) if manifest.number > 1 else None
    return START


async def _last_within(store: Store, archive: Archive, manifest: Manifest, first: StreamId) -> Position:
    """Halve a file whose first event both have."""
    lines = await archive.lines(manifest)
    low, high = 0, len(lines) - 1
    while low < high:
        middle = (low + high + 1) // 2
        entry = entry_of(manifest, lines[middle])
        if entry.id < first or await _has(store, manifest.shard, entry.position):
            low = middle
        else:
            high = middle - 1
    return entry_of(manifest, lines[low]).position
