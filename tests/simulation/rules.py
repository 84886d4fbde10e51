"""The rules of the cache and of commits, each with the edit of the real code that switches it off."""

from __future__ import annotations

import os
from collections.abc import Callable
from typing import Any, Final

import pytest

from evsession import cache, exchange, session
from evsession.cache import Cache, Flight
from evsession.control import Control
from evsession.draft import Drafter
from evsession.events import Changes
from evsession.exchange import Exchange
from evsession.plan import Plan
from evsession.replica import Replica
from evsession.revocation import Revoker
from evsession.store import EVENT_KEY
from evsession.stores import revocations
from evsession.stores.shard import Shard
from evsession.view import CONTROL, BeatReply, View
from evsession.wire import Position
from evsession.worker import Worker

INFINITY: Final = float("inf")
SwitchOff = Callable[[pytest.MonkeyPatch], None]
RULES: Final[dict[str, SwitchOff]] = {}


def rule(switch_off: SwitchOff) -> SwitchOff:
    """Enter a rule under the name of the function that switches it off."""
    RULES[switch_off.__name__] = switch_off
    return switch_off


def _around(patch: pytest.MonkeyPatch, owner: Any, name: str, around: Callable[..., Any]) -> None:
    """Replace a method by one that is given the original first."""
    original = getattr(owner, name)
    patch.setattr(owner, name, lambda *args, **options: around(original, *args, **options))


# ── leases ───────────────────────────────────────────────────────────────────────────────────────────────────────────


@rule
def a_hit_needs_a_lease(patch: pytest.MonkeyPatch) -> None:
    """Serve from memory whatever is there."""

    def serve(original: Any, self: Cache, *views: Any) -> None:
        original(self, *views)
        for view in self.views.values():
            view.serve_until = INFINITY if view.position is not None else view.serve_until

    _around(patch, Cache, "_serve", serve)


@rule
def only_heartbeats_extend_a_lease(patch: pytest.MonkeyPatch) -> None:
    """Let the reply to a fill extend the leases as well."""

    def settle(original: Any, self: Replica, flight: Flight, stored: Any, sent_at: float, *now: int) -> Any:
        for view in (flight.view, self.cache.view(CONTROL)):
            if view.position is not None:
                view.promise(view.position, sent_at + self.cache._staleness)
        self.cache._serve(self.cache.view(CONTROL))
        return original(self, flight, stored, sent_at, *now)

    _around(patch, Replica, "settle", settle)


@rule
def a_lease_waits_for_its_end(patch: pytest.MonkeyPatch) -> None:
    """Let a heartbeat extend the lease before its end of the log is reached."""

    def promise(original: Any, self: View, end: Position, until: float) -> None:
        original(self, self.position or end, until)

    _around(patch, View, "promise", promise)


@rule
def a_lease_counts_from_the_request(patch: pytest.MonkeyPatch) -> None:
    """Count a lease from the arrival of the reply."""
    _around(
        patch, Replica, "_beaten",
        lambda original, self, view, beat, reply, generation, sent_at:
            original(self, view, beat, reply, generation, self._clock()),
    )  # fmt: skip


@rule
def serving_needs_the_control_lease(patch: pytest.MonkeyPatch) -> None:
    """Serve under the lease of the shard alone."""

    def serve(original: Any, self: Cache, *views: Any) -> None:
        original(self, *views)
        for view in self.views.values():
            view.serve_until = view.lease_until

    _around(patch, Cache, "_serve", serve)


@rule
def a_heartbeat_checks_the_history(patch: pytest.MonkeyPatch) -> None:
    """Have heartbeats answered without a look at the position."""
    patch.setattr(Shard, "status_of", lambda self, position: "ok")


# ── positions ────────────────────────────────────────────────────────────────────────────────────────────────────────


@rule
def a_position_has_an_event_id(patch: pytest.MonkeyPatch) -> None:
    """Take two positions with one id for one."""
    patch.setattr(Position, "__eq__", lambda self, other: isinstance(other, Position) and self.id == other.id)
    patch.setattr(Position, "__ne__", lambda self, other: self.id != other.id)
    patch.setattr(Position, "__hash__", lambda self: hash(self.id))

    def status_of(original: Any, self: Shard, position: Position | None) -> str:
        entry = self.entry(position.id) if position is not None else None
        return "ok" if entry is not None else str(original(self, position))

    _around(patch, Shard, "status_of", status_of)


@rule
def a_gap_stops_the_feed(patch: pytest.MonkeyPatch) -> None:
    """Apply every message that is later than the position."""

    def take(original: Any, self: Cache, view: View, prev: Position, id_: Any, *part: bytes) -> None:
        known = view.position
        original(self, view, known if known is not None and id_ > known.id else prev, id_, *part)

    _around(patch, Cache, "_take", take)


@rule
def a_fork_begins_a_generation(patch: pytest.MonkeyPatch) -> None:
    """Forget the position at a fork, adopt the new log's end, and keep what is cached and under way."""

    def keep_generation(original: Any, self: View, *reply: BeatReply) -> None:
        generation = self.generation
        original(self, *reply)
        self.generation = generation

    _around(patch, View, "forget", keep_generation)
    _around(patch, View, "adopt", keep_generation)


# ── fills and commits ────────────────────────────────────────────────────────────────────────────────────────────────


@rule
def a_fill_has_a_floor(patch: pytest.MonkeyPatch) -> None:
    """Keep a fill that was overtaken by the feed."""
    patch.setattr(cache._Floor, "rise", lambda self, *change: None)


@rule
def a_fill_counts_in_its_generation(patch: pytest.MonkeyPatch) -> None:
    """Keep a fill that began before a fork."""

    def finish(original: Any, self: Cache, flight: Flight, *args: Any, **options: Any) -> Any:
        flight.generation = flight.view.generation
        return original(self, flight, *args, **options)

    _around(patch, Cache, "finish", finish)


@rule
def what_the_feed_has_not_told_is_proven_for_a_while(patch: pytest.MonkeyPatch) -> None:
    """Trust for ever what a fill or commit brought ahead of the feed."""
    _around(
        patch, Cache, "finish",
        lambda original, self, flight, stored, deadline, **_: original(self, flight, stored, deadline),
    )  # fmt: skip


@rule
def a_retry_walks_to_its_first_attempt(patch: pytest.MonkeyPatch) -> None:
    """Do not tell the store that an earlier attempt may have succeeded."""
    _around(
        patch, Drafter, "draft",
        lambda original, self, *args, first_version=0, **options: original(self, *args, **options),
    )  # fmt: skip


@rule
def a_retry_keeps_its_event_id(patch: pytest.MonkeyPatch) -> None:
    """Give every attempt an event id of its own."""

    def draft(original: Any, self: Drafter, *args: Any, **options: Any) -> Any:
        *others, stamp = args
        return original(self, *others, stamp._replace(event_id=os.urandom(16)), **options)

    _around(patch, Drafter, "draft", draft)


@rule
def a_request_reapplies_its_operations(patch: pytest.MonkeyPatch) -> None:
    """Write the whole state that the request saw, as all peers do."""

    def change(original: Any, self: Exchange, base: Any, plan: Plan, wanted: Changes) -> Any:
        whole = Changes(set_={**base.snapshot.data, **wanted.set_} if base is not None else {})
        return original(self, base, plan, whole)

    _around(patch, Exchange, "_change", change)
    patch.setattr(exchange, "rebase", lambda changes, data: changes)
    patch.setattr(session, "rebase", lambda changes, data: changes, raising=False)


@rule
def the_token_is_checked_before_every_attempt(patch: pytest.MonkeyPatch) -> None:
    """Check the token on a conflict only."""
    checked: set[int] = set()

    def check(original: Any, self: Exchange, *args: Any, **options: Any) -> None:
        if id(self) in checked:
            original(self, *args, **options)
        checked.add(id(self))

    _around(patch, Exchange, "check_token", check)


@rule
def a_fence_asks_the_server(patch: pytest.MonkeyPatch) -> None:
    """Join any fill under way whatever the browser has seen."""
    _around(patch, Replica, "fill", lambda original, self, sid, **_: original(self, sid))


@rule
def lost_ends_are_written_again(patch: pytest.MonkeyPatch) -> None:
    """Forget after a failover which sessions had ended."""
    patch.setattr(Cache, "tombstones", lambda self, shard: {})


@rule
def a_failed_repetition_of_ends_is_repeated(patch: pytest.MonkeyPatch) -> None:
    """Give lost ends up when the store does not answer."""

    async def end_again(original: Any, self: Worker) -> None:
        try:
            await original(self)
        finally:
            self.replica.forked.clear()

    _around(patch, Worker, "_end_again", end_again)


# ── the control log ──────────────────────────────────────────────────────────────────────────────────────────────────


@rule
def a_login_stands_where_its_request_began(patch: pytest.MonkeyPatch) -> None:
    """Let it stand where its worker is when it commits."""
    _around(
        patch, Exchange, "_control_of",
        lambda original, self, *of: self.manager.worker.control.position,
    )  # fmt: skip


@rule
def a_worker_that_starts_anew_loads_all_names(patch: pytest.MonkeyPatch) -> None:
    """Adopt the control log's end like any other's."""

    def adopt(original: Any, self: View, reply: BeatReply) -> None:
        original(self, reply)
        if self.unloaded is not None:
            self.loaded(self.unloaded)
            self.gap = False

    _around(patch, View, "adopt", adopt)


@rule
def lost_revocations_are_issued_again(patch: pytest.MonkeyPatch) -> None:
    """Forget after a failover what was revoked."""
    _around(patch, Control, "load", lambda original, self, image: (original(self, image), self.lost.clear())[0])


@rule
def a_revocation_is_looked_for_before_it_is_appended(patch: pytest.MonkeyPatch) -> None:
    """Append at every attempt."""
    patch.setattr(revocations, "found", lambda shard, entry: None)


@rule
def a_lost_revocation_is_in_force_until_the_other_attempt_is(patch: pytest.MonkeyPatch) -> None:
    """Give it up as soon as the store names another attempt."""

    async def apply(original: Any, self: Revoker, position: Position) -> None:
        control, key = self._replica.cache.control, position.event[:EVENT_KEY]
        others = [event for event in control.lost if event[:EVENT_KEY] == key and event != position.event]
        with pytest.MonkeyPatch.context() as at_once:
            at_once.setattr(control, "has", lambda position: True)
            for event in others:
                control.settle(event, position)
        await original(self, position)

    _around(patch, Revoker, "_apply", apply)
