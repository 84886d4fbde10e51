"""What a request does to its session: which changes are seen, and which events they become."""

from __future__ import annotations

import pytest
from starlette.requests import HTTPConnection

from evsession import ConfigError, Session, SessionDetached, SessionManager, SessionMiddleware, session_of
from tests.integration.apps import Act, Browser, app_of, types_of


async def test_a_visitor_who_only_reads_costs_nothing(manager: SessionManager) -> None:
    """No event, no cookie; but the answer depends on the cookie, and says so."""
    answer = await Browser().visit(app_of(manager))
    assert (answer.status, answer.json, answer.set_cookie, answer.header("vary")) == (200, {}, None, "Cookie")
    assert manager.stats().counts.created == 0


async def test_what_one_request_sets_the_next_one_reads(manager: SessionManager) -> None:
    """From memory: the store is asked once, when the session is first met."""
    app, browser = app_of(manager), Browser()
    await browser.visit(app, lambda session: session.update(cart=["tea"]))
    assert [(await browser.visit(app)).json for _ in range(5)] == [{"cart": ["tea"]}] * 5
    assert manager.stats().counts.fills <= 1


@pytest.mark.parametrize(
    ("edit", "expected"),
    [
        (lambda s: s["cart"].append("milk"), {"cart": ["tea", "milk"], "deep": {"a": {"b": [1]}}}),
        (lambda s: s["deep"]["a"]["b"].append(2), {"cart": ["tea"], "deep": {"a": {"b": [1, 2]}}}),
        (lambda s: s["deep"].clear(), {"cart": ["tea"], "deep": {}}),
        (lambda s: s.setdefault("cart", []).append("milk"), {"cart": ["tea", "milk"], "deep": {"a": {"b": [1]}}}),
        (lambda s: s.__ior__({"cart": 1}) and None, {"cart": 1, "deep": {"a": {"b": [1]}}}),
        (lambda s: s.pop("deep"), {"cart": ["tea"]}),
        (lambda s: s.popitem(), {"cart": ["tea"]}),
    ],
)
async def test_edits_in_place_are_seen(manager: SessionManager, edit: Act, expected: dict[str, object]) -> None:
    """Nested ones too: nobody has to assign the value again."""
    app, browser = app_of(manager), Browser()
    await browser.visit(app, lambda session: session.update(cart=["tea"], deep={"a": {"b": [1]}}))
    await browser.visit(app, edit)
    assert (await browser.visit(app)).json == expected
    assert await types_of(manager, browser.session_id) == ["created", "updated"]


@pytest.mark.parametrize(
    "edit",
    [
        lambda s: s.update(n=1, cart={"b": 2, "a": [1.5]}),
        lambda s: s.update(cart={"a": (1.5,), "b": 2}),
        lambda s: s.update(new=1) or s.pop("new"),
        lambda s: s.setdefault("n", 5),
        lambda s: s["cart"]["a"].append(2) or s["cart"]["a"].pop(),
        lambda s: s.pop("nothing", None),
    ],
)
async def test_what_is_equal_in_the_end_is_no_change(manager: SessionManager, edit: Act) -> None:
    """Neither an event nor a cookie: the order of keys, tuples for lists, and what was undone count for nothing."""
    app, browser = app_of(manager), Browser()
    await browser.visit(app, lambda session: session.update(n=1, cart={"a": [1.5], "b": 2}))
    answer = await browser.visit(app, edit)
    assert answer.set_cookie is None
    assert await types_of(manager, browser.session_id) == ["created"]


@pytest.mark.parametrize("value", [True, 1.0, "1", [1], None])
async def test_values_that_python_calls_equal_are_different_changes(manager: SessionManager, value: object) -> None:
    """1, 1.0 and True have different JSON, and so has everything else."""
    app, browser = app_of(manager), Browser()
    await browser.visit(app, lambda session: session.update(n=1))
    await browser.visit(app, lambda session: session.update(n=value))
    found = (await browser.visit(app)).json["n"]
    assert (type(found), found) == (type(value), value)
    assert (await types_of(manager, browser.session_id)) == ["created", "updated"]


async def test_what_is_set_and_removed_begins_no_session(manager: SessionManager) -> None:
    """Nothing is left to be stored."""
    answer = await Browser().visit(app_of(manager), lambda session: session.update(a=1) or session.pop("a"))
    assert answer.set_cookie is None


async def test_all_that_a_request_does_is_one_event(manager: SessionManager) -> None:
    """Three keys and a login on a new visit: one `authenticated`, the session's first."""
    browser = Browser()

    def act(session: Session) -> None:
        session["cart"] = ["tea"]
        session.login(42)
        session.update(theme="dark", lang="de")

    await browser.visit(app_of(manager), act)
    (event,) = await manager.audit.history(browser.session_id)
    assert (event.type, event.version, event.user_id) == ("authenticated", 1, "42")
    assert event.set == {"cart": ["tea"], "theme": "dark", "lang": "de"}


async def test_keys_set_and_removed_are_one_event(manager: SessionManager) -> None:
    """An event says both."""
    app, browser = app_of(manager), Browser()
    await browser.visit(app, lambda session: session.update(a=1, b=2))
    await browser.visit(app, lambda session: session.update(c=3) or session.pop("a"))
    last = (await manager.audit.history(browser.session_id))[-1]
    assert (last.type, last.version, last.set, last.unset) == ("updated", 2, {"c": 3}, ("a",))


async def test_no_request_can_change_the_copy_of_another(manager: SessionManager) -> None:
    """Each has its own: what one does to a list and then discards is nobody else's."""
    app, browser = app_of(manager), Browser()
    await browser.visit(app, lambda session: session.update(cart=["tea"], deep=[[1]]))

    await browser.visit(app, lambda session: session["cart"].append("stolen") or 1 / 0, fails=ZeroDivisionError)
    await browser.visit(app, lambda session: session["deep"][0].append("stolen") or 1 / 0, fails=ZeroDivisionError)
    assert (await browser.visit(app)).json == {"cart": ["tea"], "deep": [[1]]}


async def test_parallel_requests_that_set_different_keys_all_count(manager: SessionManager) -> None:
    """The second one re-applies what it did to what the first one left."""
    app, browser = app_of(manager), Browser()
    await browser.visit(app, lambda session: session.update(n=0))
    twin = browser.twin()

    async def act(session: Session) -> None:
        session["outer"] = 1
        await twin.visit(app, lambda inner: inner.update(inner=1))

    await browser.visit(app, act)
    assert (await browser.visit(app)).json == {"n": 0, "outer": 1, "inner": 1}


async def test_info_tells_what_would_be_committed(manager: SessionManager) -> None:
    """Version, id and times once there are some; changes as of now."""
    app, browser = app_of(manager), Browser()

    def before(session: Session) -> None:
        info = session.info
        assert (info.id, info.version, info.is_new, info.created_at, info.user_id) == (None, 0, True, None, None)
        session["a"] = 1
        assert session.info.changes.set_ == {"a": 1}

    def after(session: Session) -> None:
        info = session.info
        assert (info.id, info.version, info.is_new, info.stale) == (browser.session_id, 1, False, False)
        assert info.created_at is not None
        assert info.expires_at is not None
        assert info.created_at < info.expires_at
        assert info.authenticated_at is None
        del session["a"]
        assert session.info.changes.unset == ("a",)

    await browser.visit(app, before)
    await browser.visit(app, after)


async def test_save_commits_at_once_and_the_rest_follows(manager: SessionManager) -> None:
    """Two events; the cookie carries the version of the last."""
    app, browser = app_of(manager), Browser()

    async def act(session: Session) -> int:
        session["a"] = 1
        await session.save()
        saved = session.info.version
        session["b"] = 2
        return saved

    assert (await browser.visit(app, act)).json == 1
    assert browser.fence == 2
    assert await types_of(manager, browser.session_id) == ["created", "updated"]
    assert (await browser.visit(app)).json == {"a": 1, "b": 2}


async def test_save_without_a_change_commits_nothing(manager: SessionManager) -> None:
    """And makes no session."""

    async def act(session: Session) -> None:
        await session.save()

    assert (await Browser().visit(app_of(manager), act)).set_cookie is None


async def test_revalidate_brings_what_others_changed_and_keeps_what_is_pending(manager: SessionManager) -> None:
    """In the middle of a request that began before the others."""
    app, browser = app_of(manager), Browser()
    await browser.visit(app, lambda session: session.update(n=1))
    twin = browser.twin()

    async def act(session: Session) -> dict[str, object]:
        session["mine"] = 1
        await twin.visit(app, lambda inner: inner.update(n=2))
        await session.revalidate()
        return dict(session)

    assert (await browser.visit(app, act)).json == {"n": 2, "mine": 1}
    assert (await browser.visit(app)).json == {"n": 2, "mine": 1}


@pytest.mark.parametrize(
    "use",
    [
        lambda s: s.__setitem__("a", 1),
        lambda s: s.pop("n"),
        lambda s: s.popitem(),
        lambda s: s.__delitem__("n"),
        lambda s: s.update(a=1),
        lambda s: s.login(1),
        lambda s: s.logout(),
        lambda s: s.clear(),
        lambda s: s.rotate(),
    ],
)
async def test_a_session_cannot_be_changed_after_its_request(manager: SessionManager, use: Act) -> None:
    """Nobody would commit it: a task that outlives its request is told so, and what it read stays."""
    app, browser = app_of(manager), Browser()
    kept: list[Session] = []
    await browser.visit(app, lambda session: session.update(n=1) or kept.append(session))
    with pytest.raises(SessionDetached, match=r"manager\.edit"):
        use(kept[0])
    assert kept[0] == {"n": 1}


async def test_a_session_cannot_be_saved_after_its_request(manager: SessionManager) -> None:
    """Nor brought up to date."""
    kept: list[Session] = []
    await Browser().visit(app_of(manager), kept.append)
    with pytest.raises(SessionDetached):
        await kept[0].save()
    with pytest.raises(SessionDetached):
        await kept[0].revalidate()


async def test_the_session_also_stands_in_the_scope(manager: SessionManager) -> None:
    """Without Starlette's property it is the same object, and reading it is noticed."""

    async def app(scope, receive, send) -> None:  # type: ignore[no-untyped-def]
        scope["session"].get("a")
        await send({"type": "http.response.start", "status": 200, "headers": []})
        await send({"type": "http.response.body", "body": b""})

    assert (await Browser().visit(SessionMiddleware(app, manager))).header("vary") == "Cookie"


async def test_session_of_is_typed_and_says_what_is_missing(manager: SessionManager) -> None:
    """It returns our session, or raises with the line that installs the middleware."""
    scope: dict[str, object] = {"type": "http", "session": {}}
    with pytest.raises(ConfigError, match="add_middleware"):
        session_of(HTTPConnection(scope))
    with pytest.raises(ConfigError, match="add_middleware"):
        session_of(HTTPConnection({"type": "http"}))
    seen: list[bool] = []

    async def app(scope, receive, send) -> None:  # type: ignore[no-untyped-def]
        seen.append(session_of(HTTPConnection(scope)) is scope["session"])
        await send({"type": "http.response.start", "status": 200, "headers": []})
        await send({"type": "http.response.body", "body": b""})

    answer = await Browser().visit(SessionMiddleware(app, manager))
    assert seen == [True]
    assert answer.header("vary") == "Cookie"


async def test_another_scope_is_passed_through(manager: SessionManager) -> None:
    """What is neither http nor websocket nor lifespan is none of our business."""
    seen: list[str] = []

    async def app(scope, receive, send) -> None:  # type: ignore[no-untyped-def]
        seen.append(scope["type"])

    await SessionMiddleware(app, manager)({"type": "mail"}, app, app)  # type: ignore[arg-type]
    assert seen == ["mail"]
