"""The control log: one entry for one revocation, what a worker needs that starts, and what the others have applied."""

from __future__ import annotations

import secrets
from dataclasses import dataclass

from evsession.canonical import dumps
from evsession.chain import FIRST, control_tag
from evsession.control import Control, revocation_of
from evsession.positions import Positions
from evsession.state import Snapshot
from evsession.store import NamedRevoked, RevokeReply, Store
from evsession.testing.conformance.builder import KEYS, begin, created, happened
from evsession.testing.conformance.connecting import Connect
from evsession.testing.conformance.feed import follow, hears
from evsession.view import CONTROL, Beat
from evsession.wire import START, Position, StreamId, pack_notice


@dataclass(frozen=True)
class Facts:
    """What an entry says beside its event id."""

    name: str = "user:42"
    keep: str | None = None
    highest: StreamId = START.id
    since: StreamId = START.id
    places: tuple[tuple[str, str, str], ...] = ()


async def revoke(store: Store, facts: Facts = Facts(), event_id: bytes = b"") -> RevokeReply:
    """Append one entry."""
    event_id = event_id or secrets.token_bytes(16)
    said = {"name": facts.name, "keep": facts.keep, "places": facts.places, "reason": "stolen"}
    data = dumps({field: value for field, value in said.items() if value})
    tag = control_tag(KEYS.head, event_id, b"admin joe", b"{}", data)
    notice = pack_notice(
        KEYS.message, sid=CONTROL, version=1, previous_head=FIRST, head=tag, link=FIRST, event_id=event_id,
        key_id=KEYS.key_id, type_="named_revoked", data=data,
    )  # fmt: skip
    entry = NamedRevoked(
        event_id=event_id,
        name=facts.name,
        keep=facts.keep,
        highest=facts.highest,
        since=facts.since,
        is_again=bool(facts.places),
        actor=b"admin joe",
        context=b"{}",
        data=data,
        worker_time=1_700_000_000_000,
        key_id=KEYS.key_id,
        tag=tag,
        notice=notice,
    )
    return await store.revoke(entry)


async def test_an_entry_stands_in_the_control_log(store: Store) -> None:
    """With everything it was given, at the position that the reply names."""
    reply = await revoke(store, Facts(keep="some sid"))
    [entry] = await store.read(CONTROL, START, 10)
    assert entry.position == reply.position
    assert (entry.type, entry.sid, entry.actor, entry.context) == ("named_revoked", "user:42", b"admin joe", b"{}")
    assert entry.head == control_tag(KEYS.head, entry.event_id, entry.actor, entry.context, entry.data)
    assert revocation_of(entry.position, entry.data).keep == "some sid"
    [answer] = await store.heartbeat([Beat(CONTROL, entry.position)])
    assert (answer.status, answer.end) == ("ok", entry.position)


async def test_an_attempt_that_is_repeated_is_found(store: Store) -> None:
    """Whichever attempt came first: the last four bytes of the event id count them."""
    event = secrets.token_bytes(12)
    first = await revoke(store, event_id=event + bytes(4))
    await revoke(store)
    again = await revoke(store, event_id=event + b"\0\0\0\1")
    assert again.position == first.position
    assert len(await store.read(CONTROL, START, 10)) == 2


async def test_an_id_is_above_all_that_the_caller_has_seen(store: Store) -> None:
    """Whatever the server's clock says, and above the end of the log."""
    ahead = (9_000_000_000_000, 7)
    first = await revoke(store, Facts(highest=ahead))
    second = await revoke(store, Facts(highest=START.id))
    assert first.position.id == (ahead[0], 8)
    assert second.position.id == (ahead[0], 9)


async def test_what_was_lost_is_issued_again_once(store: Store) -> None:
    """By however many workers, each at its own attempt, and wherever in the new history each of them stands."""
    event = secrets.token_bytes(16)
    places = (("5-0", "0-0", "00" * 16),)
    first = await revoke(store, Facts(places=places), event)
    later = (await revoke(store)).position.id
    for since in (START.id, later):
        second = await revoke(store, Facts(places=places, since=since), event)
        assert first.position == second.position
    assert len(await store.read(CONTROL, START, 10)) == 2


async def test_what_is_issued_again_yields_to_another_attempt_at_the_same(store: Store) -> None:
    """A caller whose reply was lost with the history has tried again meanwhile."""
    event = secrets.token_bytes(12)
    genuine = await revoke(store, event_id=event + b"\0\0\0\1")
    again = await revoke(store, Facts(places=(("5-0", "0-0", "00" * 16),)), event + bytes(4))
    assert again.position == genuine.position


async def test_a_worker_that_starts_learns_what_one_that_followed_knows(store: Store) -> None:
    """Names, exceptions, positions, and what was issued again."""
    followed = Control()
    event = secrets.token_bytes(16)
    steps: list[tuple[Facts, bytes]] = [
        (Facts("user:1"), b""),
        (Facts("user:2", keep="s1"), b""),
        (Facts("user:2", keep="s1"), b""),
        (Facts("user:1", keep="s2"), b""),
        (Facts("user:3", places=(("5-0", "0-0", "00" * 16),)), event),
        (Facts("tenant:ac me"), b""),
        (Facts("everyone", keep="s3"), b""),
    ]
    stood = [Position((5, 0), event), START]
    for facts, event_id in steps:
        stood.append((await revoke(store, facts, event_id)).position)
    entries = await store.read(CONTROL, START, 100)
    for entry in entries:
        followed.apply(revocation_of(entry.position, entry.data))
    image = await store.image()
    assert list(Positions(image.held).after(START.id)) == [entry.position for entry in entries]
    started = Control()
    started.load(image)
    for position in stood:
        for user in ("1", "2", "3", "4"):
            for sid in ("s1", "s2", "s3", "s4"):
                control = "" if position == START else position.text()
                snapshot = Snapshot(sid=sid, user_id=user, names=("tenant:ac me",), control=control)
                assert started.verdict(snapshot) == followed.verdict(snapshot)


async def test_a_control_log_that_is_empty_is_nothing_at_all(store: Store) -> None:
    """Nothing is read and nothing goes."""
    image = await store.image()
    assert (image.names, image.held, list(image.again)) == ({}, b"", [])
    assert await store.expunge(0) == 0


async def test_old_entries_go_and_the_last_one_stays(store: Store) -> None:
    """With their names, unless a later entry has the same, and with what was issued again."""
    event = secrets.token_bytes(16)
    await revoke(store, Facts("user:1"))
    await revoke(store, Facts("user:2"))
    await revoke(store, Facts("user:3", places=(("5-0", "0-0", "00" * 16),)), event)
    last = await revoke(store, Facts("user:2"))
    assert await store.expunge(3_600_000) == 0
    while last.now == (await store.witness(CONTROL, last.position)).now:
        pass  # until the server's clock has moved on by a millisecond
    assert await store.expunge(0) == 3
    image = await store.image()
    assert list(image.names) == [b"user:2"]
    assert (list(Positions(image.held).after(START.id)), list(image.again)) == ([last.position], [])
    assert [entry.position for entry in await store.read(CONTROL, START, 10)] == [last.position]


async def test_the_feed_tells_of_a_revocation(connect: Connect) -> None:
    """As of any other entry: with the position before it."""
    worker = await connect("worker-1")
    await follow(worker, CONTROL)
    first, second = await revoke(worker.store), await revoke(worker.store)
    await hears(worker.heard, 2, CONTROL)
    told = worker.heard.notices(CONTROL)[-1]
    assert (told.prev, told.id, told.event_id) == (first.position, *second.position)


async def test_the_witness_sees_records_and_whether_an_entry_stands(store: Store) -> None:
    """The records are those of the heartbeats; an entry of another event does not stand."""
    placed, _ = await happened(store, begin(), created())
    assert placed.id is not None
    [entry] = await store.read("00", START, 1)
    await store.heartbeat([Beat("00", entry.position)])
    witness = await store.witness("00", entry.position)
    assert witness.stands
    assert witness.now >= placed.now >= witness.birth
    assert witness.records == await store.records("00")
    assert not (await store.witness("00", Position(entry.id, bytes(16)))).stands
    assert not (await store.witness(CONTROL, entry.position)).stands


async def test_replicas_are_counted(store: Store) -> None:
    """A server without any has none, and nobody waits."""
    await store.records("00")
    assert await store.replicated(1000) == 0
    assert await store.primary_for() > 0
