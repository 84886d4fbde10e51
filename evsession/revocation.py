"""Revocation by name: one entry of the control log, and the receipt that tells which workers have applied it."""

from __future__ import annotations

import random
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from datetime import timedelta
from typing import Final, NamedTuple

import anyio

from evsession.canonical import dumps
from evsession.chain import FIRST, control_tag
from evsession.control import data_of
from evsession.draft import Stamp
from evsession.errors import StoreUnavailable
from evsession.keys import Keyring
from evsession.patience import RETRY_AFTER
from evsession.replica import Replica
from evsession.store import NamedRevoked, Store, Witness
from evsession.view import CONTROL, worker_record
from evsession.wire import START, Position, StreamId, id_text, pack_notice

POLL_EVERY: Final = 0.005
"""Seconds between looks at what the workers have applied.  Source: they answer within a millisecond or two."""

MARGIN: Final = 0.1
"""Seconds added to a worker's bound before it counts as fenced: for clocks that run at different rates.

Source: 5 % of the default bound, where crystals differ by 0.01 %.
"""

REPLICAS_WITHIN: Final = 0.1
"""Seconds that a receipt waits for replicas once all workers have answered.  Source: they answer in a round trip."""

JUMP: Final = 2**16
"""How far past the highest id seen an entry may stand that is issued again: drawn at random.

Source: two workers may issue it in two histories without knowing of each other, under one event id. The same id as well
would make one history pass for the other. Positions have 32 bits for this number.
"""

FIRST_PAUSE: Final = 0.001
LONGEST_PAUSE: Final = 0.05
"""Seconds between attempts, doubled and drawn at random."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Receipt:
    """What became of a revocation by the time that this was returned.

    `id` is that of the entry in the log, empty if there was nothing to revoke. `replicas` hold it already. Each worker
    is named once: `confirmed` it has applied the entry and closed what it held open, `fenced` it has not but cannot
    serve any more from what it has in memory, `pending` it may still serve. `elapsed` runs from the call on.

    `complete`: no worker would still begin a request as that user, or keep a socket of theirs open.
    """

    id: str
    complete: bool
    confirmed: tuple[str, ...] = ()
    fenced: tuple[str, ...] = ()
    pending: tuple[str, ...] = ()
    replicas: int = 0
    elapsed: timedelta = timedelta(0)

    def __str__(self) -> str:
        done, workers = len(self.confirmed) + len(self.fenced), len(self.confirmed) + len(self.fenced + self.pending)
        notes = [f"{len(self.fenced)} of them fenced"] if self.fenced else []
        notes += [f"pending: {', '.join(self.pending)}"] if self.pending else []
        notes += ["not proved yet"] if not self.complete and not self.pending else []
        return "; ".join((f"{done} of {workers} workers in {_shown(self.elapsed)}", *notes))


def _shown(elapsed: timedelta) -> str:
    seconds = elapsed.total_seconds()
    return f"{seconds * 1000:.1f} ms" if seconds < 1 else f"{seconds:.1f} s"


NOTHING: Final = Receipt(id="", complete=True)
"""The receipt where there was nothing to revoke."""


class Tally(NamedTuple):
    """Who has applied an entry by now; `is_proved` means that nobody can be missing from these."""

    confirmed: tuple[str, ...]
    fenced: tuple[str, ...]
    pending: tuple[str, ...]
    is_proved: bool

    @property
    def complete(self) -> bool:
        """Whether nobody would serve any more."""
        return self.is_proved and not self.pending


@dataclass(slots=True, eq=False)
class _Replicas:
    counted: anyio.Event
    number: int = 0


class Revoker:
    """Appends to the control log for one worker, and counts who has applied what."""

    def __init__(
        self, store: Store, replica: Replica, keys: Keyring, clock: Callable[[], float], *, patience: float
    ) -> None:
        self._store = store
        self._replica = replica
        self._keys = keys
        self._clock = clock
        self._patience = patience
        self.revoked = 0
        self.on_tally: Callable[[Tally], None] = lambda _: None
        """Called with each count while a receipt is waited for."""

    # ── appending ────────────────────────────────────────────────────────────────────────────────────────────────────

    async def append(self, name: str, stamp: Stamp, *, keep: str | None, reason: str, waits: bool) -> Position:
        """Append one entry, at most once however often it must be tried, and apply it here; return where it stands.

        Raises:
            StoreUnavailable: not within the commit time-out; with `outcome_unknown` it may be in force.
        """
        facts = {"name": name, "keep": keep, "reason": reason, "waits": waits}
        data = dumps({field: value for field, value in facts.items() if value})
        give_up_at, pause, is_unknown = self._clock() + self._patience, FIRST_PAUSE, False
        await self._replica.ensure_lease(CONTROL)
        since = self._position().id
        while True:
            try:
                reply = await self._store.revoke(self._entry(name, stamp, keep, data, since))
                break
            except StoreUnavailable as error:
                if error.outcome_unknown:
                    is_unknown, stamp = True, stamp.again()
                if self._clock() + pause >= give_up_at:
                    raise StoreUnavailable(RETRY_AFTER, error.detail, outcome_unknown=is_unknown) from error
                await anyio.sleep(pause * random.random())
                pause = min(2 * pause, LONGEST_PAUSE)
        self.revoked += 1
        await self._apply(reply.position)
        return reply.position

    async def issue_again(self) -> None:
        """After a failover, append the entries that this worker knows and the new history has lost.

        Raises:
            StoreUnavailable: some of them are not there yet; they stay in force here, until the next call.
        """
        control = self._replica.cache.control
        for event in list(control.lost):
            entry = control.lost.get(event)  # as it is by now: others take in what the log brings while this one waits
            if entry is not None:
                stamp = Stamp(event_id=event, actor=b"system failover")
                again = self._entry(entry.name, stamp, entry.keep, data_of(entry), entry.places[-1].common)
                ms, seq = again.highest
                highest = (ms, seq + random.randrange(JUMP))
                reply = await self._store.revoke(again._replace(is_again=True, highest=highest))
                await self._apply(reply.position)
                control.settle(event, reply.position)

    def _entry(self, name: str, stamp: Stamp, keep: str | None, data: bytes, since: StreamId) -> NamedRevoked:
        keys, audit = self._keys.signing, self._keys.audit_id
        head_key = self._keys.head(audit)
        tag = control_tag(head_key or b"", stamp.event_id, stamp.actor, stamp.context, data)
        notice = pack_notice(
            keys.message, sid=CONTROL, version=1, previous_head=FIRST, head=tag, link=FIRST, event_id=stamp.event_id,
            key_id=keys.key_id, type_="named_revoked", data=data,
        )  # fmt: skip
        return NamedRevoked(
            event_id=stamp.event_id,
            name=name,
            keep=keep,
            highest=max(self._replica.cache.control.highest, self._position().id),
            since=since,
            is_again=False,
            actor=stamp.actor,
            context=stamp.context,
            data=data,
            worker_time=stamp.worker_time,
            key_id=audit,
            tag=tag,
            notice=notice,
        )

    def _position(self) -> Position:
        return self._replica.cache.view(CONTROL).position or START

    async def _apply(self, position: Position) -> None:
        """Have an entry in force here. It stands in the log; if that cannot be read now, the receipt will say so."""
        cache, view = self._replica.cache, self._replica.cache.view(CONTROL)
        try:
            if not cache.control.has(position):
                view.gap = True
                await self._replica.repair(view)
        except StoreUnavailable:
            view.gap = True

    # ── counting ─────────────────────────────────────────────────────────────────────────────────────────────────────

    async def receipt(
        self, shard: str, position: Position, *, started_at: float, appended_at: float, timeout: float
    ) -> Receipt:
        """Wait until every worker has applied an entry or cannot serve any more, at most `timeout` seconds.

        `appended_at` is local time at which the entry was known to stand in the log.
        """
        replicas = _Replicas(anyio.Event())
        async with anyio.create_task_group() as group:
            group.start_soon(self._count_replicas, replicas, timeout)
            tally = await self._tallied(shard, position, appended_at, started_at + timeout)
            elapsed = self._clock() - started_at
            with anyio.move_on_after(REPLICAS_WITHIN):
                await replicas.counted.wait()
            group.cancel_scope.cancel()
        return Receipt(
            id=id_text(self._standing(shard, position).id),
            complete=tally.complete,
            confirmed=tally.confirmed,
            fenced=tally.fenced,
            pending=tally.pending,
            replicas=replicas.number,
            elapsed=timedelta(seconds=elapsed),
        )

    async def _count_replicas(self, replicas: _Replicas, timeout: float) -> None:
        replicas.number = await self._store.replicated(max(1, round(min(timeout, self._patience / 2) * 1000)))
        replicas.counted.set()

    async def _tallied(self, shard: str, position: Position, appended_at: float, give_up_at: float) -> Tally:
        tally, longest = Tally((), (), (), False), None
        while True:
            try:
                if longest is None:
                    longest = longest_bound(await self._store.claim({}))
                witness = await self._store.witness(shard, self._standing(shard, position))
                settled = min((witness.now - witness.birth) / 1000, await self._store.primary_for())
                tally = self._tally(witness, shard, position, appended_at, longest, is_settled=settled >= longest)
            except StoreUnavailable:
                tally = Tally((), (), tuple(sorted((*tally.confirmed, *tally.fenced, *tally.pending))), False)
            self.on_tally(tally)
            if tally.complete or self._clock() >= give_up_at:
                return tally
            await anyio.sleep(POLL_EVERY)

    def _standing(self, shard: str, position: Position) -> Position:
        """Return where an entry stands now: after a failover it may have been issued again."""
        entry = self._replica.cache.control.entry(position.event) if shard == CONTROL else None
        return position if entry is None else entry.position

    def _tally(
        self, witness: Witness, shard: str, position: Position, appended_at: float, longest: float, *, is_settled: bool
    ) -> Tally:
        target, waited = self._standing(shard, position).id, self._clock() - appended_at
        confirmed, fenced, pending = [], [], []
        for worker, raw in sorted(witness.records.items()):
            record = worker_record(raw)  # without one nobody knows the bound, but that it is not above the longest
            if witness.stands and record is not None and record.position >= target:
                confirmed.append(worker)
            elif waited >= (longest if record is None else record.bound / 1000 + MARGIN):
                fenced.append(worker)
            else:
                pending.append(worker)
        return Tally(tuple(confirmed), tuple(fenced), tuple(pending), witness.stands and is_settled)


def longest_bound(meta: Iterable[str]) -> float:
    """Return the longest bound in seconds that any worker of a namespace was ever configured with, margin included.

    Until so much time has passed since a shard's log began, or since this worker connected, records may be missing.
    """
    bounds = [int(field.removeprefix("bound:")) for field in meta if field.startswith("bound:")]
    return max(bounds, default=0) / 1000 + MARGIN
