"""Typed sessions in an application: what an object's change becomes in the log, and old sessions under new classes."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Annotated, Any

import msgspec
import pydantic
import pytest
from fastapi import FastAPI
from fastapi.testclient import TestClient
from starlette.websockets import WebSocket

from evsession import Session, SessionInvalid, SessionManager, SessionMiddleware
from evsession.fastapi import FromSession
from tests.integration.apps import Browser, app_of, in_memory, setting, two_workers
from tests.servers import Server


class PydanticCart(pydantic.BaseModel):
    """A cart."""

    items: list[str] = []
    total: int = 0


@dataclass
class DataclassCart:
    """The same cart."""

    items: list[str] = field(default_factory=list)
    total: int = 0


class StructCart(msgspec.Struct):
    """The same cart."""

    items: list[str] = []
    total: int = 0


CARTS: list[Any] = [PydanticCart, DataclassCart, StructCart]


@pytest.mark.parametrize("cart", CARTS)
async def test_changing_a_field_is_an_event(manager: SessionManager, cart: Any) -> None:
    """One for each request that changed something, none for one that only looked."""
    app, browser = app_of(manager), Browser()
    await browser.visit(app, lambda session: session.model(cart).items.append("tea"))
    await browser.visit(app, lambda session: session.model(cart).items)
    await browser.visit(app, lambda session: setattr(session.model(cart), "total", 5))
    history = await manager.audit.history(browser.session_id)
    assert [event.set for event in history] == [{"items": ["tea"]}, {"total": 5}]


@pytest.mark.parametrize("cart", CARTS)
async def test_a_change_in_place_is_committed_after_the_handler(manager: SessionManager, cart: Any) -> None:
    """Also by a background task, and by a WebSocket at `save`."""

    async def talk(websocket: WebSocket) -> None:
        session: Session = websocket.scope["session"]
        await websocket.accept()
        session.model(cart, "cart").total += 1
        await session.save()
        session.model(cart, "cart").total += 1
        await session.save()

    app, browser = app_of(manager), Browser()
    await browser.visit(app, lambda session: setattr(session.model(cart, "cart"), "total", 1))
    await browser.connect(app, talk)
    assert (await browser.visit(app)).json == {"cart": {"items": [], "total": 3}}


@pytest.mark.parametrize("cart", CARTS)
async def test_what_does_not_fit_is_not_committed(manager: SessionManager, cart: Any) -> None:
    """The request fails with the name of the field; nothing of it is stored."""
    app, browser = app_of(manager), Browser()
    await browser.visit(app, setting(total=1))

    def break_it(session: Session) -> None:
        session.model(cart).items.append("tea")
        session.model(cart).total = "many"

    answer = await browser.visit(app, break_it, fails=SessionInvalid)
    assert getattr(answer.error, "field", None) == "total"
    assert (await browser.visit(app)).json == {"total": 1}


@pytest.mark.parametrize("cart", CARTS)
async def test_two_requests_that_change_different_fields_both_survive(manager: SessionManager, cart: Any) -> None:
    """A field of the whole session is a key: the merge is that of any session, and the object shows what it brought."""
    app, browser = app_of(manager), Browser()
    await browser.visit(app, setting(total=1))

    async def meanwhile(session: Session) -> Any:
        session.model(cart).total = 2
        await browser.twin().visit(app, lambda other: other.model(cart).items.append("honey"))
        await session.save()
        return [session.model(cart).total, session.model(cart).items]

    assert (await browser.visit(app, meanwhile)).json == [2, ["honey"]]


# ── old sessions, new classes ────────────────────────────────────────────────────────────────────────────────────────


class OldVisitor(pydantic.BaseModel):
    """What the last release stored."""

    name: str = ""
    visits: int = 0
    legacy: str = "x"


class NewVisitor(pydantic.BaseModel):
    """What this release asks for: one field more, one less, one that has become wider."""

    name: str = ""
    visits: int | float = 0
    theme: str = "light"


class Stricter(pydantic.BaseModel):
    """What cannot read it: a field without a default."""

    name: str
    email: str


@pytest.mark.parametrize("key", [None, "visitor"])
async def test_sessions_of_an_old_class_go_on_under_the_new_one(server: Server, key: str | None) -> None:
    """On a real server, two workers of two releases: defaults fill what is missing, and what only one knows is kept."""
    async with two_workers(server.url) as (old, new):
        browser = Browser()

        def begin(session: Session) -> None:
            visitor = session.model(OldVisitor, key)
            visitor.name, visitor.visits, visitor.legacy = "ann", 1, "kept"

        def look(session: Session) -> Any:
            return session.model(NewVisitor, key).model_dump()

        def change(session: Session) -> None:
            session.model(NewVisitor, key).theme = "dark"

        def change_back(session: Session) -> Any:
            session.model(OldVisitor, key).visits += 1
            return dict(session)

        await browser.visit(app_of(old), begin)
        assert (await browser.visit(app_of(new), look)).json == {"name": "ann", "visits": 1, "theme": "light"}
        assert len(await new.audit.history(browser.session_id)) == 1
        await browser.visit(app_of(new), change)
        await browser.visit(app_of(old), change_back)
        assert (await browser.visit(app_of(new), look)).json == {"name": "ann", "visits": 2, "theme": "dark"}
        data = (await browser.visit(app_of(new))).json
        assert (data if key is None else data[key])["legacy"] == "kept"


async def test_a_class_that_old_sessions_do_not_fit_says_which_field(manager: SessionManager) -> None:
    """And the way out: a default."""
    app, browser = app_of(manager), Browser()
    await browser.visit(app, setting(name="ann"))
    answer = await browser.visit(app, lambda session: session.model(Stricter), fails=SessionInvalid)
    assert str(answer.error).startswith("field 'email' does not fit the model Stricter")
    assert "give old sessions a default" in str(answer.error)


# ── FastAPI ──────────────────────────────────────────────────────────────────────────────────────────────────────────


def test_a_handler_may_ask_for_its_object() -> None:
    """The same one in every dependency of the request; `def` endpoints change it like others."""
    app = FastAPI()
    app.add_middleware(SessionMiddleware, manager=in_memory())

    @app.post("/add/{item}")
    async def add(item: str, cart: Annotated[PydanticCart, FromSession(PydanticCart, key="cart")]) -> PydanticCart:
        cart.items.append(item)
        return cart

    @app.post("/pay/{amount}")
    def pay(
        amount: int,
        cart: Annotated[StructCart, FromSession(StructCart, key="cart")],
        same: Annotated[StructCart, FromSession(StructCart, key="cart")],
    ) -> list[Any]:
        cart.total += amount
        return [same.total, cart is same]

    client = TestClient(app, base_url="https://shop.example")
    client.post("/add/tea")
    assert client.post("/add/honey").json() == {"items": ["tea", "honey"], "total": 0}
    assert client.post("/pay/5").json() == [5, True]
    assert client.post("/add/milk").json() == {"items": ["tea", "honey", "milk"], "total": 5}
    operation = client.get("/openapi.json").json()["paths"]["/add/{item}"]["post"]
    assert operation["security"] == [{"SessionCookie": []}]
    assert [parameter["name"] for parameter in operation["parameters"]] == ["item"]
