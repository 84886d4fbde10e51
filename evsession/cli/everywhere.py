"""The demo's forced logout: two browsers of one person, whose pages are told over their WebSockets."""

from __future__ import annotations

import asyncio
import time
from typing import Final

from websockets.asyncio.client import ClientConnection, connect
from websockets.exceptions import ConnectionClosed

from evsession.cli.visit import BOUND_MS, Figures, Visit, Window, expect, in_ms, new_client

REVOKED: Final = (4401, "revoked")
SAID_WITHIN: Final = 5.0
"""Seconds within which a socket says something: more than twice the bound, for a machine that is busy."""


async def sign_in_twice(visit: Visit) -> Figures:
    """Sign in again from two other browsers, one on each worker; both pages open a WebSocket."""
    visit.windows = [await opened(visit, worker) for worker in (1, 2)]
    return {"sockets": len(visit.windows)}


async def opened(visit: Visit, worker: int) -> Window:
    """Return another browser, signed in on a worker, with its page's socket."""
    browser, address = new_client(), visit.shop.addresses[worker - 1]
    (await browser.post(f"{address}/login", json={"user": "ada"})).raise_for_status()
    cookie = {"cookie": f"session={browser.cookies['session']}"}
    socket = await connect(f"{address.replace('http', 'ws', 1)}/live", additional_headers=cookie, proxy=None)
    window = Window(browser, worker, socket)
    expect(await said(socket) == "ada", "the socket does not know who is signed in")
    return window


async def said(socket: ClientConnection) -> str:
    """Return what a socket says next."""
    return str(await asyncio.wait_for(socket.recv(), SAID_WITHIN))


async def sign_out_everywhere(visit: Visit) -> Figures:
    """One of them signs out everywhere: both sockets close, nobody serves either, and the receipt is complete."""
    began = time.perf_counter()
    ends = [asyncio.ensure_future(why_closed(window.socket)) for window in visit.windows]
    answer = await visit.windows[0].browser.post(f"{visit.shop.addresses[0]}/sign-out-everywhere")
    receipt = answer.raise_for_status().json()
    expect(receipt["complete"], receipt)
    closed = await asyncio.gather(*ends)
    expect([why for why, _ in closed] == [REVOKED] * len(visit.windows), closed)
    told_after = in_ms(max(at for _, at in closed) - began)
    expect(told_after < BOUND_MS, told_after)
    for window in visit.windows:
        for address in visit.shop.addresses:
            seen = (await window.browser.get(f"{address}/whoami")).json()
            expect(seen["user"] is None, seen)
    return {
        "receipt": receipt["says"],
        "sockets": f"{len(closed)} closed: 4401 revoked",
        "pages told within ms": told_after,
    }


async def why_closed(socket: ClientConnection) -> tuple[tuple[int, str], float]:
    """Return the code and the reason with which the other side closes a socket, and when it did."""
    try:
        await said(socket)
    except ConnectionClosed as closed:
        why = (0, "") if closed.rcvd is None else (closed.rcvd.code, closed.rcvd.reason)
        return why, time.perf_counter()
    return (0, "it spoke"), time.perf_counter()
