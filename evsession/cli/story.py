"""The story that `evsession demo --check` plays through HTTP, as a browser would, and what must hold at each step."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import groupby
from statistics import median
from typing import Any, Final

import httpx
from rich.table import Table
from websockets.exceptions import WebSocketException

from evsession.cli.everywhere import sign_in_twice, sign_out_everywhere
from evsession.cli.rendering import history_table, plain
from evsession.cli.visit import BOUND_MS, Act, Broken, Figures, Shop, Visit, expect, in_ms, new_client
from evsession.events import RecordedEvent
from evsession.manager import SessionManager
from evsession.state import Snapshot, fold

ROUNDS: Final = 25
"""Parallel writes of two keys, one on each worker.  Source: enough for some to meet at the server, in half a second."""

READS: Final = 20
FEWEST_FROM_MEMORY: Final = 18
"""Of `READS`. Not all, because a worker that stood still for longer than its lease rightly asks the server first."""

CARD: Final = "4242 4242 4242 4242"


@dataclass(frozen=True, slots=True)
class Step:
    """One step of the story: what it shows, on which workers, whether it held, and its figures."""

    what: str
    where: str
    held: bool
    figures: dict[str, Any]
    ms: float


@dataclass(frozen=True, slots=True)
class Report:
    """All steps, and the session's events as the log has them."""

    steps: Sequence[Step]
    events: Sequence[RecordedEvent]

    @property
    def held(self) -> bool:
        """Whether every step held."""
        return all(step.held for step in self.steps)

    def plain(self) -> dict[str, Any]:
        """Return the report as JSON can hold it."""
        steps = [
            {"step": one.what, "where": one.where, "held": one.held, "figures": one.figures, "ms": round(one.ms, 1)}
            for one in self.steps
        ]
        return {"held": self.held, "steps": steps, "events": [plain(event) for event in self.events]}


async def look_around(visit: Visit) -> Figures:
    """A visitor who only looks has no session and gets no cookie."""
    answer = await visit.browser.get(visit.shop.addresses[0] + "/whoami")
    expect(answer.json()["session_id"] is None, answer.json())
    expect("set-cookie" not in answer.headers, "a cookie was set")
    return {"cookies": 0}


async def log_in(visit: Visit) -> Figures:
    """Log in on worker 1."""
    (await visit.post(1, "/login", user="ada")).raise_for_status()
    seen = await visit.get(1, "/whoami")
    expect(seen["user"] == "ada", seen)
    visit.session_id = seen["session_id"]
    return {"version": seen["version"]}


async def read_elsewhere(visit: Visit) -> Figures:
    """Worker 2 asks the server once, then answers from its own memory."""
    first = await visit.get(2, "/whoami")
    expect(first["user"] == "ada" and first["source"] == "server", first)
    sources, times = [], []
    for _ in range(READS):
        began = time.perf_counter()
        sources.append((await visit.get(2, "/whoami"))["source"])
        times.append(time.perf_counter() - began)
    expect(sources.count("memory") >= FEWEST_FROM_MEMORY, sources)
    return {
        "first": first["source"],
        "from memory": f"{sources.count('memory')}/{READS}",
        "median ms": in_ms(median(times)),
    }


async def write_in_parallel(visit: Visit) -> Figures:
    """Both workers write different keys at the same moment, and both survive."""
    before = await conflicts(visit)
    for number in range(ROUNDS):
        answers = await asyncio.gather(
            visit.post(1, "/set", key=f"left_{number}", value=str(number)),
            visit.post(2, "/set", key=f"right_{number}", value=str(number)),
        )
        expect(all(answer.is_success for answer in answers), [answer.status_code for answer in answers])
    wanted = {f"pref_{side}_{number}" for side in ("left", "right") for number in range(ROUNDS)}
    for worker in (1, 2):
        missing = wanted - set((await visit.get(worker, "/whoami?fresh=true"))["data"])
        expect(not missing, f"worker {worker} lacks {sorted(missing)}")
    return {"keys": f"{len(wanted)}/{2 * ROUNDS}", "merged conflicts": await conflicts(visit) - before}


async def edit_cart(visit: Visit) -> Figures:
    """A list within the session is edited in place on worker 2, and worker 1 shows it in the next answer."""
    for item in ("Tea", "Honey"):
        (await visit.post(2, "/cart/add", item=item)).raise_for_status()
    seen = await visit.get(1, "/whoami")
    expect(seen["data"].get("cart") == ["Tea", "Honey"], seen["data"])
    return {"cart": ", ".join(seen["data"]["cart"]), "read from": seen["source"]}


async def count_together(visit: Visit) -> Figures:
    """Twenty increments of one counter on both workers at once: `manager.update` loses none."""
    answers = await asyncio.gather(*(visit.post(1 + number % 2, "/like") for number in range(20)))
    expect(all(answer.is_success for answer in answers), [answer.status_code for answer in answers])
    seen = await visit.get(1, "/whoami?fresh=true")
    expect(seen["data"].get("likes") == 20, seen["data"].get("likes"))
    return {"likes": seen["data"]["likes"]}


async def keep_a_secret(visit: Visit) -> Figures:
    """A card's number is in the session, and only a digest of it in the log."""
    (await visit.post(1, "/set", key="card", value=CARD)).raise_for_status()
    seen, events = await visit.get(2, "/whoami"), await visit.get(2, "/history")
    expect(seen["data"].get("pref_card") == CARD, "the card is not in the session")
    logged = events[-1]["set"].get("pref_card", "")
    expect(logged.startswith("redacted:") and CARD not in str(events), logged)
    return {"log": f"{logged[:17]}…"}


async def begin_slow_write(visit: Visit) -> Figures:
    """On worker 2 a slow request begins, which will write at its end; and somebody steals the cookie."""
    visit.data = (await visit.get(2, "/whoami?fresh=true"))["data"]
    visit.thief.headers["cookie"] = f"session={visit.browser.cookies['session']}"
    stolen = (await visit.thief.get(visit.shop.addresses[1] + "/whoami")).json()
    expect(stolen["user"] == "ada", stolen)
    visit.slow = asyncio.create_task(visit.post(2, "/slow-write?seconds=10"))
    while not (await visit.get(2, f"/slow-write/{visit.session_id}"))["waiting"]:
        expect(not visit.slow.done(), "it did not wait")
        await asyncio.sleep(0.01)
    return {}


async def log_out(visit: Visit) -> Figures:
    """Log out on worker 1, while the slow request is still under way."""
    answer = await visit.post(1, "/logout")
    visit.out_at = time.perf_counter()
    expect("Max-Age=0" in answer.headers.get("set-cookie", ""), "the cookie was not cleared")
    return {"cookie": "cleared"}


async def use_dead_cookie(visit: Visit) -> Figures:
    """Whoever has the old cookie gets an empty session on worker 2, and cannot write."""
    address, tries = visit.shop.addresses[1], 1
    while (await visit.thief.get(f"{address}/whoami")).json()["session_id"] is not None:
        expect(in_ms(time.perf_counter() - visit.out_at) < BOUND_MS, f"still served after {tries} tries")
        tries += 1
    gone_after = in_ms(time.perf_counter() - visit.out_at)
    expect(gone_after < BOUND_MS, gone_after)
    written = await visit.thief.post(f"{address}/set", json={"key": "stolen", "value": "yes"})
    expect("set-cookie" not in written.headers, "a new session began")
    return {"empty within ms": gone_after, "at try": tries}


async def end_slow_write(visit: Visit) -> Figures:
    """The slow request, begun before the logout, may not write."""
    expect(visit.slow is not None, "it never began")
    await visit.post(2, f"/slow-write/{visit.session_id}")
    answer = await visit.slow if visit.slow is not None else httpx.Response(500)
    expect(answer.status_code == 409, f"{answer.status_code} {answer.text}")
    return {"refused": answer.json()["refused"]}


async def read_log(visit: Visit) -> Figures:
    """The log has every change once, in order, ends with the end, and folds to what was read last."""
    shop = visit.shop
    async with SessionManager.from_url(shop.url, namespace="shop", secret_key=shop.secret_key) as manager:
        visit.events = events = await manager.audit.history(visit.session_id)
    types = [event.type for event in events]
    expect([event.version for event in events] == list(range(1, len(events) + 1)), "versions with gaps")
    expect(types[0] == "authenticated" and types.index("ended") == len(types) - 1, types)
    keys = {key for event in events for key in event.set}
    expect(not keys & {"note", "pref_stolen"}, "a refused write is in the log")
    folded = fold(Snapshot(sid=visit.session_id), (event.event for event in events[:-1])).data
    expect(without_card(folded) == without_card(visit.data), "the log folds to something else")
    return {"events": len(events), "in order": ", ".join(counted(types))}


STORY: Final[Sequence[tuple[str, Act]]] = (
    ("1", look_around),
    ("1", log_in),
    ("2", read_elsewhere),
    ("1 and 2", write_in_parallel),
    ("2, then 1", edit_cart),
    ("1 and 2", count_together),
    ("1, then 2", keep_a_secret),
    ("2", begin_slow_write),
    ("1", log_out),
    ("2", use_dead_cookie),
    ("2", end_slow_write),
    ("1 and 2", sign_in_twice),
    ("1, then 2", sign_out_everywhere),
    ("log", read_log),
)


async def tell(shop: Shop) -> Report:
    """Play all steps, whatever becomes of one, and report."""
    async with new_client() as browser, new_client() as thief:
        visit = Visit(shop, browser, thief)
        steps = [await play(visit, where, act) for where, act in STORY]
        if visit.slow is not None:
            visit.slow.cancel()
        await asyncio.gather(*(window.leave() for window in visit.windows))
    return Report(steps, visit.events)


async def play(visit: Visit, where: str, act: Act) -> Step:
    """Play one step; what went wrong becomes its figure."""
    what = (act.__doc__ or "").strip()
    began = time.perf_counter()
    try:
        figures, held = await act(visit), True
    except (Broken, httpx.HTTPError, WebSocketException, OSError, KeyError, ValueError) as error:
        figures, held = {"seen": f"{type(error).__name__}: {error}"}, False
    return Step(what, where, held, figures, (time.perf_counter() - began) * 1000)


async def conflicts(visit: Visit) -> int:
    """Return how often a commit met another's and was merged, on both workers."""
    return sum([(await visit.get(worker, "/whoami"))["conflicts"] for worker in (1, 2)])


def without_card(data: Any) -> dict[str, Any]:
    """Return the data without the value that the log has as a digest only."""
    return {key: value for key, value in data.items() if key != "pref_card"}


def counted(types: Sequence[str]) -> list[str]:
    """Return runs of equal types as one entry each."""
    runs = [(name, len(list(run))) for name, run in groupby(types)]
    return [name if count == 1 else f"{name} × {count}" for name, count in runs]


def table_of(report: Report) -> list[Table]:
    """Return the steps, and the first and last events, as tables."""
    steps = Table("", "step", "worker", "figures", "ms", title="evsession demo --check", title_justify="left")
    for one in report.steps:
        figures = " · ".join(f"{name} {value}" for name, value in one.figures.items())
        mark = "[green]held[/green]" if one.held else "[red]BROKEN[/red]"
        steps.add_row(mark, one.what, one.where, figures.replace("[", "\\["), f"{one.ms:.1f}")
    if not report.events:
        return [steps]
    shown = [*report.events[:4], *report.events[-5:]]
    title = f"the log of the session: the first 4 and the last 5 of {len(report.events)} events"
    return [steps, history_table(shown, title)]
