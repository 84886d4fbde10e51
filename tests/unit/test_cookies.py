"""Cookies: names byte by byte, one way of rendering, and the headers that go with a cookie."""

from __future__ import annotations

from datetime import timedelta
from typing import Any

import pytest

from evsession.config import CookiePolicy
from evsession.cookies import CookieRenderer, append_vary, forbid_store, raw_value, same_origin

NAME = b"__Host-session"
HOST = b"shop.example"


def found(*cookies: bytes) -> bytes | tuple[bytes, ...] | None:
    """Look for the session's cookie in these `cookie` headers, among others."""
    return raw_value([(b"host", HOST), *((b"cookie", one) for one in cookies), (b"x", NAME + b"=no")], NAME)


@pytest.mark.parametrize(
    "cookies",
    [
        b"__Host-session=v",
        b"a=b; __Host-session=v",
        b"a=b; __Host-session=v; c=d",
        b"a=b;__Host-session=v;c=d",
        b" \t__Host-session\t =\t v \t; c=d",
        b"x__Host-session=no; __Host-session=v",
        b"a=__Host-session; __Host-session=v",
        b"a=__Host-session=no; __Host-session=v",
        b"__Host-session; __Host-session=v",
        b"__Host-session=v; __Host-session",
        b"__Host-session=v; __Host-session2=no",
        b";;; =; =x;__Host-session=v",
        b"__Host-session=v; __Host-session=v",
        b"\xff\xfe; __Host-session=v; \x00",
    ],
)
def test_the_cookie_is_found(cookies: bytes) -> None:
    """Wherever it stands, whatever stands beside it."""
    assert found(cookies) == b"v"


@pytest.mark.parametrize(
    "cookies",
    [
        b"",
        b"a=b",
        b"\xa0__Host-session=v",
        b"a=b; \xa0__Host-session=v",
        b"a=b; \x85__Host-session=v",
        b"\x85__Host-session=v",
        b"\x0b__Host-session=v",
        b"\x0c__Host-session=v",
        b"\r\n__Host-session=v",
        b"\xc2\xa0__Host-session=v",
        b"\xe2\x80\xa8__Host-session=v",
        b"__Host-session\xa0=v",
        b"x__Host-session=v",
        b"a=b __Host-session=v",
        b"a __Host-session=v",
        b"; a; __Host-sessionx=v",
        b"__Host-session",
        b"=__Host-session=v",
        b"__host-session=v",
        b'"__Host-session"=v',
        b"a=b, __Host-session=v",
    ],
)
def test_another_name_is_another_name(cookies: bytes) -> None:
    """A sister domain may set each of these, and parsers that trim Unicode spaces take some for ours."""
    assert found(cookies) is None


def test_without_cookies_there_is_none() -> None:
    """Not in another header either."""
    assert found() is None
    assert raw_value([], NAME) is None
    assert raw_value([(b"set-cookie", NAME + b"=v"), (b"Cookie", NAME + b"=v")], NAME) is None


@pytest.mark.parametrize(
    ("cookies", "value"),
    [
        (b"__Host-session=", b""),
        (b"__Host-session=;a=b", b""),
        (b"__Host-session= \t", b""),
        (b"__Host-session=a=b=c", b"a=b=c"),
        (b'__Host-session="v"', b'"v"'),
        (b"__Host-session=%20v", b"%20v"),
        (b"__Host-session=v\xa0", b"v\xa0"),
        (b"__Host-session=\x85v; a=b", b"\x85v"),
        (b"__Host-session=\x00\xff", b"\x00\xff"),
        (b"__Host-session=__Host-session=", b"__Host-session="),
    ],
)
def test_a_value_is_trimmed_of_space_and_tab_only(cookies: bytes, value: bytes) -> None:
    """Never unquoted, decoded or guessed: what is left must be a token to the byte."""
    assert found(cookies) == value


@pytest.mark.parametrize(
    ("headers", "values"),
    [
        ([b"__Host-session=v; __Host-session=w"], (b"v", b"w")),
        ([b"__Host-session=v", b"__Host-session=w"], (b"v", b"w")),
        ([b"__Host-session=v; __Host-session=w", b"__Host-session=x"], (b"v", b"w", b"x")),
        ([b"__Host-session=v", b"__Host-session=w; __Host-session=v"], (b"v", b"w")),
        ([b"__Host-session=v", b"__Host-session=v"], b"v"),
        ([b"__Host-session=v", b"x__Host-session=w"], b"v"),
        ([b"x__Host-session=w", b"__Host-session=v"], b"v"),
        ([b"__Host-session=v; __Host-session=w", b"x__Host-session=x"], (b"v", b"w")),
        ([b"__Host-session=; __Host-session=v"], (b"", b"v")),
    ],
)
def test_values_that_differ_are_all_returned(headers: list[bytes], values: Any) -> None:
    """In the order in which they came, each once, over all headers: HTTP/2 may split them."""
    assert found(*headers) == values


def test_the_default_cookie_is_as_strict_as_browsers_know() -> None:
    """The attributes stand in one order, so that tests and proxies can compare texts."""
    renderer = CookieRenderer(CookiePolicy())
    assert renderer.set("v~1") == b"__Host-session=v~1; Path=/; Secure; HttpOnly; SameSite=Lax"


def test_every_attribute_is_rendered() -> None:
    """A policy that says the opposite of the default gives the opposite header."""
    policy = CookiePolicy(
        name="__Secure-sid", domain="shop.example", path="/app", http_only=False, same_site="none", partitioned=True
    )
    expected = b"__Secure-sid=v; Max-Age=60; Path=/app; Domain=shop.example; Secure; SameSite=None; Partitioned"
    assert CookieRenderer(policy).set("v", timedelta(minutes=1)) == expected
    plain = CookieRenderer(CookiePolicy(name="sid", secure=False, http_only=False, same_site="strict"))
    assert plain.set("v") == b"sid=v; Path=/; SameSite=Strict"


@pytest.mark.parametrize(
    "policy",
    [CookiePolicy(), CookiePolicy.for_localhost(), CookiePolicy(name="sid", domain="a.example", partitioned=True)],
)
def test_clearing_has_the_attributes_of_setting(policy: CookiePolicy) -> None:
    """A browser forgets a cookie only when they are the same."""
    renderer = CookieRenderer(policy)
    cleared = renderer.clear().split(b"; ")
    assert cleared[:3] == [policy.name.encode() + b"=", b"Max-Age=0", b"Expires=Thu, 01 Jan 1970 00:00:00 GMT"]
    assert cleared[3:] == renderer.set("v").split(b"; ")[1:]


@pytest.mark.parametrize(
    ("max_age", "seconds"),
    [
        (timedelta(hours=12), 43_200),
        (timedelta(microseconds=1), 1),
        (timedelta(seconds=1), 1),
        (timedelta(seconds=1.5), 2),
    ],
)
def test_max_age_is_rounded_up(max_age: timedelta, seconds: int) -> None:
    """A cookie must not end before its session does."""
    assert f"; Max-Age={seconds};".encode() in CookieRenderer(CookiePolicy()).set("v", max_age)


@pytest.mark.parametrize("max_age", [timedelta(0), timedelta(seconds=-5)])
def test_a_cookie_is_never_cleared_by_setting_it(max_age: timedelta) -> None:
    """Clearing is a decision, not a rounding."""
    with pytest.raises(ValueError, match=r"use clear\(\) for that"):
        CookieRenderer(CookiePolicy()).set("v", max_age)


@pytest.mark.parametrize("value", ["a b", "a;b", "a,b", 'a"b', "a\\b", "a\r\nSet-Cookie: x=y", "é", "a\x00", "a\n"])
def test_a_value_cannot_end_the_header(value: str) -> None:
    """Nor the attribute; and the error does not show it, as it may be a secret."""
    with pytest.raises(ValueError, match="encode it") as caught:
        CookieRenderer(CookiePolicy()).set(value)
    assert value not in str(caught.value)


def test_every_octet_of_the_standard_is_a_value() -> None:
    """RFC 6265, 4.1.1: printable ASCII but five."""
    octets = "".join(chr(code) for code in range(0x21, 0x7F) if chr(code) not in '",;\\')
    assert octets.encode() in CookieRenderer(CookiePolicy()).set(octets)


@pytest.mark.parametrize(
    ("before", "after"),
    [
        ([], [(b"vary", b"Cookie")]),
        ([(b"x", b"y")], [(b"x", b"y"), (b"vary", b"Cookie")]),
        ([(b"vary", b"Accept")], [(b"vary", b"Accept, Cookie")]),
        ([(b"Vary", b"Accept"), (b"x", b"y")], [(b"Vary", b"Accept, Cookie"), (b"x", b"y")]),
        ([(b"vary", b"Accept"), (b"vary", b"Origin")], [(b"vary", b"Accept"), (b"vary", b"Origin, Cookie")]),
        ([(b"vary", b"")], [(b"vary", b"Cookie")]),
        ([(b"vary", b" ,")], [(b"vary", b"Cookie")]),
        ([(b"vary", b"X-Cookie")], [(b"vary", b"X-Cookie, Cookie")]),
    ],
)
def test_vary_gains_cookie(before: list[tuple[bytes, bytes]], after: list[tuple[bytes, bytes]]) -> None:
    """What the app said stays."""
    append_vary(before)
    assert before == after


@pytest.mark.parametrize(
    ("before", "after"),
    [
        ([], b"Cookie, Authorization"),
        ([b"Accept"], b"Accept, Cookie, Authorization"),
        ([b"authorization"], b"authorization, Cookie"),
        ([b"Cookie", b"Authorization"], b"Cookie, Authorization"),
    ],
)
def test_vary_gains_what_is_missing_of_several_fields(before: list[bytes], after: bytes) -> None:
    """A session that may come in two ways depends on both headers."""
    headers = [(b"vary", value) for value in before]
    append_vary(headers, b"Cookie, Authorization")
    assert b", ".join(value for _, value in headers) == after


@pytest.mark.parametrize("value", [b"Cookie", b"cookie", b"Accept,COOKIE ", b"*", b"Accept, *"])
def test_vary_is_not_said_twice(value: bytes) -> None:
    """Nor is cookie added to everything."""
    headers = [(b"vary", value), (b"vary", b"Origin")]
    append_vary(headers)
    assert headers == [(b"vary", value), (b"vary", b"Origin")]


def test_no_store_replaces_whatever_the_app_said() -> None:
    """A shared cache that obeys `public` would hand one visitor's cookie to all."""
    headers = [(b"cache-control", b"public, max-age=60"), (b"x", b"y"), (b"Cache-Control", b"immutable")]
    same = headers
    forbid_store(headers)
    assert headers == [(b"x", b"y"), (b"cache-control", b"no-store")]
    assert headers is same


@pytest.mark.parametrize(
    ("origin", "host", "scheme"),
    [
        (b"https://shop.example", b"shop.example", "wss"),
        (b"https://shop.example", b"shop.example:443", "wss"),
        (b"https://shop.example:443", b"shop.example", "https"),
        (b"HTTPS://Shop.Example", b"shop.EXAMPLE", "wss"),
        (b"https://shop.example:8443", b"shop.example:8443", "wss"),
        (b"http://localhost:8000", b"localhost:8000", "ws"),
        (b"http://shop.example", b"shop.example:80", "http"),
        (b"http://[::1]:8000", b"[::1]:8000", "ws"),
        (b"https://shop.example", b"shop.example", "ws"),
    ],
)
def test_a_page_of_the_same_host_may_connect(origin: bytes, host: bytes, scheme: str) -> None:
    """Also behind a proxy that ends TLS without saying so."""
    assert same_origin(origin, host, scheme, ())


@pytest.mark.parametrize(
    ("origin", "host", "scheme"),
    [
        (b"https://evil.example", b"shop.example", "wss"),
        (b"https://shop.example.evil", b"shop.example", "wss"),
        (b"https://xshop.example", b"shop.example", "wss"),
        (b"https://shop.example@evil.example", b"shop.example", "wss"),
        (b"https://evil.example#shop.example", b"shop.example", "wss"),
        (b"http://shop.example", b"shop.example", "wss"),
        (b"http://shop.example", b"shop.example", "https"),
        (b"https://shop.example:8443", b"shop.example", "wss"),
        (b"http://localhost:8001", b"localhost:8000", "ws"),
        (b"https://shop.example/", b"shop.example", "wss"),
        (b"https://shop.example\n", b"shop.example", "wss"),
        (b"https://shop.example:", b"shop.example", "wss"),
        (b"https://shop.example:443443", b"shop.example", "wss"),
        (b"https://", b"", "wss"),
        (b"null", b"null", "wss"),
        (b"", b"", "ws"),
        (b"file://", b"shop.example", "ws"),
        (b"ftp://shop.example", b"shop.example", "ws"),
        (b"\xff\xfe", b"\xff\xfe", "ws"),
        (b"https://shop.example", b"shop.example/", "wss"),
        (b"https://shop.example, https://evil.example", b"shop.example", "wss"),
    ],
)
def test_any_other_page_may_not(origin: bytes, host: bytes, scheme: str) -> None:
    """Nor one that only looks alike, nor one over http to a secure socket."""
    assert not same_origin(origin, host, scheme, ())


@pytest.mark.parametrize(
    ("origin", "listed"),
    [
        (b"https://app.example", "https://app.example"),
        (b"https://app.example", "HTTPS://App.Example:443"),
        (b"https://app.example:443", "https://app.example"),
        (b"http://app.example:3000", "http://app.example:3000"),
        (b"chrome-extension://abcdef", "chrome-extension://abcdef"),
    ],
)
def test_a_listed_page_may_connect(origin: bytes, listed: str) -> None:
    """However its default port and its case are written."""
    assert same_origin(origin, HOST, "wss", ["https://other.example", listed])


@pytest.mark.parametrize("listed", ["https://app.example", "https://app.example:8443", "app.example", "*", "", "null"])
def test_a_list_is_exact(listed: str) -> None:
    """Scheme and port count, and there is no wildcard."""
    assert not same_origin(b"http://app.example", HOST, "ws", [listed])
