"""Verifying with an archive: its files first, then archive and log as one."""

from __future__ import annotations

from typing import TYPE_CHECKING

from evsession.audit.entries import Entries
from evsession.audit.report import Progress, Report
from evsession.audit.verify import verify
from evsession.proof import Fault
from evsession.view import CONTROL

if TYPE_CHECKING:
    from evsession.archive.signing import Trusted
    from evsession.worker import Worker


async def verify_all(
    worker: Worker, archive: Entries | None, trusted: Trusted | None, progress: Progress | None, jobs: int
) -> Report:
    """Verify what a worker's store and an archive hold; see `Audit.verify`."""
    files = await _checked(worker, archive, trusted, progress)
    report = await verify(
        worker.store,
        worker.keys,
        absolute=worker.session_policy.absolute_timeout,
        archive=None if files.faults else archive,  # what cannot be trusted, or even read, proves nothing
        archived=files.events,
        progress=progress,
        jobs=jobs,
    )
    report.archived = files.events
    for fault in files.faults:
        report.add(fault)
    return report


async def _checked(
    worker: Worker, archive: Entries | None, trusted: Trusted | None, progress: Progress | None
) -> Report:
    """Return what is wrong with the files of an archive, and how many events they have."""
    found = Report()
    if archive is None:
        return found
    from evsession.archive.check import check_archive
    from evsession.archive.manifest import JOB, file_name
    from evsession.archive.reader import Archive
    from evsession.archive.signing import Trusted

    if not isinstance(archive, Archive):  # somebody's own, which has no files to check
        return found

    def on_file(shard: str, number: int, events: int) -> None:
        found.events += events
        if progress is not None:
            progress("checking the archive", found.events, found.events)

    shards = (CONTROL, *worker.store.shards)
    checkpoints = {shard: await worker.store.checkpoint(shard, JOB) for shard in shards}
    async for fault in check_archive(archive, trusted or Trusted.of(worker.keys), checkpoints, on_file):
        detail = f"{fault.kind}: {fault.detail}"
        found.add(Fault(kind="archive", shard=fault.shard, id=file_name(fault.number), detail=detail))
    return found
