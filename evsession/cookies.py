"""Cookies: reading raw headers, rendering ``Set-Cookie``, and the other headers that a session's cookie asks for.

Header lists are ASGI's: pairs of bytes. A request's names are in lower case; a response's are compared without case, as
apps write them in any.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from datetime import timedelta
from typing import Final

from evsession.config import CookiePolicy

Headers = list[tuple[bytes, bytes]]
Found = bytes | tuple[bytes, ...] | None

_VALUE: Final = re.compile(r"[!#-+\--:<-\[\]-~]*")
_ORIGIN: Final = re.compile(r"(https?)://(\[[0-9a-f:.]+\]|[^\s/?#@:\[\]]+)(?::([0-9]{1,5}))?", re.ASCII)
_HOST: Final = re.compile(r"(\[[0-9a-f:.]+\]|[^\s/?#@:\[\]]+)(?::([0-9]{1,5}))?", re.ASCII)
_PORTS: Final = {"http": 80, "https": 443}


def raw_value(headers: Sequence[tuple[bytes, bytes]], name: bytes) -> Found:
    """Return the value of a cookie: the bytes if there is one, None if there is none, a tuple of those that differ.

    All ``cookie`` headers are read. The name is compared byte by byte after trimming space and tab, and nothing else:
    to Starlette's parser ``\\xa0__Host-session`` is ``__Host-session``, and a sister domain may set the former
    (measured). Values are trimmed likewise, never unquoted or decoded.
    """
    once = dict(headers)
    if len(once) == len(headers):  # none came twice, as in nearly all requests: the loop takes twice as long
        cookies = once.get(b"cookie")
        return None if cookies is None else _value(cookies, name)
    return _distinct(*(value for header, cookies in headers if header == b"cookie" for value in _parsed(cookies, name)))


def _value(cookies: bytes, name: bytes) -> Found:
    """Read a name that stands there once and as browsers write it; leave everything else to the parser."""
    before, is_there, rest = cookies.partition(name)
    if not is_there:
        return None
    if not before or before.endswith(b"; "):
        value, _, more = rest.partition(b";")
        if value.startswith(b"=") and (not more or more.find(name) < 0):  # `in` raises and clears an error on its way
            return value[1:].strip(b" \t")
    return _distinct(*_parsed(cookies, name))


def _parsed(cookies: bytes, name: bytes) -> Iterator[bytes]:
    for cookie in cookies.split(b";"):
        key, equals, value = cookie.partition(b"=")
        if equals and key.strip(b" \t") == name:
            yield value.strip(b" \t")


def _distinct(*values: bytes) -> Found:
    distinct = tuple(dict.fromkeys(values))
    return distinct if len(distinct) > 1 else next(iter(distinct), None)


class CookieRenderer:
    """Writes the ``Set-Cookie`` values of one policy; setting and clearing differ in value and age only."""

    def __init__(self, policy: CookiePolicy) -> None:
        self._name = policy.name
        self._attributes = _attributes(policy)

    def set(self, value: str, max_age: timedelta | None = None) -> bytes:
        """Return the header that sets the cookie, until the browser closes or for `max_age` (rounded up to seconds).

        Raises:
            ValueError: `value` has characters that a cookie cannot have (RFC 6265, 4.1.1), or `max_age` is not
                positive.
        """
        if not _VALUE.fullmatch(value):
            msg = "a cookie's value is printable ASCII without space, quote, comma, semicolon and backslash; encode it"
            raise ValueError(msg)
        if max_age is None:
            return self._render(value, "")
        seconds = -(-max_age // timedelta(seconds=1))
        if seconds < 1:
            msg = f"max_age={max_age} would clear the cookie; use clear() for that"
            raise ValueError(msg)
        return self._render(value, f"; Max-Age={seconds}")

    def clear(self) -> bytes:
        """Return the header that makes a browser forget the cookie."""
        return self._render("", "; Max-Age=0; Expires=Thu, 01 Jan 1970 00:00:00 GMT")

    def _render(self, value: str, age: str) -> bytes:
        return f"{self._name}={value}{age}{self._attributes}".encode("ascii")


def _attributes(policy: CookiePolicy) -> str:
    parts = [
        f"Path={policy.path}",
        f"Domain={policy.domain}" if policy.domain else "",
        "Secure" if policy.secure else "",
        "HttpOnly" if policy.http_only else "",
        f"SameSite={policy.same_site.capitalize()}",
        "Partitioned" if policy.partitioned else "",
    ]
    return "".join(f"; {part}" for part in parts if part)


def append_vary(headers: Headers, fields: bytes = b"Cookie") -> None:
    """Add fields, such as ``Cookie, Authorization``, to ``Vary``, unless they are there already or ``*`` is."""
    for name, _ in headers:
        if len(name) == 4 and name.lower() == b"vary":
            _extend_vary(headers, fields)
            return
    headers.append((b"vary", fields))


def _extend_vary(headers: Headers, fields: bytes) -> None:
    places = [place for place, (name, _) in enumerate(headers) if name.lower() == b"vary"]
    known = {field.strip(b" \t").lower() for place in places for field in headers[place][1].split(b",")}
    if b"*" not in known and (missing := [field for field in fields.split(b", ") if field.lower() not in known]):
        name, value = headers[places[-1]]
        headers[places[-1]] = (name, b", ".join([value, *missing] if value.strip(b" \t,") else missing))


def forbid_store(headers: Headers) -> None:
    """Put ``Cache-Control: no-store`` in the place of whatever the app said: a shared cache must not keep a cookie.

    Source: RFC 9111, 7.3 (a ``Set-Cookie`` does not by itself inhibit caching).
    """
    headers[:] = [header for header in headers if header[0].lower() != b"cache-control"]
    headers.append((b"cache-control", b"no-store"))


def same_origin(origin: bytes, host: bytes, scheme: str, allowed: Sequence[str]) -> bool:
    """Tell whether the page that opens a WebSocket is one of ours: of the same host and port, or listed.

    `origin` and `host` are the raw headers, `scheme` the scope's (``ws``, ``wss``, ``http``, ``https``), `allowed` has
    origins such as ``https://app.example``. A page over http is not the origin of a secure socket. A page over https
    passes where the socket looks insecure, because proxies that end TLS seldom say so, and it is the more trusted of
    the two. Never raises.
    """
    if is_listed(origin, allowed):
        return True
    page = origin.decode("latin-1").lower()
    sent, asked = _ORIGIN.fullmatch(page), _HOST.fullmatch(host.decode("latin-1").lower())
    if sent is None or asked is None or (scheme in ("wss", "https") and sent[1] == "http"):
        return False
    port = int(asked[2]) if asked[2] else _PORTS[sent[1]]
    return (sent[2], _port(sent)) == (asked[1], port)


def is_listed(origin: bytes, allowed: Sequence[str]) -> bool:
    """Tell whether an `origin` header names one of the allowed origins. Never raises."""
    page = origin.decode("latin-1").lower()
    return any(_same(page, listed.lower()) for listed in allowed)


def _same(page: str, listed: str) -> bool:
    sent, known = _ORIGIN.fullmatch(page), _ORIGIN.fullmatch(listed)
    if sent is None or known is None:
        return page == listed  # such as chrome-extension://…
    return (sent[1], sent[2], _port(sent)) == (known[1], known[2], _port(known))


def _port(origin: re.Match[str]) -> int:
    return int(origin[3]) if origin[3] else _PORTS[origin[1]]
