"""What a browser sends and is sent: Set-Cookie, fences, several cookies of one name, and whatever else comes in."""

from __future__ import annotations

import logging
from collections.abc import Sequence

import anyio
import pytest
from hypothesis import example, given
from hypothesis import strategies as st
from starlette.responses import Response
from starlette.types import ASGIApp

from evsession import CookiePolicy, Session, SessionManager, SessionMiddleware
from evsession.store import FeedListener, FillReply
from evsession.stores.memory import MemoryStore
from evsession.view import Beat
from tests.integration.apps import (
    COOKIE,
    KEY,
    Answer,
    Browser,
    Clock,
    app_of,
    in_memory,
    logged,
    setting,
    two_workers,
    types_of,
)
from tests.servers import Server

NAME = COOKIE.encode()


async def _begun(manager: SessionManager, owner: str = "ann") -> Browser:
    browser = Browser()
    await browser.visit(app_of(manager), lambda session: session.update(owner=owner))
    return browser


async def _with_cookies(app: ASGIApp, *headers: bytes) -> Answer:
    return await Browser().visit(app, headers=[(b"cookie", header) for header in headers])


# ── what is sent ─────────────────────────────────────────────────────────────────────────────────────────────────────


async def test_a_new_session_comes_with_a_strict_cookie(manager: SessionManager) -> None:
    """And with a ban on storing the answer, whatever the application said of caching."""
    answer = await Browser().visit(
        app_of(manager),
        lambda session: session.update(a=1) or Response(headers={"cache-control": "public, max-age=60"}),
    )
    assert answer.set_cookie is not None
    value, *attributes = answer.set_cookie.split("; ")
    assert value.startswith(f"{COOKIE}=00")
    assert attributes == ["Path=/", "Secure", "HttpOnly", "SameSite=Lax"]
    assert (answer.header("cache-control"), answer.header("vary")) == ("no-store", "Cookie")


async def test_clearing_differs_in_value_and_age_only(manager: SessionManager) -> None:
    """Another path or flag, and browsers would keep the old one."""
    browser = await _begun(manager)
    answer = await browser.visit(app_of(manager), lambda session: session.logout())
    assert answer.set_cookie == (
        f"{COOKIE}=; Max-Age=0; Expires=Thu, 01 Jan 1970 00:00:00 GMT; Path=/; Secure; HttpOnly; SameSite=Lax"
    )


async def test_a_read_sets_no_cookie_and_leaves_caching_to_the_application(manager: SessionManager) -> None:
    """But says that the answer varies."""
    browser = await _begun(manager)
    response = Response(headers={"cache-control": "private", "vary": "Accept-Encoding"})
    answer = await browser.visit(app_of(manager), lambda session: session["owner"] and response)
    assert answer.set_cookie is None
    assert (answer.header("cache-control"), answer.header("vary")) == ("private", "Accept-Encoding, Cookie")


@pytest.mark.parametrize("vary", ["*", "Cookie", "Accept, cookie"])
async def test_vary_is_left_alone_where_it_says_so_already(manager: SessionManager, vary: str) -> None:
    """Nothing is named twice."""
    answer = await Browser().visit(app_of(manager), lambda _: Response(headers={"vary": vary}))
    assert answer.header("vary") == vary


async def test_an_untouched_session_leaves_the_answer_alone(manager: SessionManager) -> None:
    """A page that does not look at the session may be cached for everybody."""
    browser = await _begun(manager)
    page = Response("hello", headers={"cache-control": "public"})
    answer = await browser.visit(SessionMiddleware(page, manager))
    assert (answer.header("vary"), answer.header("cache-control"), answer.set_cookie) == (None, "public", None)


async def test_cookies_of_the_application_stay(manager: SessionManager) -> None:
    """Ours is appended; no header is overwritten."""

    def act(session: Session) -> Response:
        session["a"] = 1
        response = Response()
        response.set_cookie("theme", "dark")
        response.set_cookie("lang", "de")
        return response

    answer = await Browser().visit(app_of(manager), act)
    assert [value.partition("=")[0] for value in answer.all("set-cookie")] == ["theme", "lang", COOKIE]


async def test_a_persistent_cookie_lives_as_long_as_the_session_may() -> None:
    """Only where it was asked for."""
    manager = in_memory(cookie=CookiePolicy(persistent=True))
    answer = await Browser().visit(app_of(manager), lambda session: session.update(a=1))
    assert answer.set_cookie is not None
    assert "; Max-Age=43200;" in answer.set_cookie


async def test_localhost_over_http_warns_once(manager: SessionManager, caplog: pytest.LogCaptureFixture) -> None:
    """It names the switch for development."""
    for host in ("shop.example", "localhost:8000", "127.0.0.1", "testserver"):
        await Browser(scheme="http", host=host).visit(app_of(manager), lambda session: session.update(a=1))
    (record,) = logged(caplog)
    assert "CookiePolicy.for_localhost()" in record.getMessage()


@pytest.mark.parametrize("host", ["localhost:8000", "127.0.0.1", "testserver"])
async def test_the_warning_knows_the_names_of_this_machine(
    manager: SessionManager, host: str, caplog: pytest.LogCaptureFixture
) -> None:
    """Over https there is none."""
    await Browser(host=host).visit(app_of(manager), lambda session: session.update(a=1))
    assert not logged(caplog)
    await Browser(scheme="http", host=host).visit(app_of(manager), lambda session: session.update(a=1))
    assert len(logged(caplog)) == 1


# ── the fence ────────────────────────────────────────────────────────────────────────────────────────────────────────


class Deaf(MemoryStore):
    """A memory store whose feed loses every message."""

    async def open(self, worker: str, bound: int, listener: FeedListener) -> None:
        await super().open(worker, bound, _Nobody())


class _Nobody:
    def on_message(self, shard: str, message: bytes) -> None:
        return None

    def on_gap(self, shard: str) -> None:
        return None


async def test_a_browser_sees_its_own_write_on_every_worker() -> None:
    """Even if the feed has told that worker nothing: the fence makes it ask, once."""
    clock = Clock()
    store = Deaf(clock=clock.server)
    one, two = in_memory(store, clock=clock), in_memory(store, clock=clock)
    browser = await _begun(one)
    assert (await browser.visit(app_of(two))).json == {"owner": "ann"}
    without = browser.twin()
    await browser.visit(app_of(one), lambda session: session.update(n=1))
    assert browser.fence == 2
    assert (await without.visit(app_of(two))).json == {"owner": "ann"}, "the copy of the second worker is not old"
    fills = two.stats().counts.fills
    answers = [await browser.visit(app_of(two)) for _ in range(3)]
    assert [answer.json for answer in answers] == [{"owner": "ann", "n": 1}] * 3
    assert [answer.set_cookie for answer in answers] == [None] * 3
    assert two.stats().counts.fills == fills + 1


async def test_the_highest_of_several_fences_counts() -> None:
    """One token may stand there more than once; each order makes the same of it."""
    for fences in ("~1 ~2", "~2 ~1", "~2 ~0 ~1"):
        clock = Clock()
        store = Deaf(clock=clock.server)
        one, two = in_memory(store, clock=clock), in_memory(store, clock=clock)
        browser = await _begun(one)
        await browser.visit(app_of(two))
        await browser.visit(app_of(one), setting(n=1))
        token = str(browser.token).partition("~")[0]
        header = "; ".join(f"{COOKIE}={token}{fence}" for fence in fences.split())
        answer = await _with_cookies(app_of(two), header.encode())
        assert (answer.json, answer.set_cookie) == ({"owner": "ann", "n": 1}, None)
        answer = await Browser(token).visit(app_of(two), setting(n=2), headers=[(b"cookie", header.encode())])
        assert answer.set_cookie is not None
        assert answer.set_cookie.partition(";")[0] == f"{COOKIE}={token}~3"


class Slow(Deaf):
    """One whose next answer to a fill stays under way until `arrive` is set."""

    def __init__(self, clock: Clock) -> None:
        super().__init__(clock=clock.server)
        self.asked, self.arrive = anyio.Event(), anyio.Event()
        self.arrive.set()

    async def fill(self, sid: str, beats: Sequence[Beat] = ()) -> FillReply:
        reply = await super().fill(sid, beats)
        if not self.arrive.is_set() and not self.asked.is_set():
            self.asked.set()
            await self.arrive.wait()
        return reply


async def test_a_fence_does_not_join_a_question_that_was_asked_before_it_came() -> None:
    """Its answer may be older than the write that the browser has seen; whoever has no fence may join."""
    clock = Clock()
    store = Slow(clock)
    one, two = in_memory(store, clock=clock), in_memory(store, clock=clock)
    browser = await _begun(one)
    assert browser.token is not None
    unfenced = Browser(browser.token.partition("~")[0])
    answers: list[Answer] = []

    async def ask() -> None:
        answers.append(await unfenced.visit(app_of(two)))

    store.arrive = anyio.Event()
    async with anyio.create_task_group() as tasks:
        tasks.start_soon(ask)
        await store.asked.wait()
        await browser.visit(app_of(one), setting(n=1))
        answer = await browser.visit(app_of(two))
        store.arrive.set()
    assert (answer.json, answer.set_cookie) == ({"owner": "ann", "n": 1}, None)
    assert len(answers) == 1


async def test_a_browser_sees_its_own_write_with_every_subscription_cut(server: Server) -> None:
    """The same on a real server, 30 times, on two workers in turn."""
    async with two_workers(server.url) as workers:
        browser = await _begun(workers[0])
        for number in range(30):
            await browser.visit(app_of(workers[number % 2]), setting(n=number))
            server.cli("CLIENT", "KILL", "TYPE", "pubsub")
            assert (await browser.visit(app_of(workers[1 - number % 2]))).json["n"] == number


async def test_a_fence_that_is_too_high_is_mended(manager: SessionManager) -> None:
    """Such as after a failover: one question, and a cookie with the version that there is; no event."""
    app, browser = app_of(manager), await _begun(manager)
    assert browser.token is not None
    browser.token = browser.token.replace("~1", "~9")
    fills = manager.stats().counts.fills
    assert (await browser.visit(app)).json == {"owner": "ann"}
    assert browser.fence == 1
    assert (await browser.visit(app)).set_cookie is None
    assert manager.stats().counts.fills == fills + 1
    assert await types_of(manager, browser.session_id) == ["created"]


@pytest.mark.parametrize("fence", ["", "~", "~x", "~-1", "~1~2", "~" + "9" * 5_000, "~" + "0" * 5_000, "~ 1"])
async def test_a_fence_of_any_other_form_counts_as_none(manager: SessionManager, fence: str) -> None:
    """The token is good all the same."""
    browser = await _begun(manager)
    assert browser.token is not None
    browser.token = browser.token.partition("~")[0] + fence
    answer = await browser.visit(app_of(manager))
    assert (answer.status, answer.json) == (200, {"owner": "ann"})


async def test_a_token_of_an_older_key_is_exchanged_when_a_cookie_is_set_anyway() -> None:
    """The secret stays, the tag is of the new key; after a rotation of keys nobody is signed out."""
    store, new = MemoryStore(), "another key, that signs from now on, 02"
    before = SessionManager(store, secret_key=KEY)
    after = SessionManager(store, secret_key=[new, KEY])
    browser = await _begun(before)
    old = browser.token
    assert old is not None
    assert (await browser.visit(app_of(after))).json == {"owner": "ann"}
    await browser.visit(app_of(after), lambda session: session.update(n=1))
    assert browser.token is not None
    assert browser.token[:68] == old[:68]
    assert browser.token[:91] != old[:91]
    assert (await browser.visit(app_of(SessionManager(store, secret_key=new)))).json == {"owner": "ann", "n": 1}


# ── what comes in ────────────────────────────────────────────────────────────────────────────────────────────────────


async def test_one_token_with_several_fences_counts_with_the_highest(manager: SessionManager) -> None:
    """A browser may hold a cookie for each path; the same session stands in all of them."""
    app, browser = app_of(manager), await _begun(manager)
    await browser.visit(app, lambda session: session.update(n=1))
    assert browser.token is not None
    old, new = (browser.token.replace("~2", fence).encode() for fence in ("~1", "~2"))
    for order in ((old, new), (new, old)):
        together = await _with_cookies(app, b"; ".join(NAME + b"=" + value for value in order))
        apart = await _with_cookies(app, *(NAME + b"=" + value for value in order))
        assert together.json == apart.json == {"owner": "ann", "n": 1}
    await _with_cookies(app, NAME + b"=" + old + b"; " + NAME + b"=rubbish")


async def test_two_different_good_tokens_count_as_none(
    manager: SessionManager, caplog: pytest.LogCaptureFixture
) -> None:
    """Somebody planted one of them, and nobody can tell which; the ids are logged, the tokens are not."""
    ann, bob = await _begun(manager), await _begun(manager, "bob")
    answer = await _with_cookies(app_of(manager), f"{COOKIE}={ann.token}; {COOKIE}={bob.token}".encode())
    assert (answer.json, answer.set_cookie) == ({}, None)
    (record,) = logged(caplog)
    assert ann.session_id in record.getMessage()
    assert bob.session_id in record.getMessage()
    assert str(ann.token)[25:91] not in caplog.text


async def test_a_good_token_beside_rubbish_counts(manager: SessionManager) -> None:
    """Who can plant a bad cookie must not be able to sign people out."""
    browser = await _begun(manager)
    for header in (f"{COOKIE}=x; {COOKIE}={browser.token}", f"{COOKIE}={browser.token}; {COOKIE}=x"):
        assert (await _with_cookies(app_of(manager), header.encode())).json == {"owner": "ann"}


@pytest.mark.parametrize("space", [b"\xa0", b"\x85", b"\x0b", b"\x0c", b"\x1c", b"\xe2\x80\x83", b"x", b"_"])
@pytest.mark.parametrize("prefix", [b"", b"a=b; "])
async def test_a_name_that_only_looks_like_ours_is_another(
    manager: SessionManager, space: bytes, prefix: bytes
) -> None:
    """Lenient parsers strip these, which defeats the prefix __Host-: a sister domain may set such names."""
    browser = await _begun(manager)
    header = prefix + space + NAME + b"=" + str(browser.token).encode()
    assert (await _with_cookies(app_of(manager), header)).json == {}


async def test_a_token_of_elsewhere_is_refused_before_any_io(manager: SessionManager) -> None:
    """One of another cookie, of another namespace, or of another key; and one with a character changed."""
    good = str((await _begun(manager)).token).partition("~")[0]
    others = [
        in_memory(cookie=CookiePolicy(name="__Host-other")),
        in_memory(namespace="other"),
        SessionManager(secret_key="x" * 32),
    ]
    tokens = [(await other.create()).token.value for other in others]
    tokens += [good[:at] + ("A" if good[at] != "A" else "Q") + good[at + 1 :] for at in (0, 5, 23, 30, 67, 75, 90)]
    tokens += [good[:-1], good + "=", good + "A", good.replace(".", "", 1), f'"{good}"', "%30" + good[1:], ""]
    fills = manager.stats().counts.fills
    for token in tokens:
        assert (await Browser(token).visit(app_of(manager))).json == {}
    assert manager.stats().counts.fills == fills


SECRETS = st.sampled_from([b"<ann>", b"<bob>", b"<ann>~1", b"<bob>~7", b"<ann>~" + b"9" * 30, b"<ann", b"00", b"~1"])
PIECES = st.one_of(
    st.sampled_from([NAME, NAME + b"=", b"; ", b";", b"=", b" ", b"\t", b",", b'"', b"\xa0", b"\x85", b"\x00", b"a=b"]),
    SECRETS,
    SECRETS.map(lambda secret: NAME + b"=" + secret),
    st.binary(max_size=6),
)


@given(headers=st.lists(st.lists(PIECES, max_size=8).map(b"".join), max_size=3))
@example(headers=[NAME + b"=<ann>; " + NAME + b"=<bob>"])
@example(headers=[NAME + b"=<ann>", NAME + b"=<bob>"])
@example(headers=[b"\x85" + NAME + b"=<ann>", NAME + b"=<bob>"])
async def test_no_cookie_header_breaks_anything(headers: list[bytes]) -> None:
    """Never a 500, never a session whose whole token does not stand there."""
    manager = in_memory()
    ann, bob = await _begun(manager), await _begun(manager, "bob")
    tokens = {name: str(browser.token)[:91].encode() for name, browser in (("ann", ann), ("bob", bob))}
    sent = [header.replace(b"<ann>", tokens["ann"]).replace(b"<bob>", tokens["bob"]) for header in headers]
    answer = await _with_cookies(app_of(manager), *sent)
    assert answer.status == 200
    owner = answer.json.get("owner")
    good = {name for name, token in tokens.items() if _is_good(sent, token)}
    assert {owner} == (good if len(good) == 1 else {None})


def _is_good(headers: list[bytes], token: bytes) -> bool:
    """Tell, in the plainest way, whether a token stands in one of the headers under our name."""
    pairs = [pair.strip(b" \t").partition(b"=") for header in headers for pair in header.split(b";")]
    values = [value.strip(b" \t") for name, _, value in pairs if name.strip(b" \t") == NAME]
    return any(value == token or value.startswith(token + b"~") for value in values)


async def test_no_token_reaches_the_log(manager: SessionManager, caplog: pytest.LogCaptureFixture) -> None:
    """At any level."""
    caplog.set_level(logging.DEBUG)
    app, browser = app_of(manager), await _begun(manager)
    await browser.visit(app, lambda session: session.login(42))
    secret = str(browser.token)[25:68]
    await browser.visit(app)
    await browser.visit(app, lambda session: session.logout())
    assert "source=memory" in caplog.text
    assert secret not in caplog.text
