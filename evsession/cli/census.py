"""What `stats` shows and `doctor` judges: every shard, every worker and the archiver, at one moment."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, NamedTuple

from evsession.errors import Unsupported
from evsession.view import CONTROL, WorkerRecord, worker_record
from evsession.wire import START, StreamId, parse_id

if TYPE_CHECKING:
    from evsession.manager import SessionManager
    from evsession.store import Counters
    from evsession.stores.redis import RedisStore
    from evsession.stores.redis.checkup import Survey, UserIndex


class Working(NamedTuple):
    """One worker at one shard: ms since its last heartbeat, ms of events that it has not applied, its bound in ms."""

    worker: str
    shard: str
    silent: int
    behind: int
    bound: int

    @property
    def is_alive(self) -> bool:
        """Whether it beats; the sweeper removes the record of one that does not."""
        return self.silent <= self.bound


class Part(NamedTuple):
    """One shard: what it holds, and how far everybody is."""

    shard: str
    counters: Counters
    survey: Survey

    @property
    def sizes(self) -> dict[str, int]:
        """Estimated bytes of each part."""
        survey = self.survey
        snapshots = round(survey.snapshot_bytes * survey.sessions)
        return {"log": survey.log_bytes, "snapshots": snapshots, "indexes": survey.index_bytes}

    @property
    def archive_lag(self) -> int | None:
        """Milliseconds of events that the archive does not have; None where there is no archive."""
        if not self.survey.archived:
            return None
        return _apart(parse_id(self.survey.archived.split(b" ")[0]), self.counters)

    @property
    def workers(self) -> list[Working]:
        """Every worker that left a record; one that is none of ours is nobody's."""
        records = sorted(self.survey.records.items())
        return [self._working(worker, record) for worker, raw in records if (record := worker_record(raw))]

    def _working(self, worker: str, record: WorkerRecord) -> Working:
        behind = _apart(record.position, self.counters) if record.position != START.id else 0
        return Working(worker, self.shard, max(self.survey.now - record.at, 0), behind, record.bound)


def _apart(position: StreamId, counters: Counters) -> int:
    return max(counters.end.id[0] - position[0], 0) if position < counters.end.id else 0


class Census(NamedTuple):
    """All of a namespace at one moment; `server` is what the server tells of itself."""

    namespace: str
    address: str
    server: Mapping[str, str]
    parts: Sequence[Part]
    users: UserIndex

    @property
    def sessions(self) -> int:
        """Living sessions."""
        return sum(part.survey.sessions for part in self.parts)

    @property
    def sizes(self) -> dict[str, int]:
        """Estimated bytes of each part, of all shards."""
        of_shards = [part.sizes for part in self.parts]
        sizes = {name: sum(one[name] for one in of_shards) for name in ("log", "snapshots", "indexes")}
        return sizes | {"users": self.users.bytes}

    @property
    def workers(self) -> list[Working]:
        """Every worker at every shard."""
        return [working for part in self.parts for working in part.workers]

    @property
    def server_name(self) -> str:
        """The server's kind and version."""
        if valkey := self.server.get("valkey_version"):
            return f"Valkey {valkey}"
        return f"Redis {self.server.get('redis_version', 'of unknown version')}"


def redis_of(manager: SessionManager) -> RedisStore:
    """Return the store of a manager, which must be on a server.

    Raises:
        Unsupported: it is not.
    """
    from evsession.stores.redis import RedisStore

    store = manager.worker.store
    if not isinstance(store, RedisStore):
        raise Unsupported(f"looking into a {type(store).__name__}", "give the URL of a Redis or Valkey server")
    return store


async def take_census(manager: SessionManager) -> Census:
    """Look at everything.

    Raises:
        Unsupported: the store is on no server.
        StoreUnavailable: the server did not answer, or forbids what is asked.
    """
    store = redis_of(manager)
    shards = (*await manager.audit.shards(), CONTROL)
    parts = [Part(shard, await store.counters(shard), await store.survey(shard)) for shard in shards]
    return Census(store.namespace, str(store.address), await store.server(), parts, await store.survey_users())
