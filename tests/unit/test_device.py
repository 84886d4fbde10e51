"""Where a login came from, packed and shown."""

from __future__ import annotations

import sys
import zlib

import pytest

from evsession.device import _DICTIONARIES, Device, describe, pack, unpack

FIREFOX = "Mozilla/5.0 (X11; Linux x86_64; rv:128.0) Gecko/20100101 Firefox/128.0"
EDGE = (
    "Mozilla/5.0 (Windows NT 10.0; Win64; x64) AppleWebKit/537.36 (KHTML, like Gecko) Chrome/126.0.0.0 Safari/537.36"
    " Edg/126.0.0.0"
)
IPHONE = (
    "Mozilla/5.0 (iPhone; CPU iPhone OS 17_5 like Mac OS X) AppleWebKit/605.1.15 (KHTML, like Gecko) Version/17.5"
    " Mobile/15E148 Safari/604.1"
)


def _deflated(text: bytes) -> bytes:
    """Return what only somebody else would write."""
    deflate = zlib.compressobj(9, wbits=-15, zdict=_DICTIONARIES[b"1"])
    return b"1" + deflate.compress(text) + deflate.flush()


@pytest.mark.parametrize("address", [None, "203.0.113.0", "2001:db8::"])
@pytest.mark.parametrize("agent", ["", "curl/8.5.0", FIREFOX, EDGE, IPHONE, " two  spaces ", "x" * 256])
def test_a_device_reads_back_as_it_was(address: str | None, agent: str) -> None:
    """Whichever part is known."""
    assert unpack(pack(address, agent)) == Device(address, agent or None)


def test_nothing_is_nothing() -> None:
    """A session made without a request takes no byte for it."""
    assert pack(None, "") == b""
    assert unpack(b"") == Device()


@pytest.mark.parametrize(("agent", "most"), [(FIREFOX, 30), (EDGE, 30), (IPHONE, 30)])
def test_a_usual_browser_takes_few_bytes(agent: str, most: int) -> None:
    """With an address: this is what each session in the index pays for."""
    assert len(pack("203.0.113.0", agent)) <= most


@pytest.mark.parametrize("hostile", ["\x1b[31mred", "tab\there", "ü", "🎈", "a\nb"])
def test_what_a_terminal_would_obey_is_not_kept(hostile: str) -> None:
    """A User-Agent is what a client wrote, and command lines print it."""
    agent = unpack(pack(None, hostile)).user_agent
    assert agent is not None
    assert agent.isprintable()
    assert "?" in agent


@pytest.mark.parametrize(
    "packed", [b"2abc", b"1", b"1____", b"1\x00", b"\xff", _deflated(b"\xff 1"), _deflated(b"a\x1bb")]
)
def test_what_nobody_packed_is_shown_as_nothing_that_does_harm(packed: bytes) -> None:
    """Or what a newer version did: the list of devices is there all the same."""
    device = unpack(packed)
    assert device in (Device(), Device("a?b", None))


def test_a_bomb_is_cut_off() -> None:
    """A few bytes that unpack to a gigabyte are none of ours."""
    assert len(unpack(_deflated(b"a" * 10_000_000)).address or "") <= 4096


@pytest.mark.parametrize(
    ("agent", "shown"),
    [
        (FIREFOX, "Firefox 128 on Linux"),
        (EDGE, "Edge 126 on Windows"),
        (IPHONE, "Mobile Safari 17 on iOS"),
        ("curl/8.5.0", "curl 8"),
        ("my own robot", "my own robot"),
        (None, None),
    ],
)
def test_a_device_is_shown_to_people(agent: str | None, shown: str | None) -> None:
    """And what is unknown as it calls itself."""
    assert describe(agent) == shown


def test_without_the_parser_a_device_is_shown_as_it_calls_itself(monkeypatch: pytest.MonkeyPatch) -> None:
    """`ua-parser` is an extra."""
    monkeypatch.setitem(sys.modules, "ua_parser", None)
    assert describe("Gecko/20100101 asked for once only") == "Gecko/20100101 asked for once only"
