"""The policies: their defaults, and a refusal with a way out for everything that cannot work."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import FrozenInstanceError, fields
from datetime import timedelta
from typing import Any, get_type_hints

import pytest

from evsession.config import (
    DEFAULT_REDACT,
    AuditPolicy,
    CachePolicy,
    CookiePolicy,
    SessionPolicy,
    StorePolicy,
    check_transports,
)
from evsession.errors import ConfigError

POLICIES: list[Any] = [SessionPolicy, CookiePolicy, CachePolicy, AuditPolicy, StorePolicy]
SECRET = "a secret of thirty-two characters or more"


@pytest.fixture(autouse=True, scope="module")
def patience() -> None:
    """Leave the defaults as users have them."""


def user_of(data: Mapping[str, Any]) -> object:
    """Tell the user from the data, as an app may."""
    return data.get("account")


@pytest.mark.parametrize("policy", POLICIES)
def test_policies_are_frozen_and_keyword_only(policy: Any) -> None:
    """Nobody changes one after it was checked, and nobody counts positions."""
    made = policy()
    name = fields(policy)[0].name
    with pytest.raises(FrozenInstanceError):
        setattr(made, name, getattr(made, name))
    with pytest.raises(TypeError):
        policy("positional")
    assert made == policy()
    assert not hasattr(made, "__dict__")


@pytest.mark.parametrize("policy", POLICIES)
def test_the_types_of_a_policy_can_be_resolved(policy: Any) -> None:
    """As pydantic-settings does, where a policy is a field of an app's own settings."""
    assert get_type_hints(policy).keys() == {field.name for field in fields(policy)}


def test_the_defaults_are_those_of_the_standards() -> None:
    """A change of a default is a change of the product."""
    session, cookie, cache = SessionPolicy(), CookiePolicy(), CachePolicy()
    assert (session.idle_timeout, session.absolute_timeout) == (timedelta(minutes=30), timedelta(hours=12))
    assert (session.renew_after, session.renew_grace) == (None, timedelta(seconds=30))
    assert (session.user_key, session.max_sessions, session.on_limit) == ("user_id", None, "evict_oldest")
    assert (session.max_bytes, session.max_key_length, session.max_depth) == (65_536, 256, 32)
    assert (session.max_keys, session.anonymous_per_second, session.keep_on_error) == (1024, 100, False)
    assert (cookie.name, cookie.path, cookie.domain, cookie.same_site) == ("__Host-session", "/", None, "lax")
    assert (cookie.secure, cookie.http_only, cookie.persistent, cookie.partitioned) == (True, True, False, False)
    assert (cache.max_staleness, cache.stale_for) == (timedelta(seconds=2), timedelta(0))
    assert (cache.max_entries, cache.max_bytes, cache.on_outage) == (50_000, 64 * 2**20, "refuse")


def test_the_defaults_of_store_and_audit() -> None:
    """Nobody is logged with a full address, and nothing waits longer than two seconds."""
    store, audit = StorePolicy(), AuditPolicy()
    assert (store.command_timeout, store.connect_timeout) == (timedelta(seconds=1), timedelta(seconds=1))
    assert (store.probe_every, store.resubscribe_at_most) == (timedelta(seconds=0.5), timedelta(seconds=1))
    assert (store.commit_timeout, store.retention) == (timedelta(seconds=2), timedelta(days=7))
    assert (audit.redact, audit.address, audit.request_ids) == (DEFAULT_REDACT, "truncated", False)
    assert (audit.context, audit.actor, audit.key) == (None, None, None)


@pytest.mark.parametrize(
    ("policy", "name"),
    [
        *[(SessionPolicy, name) for name in ("idle_timeout", "absolute_timeout", "renew_after", "renew_grace")],
        *[(CachePolicy, name) for name in ("max_staleness", "stale_for")],
        *[(StorePolicy, field.name) for field in fields(StorePolicy)],
    ],
)
def test_durations_are_timedeltas_within_reason(policy: Any, name: str) -> None:
    """A number could be seconds, milliseconds or minutes: none is taken; nor is a negative or an endless time."""
    for number in (1800, 1.5, "30", True):
        with pytest.raises(ConfigError, match=rf"{name} must be a timedelta, .*write {name}=timedelta"):
            policy(**{name: number})
    for wrong in (timedelta(seconds=-1), timedelta(days=36_500)):
        with pytest.raises(ConfigError, match=rf"{name}=.* is out of range; use .* to 3650 days"):
            policy(**{name: wrong})


@pytest.mark.parametrize("name", ["idle_timeout", "absolute_timeout", "renew_after"])
def test_a_session_of_no_time_is_refused(name: str) -> None:
    """The server counts milliseconds."""
    no_time: Any = {name: timedelta(0)}
    with pytest.raises(ConfigError, match=rf"{name}=0:00:00 is out of range; use 0:00:00.001000"):
        SessionPolicy(**no_time)
    assert SessionPolicy(idle_timeout=timedelta(milliseconds=1)).idle_timeout == timedelta(milliseconds=1)
    assert SessionPolicy(absolute_timeout=timedelta(days=3650)).absolute_timeout == timedelta(days=3650)


def test_staleness_has_a_floor() -> None:
    """Heartbeats come three times as often: under 50 ms they would be all that a worker does."""
    with pytest.raises(ConfigError, match=r"max_staleness=0:00:00.049000 is out of range; use 0:00:00.050000"):
        CachePolicy(max_staleness=timedelta(milliseconds=49))
    assert CachePolicy(max_staleness=timedelta(milliseconds=50)).max_staleness == timedelta(milliseconds=50)


@pytest.mark.parametrize(
    ("policy", "name"),
    [
        *[(SessionPolicy, name) for name in ("max_sessions", "max_bytes", "max_key_length", "max_depth", "max_keys")],
        (SessionPolicy, "anonymous_per_second"),
        *[(CachePolicy, name) for name in ("max_entries", "max_bytes")],
    ],
)
@pytest.mark.parametrize("wrong", [0, -1, True, 1.0, "5"])
def test_counts_are_whole_and_positive(policy: Any, name: str, wrong: object) -> None:
    """A zero that means "none" to one means "no limit" to another."""
    with pytest.raises(ConfigError, match=rf"{name}=.* use a whole number from 1"):
        policy(**{name: wrong})
    assert getattr(policy(**{name: 1}), name) == 1


@pytest.mark.parametrize(
    ("policy", "name", "choice"),
    [
        (SessionPolicy, "on_limit", "'evict_oldest' or 'reject'"),
        (CookiePolicy, "same_site", "'lax' or 'strict' or 'none'"),
        (CachePolicy, "on_outage", "'refuse' or 'stale' or 'anonymous'"),
        (AuditPolicy, "address", "'none' or 'truncated' or 'full'"),
    ],
)
@pytest.mark.parametrize("wrong", ["Lax", "", None, 1])
def test_choices_name_what_there_is(policy: Any, name: str, choice: str, wrong: object) -> None:
    """A typing error is answered with the words that exist."""
    with pytest.raises(ConfigError, match=f"{name}={wrong!r} is unknown; use {choice}"):
        policy(**{name: wrong})


@pytest.mark.parametrize(
    ("policy", "name"),
    [
        (SessionPolicy, "keep_on_error"),
        *[(CookiePolicy, name) for name in ("secure", "http_only", "persistent", "partitioned")],
        (AuditPolicy, "request_ids"),
    ],
)
def test_flags_are_booleans(policy: Any, name: str) -> None:
    """The text "false" of an environment variable must not switch something on."""
    with pytest.raises(ConfigError, match=f"{name}='false' .*use True or False"):
        policy(**{name: "false"})


@pytest.mark.parametrize("user_key", ["uid", ("uid", "user"), user_of, None])
def test_the_user_key_has_four_forms(user_key: Any) -> None:
    """A name, several, a function, or none."""
    assert SessionPolicy(user_key=user_key).user_key == user_key


@pytest.mark.parametrize("user_key", ["", (), ("uid", ""), ["uid"], ("uid", 1), 7])
def test_a_user_key_that_names_nothing_is_refused(user_key: Any) -> None:
    """An empty name would silently detect nobody."""
    with pytest.raises(ConfigError, match="use a name, a tuple of names, a function of the data, or None"):
        SessionPolicy(user_key=user_key)


def test_the_grace_is_shorter_than_the_renewal() -> None:
    """Otherwise a third secret comes while the first is still good."""
    with pytest.raises(ConfigError, match="make renew_after longer"):
        SessionPolicy(renew_after=timedelta(seconds=30))
    assert SessionPolicy(renew_after=timedelta(seconds=31)).renew_after == timedelta(seconds=31)


@pytest.mark.parametrize("name", ["__Host-session", "__host-sid", "__Secure-sid", "__SECURE-sid"])
def test_prefixed_cookies_are_secure(name: str) -> None:
    """Browsers drop them otherwise, whatever the case of the prefix."""
    with pytest.raises(ConfigError, match=r"needs secure=True; on http://localhost use CookiePolicy.for_localhost"):
        CookiePolicy(name=name, secure=False)


@pytest.mark.parametrize("contradiction", [{"domain": "example.com"}, {"path": "/app"}])
@pytest.mark.parametrize("name", ["__Host-session", "__HOST-session"])
def test_host_cookies_have_no_domain_and_no_path(name: str, contradiction: dict[str, Any]) -> None:
    """Browsers drop them otherwise."""
    with pytest.raises(ConfigError, match="drop them, or use name='__Secure-session'"):
        CookiePolicy(name=name, **contradiction)
    assert CookiePolicy(name="__Secure-session", **contradiction).secure


def test_what_other_sites_send_is_secure() -> None:
    """Browsers drop a cookie that says otherwise."""
    with pytest.raises(ConfigError, match="use secure=True, or same_site='lax'"):
        CookiePolicy(name="sid", secure=False, same_site="none")
    with pytest.raises(ConfigError, match="use secure=True, or partitioned=False"):
        CookiePolicy(name="sid", secure=False, partitioned=True)
    assert CookiePolicy(same_site="none", partitioned=True).partitioned


@pytest.mark.parametrize("name", ["", "a b", "a;b", "a=b", "sid\n", "säsion", '"sid"', "a,b", "a/b", 5])
def test_a_cookie_name_is_a_token(name: Any) -> None:
    """Anything else would end the name or the header."""
    with pytest.raises(ConfigError, match="use letters, digits, '-' and '_'"):
        CookiePolicy(name=name)


@pytest.mark.parametrize("path", ["", "app", "/a;b", "/a\r\nSet-Cookie: x", "/ä", None])
def test_a_cookie_path_cannot_end_the_attribute(path: Any) -> None:
    """A path is a place for header injection."""
    with pytest.raises(ConfigError, match="begin it with '/' and use printable ASCII without ';'"):
        CookiePolicy(name="sid", path=path)


@pytest.mark.parametrize("domain", ["", "a b", "example.com;", "https://example.com", "example.com:80", 1])
def test_a_cookie_domain_is_a_host_name(domain: Any) -> None:
    """A URL or a port makes browsers drop the cookie."""
    with pytest.raises(ConfigError, match=r"write it like 'example\.com', or use domain=None"):
        CookiePolicy(name="sid", domain=domain)


def test_localhost_is_one_switch() -> None:
    """The name changes with it, because the prefix needs https."""
    assert CookiePolicy.for_localhost() == CookiePolicy(name="session", secure=False)


def test_an_outage_policy_and_its_time_go_together() -> None:
    """One without the other would do nothing, or serve stale data for no time."""
    with pytest.raises(ConfigError, match="needs a stale_for over zero"):
        CachePolicy(on_outage="stale")
    others: list[Any] = ["refuse", "anonymous"]
    for other in others:
        with pytest.raises(ConfigError, match=r"does nothing .* use on_outage='stale'"):
            CachePolicy(stale_for=timedelta(seconds=5), on_outage=other)
    assert CachePolicy(stale_for=timedelta(seconds=5), on_outage="stale").stale_for == timedelta(seconds=5)


def test_a_commit_has_time_for_one_reply() -> None:
    """Otherwise every commit would end unknown."""
    with pytest.raises(ConfigError, match="make command_timeout shorter or commit_timeout longer"):
        StorePolicy(commit_timeout=timedelta(seconds=0.9))
    assert StorePolicy(commit_timeout=timedelta(seconds=1)).commit_timeout == timedelta(seconds=1)


@pytest.mark.parametrize("transports", [("cookie",), ("bearer",), ("cookie", "bearer"), ("bearer", "cookie")])
def test_transports_are_kept_in_their_order(transports: tuple[str, ...]) -> None:
    """The first is the one that new sessions begin with; a list will do."""
    assert check_transports(transports) == check_transports(list(transports)) == transports


@pytest.mark.parametrize("transports", [(), "cookie", "bearer", ("header",), ("cookie", "cookie"), None, 5])
def test_transports_are_named_once(transports: object) -> None:
    """A bare text would be taken letter by letter."""
    with pytest.raises(ConfigError, match=r"use \('cookie',\), \('bearer',\) or"):
        check_transports(transports)


@pytest.mark.parametrize("redact", ["password", ["password"], ("",), (1,), None])
def test_redact_is_a_tuple_of_names(redact: Any) -> None:
    """A bare text would be taken letter by letter."""
    with pytest.raises(ConfigError, match=r"such as \(\*DEFAULT_REDACT, 'pin'\); use \(\) to redact nothing"):
        AuditPolicy(redact=redact)
    assert AuditPolicy(redact=()).redact == ()


@pytest.mark.parametrize("name", ["context", "actor"])
def test_hooks_are_functions(name: str) -> None:
    """Their result is not one."""
    result: Any = {name: {"route": "/"}}
    function: Any = {name: user_of}
    with pytest.raises(ConfigError, match="pass the function itself, or None"):
        AuditPolicy(**result)
    assert getattr(AuditPolicy(**function), name) is user_of


def test_the_audit_key_is_checked_and_hidden() -> None:
    """A policy may be printed."""
    assert SECRET not in repr(AuditPolicy(key=SECRET))
    assert AuditPolicy(key=(SECRET, SECRET.encode())).key == (SECRET, SECRET.encode())
    wrongs: list[Any] = ["short", ("short",), (None,), 5]
    for wrong in wrongs:
        with pytest.raises(ConfigError, match=r"AuditPolicy.key .*secrets.token_urlsafe"):
            AuditPolicy(key=wrong)


@pytest.mark.parametrize("archive", ["", 7, b"s3://x"])
def test_an_archive_is_a_place(archive: Any) -> None:
    """A folder or a URL, which is all that can be told here."""
    with pytest.raises(ConfigError, match="name a folder, or a URL such as 's3://bucket/folder'"):
        AuditPolicy(archive=archive)
    assert AuditPolicy(archive="s3://bucket/folder").archive == "s3://bucket/folder"
