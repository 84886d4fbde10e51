"""A worker without HTTP: jobs come from a queue and change sessions, `python examples/job_worker.py < jobs.jsonl`.

With the app's own settings in the environment: `EVSESSION_URL`, `EVSESSION_SECRET_KEY`. A job is a line such as
`{"id": "J-1", "session": "00c3RhcmZpc2hzdGFyZmlzaA", "points": 5}`; an application would take it from its broker.
"""

import asyncio
import json
import sys
from typing import Any, TypedDict

from evsession import Actor, SessionEnded, SessionManager

LOYALTY = Actor.service("loyalty")


class Job(TypedDict):
    """So many points for a visitor."""

    id: str
    session: str
    points: int


async def work(manager: SessionManager, job: Job) -> str:
    """Do a job once, however often the queue delivers it, and whatever the visitor's requests change meanwhile."""

    def credit(data: dict[str, Any]) -> bool:
        """Run again on the newest data when somebody else was quicker, so it depends on them alone."""
        if job["id"] in data.setdefault("credited", []):
            return False
        data["credited"].append(job["id"])
        data["points"] = data.get("points", 0) + job["points"]
        return True

    try:
        with manager.acting_as(LOYALTY, ticket=job["id"]):
            is_new = await manager.update(job["session"], credit)
    except SessionEnded as error:
        return f"{job['id']} too late: {error.cause}"
    return f"{job['id']} {'done' if is_new else 'was done before'}"


async def main() -> None:
    """Take jobs for as long as there are any."""
    async with SessionManager.from_env() as manager:
        while line := await asyncio.to_thread(sys.stdin.readline):
            print(await work(manager, json.loads(line)), flush=True)


if __name__ == "__main__":
    asyncio.run(main())
