"""Tests of an app's sessions, with time travel; run `pytest examples/time_travel.py`, or this file alone."""

from datetime import timedelta

from fastapi import FastAPI

from evsession import SessionManager, SessionMiddleware, SessionPolicy
from evsession.fastapi import CurrentSession, CurrentUserId
from evsession.testing import FakeClock, authenticated, ended, memory_manager, session_client, updated

POLICY = SessionPolicy(idle_timeout=timedelta(minutes=30), absolute_timeout=timedelta(hours=8))


def make_app(manager: SessionManager) -> FastAPI:
    """Return the app; in production its manager comes from `SessionManager.from_env()`."""
    app = FastAPI()
    app.add_middleware(SessionMiddleware, manager=manager)

    @app.post("/cart/{item}")
    async def add(item: str, user_id: CurrentUserId, session: CurrentSession) -> list[str]:
        session.setdefault("cart", []).append(item)
        return [user_id, *session["cart"]]

    return app


def test_a_visitor_who_stays_away_is_signed_out() -> None:
    """Half an hour after the last request, and the cart is gone with the session."""
    clock = FakeClock()
    app = make_app(memory_manager(clock, policy=POLICY))
    with session_client(app, user_id="ada", session={"cart": ["tea"]}) as client:
        clock.advance(minutes=29)
        assert client.post("/cart/honey").json() == ["ada", "tea", "honey"]
        clock.advance(minutes=29)
        assert client.session == {"cart": ["tea", "honey"]}
        clock.advance(minutes=1)
        assert client.post("/cart/milk").status_code == 401
        assert client.events == [
            authenticated("ada", cart=["tea"]),
            updated(cart=["tea", "honey"]),
            ended("idle"),
        ]


def test_a_whole_working_day_is_enough() -> None:
    """Eight hours after the login it is over, however busy the visitor is."""
    clock = FakeClock()
    with session_client(make_app(memory_manager(clock, policy=POLICY)), user_id="ada") as client:
        for _ in range(24):
            assert client.post("/cart/tea").status_code == 200
            clock.advance(minutes=20)
        assert client.events[-1] == ended("absolute")
        client.login("ada")
        assert client.post("/cart/tea").json() == ["ada", "tea"]


def test_support_signs_a_visitor_out() -> None:
    """The very next request is refused."""
    with session_client(make_app(memory_manager()), user_id="ada") as client:
        client.revoke(reason="lost laptop")
        assert client.post("/cart/tea").status_code == 401
        assert client.events[-1] == ended("revoked")


if __name__ == "__main__":
    test_a_visitor_who_stays_away_is_signed_out()
    test_a_whole_working_day_is_enough()
    test_support_signs_a_visitor_out()
    print("three visits, a day and an hour, in no time")
