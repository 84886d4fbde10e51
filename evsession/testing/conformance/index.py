"""The index of users: every living session is in it, and whoever enters at the same time as another sees the other."""

from __future__ import annotations

import pytest

from evsession.store import Commit, Entrance, Indexed, Store
from evsession.testing.conformance.builder import authenticated, begin, commit_of, created
from evsession.testing.conformance.connecting import Connect, until

DAY = 86_400_000
USERS = ("42", "ada@example.org", "İstanbul {x}} 🎈", "}{:u:", "*?[a-z]\\", "x" * 256, "🎈" * 256)


def sids_of(index: Indexed) -> list[str]:
    """Return the session ids of an index, in its order."""
    return [member.sid for member in index.members]


@pytest.mark.parametrize("user", USERS)
async def test_who_enters_is_in_it_until_it_leaves(store: Store, user: str) -> None:
    """Whatever the text of the user's id is."""
    assert (await store.members(user)).members == []
    entered = await store.enter(user, "a", DAY)
    assert (sids_of(entered), entered.was_there) == (["a"], False)
    assert (await store.members(user)).members == entered.members
    assert await store.leave(user, "a")
    assert not await store.leave(user, "a")
    assert (await store.members(user)).members == []


async def test_users_are_apart(store: Store) -> None:
    """Ids are neither trimmed nor folded."""
    for user in ("Bob", "bob", "bob "):
        await store.enter(user, f"of {user}", DAY)
    assert [sids_of(await store.members(user)) for user in ("Bob", "bob", "bob ")] == [
        ["of Bob"],
        ["of bob"],
        ["of bob "],
    ]


@pytest.mark.parametrize("device", [b"", b"1 with a space", bytes(range(256))])
async def test_the_index_says_from_what_device(store: Store, device: bytes) -> None:
    """As it was written, whatever the bytes; a new entrance brings its own."""
    await store.enter("42", "a", DAY, b"an older one")
    (member,) = (await store.enter("42", "a", DAY, device)).members
    assert (member.sid, member.device) == ("a", device)
    await store.enter("42", "a", DAY, b"of who only puts it back", anew=False)
    assert (await store.members("42")).members == [member]


async def test_the_order_is_that_of_the_entrances(store: Store) -> None:
    """Which is how long ago each one signed in; times are the server's."""
    for sid in ("c", "a", "b"):
        before = (await store.enter("42", sid, DAY)).now

        async def has_passed(since: int = before) -> bool:
            return (await store.members("42")).now > since

        await until(has_passed, "the next millisecond")
    assert sids_of(await store.members("42")) == ["c", "a", "b"]
    assert sids_of(await store.enter("42", "c", DAY)) == ["a", "b", "c"]


async def test_each_entrance_is_later_than_the_last(store: Store) -> None:
    """Also within one millisecond, so that who looked at the index before cannot take out who came in since."""
    first = (await store.enter("42", "a", DAY)).members[0].at
    second = await store.enter("42", "a", DAY)
    assert second.was_there
    assert second.members[0].at > first
    assert not await store.leave("42", "a", at=first)
    assert await store.leave("42", "a", at=second.members[0].at)


async def test_who_is_there_already_need_not_enter_anew(store: Store) -> None:
    """Putting back what a failover lost moves nobody who is still there."""
    at = (await store.enter("42", "a", DAY)).members[0].at
    assert (await store.enter("42", "a", DAY, anew=False)).members[0].at == at
    assert sids_of(await store.enter("42", "b", DAY, anew=False)) == ["a", "b"]


async def test_an_index_is_kept_as_long_as_the_longest_session(store: Store) -> None:
    """A later entrance for a shorter time shortens nothing; and nothing is kept for ever."""
    await store.enter("42", "a", DAY)
    await store.enter("42", "b", 1)
    await store.enter("43", "c", 1)

    async def has_lapsed() -> bool:
        return not (await store.members("43")).members

    await until(has_lapsed, "the index of one millisecond to lapse")
    assert sids_of(await store.members("42")) == ["a", "b"]
    assert (await store.enter("43", "d", DAY)).was_there is False


async def test_a_commit_enters_first(store: Store) -> None:
    """One call does both; a commit that is refused has entered, and the index is only ever too large."""
    commit, _ = commit_of(begin(), authenticated("42"))
    reply = await store.commit(commit._replace(entrance=Entrance("42", commit.sid, DAY, b"device")))
    assert (reply.status, reply.found) == ("ok", None)
    assert [(sid, device) for sid, _, device in (await store.members("42")).members] == [(commit.sid, b"device")]
    refused = _refused()
    assert (await store.commit(refused._replace(entrance=Entrance("42", refused.sid, DAY)))).status == "gone"
    assert set(sids_of(await store.members("42"))) == {commit.sid, refused.sid}


def _refused() -> Commit:
    _, state = commit_of(begin(), created())
    commit, _ = commit_of(state, authenticated("42"))
    return commit


async def test_an_entrance_that_counts_finds_all_that_committed_before(connect: Connect) -> None:
    """Two logins at once: whoever commits later finds the other, by one call, on any worker."""
    one, two = (await connect("one")).store, (await connect("two")).store
    first, second = (commit_of(begin(), authenticated("42"))[0] for _ in range(2))
    await one.enter("42", first.sid, DAY)
    alone = (await one.commit(first._replace(entrance=Entrance("42", first.sid, DAY, counts=True)))).found
    both = (await two.commit(second._replace(entrance=Entrance("42", second.sid, DAY, counts=True)))).found
    assert alone is not None
    assert both is not None
    assert (sids_of(alone), alone.was_there, both.was_there) == ([first.sid], True, False)
    assert set(sids_of(both)) == {first.sid, second.sid}


async def test_users_are_listed_page_by_page(store: Store) -> None:
    """Each at least once, and nobody else."""
    users = {f"user {number}" for number in range(50)} | set(USERS)
    for user in users:
        await store.enter(user, "a", DAY)
    found, cursor, pages = list[str](), "", 0
    while pages == 0 or cursor:
        page, cursor = await store.users(cursor, 10)
        found += page
        pages += 1
    assert set(found) == users
    assert pages > 1
