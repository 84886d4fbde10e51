"""A session as objects of your own classes; run `python examples/typed_cart.py` to see what the log keeps of them."""

import os
from dataclasses import dataclass
from decimal import Decimal
from typing import Annotated

from fastapi import FastAPI
from pydantic import BaseModel, Field

from evsession import CookiePolicy, SessionManager, SessionMiddleware
from evsession.fastapi import CurrentSession, FromSession

manager = SessionManager.from_url(
    os.environ.get("EVSESSION_URL", "memory://"),
    secret_key=os.environ.get("EVSESSION_SECRET_KEY"),
    cookie=CookiePolicy.for_localhost(),
)
app = FastAPI()
app.add_middleware(SessionMiddleware, manager=manager)


class Line(BaseModel):
    """One thing in the cart."""

    sku: str
    price: Decimal
    quantity: int = Field(1, ge=1)


class Cart(BaseModel):
    """What lives under the session's key ``cart``."""

    lines: list[Line] = []
    coupon: str | None = None

    @property
    def total(self) -> Decimal:
        """What it costs."""
        return sum((line.price * line.quantity for line in self.lines), Decimal(0))


@dataclass
class Visitor:
    """What lives in the session itself: each field is a key, so requests that change different ones never collide."""

    theme: str = "light"
    currency: str = "EUR"


@app.post("/cart")
async def add(line: Line, cart: Annotated[Cart, FromSession(Cart, key="cart")]) -> Decimal:
    """Add to the cart in place."""
    cart.lines.append(line)
    return cart.total


@app.put("/theme/{theme}")
def choose(theme: str, visitor: Annotated[Visitor, FromSession(Visitor)]) -> Visitor:
    """Change one field: one key is in the event."""
    visitor.theme = theme
    return visitor


@app.get("/history")
async def history(session: CurrentSession) -> list[list[str]]:
    """Return which keys each event has set."""
    return [sorted(event.set) for event in await manager.audit.history(session)]


if __name__ == "__main__":
    from fastapi.testclient import TestClient

    with TestClient(app) as client:
        client.post("/cart", json={"sku": "tea", "price": "4.20"})
        print(client.post("/cart", json={"sku": "honey", "price": "6.00", "quantity": 2}).json())
        print(client.put("/theme/dark").json(), client.get("/history").json())
