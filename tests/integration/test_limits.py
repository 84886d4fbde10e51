"""How large a session may be, and how many may begin: each limit is met before anything is written."""

from __future__ import annotations

import pytest

from evsession import CodecError, Session, SessionManager, SessionPolicy, SessionTooLarge
from evsession.errors import SessionLimitReached
from tests.integration.apps import Act, Browser, Clock, app_of, in_memory, types_of

SMALL = SessionPolicy(max_bytes=200, max_keys=4, max_key_length=10, max_depth=3)


@pytest.fixture
def manager() -> SessionManager:
    return in_memory(policy=SMALL)


async def _begun(manager: SessionManager) -> Browser:
    browser = Browser()
    await browser.visit(app_of(manager), lambda session: session.update(n=1))
    return browser


@pytest.mark.parametrize(
    ("act", "expected"),
    [
        (lambda s: s.update(big="x" * 190), (206, 200, "big", "bytes")),
        (lambda s: s.update(big="é" * 95), (206, 200, "big", "bytes")),
        (lambda s: s.update(a=1, b=1, c=[1, 2], d=1), (5, 4, "c", "keys")),
    ],
)
async def test_a_session_that_grows_too_large_is_refused(
    manager: SessionManager, act: Act, expected: tuple[int, int, str, str]
) -> None:
    """The error says how large it is, and which key holds the most."""
    browser = await _begun(manager)
    answer = await browser.visit(app_of(manager), act, fails=SessionTooLarge)
    error = answer.error
    assert isinstance(error, SessionTooLarge)
    assert (answer.status, answer.set_cookie) == (500, None)
    assert (error.size, error.limit, error.largest_key, error.unit) == expected
    assert await types_of(manager, browser.session_id) == ["created"]


@pytest.mark.parametrize("act", [lambda s: s.update(big="x" * 184), lambda s: s.update(a=1, b=1, c=1)])
async def test_at_the_limit_is_not_over_it(manager: SessionManager, act: Act) -> None:
    """200 bytes are 200 bytes, and 4 keys are 4."""
    browser = await _begun(manager)
    assert (await browser.visit(app_of(manager), act)).status == 200


async def test_a_session_over_a_limit_that_was_lowered_can_still_shrink(manager: SessionManager) -> None:
    """And end; only what makes it grow on is refused."""
    wide = in_memory()
    store = wide.worker.store
    browser = Browser()
    await browser.visit(app_of(wide), lambda session: session.update(a="x" * 300, b="x" * 300, n=1))
    narrow = SessionManager(store, secret_key="a key that only these tests have, 01", policy=SMALL)
    await browser.visit(app_of(narrow), lambda session: session.update(n=2), fails=SessionTooLarge)
    await browser.visit(app_of(narrow), lambda session: session.pop("a"))
    await browser.visit(app_of(narrow), lambda session: session.pop("b"))
    assert (await browser.visit(app_of(narrow), lambda session: session.update(n=3))).status == 200


async def test_what_another_request_wrote_counts_as_well(manager: SessionManager) -> None:
    """Two that are small enough each, and too large together: the later one is refused."""
    app, browser = app_of(manager), await _begun(manager)
    twin = browser.twin()

    async def act(session: Session) -> None:
        session["mine"] = "x" * 120
        await twin.visit(app, lambda inner: inner.update(theirs="x" * 60))

    await browser.visit(app, act, fails=SessionTooLarge)
    assert set((await browser.visit(app)).json) == {"n", "theirs"}


@pytest.mark.parametrize("key", ["x" * 11, "", 1, None, "\ud800"])
async def test_a_key_that_cannot_be_one_raises_on_its_line(manager: SessionManager, key: object) -> None:
    """Only the empty one can."""
    browser = await _begun(manager)

    def act(session: Session) -> None:
        if key == "":
            session[""] = 1
            return
        with pytest.raises(CodecError):
            session[key] = 1  # type: ignore[index]
        with pytest.raises(CodecError):
            session.setdefault(key, 1)  # type: ignore[arg-type]
        with pytest.raises(CodecError):
            session.update({"a": 1, key: 1})
        assert session == {"n": 1}

    assert (await browser.visit(app_of(manager), act)).status == 200


@pytest.mark.parametrize(
    ("act", "place"),
    [
        (lambda s: s.update(a={"b": {"x" * 11: 1}}), "a.b" + "x" * 11),
        (lambda s: s.update(a=[[[[1]]]]), "a[0][0][0]"),
        (lambda s: s.update(a={"b": {"c": {"d": {}}}}), "a.b.c"),
    ],
)
async def test_nested_keys_and_depth_have_limits(manager: SessionManager, act: Act, place: str) -> None:
    """Which are found at the commit."""
    browser = await _begun(manager)
    answer = await browser.visit(app_of(manager), act, fails=CodecError)
    assert isinstance(answer.error, CodecError)
    assert answer.error.key.startswith(place[:6])
    assert await types_of(manager, browser.session_id) == ["created"]


async def test_a_list_that_holds_itself_is_refused(manager: SessionManager) -> None:
    """Not followed for ever."""

    def act(session: Session) -> None:
        loop: list[object] = []
        loop.append(loop)
        session["a"] = loop

    await (await _begun(manager)).visit(app_of(manager), act, fails=CodecError)


async def test_anonymous_sessions_are_capped_and_logins_are_not() -> None:
    """503 with Retry-After and no cookie; a second later there is room again."""
    clock = Clock()
    manager = in_memory(clock=clock, policy=SessionPolicy(anonymous_per_second=5))
    app = app_of(manager)
    member = Browser()
    await member.visit(app, lambda session: session.login(1))
    answers = [await Browser().visit(app, lambda session: session.update(a=1)) for _ in range(8)]
    assert [answer.status for answer in answers] == [200] * 5 + [503] * 3
    assert (answers[-1].header("retry-after"), answers[-1].set_cookie) == ("1", None)
    for sign_in in (lambda session: session.login(2), lambda session: session.update(user_id=3)):
        assert (await Browser().visit(app, sign_in)).status == 200
    assert (await member.visit(app, lambda session: session.update(a=1))).status == 200
    assert (await Browser().visit(app)).status == 200
    clock.advance(seconds=0.41)
    answers = [await Browser().visit(app, lambda session: session.update(a=1)) for _ in range(4)]
    assert [answer.status for answer in answers] == [200, 200, 503, 503]
    clock.advance(seconds=60)
    answers = [await Browser().visit(app, lambda session: session.update(a=1)) for _ in range(8)]
    assert [answer.status for answer in answers] == [200] * 5 + [503] * 3


async def test_the_cap_raises_at_save() -> None:
    """Where the handler asked."""
    manager = in_memory(clock=Clock(), policy=SessionPolicy(anonymous_per_second=1))

    async def act(session: Session) -> None:
        session["a"] = 1
        await session.save()

    async def refused(session: Session) -> None:
        session["a"] = 1
        with pytest.raises(SessionLimitReached) as caught:
            await session.save()
        assert (caught.value.limit, caught.value.what) == (1, "anonymous_per_second")
        session.clear()

    app = app_of(manager)
    await Browser().visit(app, act)
    assert (await Browser().visit(app, refused)).status == 200
