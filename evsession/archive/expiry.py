"""Removing old files on purpose: a signed mark first, then the files. Their manifests stay, and so does the chain."""

from __future__ import annotations

from pathlib import PurePosixPath

from evsession.archive.manifest import file_name
from evsession.archive.mark import NAME, Mark
from evsession.archive.reader import Archive
from evsession.archive.signing import Signer, Trusted
from evsession.errors import ArchiveUnavailable, CorruptArchive


async def expire(archive: Archive, shard: str, signer: Signer, trusted: Trusted, horizon: int) -> int:
    """Remove the files of a shard whose events are all from before a time in ms; return how many went.

    The newest file stays whatever its age. A mark that an earlier key signed is signed again, so that who has only the
    newest key can check it. Killed in between, it goes on the next time.

    Raises:
        ArchiveUnavailable: the archive cannot be reached or written; what is marked is removed the next time.
        CorruptArchive: a manifest is missing or none, or nobody trusted has signed the mark.
    """
    mark = await archive.mark(shard) or Mark(namespace=archive.namespace, shard=shard, number=0)
    if mark.number and not trusted.vouches(mark):
        raise CorruptArchive(archive.path(shard, NAME), "was signed by nobody who is trusted")
    number = await _expired(archive, shard, mark.number, horizon)
    if number > mark.number or (number and mark.key_id != signer.key_id):
        signed = signer.sign(Mark(namespace=archive.namespace, shard=shard, number=number))
        await archive.target.put(archive.path(shard, NAME), signed.pack())
        if await archive.mark(shard) != signed:
            raise ArchiveUnavailable(str(archive.target), f"has lost {NAME} of shard {shard}, which was just written")
    return await _remove(archive, shard, number)


async def _expired(archive: Archive, shard: str, number: int, horizon: int) -> int:
    """Return the number of the last file from before the horizon; the newest one is never it."""
    newest = await archive.newest(shard)
    while newest is not None and number + 1 < newest.number:
        manifest = await archive.found(shard, number + 1)
        if manifest is None or max(manifest.first.id, manifest.last.id) >= (horizon, 0):
            break
        number += 1
    return number


async def _remove(archive: Archive, shard: str, number: int) -> int:
    names = await archive.target.names(archive.path(shard, "")) if number else []
    old = [name for name in names if PurePosixPath(name).suffix == ".zst" and name <= file_name(number)]
    for name in old:
        await archive.target.remove(archive.path(shard, name))
    return len(old)
