"""Who and where: the actor and the context that an event carries, read from the connection on commit only."""

from __future__ import annotations

import logging
import traceback
from collections.abc import Mapping
from contextvars import ContextVar
from functools import lru_cache
from typing import Any, Final, NamedTuple, cast

from starlette.requests import HTTPConnection

from evsession.address import address_of
from evsession.canonical import dumps, loads
from evsession.config import AuditPolicy
from evsession.device import pack
from evsession.errors import CodecError
from evsession.events import MAX_ACTOR, Actor

MAX_CONTEXT: Final = 2_048
"""Bytes of JSON that an event's context may take; a larger one is left out and logged.  Source: a log entry has 180."""

MAX_TEXT: Final = 256
"""Characters of a route or id that are kept.  Source: longer ones are attacks or bugs."""

_IN_ORDER: Final = ("w", "r", "a")
"""The facts of an event that has no others, as a JSON list: worker, method and route, and perhaps an address."""

_NAMES: Final = {"w": "worker", "m": "method", "r": "route", "a": "address", "t": "ticket"}

log = logging.getLogger("evsession.context")


current: ContextVar[Any] = ContextVar("evsession-exchange", default=None)
"""The exchange under way, so that what a request revokes counts as known when it signs in; the middleware sets it."""


class Acting(NamedTuple):
    """Who acts in a block of code, and the number under which that was asked for."""

    actor: Actor
    ticket: str | None = None


acting: ContextVar[Acting | None] = ContextVar("evsession-actor", default=None)
"""Who acts in what runs now; `manager.acting_as` sets it."""


def context_of(scope: Mapping[str, Any], policy: AuditPolicy, worker: str, trace: str = "") -> bytes:
    """Return the JSON context of an event; what goes wrong in a provider of the user's own is logged, not raised.

    `trace` is the `traceparent` of the span that is current, if this worker traces.
    """
    method, route, address = scope.get("method", "WEBSOCKET"), route_of(scope), address_of(scope, policy)
    now = acting.get()
    if (now is None or now.ticket is None) and policy.context is None and not policy.request_ids:
        return _usual(worker, method, route, address)
    ticket = _ticket()
    own = _ids(scope, trace) if policy.request_ids else {}
    if policy.context is not None:
        own |= _provided(scope, policy)
    return _packed(_facts(worker, method, route, address) | ticket | ({"x": own} if own else {}))


def _facts(worker: str, method: str, route: str, address: str | None) -> dict[str, Any]:
    facts = {"w": worker, "r": f"{method} {route}"}
    return facts if address is None else facts | {"a": address}


@lru_cache(maxsize=4096)
def _usual(worker: str, method: str, route: str, address: str | None) -> bytes:
    facts = _facts(worker, method, route, address)
    return dumps([facts[name] for name in _IN_ORDER if name in facts])


def outside(worker: str, trace: str = "") -> bytes:
    """Return the JSON context of an event outside of requests."""
    return dumps({"w": worker} | _ticket() | ({"x": {"traceparent": trace}} if trace else {}))


def _ticket() -> dict[str, str]:
    now = acting.get()
    return {} if now is None or now.ticket is None else {"t": now.ticket}


def parse_context(raw: bytes) -> dict[str, Any]:
    """Return the context that an event carries, under its full names; what is none of ours as text, `unreadable`.

    The log has short ones, the usual facts none at all, and the method with the route in one: 50 bytes less an event.
    Somebody who writes to the log must not keep others from reading it; `verify` finds the entry.
    """
    if not raw:
        return {}
    try:
        return _parsed(loads(raw))
    except (ValueError, TypeError, AttributeError):
        return {"unreadable": raw.decode(errors="backslashreplace")}


def _parsed(packed: dict[str, Any] | list[str]) -> dict[str, Any]:
    if isinstance(packed, list):
        packed = dict(zip(_IN_ORDER, packed, strict=False))
    own: dict[str, Any] = packed.pop("x", {})
    if "r" in packed:
        packed["m"], _, packed["r"] = packed["r"].partition(" ")
    return {_NAMES.get(name, name): value for name, value in packed.items()} | own


def _packed(facts: Mapping[str, Any]) -> bytes:
    try:
        packed = dumps(facts)
    except CodecError:
        log.exception("the context of an event has no JSON form and is left out; return plain values from context=")
        return b"{}"
    if len(packed) > MAX_CONTEXT:
        log.error("the context of an event has %d bytes, over %d, and is left out", len(packed), MAX_CONTEXT)
        return b"{}"
    return packed


def route_of(scope: Mapping[str, Any]) -> str:
    """Return the route's template, never the path: paths hold ids, and what a client writes."""
    template, route = None, scope.get("route")
    if route is not None:
        template = getattr(route, "path_format", None) or getattr(route, "path", None)
    if template is None and (endpoint := scope.get("endpoint")) is not None:
        template = getattr(endpoint, "__qualname__", None)
    return "" if template is None else str(template)[:MAX_TEXT]


def device_of(scope: Mapping[str, Any], policy: AuditPolicy) -> bytes:
    """Return from where a login comes, packed: the address and User-Agent, as far as the policy keeps them."""
    headers = scope.get("headers", ()) if policy.max_user_agent else ()
    agent = next((value for name, value in headers if name == b"user-agent"), b"")[: policy.max_user_agent]
    return _packed_device(address_of(scope, policy), agent)


@lru_cache(maxsize=4096)
def _packed_device(address: str | None, user_agent: bytes) -> bytes:
    return pack(address, user_agent.decode("latin-1"))


def _ids(scope: Mapping[str, Any], trace: str) -> dict[str, Any]:
    """Return the ids that the client sent, marked as such: they prove nothing. What this worker traces itself does."""
    headers = dict(scope.get("headers", ()))
    named = {"request_id": b"x-request-id"} | ({} if trace else {"traceparent": b"traceparent"})
    found = {name: headers[header].decode("latin-1")[:MAX_TEXT] for name, header in named.items() if header in headers}
    return ({"traceparent": trace} if trace else {}) | ({"claimed": found} if found else {})


def _provided(scope: Mapping[str, Any], policy: AuditPolicy) -> Mapping[str, Any]:
    try:
        return dict(policy.context(HTTPConnection(dict(scope)))) if policy.context is not None else {}
    except Exception as error:
        log.error("context= raised %s; the event goes without", _described(error))
        return {}


def _described(error: Exception) -> str:
    """Return what was raised and where as one line of printable ASCII: it may quote what a client sent."""
    last = traceback.extract_tb(error.__traceback__)[-1]
    return ascii(f"{type(error).__name__}: {str(error)[:MAX_TEXT]} ({last.filename}:{last.lineno})")


def actor_of(scope: Mapping[str, Any] | None, policy: AuditPolicy, actor: Actor | None) -> bytes:
    """Return who acts, as an event carries it: ``kind id``, or nothing for the session's own user.

    Who is named in the call counts first, then `acting_as`, then what the policy finds.
    """
    now = acting.get()
    if actor is None and now is not None:
        actor = now.actor
    if actor is None and policy.actor is not None and scope is not None:
        actor = _provided_actor(scope, policy)
    return b"" if actor is None else f"{actor.kind} {actor.id}".encode()


def _provided_actor(scope: Mapping[str, Any], policy: AuditPolicy) -> Actor | None:
    try:
        # What an untyped application returns may be anything.
        found = cast("object", None if policy.actor is None else policy.actor(HTTPConnection(dict(scope))))
    except Exception as error:
        log.error("actor= raised %s; the event goes without", _described(error))
        return None
    if found is not None and not isinstance(found, Actor):
        log.error("actor= returned %s; return an Actor, such as Actor.admin(name)", type(found).__name__)
        return None
    return found


def parse_actor(raw: bytes) -> Actor | None:
    """Return who acted, from what an event carries."""
    kind, _, id_ = raw.decode(errors="replace").partition(" ")
    match kind:
        case "user" | "admin" | "service" | "system" if id_:
            return Actor(kind=kind, id=id_[:MAX_ACTOR])
        case _:
            return None
