"""From where somebody signed in: an address and what the browser calls itself, in a few bytes.

A browser's User-Agent has 70 to 180 characters, nearly all of which every other browser says too. Deflated against a
dictionary of them, with an address, it has 15 to 40, so that the index of users holds it at no noticeable cost.
"""

from __future__ import annotations

import re
import zlib
from functools import lru_cache
from typing import Any, Final, NamedTuple

_DICTIONARIES: Final = {
    b"1": (
        b"Dart/ okhttp/ CFNetwork/ Darwin/ python-httpx/ curl/ bot; +https:// OPR/ Vivaldi/ SamsungBrowser/ CriOS/"
        b" FxiOS/ Mozilla/5.0 (Linux; Android 10; K; SM-; Pixel ) AppleWebKit/537.36 (KHTML, like Gecko) Chrome/1.0.0.0"
        b" Mobile Safari/537.36 Mozilla/5.0 (Windows NT 10.0; Win64; x64; rv:1.0) Gecko/20100101 Firefox/1.0"
        b" Mozilla/5.0 (X11; Ubuntu; Linux x86_64) Mozilla/5.0 (Macintosh; Intel Mac OS X 10_15_7) AppleWebKit/605.1.15"
        b" (KHTML, like Gecko) Version/17.1 Safari/605.1.15 Mozilla/5.0 (iPhone; CPU iPhone OS 17_1 like Mac OS X)"
        b" AppleWebKit/605.1.15 (KHTML, like Gecko) Version/17.1 Mobile/15E148 Safari/604.1"
        b" Mozilla/5.0 (Windows NT 10.0; Win64; x64) AppleWebKit/537.36 (KHTML, like Gecko) Chrome/1.0.0.0"
        b" Safari/537.36 Edg/1.0.0.0"
    )
}
"""What was ever deflated against, under the first byte of what came out: never change one, add another."""

_NEWEST: Final = b"1"
_LONGEST: Final = 4_096
_UNPRINTABLE: Final = re.compile(r"[^\x20-\x7e]")


class Device(NamedTuple):
    """From where somebody signed in; None is what is not known or was not to be kept."""

    address: str | None = None
    user_agent: str | None = None


def pack(address: str | None, user_agent: str) -> bytes:
    """Return both in a few bytes, or nothing for nothing; what is not printable ASCII becomes ``?``."""
    if not address and not user_agent:
        return b""
    text = f"{address or ''} {_UNPRINTABLE.sub('?', user_agent)}"
    deflate = zlib.compressobj(9, wbits=-15, zdict=_DICTIONARIES[_NEWEST])
    return _NEWEST + deflate.compress(text.encode("ascii")) + deflate.flush()


def unpack(packed: bytes) -> Device:
    """Return what `pack` has packed; of what a newer version packed, or nobody, nothing. Never raises.

    Whoever can write to Redis can write this, so it is only ever shown.
    """
    dictionary = _DICTIONARIES.get(packed[:1])
    if dictionary is None:
        return Device()
    try:
        text = zlib.decompressobj(wbits=-15, zdict=dictionary).decompress(packed[1:], _LONGEST).decode("ascii")
    except (zlib.error, UnicodeDecodeError):
        return Device()
    address, _, user_agent = _UNPRINTABLE.sub("?", text).partition(" ")
    return Device(address or None, user_agent or None)


def describe(user_agent: str | None) -> str | None:
    """Return a browser and its system for people, such as ``Firefox 128 on Linux``.

    That takes the package ``ua-parser``, which ``pip install evsession[devices]`` brings. Without it, and for what it
    does not know, this is the text itself.
    """
    return None if user_agent is None else _described(user_agent)


@lru_cache(maxsize=1024)
def _described(user_agent: str) -> str:
    try:
        from ua_parser import parse
    except ImportError:
        return user_agent
    found: Any = parse(user_agent)
    browser = _named(found.user_agent)
    system = found.os.family if found.os else ""
    return " on ".join(part for part in (browser, system) if part) or user_agent


def _named(browser: Any) -> str:
    return " ".join(part for part in (browser.family, browser.major) if part) if browser else ""
