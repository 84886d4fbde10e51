"""Where a request comes from: the connection, and X-Forwarded-For only behind a proxy of one's own."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from evsession.address import address_of
from evsession.config import AuditPolicy
from evsession.errors import ConfigError

BEHIND = AuditPolicy(address="full", trusted_proxies=("10.0.0.0/8", "192.168.1.1", "2001:db8:1::/48", "unix"))


def _from(client: str | None, *forwarded: str, policy: AuditPolicy = BEHIND) -> str | None:
    headers = [(b"x-forwarded-for", value.encode("latin-1")) for value in forwarded]
    scope: dict[str, Any] = {"client": None if client is None else (client, 1), "headers": headers}
    return address_of(scope, policy)


@pytest.mark.parametrize(
    ("client", "forwarded", "address"),
    [
        ("203.0.113.7", [], "203.0.113.7"),
        ("203.0.113.7", ["198.51.100.1"], "203.0.113.7"),
        ("10.1.2.3", ["198.51.100.1"], "198.51.100.1"),
        ("10.1.2.3", ["1.1.1.1, 198.51.100.1"], "198.51.100.1"),
        ("10.1.2.3", ["1.1.1.1", "198.51.100.1"], "198.51.100.1"),
        ("10.1.2.3", ["1.1.1.1, 198.51.100.1, 192.168.1.1,10.9.9.9"], "198.51.100.1"),
        ("::ffff:10.1.2.3", ["198.51.100.1"], "198.51.100.1"),
        ("2001:db8:1::5", ["[2001:db8:2::7]:443"], "2001:db8:2::7"),
        ("10.1.2.3", ["2001:db8:2::7"], "2001:db8:2::7"),
        ("10.1.2.3", ["198.51.100.1:8080"], "198.51.100.1"),
        (None, ["198.51.100.1"], "198.51.100.1"),
        ("", ["198.51.100.1"], "198.51.100.1"),
        (None, [], None),
        ("10.1.2.3", [], None),
        ("10.1.2.3", ["10.0.0.1"], None),
        ("10.1.2.3", ["198.51.100.1, unknown"], None),
        ("10.1.2.3", ["198.51.100.1, "], None),
        ("10.1.2.3", ["198.51.100.1, unix:"], "198.51.100.1"),  # as nginx calls who came over a socket
        ("10.1.2.3", [", ".join(["10.0.0.1"] * 40)], None),
    ],
)
def test_the_last_one_that_is_no_proxy_is_the_client(client: str | None, forwarded: list[str], address: str) -> None:
    """What stands before it may be forged; where nobody can be named, nobody is."""
    assert _from(client, *forwarded) == address


def test_without_trusted_proxies_the_header_says_nothing() -> None:
    """The default."""
    assert _from("10.1.2.3", "198.51.100.1", policy=AuditPolicy(address="full")) == "10.1.2.3"
    assert _from(None, "198.51.100.1", policy=AuditPolicy(address="full")) is None


def test_a_forwarded_address_is_cut_like_any_other() -> None:
    """Enough to tell places, not people."""
    policy = AuditPolicy(trusted_proxies=("10.0.0.0/8",))
    assert _from("10.1.2.3", "198.51.100.77", policy=policy) == "198.51.100.0"
    assert _from("10.1.2.3", "198.51.100.77", policy=AuditPolicy(address="none")) is None


@given(st.lists(st.text(st.characters(max_codepoint=255), max_size=30), max_size=4))
def test_no_header_breaks_anything(forwarded: list[str]) -> None:
    """Whatever a client sends, and however often."""
    _from("10.1.2.3", *forwarded)


@pytest.mark.parametrize("proxies", ["10.0.0.0/8", ["10.0.0.0/8"], ("proxy.example",), ("10.0.0.1/8",), (1,)])
def test_what_is_no_network_is_refused(proxies: Any) -> None:
    """At start, with the form that works."""
    with pytest.raises(ConfigError, match=r"10\.0\.0\.0/8"):
        AuditPolicy(trusted_proxies=proxies)
