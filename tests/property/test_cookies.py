"""Laws of cookies: the fast path agrees with a plain parser, and no bytes raise."""

from __future__ import annotations

from datetime import timedelta

from hypothesis import example, given
from hypothesis import strategies as st

from evsession.config import CookiePolicy
from evsession.cookies import CookieRenderer, append_vary, forbid_store, raw_value, same_origin

NAME = b"sid"
# Pieces that meet the edges of the fast path often: the name, parts of it, and what may stand around it.
pieces = st.sampled_from([NAME, b"si", b"d", b"=", b";", b"; ", b" ", b"\t", b"v", b"w", b"\xa0", b"\x85", b"\n", b","])
near_misses = st.lists(pieces, max_size=14).map(b"".join)
cookie_headers = near_misses | st.binary(max_size=60)
header_names = st.sampled_from([b"cookie", b"cookie", b"cookie", b"host"])
values = st.text("abcXYZ019-_.~", max_size=40)
response_names = st.sampled_from([b"vary", b"Vary", b"cache-control", b"x"])
header_lists = st.lists(st.tuples(header_names, cookie_headers), max_size=4)


def plainly(headers: list[tuple[bytes, bytes]], name: bytes) -> list[bytes]:
    """Return the distinct values of a cookie in order, one rule a line and nothing else in mind."""
    values: list[bytes] = []
    for header, cookies in headers:
        if header != b"cookie":
            continue
        for cookie in cookies.split(b";"):
            if b"=" not in cookie:
                continue
            place = cookie.index(b"=")
            key, value = trimmed(cookie[:place]), trimmed(cookie[place + 1 :])
            if key == name and value not in values:
                values.append(value)
    return values


def trimmed(text: bytes) -> bytes:
    """Return a text without spaces and tabs at its ends."""
    while text[:1] in (b" ", b"\t"):
        text = text[1:]
    while text[-1:] in (b" ", b"\t"):
        text = text[:-1]
    return text


def listed(headers: list[tuple[bytes, bytes]], name: bytes) -> list[bytes]:
    """Return what `raw_value` found, in one form."""
    match raw_value(headers, name):
        case None:
            return []
        case bytes() as value:
            return [value]
        case several:
            assert len(several) > 1
            return list(several)


@given(header_lists)
@example([(b"cookie", b"a=b sid=v")])
@example([(b"cookie", b"a;sid=v")])
@example([(b"cookie", b";sid=v")])
@example([(b"cookie", b" sid=v; ")])
@example([(b"cookie", b"sid =v")])
@example([(b"cookie", b"sid=v; sid=w")])
@example([(b"cookie", b"sid=sid=v;sid")])
@example([(b"cookie", b"sid=v"), (b"host", b"sid=w"), (b"cookie", b"sid=w")])
def test_the_fast_path_agrees_with_the_plain_parser(headers: list[tuple[bytes, bytes]]) -> None:
    """For all headers there are, not only for those that browsers send."""
    assert listed(headers, NAME) == plainly(headers, NAME)


@given(st.binary(max_size=200), st.binary(min_size=1, max_size=3).filter(lambda name: not set(name) & set(b"=; \t")))
def test_both_agree_on_any_bytes_under_any_name(cookies: bytes, name: bytes) -> None:
    """Bytes 0 to 255; nothing raises."""
    assert listed([(b"cookie", cookies)], name) == plainly([(b"cookie", cookies)], name)


@given(values, st.none() | st.timedeltas(timedelta(microseconds=1), timedelta(days=3650)))
def test_what_is_set_is_found_again(value: str, max_age: timedelta | None) -> None:
    """A browser that sends back what it was given is understood."""
    pair = CookieRenderer(CookiePolicy()).set(value, max_age).split(b"; ")[0]
    assert raw_value([(b"cookie", b"a=b; " + pair + b"; c=d")], b"__Host-session") == value.encode()


@given(st.lists(st.tuples(response_names, st.binary(max_size=20)), max_size=4))
def test_both_response_headers_are_added_once(headers: list[tuple[bytes, bytes]]) -> None:
    """A second middleware that does the same changes nothing."""
    append_vary(headers)
    forbid_store(headers)
    once = list(headers)
    append_vary(headers)
    forbid_store(headers)
    assert headers == once
    vary = b",".join(value for name, value in once if name.lower() == b"vary")
    fields = {field.strip(b" \t").lower() for field in vary.split(b",")}
    assert fields & {b"cookie", b"*"}


@given(st.binary(max_size=40), st.binary(max_size=40), st.sampled_from(["ws", "wss", ""]), st.text(max_size=20))
def test_no_origin_raises_and_a_host_alone_is_none(origin: bytes, host: bytes, scheme: str, listed: str) -> None:
    """Both headers come from anybody; what passes names its host."""
    if same_origin(origin, host, scheme, [listed]):
        page = origin.decode("latin-1").lower()
        assert page == listed.lower() or host.decode("latin-1").lower().partition(":")[0] in page
