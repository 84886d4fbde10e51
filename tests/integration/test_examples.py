"""Whatever the pages show runs: each page's runnable blocks are one program, and every link leads somewhere."""

from __future__ import annotations

import logging
import re
import runpy
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import fields
from importlib.util import module_from_spec, spec_from_file_location
from pathlib import Path
from typing import Any, get_args

import pytest
from starlette.testclient import TestClient

from evsession import AuditPolicy, CachePolicy, CookiePolicy, SessionPolicy, StorePolicy, errors
from evsession.events import Event, RecordedEvent

ROOT = Path(__file__).parents[2]
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").rglob("*.md"))]
RUNNABLE = re.compile(r"^```python runnable\n(.*?)^```$", re.MULTILINE | re.DOTALL)
LINK = re.compile(r"\[[^\]]*\]\(([^)#\s]+)(?:#[^)]*)?\)")
LONGEST_README = 150
WRITTEN_BY_BENCH = "docs/reference/performance.md"


def named(page: Path) -> str:
    return str(page.relative_to(ROOT))


def blocks_of(page: Path) -> list[tuple[int, str]]:
    """Return each runnable block and the line before its first, so that an error names the page's own line."""
    text = page.read_text()
    return [(text.count("\n", 0, found.start(1)), found[1]) for found in RUNNABLE.finditer(text)]


@pytest.fixture
def levels_restored() -> Iterator[None]:
    """Take back what a page tells its reader to set, or each later test of this process would log as that page does."""
    ours = [logging.getLogger(), *(logging.getLogger(name) for name in ("evsession", "evsession.request"))]
    levels = [logger.level for logger in ours]
    yield
    for logger, level in zip(ours, levels, strict=True):
        logger.setLevel(level)


@pytest.mark.usefixtures("levels_restored")
@pytest.mark.parametrize("page", [page for page in PAGES if blocks_of(page)], ids=named)
def test_the_examples_of_a_page_run(page: Path) -> None:
    """The blocks run one after the other in one namespace, as a reader would paste them."""
    namespace: dict[str, Any] = {"__name__": f"example_{page.stem.replace('-', '_').lower()}"}
    for line, block in blocks_of(page):
        exec(compile("\n" * line + block, str(page), "exec", dont_inherit=True), namespace)


@pytest.mark.parametrize("page", PAGES, ids=named)
def test_every_link_leads_somewhere(page: Path) -> None:
    """Links within the project name files that are there."""
    targets = [target for target in LINK.findall(page.read_text()) if "://" not in target]
    missing = [target for target in targets if not (page.parent / target).exists()]
    assert not missing


def test_the_settings_page_names_every_setting() -> None:
    """A new setting needs its line."""
    page = (ROOT / "docs/reference/settings.md").read_text()
    policies = (SessionPolicy, CookiePolicy, CachePolicy, StorePolicy, AuditPolicy)
    assert not [field.name for policy in policies for field in fields(policy) if f"`{field.name}`" not in page]


def test_the_errors_page_names_every_error() -> None:
    """A new error needs its line."""
    page = (ROOT / "docs/reference/errors.md").read_text()
    tree = [value for value in vars(errors).values() if isinstance(value, type) and issubclass(value, Exception)]
    assert len(tree) > 10
    names = {error.__name__ for error in tree} - {"EvsessionError"}
    assert not [name for name in names if f"`{name}`" not in page]


def test_the_events_page_names_every_event() -> None:
    """A new event, or a new field of a recorded one, needs its line."""
    page = (ROOT / "docs/reference/events.md").read_text()
    types = [type_.__name__.lower() for type_ in get_args(Event)]
    assert not [name for name in (*types, *(field.name for field in fields(RecordedEvent))) if f"`{name}`" not in page]


def test_the_readmes_app_answers() -> None:
    """What a reader pastes first does what its comments say."""
    namespace: dict[str, Any] = {"__name__": "readme"}
    for _, block in blocks_of(ROOT / "README.md"):
        exec(compile(block, "README.md", "exec", dont_inherit=True), namespace)
    with TestClient(namespace["app"]) as client:
        client.post("/login/ada")
        client.post("/cart/tea")
        assert client.post("/cart/honey").json() == ["tea", "honey"]
        assert client.get("/history").json() == ["authenticated", "updated", "updated"]
        assert client.post("/sign-out-everywhere").json().startswith("1 of 1 workers")
        assert client.post("/sign-out-everywhere").status_code == 401


def test_the_readme_is_short() -> None:
    """What is longer belongs into docs/."""
    assert len((ROOT / "README.md").read_text().splitlines()) <= LONGEST_README


def test_every_python_block_is_run() -> None:
    """A block that is not marked would rot unseen."""
    unmarked = [named(page) for page in PAGES if "```python\n" in page.read_text()]
    assert not unmarked


def test_every_page_can_be_reached() -> None:
    """Each page under docs/ is linked from the README or from another page."""
    linked = {(page.parent / target).resolve() for page in PAGES for target in LINK.findall(page.read_text())}
    missed = [named(page) for page in PAGES[1:] if page.resolve() not in linked]
    assert not [page for page in missed if page != WRITTEN_BY_BENCH]


@pytest.mark.parametrize(
    ("program", "says"),
    [
        ("quickstart", "['tea', 'honey'] ['authenticated', 'updated', 'updated']"),
        ("bearer_api", "{'user': 'ada', 'notes': ['ada: hello']}\n401 Bearer"),
        ("typed_cart", "16.20\n{'theme': 'dark', 'currency': 'EUR'} [['cart'], ['cart'], ['theme']]"),
        ("chat", "ada: hello\nada: hello\n4401 logout\nada has left\n['logout']"),
        ("time_travel", "three visits, a day and an hour, in no time"),
        ("change_password", "signed out everywhere else: True\nada 401\nsign in first"),
        ("two_cookies", "401\n['session', 'staff'] ['ada', 'ada']\n['ada', None]"),
        ("background_cart", "{'orders': {'1': 'paid'}}, {'orders': {'1': 'confirmed'}}]"),
        (
            "own_context",
            "'shop': 'tea.localhost'}\nwarehouse: sample, {'address': '203.0.113.9', 'route': '/cart",
        ),
        ("debugging", "1 created {'note': 'tea'}\n2 updated {'note': 'milk'}\n3 ended {}\nSession 00"),
        ("plain_endpoints", "403 without the page's token\nada ['tea']\nmoved\nNone 401"),
    ],
)
def test_an_example_runs_alone(program: str, says: str) -> None:
    """It needs no server and says what it did."""
    done = subprocess.run(
        [sys.executable, "-W", "error", f"examples/{program}.py"],
        cwd=ROOT,
        env={"PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert says in done.stdout


def test_the_shop_runs_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    """Without `evsession demo` it keeps sessions in memory and shows one worker."""
    monkeypatch.setenv("EVSESSION_URL", "memory://")
    with TestClient(shop().app) as client:
        assert "one session, two workers" in client.get("/").text
        client.post("/login", json={"user": "ada"})
        client.post("/cart/add", json={"item": "Tea"})
        seen = client.get("/whoami").json()
        assert (seen["user"], seen["data"]["cart"], seen["source"]) == ("ada", ["Tea"], "memory")
        client.post("/logout")
        assert client.get("/whoami").json()["session_id"] is None


def test_the_shop_sees_nobody_elses_session(monkeypatch: pytest.MonkeyPatch) -> None:
    """What a client may set cannot name a user: only `login` does."""
    monkeypatch.setenv("EVSESSION_URL", "memory://")
    with TestClient(shop().app) as client:
        client.post("/set", json={"key": "user_id", "value": "root"})
        assert client.get("/whoami").json()["user"] is None
        assert client.get("/history").json()[0]["type"] == "created"


def shop() -> Any:
    """Return the example as a module of its own, made anew."""
    spec = spec_from_file_location("shop_under_test", ROOT / "examples" / "shop.py")
    assert spec is not None
    assert spec.loader is not None
    module = module_from_spec(spec)
    sys.modules[spec.name] = module
    spec.loader.exec_module(module)
    return module


def test_the_examples_import_without_side_effects() -> None:
    """Importing the quick start starts nothing."""
    assert "app" in runpy.run_path(str(ROOT / "examples" / "quickstart.py"))


def test_the_examples_page_names_every_program() -> None:
    """A new program needs its line."""
    page = (ROOT / "docs/how-to/examples.md").read_text()
    programs = sorted(path.name for path in (ROOT / "examples").glob("*.py"))
    assert len(programs) > 20
    assert not [name for name in programs if f"(../../examples/{name})" not in page]
