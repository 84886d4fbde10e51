"""Archivers that are killed: `python -m tests.archive.victim URL FOLDER STEP:NTH…`; prints their exit codes.

The n-th argument's archiver has the namespace ``kill<n>``. It is killed after the n-th time that it has done the step,
or, for the step "torn", in the middle of the n-th file. All are forks of one process, which is what makes them quick.
"""

from __future__ import annotations

import asyncio
import os
import signal
import sys
from pathlib import Path

from evsession.archive.archiver import Progress
from tests.archive.logs import Torn, archive_in, archiver, opened


async def archive_until_killed(url: str, namespace: str, folder: str, step: str, nth: int) -> None:
    """Archive; whoever comes back from this was not killed."""
    left = nth

    def on_progress(progress: Progress) -> None:
        nonlocal left
        left -= progress.step == step
        if not left:
            os.kill(os.getpid(), signal.SIGKILL)

    files = Torn(nth) if step == "torn" else None
    async with opened(url, namespace) as store:
        await archiver(store, archive_in(Path(folder), files, namespace), on_progress=on_progress).run()


def main(url: str, folder: str, *kills: str) -> None:
    """Start one archiver for each kill, and wait for all."""
    pids = []
    for at, kill in enumerate(kills):
        step, _, nth = kill.partition(":")
        pids.append(os.fork())
        if not pids[-1]:
            asyncio.run(archive_until_killed(url, f"kill{at}", folder, step, int(nth)))
            os._exit(0)
    print(*(os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) for pid in pids))


if __name__ == "__main__":
    main(*sys.argv[1:])
