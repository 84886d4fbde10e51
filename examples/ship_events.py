"""Ship every event to another system, each at least once: `python examples/ship_events.py cursor.txt >> events.jsonl`.

With the app's own settings in the environment: `EVSESSION_URL`, `EVSESSION_SECRET_KEY`. Stop it as you like, `kill -9`
included: it goes on where the cursor stands. What it was about to note then comes once more, with the same cursor.
"""

import asyncio
import json
import sys
from pathlib import Path

from evsession import RecordedEvent, SessionManager


async def ship(manager: SessionManager, place: Path) -> None:
    """Follow the log from where the last run has left off, for as long as this program runs."""
    follower = manager.audit.follow(since=kept(place))
    async for event in follower:
        deliver(event)
        keep(place, follower.cursor)  # only now that it has arrived


def deliver(event: RecordedEvent) -> None:
    """Hand over an event; whoever takes it can leave out what has a cursor that was there before."""
    line = {
        "cursor": event.cursor,
        "at": event.at.isoformat(),
        "type": event.type,
        "session": event.session_id,
        "user": event.user_id,
        "actor": event.actor and f"{event.actor.kind} {event.actor.id}",
        "keys": sorted({*event.set, *event.unset}),
        "cause": event.cause,
    }
    print(json.dumps(line), flush=True)


def kept(place: Path) -> str:
    """Return the cursor of the last run; at first there is none, and all that the log holds is shipped."""
    return place.read_text() if place.exists() else "start"


def keep(place: Path, cursor: str) -> None:
    """Replace the cursor as a whole, so that a crash leaves the old one or the new one."""
    new = place.with_suffix(".new")
    new.write_text(cursor)
    new.replace(place)


async def main() -> None:
    """Read only: this program is no worker, and no receipt waits for it."""
    async with SessionManager.from_env().reading() as manager:
        await ship(manager, Path(sys.argv[1]))


if __name__ == "__main__":
    asyncio.run(main())
