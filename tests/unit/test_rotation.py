"""Replacing the key of heads and digests: what was written before still verifies, and what follows goes on from it."""

from __future__ import annotations

import pytest

from evsession.events import Event
from evsession.proof import Prover, Reach
from evsession.wire import line_of
from tests.proof.world import Teller, World, created, ended, login, renewed, updated

OLD = "the key of those who prove, long enough"
NEW = "the key that comes after it, as long as that"


async def verified(world: World) -> list[str]:
    """Return the faults that verifying finds."""
    return [f"{fault.kind} {fault.detail}" for fault in (await world.report()).faults]


@pytest.mark.parametrize(
    "event",
    [updated(n=2), updated("n"), updated("token"), updated(token="t-2"), renewed(), login("7", role="user"), ended()],
)
async def test_secret_values_are_sealed_anew_with_the_first_event_under_another_key(event: Event) -> None:
    """Whatever that event is; its head covers digests, and those of the old key would be in no state any more."""
    teller = Teller(key=(OLD,))
    sid = teller.sid()
    await teller.tell(sid, created(n=1, token="t-1", a=[1]))
    assert await verified(teller.world()) == []
    teller.rotate(NEW, OLD)
    await teller.tell(sid, event)
    assert await verified(teller.world()) == []
    if event != ended():
        await teller.tell(sid, updated(n=3))
        assert await verified(teller.world()) == []
        assert "token" not in teller.world().log[-1].data.decode()


async def test_a_session_keeps_its_secret_values_over_a_rotation() -> None:
    """The digest in the log is another; the value is the same."""
    teller = Teller(key=(OLD,))
    sid = teller.sid()
    await teller.tell(sid, created(n=1, token="t-1"))
    teller.rotate(NEW, OLD)
    await teller.tell(sid, updated(n=2))
    cached = await teller.manager.worker.replica.fill(sid)
    assert cached is not None
    assert cached.stored.snapshot.data == {"n": 2, "token": "t-1"}
    assert cached.stored.snapshot.marks == {"/token": 2}
    first, second = (entry.data.decode() for entry in teller.world().log)
    assert "t-1" not in first + second
    assert first.partition("redacted:")[2][:32] != second.partition("redacted:")[2][:32]


async def test_without_the_old_key_what_it_made_is_told_and_what_came_after_is_sound() -> None:
    """Another key is no forgery of what is checked with ours."""
    teller = Teller(key=(OLD,))
    old, new = teller.sid(), teller.sid()
    await teller.tell(old, created(n=1))
    teller.rotate(NEW, OLD)
    await teller.tell(new, created(n=1), updated(n=2))
    teller.rotate(NEW)
    world = teller.world()
    faults: list[tuple[str, str]] = []
    prover = Prover(
        world.keys, {"00": Reach(world.log[0].id, world.home.end.id)},
        lambda fault: faults.append((fault.session_id, fault.kind)),
    )  # fmt: skip
    for entry in world.log:
        prover.entry(b"00", line_of(entry))
    assert faults == [(old, "unknown_key")]
