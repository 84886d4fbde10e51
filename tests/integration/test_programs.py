"""Programs as users write them, over real HTTP and in processes of their own: what each one's docstring says."""

from __future__ import annotations

import json
import signal
import sqlite3
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import ExitStack, closing, contextmanager
from datetime import timedelta
from functools import partial
from pathlib import Path
from typing import Any, Final

import anyio
import httpx

from evsession import Actor, RecordedEvent, SessionManager
from tests.conftest import until
from tests.integration.programs import ROOT, ask, client_of, environment, run, serving
from tests.servers import Server

KEY: Final = "a-key-that-only-these-programs-have"
NEXT_KEY: Final = "the-next-key-that-they-are-given-01"


def settings_of(server: Server) -> dict[str, str]:
    """Return what every program of one application has in its environment."""
    return {"EVSESSION_URL": server.url, "EVSESSION_SECRET_KEY": KEY}


def manager_on(server: Server) -> SessionManager:
    """Return the manager of another process of that application."""
    return SessionManager.from_url(server.url, secret_key=KEY)


# ── an event stream, an admin's script ───────────────────────────────────────────────────────────────────────────────


def test_a_stream_ends_with_its_session(tmp_path: Path) -> None:
    """After what was published came; nobody is told of a reader who has gone."""
    with serving("event_stream", tmp_path) as address, client_of(address) as ada:
        assert ada.get("/news").status_code == 401
        ada.post("/login/ada")
        with ada.stream("GET", "/news") as stream:
            lines = (line for line in stream.iter_lines() if line)
            assert next(lines) == "data: good morning, ada"
            assert ask("POST", f"{address}/news?text=rain").json() == 1
            assert next(lines) == "data: rain"
            ada.post("/logout")
            assert list(lines) == []
        assert ask("POST", f"{address}/news?text=sun").json() == 0
        assert ada.get("/news").status_code == 401


def test_a_script_signs_a_user_out_of_a_running_app(server: Server, tmp_path: Path) -> None:
    """It finds the sessions, ends them and their streams, and says who did it, and that it is certain."""
    with serving("event_stream", tmp_path, **settings_of(server)) as address, client_of(address) as ada:
        session_id = ada.post("/login/ada").cookies["session"][:24]
        with ada.stream("GET", "/news") as stream:
            lines = (line for line in stream.iter_lines() if line)
            assert next(lines) == "data: good morning, ada"
            done = run("admin_script", "ada", "--admin", "joe", "--ticket", "OPS-12", **settings_of(server))
            assert list(lines) == []
        assert done.returncode == 0, done.stderr
        found, receipt, sentence = done.stdout.splitlines()
        assert found.startswith(f"{session_id}  python-httpx/{httpx.__version__}  from 127.0.0.0  seen 20")
        assert receipt.startswith("signed out, 2 of 2 workers in ")
        assert session_id in sentence
        assert all(text in sentence for text in ("revoked", "joe", "OPS-12", "asked for by phone"))
        assert ada.get("/news").status_code == 401


# ── without HTTP ─────────────────────────────────────────────────────────────────────────────────────────────────────


async def test_a_worker_does_each_job_once(server: Server) -> None:
    """One that comes twice counts once, one for a session that is over harms nobody, and the trail says who it was."""
    async with manager_on(server) as manager:
        ada, bob = await manager.create(user_id="ada"), await manager.create(user_id="bob")
        await manager.revoke(bob.id, timeout=timedelta(0))
        jobs = [("J-1", ada.id), ("J-2", ada.id), ("J-1", ada.id), ("J-3", bob.id)]
        lines = [json.dumps({"id": name, "session": session, "points": 5}) for name, session in jobs]
        done = await anyio.to_thread.run_sync(
            lambda: run("job_worker", given="\n".join(lines) + "\n", **settings_of(server))
        )
        assert done.returncode == 0, done.stderr
        assert done.stdout.splitlines() == ["J-1 done", "J-2 done", "J-1 was done before", "J-3 too late: revoked"]
        *_, first, second = await manager.audit.history(ada.id)
        assert [(event.actor, event.context["ticket"]) for event in (first, second)] == [
            (Actor.service("loyalty"), "J-1"),
            (Actor.service("loyalty"), "J-2"),
        ]
        assert second.set["points"] == 10


@contextmanager
def shipping(folder: Path, **settings: str) -> Iterator[subprocess.Popen[bytes]]:
    """Run the follower, its lines added to a file."""
    with (folder / "events.jsonl").open("ab") as lines, (folder / "errors").open("ab") as errors:
        process = subprocess.Popen(
            [sys.executable, "-W", "error", "examples/ship_events.py", str(folder / "cursor.txt")],
            cwd=ROOT, env=environment(**settings), stdout=lines, stderr=errors,
        )  # fmt: skip
        try:
            yield process
        finally:
            process.kill()
            process.wait(60)


async def test_a_follower_that_is_killed_goes_on_where_it_was(server: Server, tmp_path: Path) -> None:
    """Every event is shipped, in the order of the log; only what it was about to note may be there once more."""

    def shipped() -> list[dict[str, Any]]:
        return [json.loads(line) for line in (tmp_path / "events.jsonl").read_text().splitlines()]

    def has_come(event: RecordedEvent) -> bool:
        return event.cursor in [line["cursor"] for line in shipped()]

    async with manager_on(server) as manager:
        session = await manager.create(user_id="ada")
        for _ in range(3):
            with shipping(tmp_path, **settings_of(server)) as process:
                for number in range(5):
                    await manager.update(session.id, partial(dict.update, n=number))
                await until(partial(has_come, (await manager.audit.history(session.id))[-1]), "the last event", 20)
                process.send_signal(signal.SIGKILL)
        await manager.revoke(session.id, timeout=timedelta(0))
        events = await manager.audit.history(session.id)
        with shipping(tmp_path, **settings_of(server)):
            await until(partial(has_come, events[-1]), "the end", 20)
    lines = shipped()
    told = {line["cursor"]: line for line in lines}
    assert list(told) == [event.cursor for event in events]
    assert len(lines) <= len(told) + 3
    assert [told[events[number].cursor][name] for number, name in ((0, "user"), (1, "keys"), (-1, "cause"))] == [
        "ada",
        ["n"],
        "revoked",
    ]
    assert "Traceback" not in (tmp_path / "errors").read_text()


# ── settings, own stores ─────────────────────────────────────────────────────────────────────────────────────────────


def test_settings_come_from_the_environment(server: Server, tmp_path: Path) -> None:
    """A session outlives the process and the replacement of its key, in the namespace that was named."""
    settings = settings_of(server) | {"DEVELOPMENT": "1", "EVSESSION_NAMESPACE": "shop", "IDLE_MINUTES": "5"}
    cookies: dict[str, str] = {}
    for visits, keys in enumerate((KEY, f"{NEXT_KEY} {KEY}"), 1):
        with serving("settings", tmp_path, str(visits), **settings | {"EVSESSION_SECRET_KEY": keys}) as address:
            assert ask("GET", f"{address}/health/ready").json()["ready"]
            answer = ask("POST", f"{address}/visit", cookies=cookies)
            assert answer.json() == visits
            cookies = dict(answer.cookies) or cookies
    (session,) = server.cli("KEYS", "{shop:00}:s:*")
    assert 0 < float(server.cli("ZSCORE", "{shop:00}:exp", session[-24:])) - time.time() * 1000 <= 300_000


def test_settings_that_are_missing_are_named() -> None:
    """Instead of sessions that live somewhere else than was meant."""
    done = run("settings")
    assert done.returncode == 1
    assert "the environment has no EVSESSION_URL; set it" in done.stderr


def test_a_table_of_ones_own_keeps_sessions(tmp_path: Path) -> None:
    """For any process that has the file, and what it has opens nothing; it forgets who leaves."""
    file = tmp_path / "sessions.db"
    settings = {"EVSESSION_SECRET_KEY": KEY, "SESSIONS_FILE": str(file)}
    with serving("own_store", tmp_path, "1", **settings) as one:
        cookies = dict(ask("POST", f"{one}/visit").cookies)
        ask("POST", f"{one}/visit")
    with serving("own_store", tmp_path, "2", **settings) as two:
        assert ask("POST", f"{two}/visit", cookies=cookies).json() == 2
        assert cookies["session"][:24] not in dump(file)
        assert dump(file).count("INSERT INTO") == 2
        ask("POST", f"{two}/leave", cookies=cookies)
        assert dump(file).count("INSERT INTO") == 1
        assert ask("POST", f"{two}/visit", cookies=cookies).json() == 1


def dump(file: Path) -> str:
    """Return all that a database has, as text."""
    with closing(sqlite3.connect(file)) as database:
        return "\n".join(database.iterdump())


# ── coming from other libraries ──────────────────────────────────────────────────────────────────────────────────────


def test_an_app_that_had_starlettes_sessions(server: Server, tmp_path: Path) -> None:
    """It works as before, and can now sign somebody out everywhere."""
    with ExitStack() as stack:
        address = stack.enter_context(serving("from_starlette", tmp_path, **settings_of(server)))
        phone, laptop = (stack.enter_context(client_of(address, follow_redirects=True)) for _ in range(2))
        assert phone.get("/").json() == {"visits": 1}
        assert phone.post("/login/ada").json() == {"visits": 2, "user_id": "ada"}
        assert laptop.post("/login/ada").json() == {"user_id": "ada", "visits": 1}
        assert laptop.post("/logout").json() == {"visits": 1}
        laptop.post("/login/ada")
        assert "complete" in laptop.post("/logout-everywhere").json()
        assert [client.get("/").json() for client in (phone, laptop)] == [{"visits": 1}] * 2


def test_an_app_that_had_starsessions(server: Server, tmp_path: Path) -> None:
    """It works as before, on a log instead of a blob that each request overwrites."""
    settings = {"REDIS_URL": server.url, "EVSESSION_SECRET_KEY": KEY}
    with (
        serving("from_starsessions", tmp_path, **settings) as address,
        client_of(address) as client,
    ):
        assert client.post("/cart/tea").json()["cart"] == ["tea"]
        client.post("/login/ada")
        found = client.post("/cart/honey").json()
        assert (found["user_id"], found["cart"]) == ("ada", ["tea", "honey"])
        assert 3500 < found["seconds"] <= 3600
        client.post("/logout")
        assert client.post("/cart/milk").json()["cart"] == ["milk"]
