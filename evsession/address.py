"""Where a request comes from: the connection itself, and a header only where a proxy of one's own wrote it."""

from __future__ import annotations

import ipaddress
from collections.abc import Iterable, Iterator, Mapping
from functools import lru_cache
from typing import Any, Final

from evsession.config import UNIX, AuditPolicy

MAX_HOPS: Final = 32
"""Entries of X-Forwarded-For that are looked at, from the right.  Source: nobody has as many proxies."""

IPAddress = ipaddress.IPv4Address | ipaddress.IPv6Address
IPNetwork = ipaddress.IPv4Network | ipaddress.IPv6Network


def address_of(scope: Mapping[str, Any], policy: AuditPolicy) -> str | None:
    """Return the client's address as the policy allows it; None where it is not known."""
    kind = policy.address
    if kind == "none":
        return None
    client = scope.get("client")
    text: str | None = str(client[0]) if client and client[0] else UNIX  # a unix socket has no address
    if policy.trusted_proxies and _is_trusted(text, policy.trusted_proxies):
        text = _client(_forwarded(scope), policy.trusted_proxies)
    return None if text is None else _shown(text, kind == "full")


def _forwarded(scope: Mapping[str, Any]) -> Iterator[str]:
    """Yield the entries of all X-Forwarded-For headers, the last one first: each proxy adds its own at the end."""
    values = [value for name, value in scope.get("headers", ()) if name == b"x-forwarded-for"]
    for entry in reversed(b",".join(values).decode("latin-1").rsplit(",", MAX_HOPS)[-MAX_HOPS:]):
        yield entry.strip(" \t")


def _client(entries: Iterable[str], trusted: tuple[str, ...]) -> str | None:
    """Return the last entry that is no trusted proxy: what stands before it anybody may have written."""
    for entry in entries:
        address = _without_port(entry)
        if not _is_trusted(address, trusted):
            return address
    return None


def _without_port(entry: str) -> str:
    if entry.startswith("["):
        return entry[1:].partition("]")[0]
    host, colon, _ = entry.rpartition(":")
    return host if colon and ":" not in host else entry


@lru_cache(maxsize=4096)
def _is_trusted(text: str, trusted: tuple[str, ...]) -> bool:
    if text == UNIX:
        return UNIX in trusted
    address = _parsed(text)
    return address is not None and any(address in network for network in _networks(trusted))


@lru_cache(maxsize=64)
def _networks(trusted: tuple[str, ...]) -> tuple[IPNetwork, ...]:
    return tuple(ipaddress.ip_network(text) for text in trusted if text != UNIX)


@lru_cache(maxsize=4096)
def _shown(text: str, in_full: bool) -> str | None:
    address = _parsed(text)
    if address is None or in_full:
        return None if address is None else str(address)
    return str(ipaddress.ip_network((address, 24 if address.version == 4 else 48), strict=False).network_address)


def _parsed(text: str) -> IPAddress | None:
    try:
        address = ipaddress.ip_address(text)
    except ValueError:
        return None
    mapped = address.ipv4_mapped if isinstance(address, ipaddress.IPv6Address) else None
    return mapped or address  # as sockets that listen on both families say it
