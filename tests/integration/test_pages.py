"""What the pages say of the code is what the code says: names, defaults, options, links."""

from __future__ import annotations

import inspect
import re
import tomllib
from collections.abc import Iterator
from dataclasses import MISSING, Field, fields
from datetime import timedelta
from pathlib import Path
from typing import Any, get_args

import click
import pytest
import typer
from starlette.middleware import sessions as original

import evsession
import evsession.fastapi
from evsession import (
    Actor,
    AuditPolicy,
    CachePolicy,
    CookiePolicy,
    Health,
    NewSession,
    Receipt,
    Session,
    SessionInfo,
    SessionManager,
    SessionMiddleware,
    SessionPolicy,
    StorePolicy,
    errors,
)
from evsession import starlette as drop_in
from evsession.audit import Audit
from evsession.cli.app import app
from evsession.config import DEFAULT_REDACT
from evsession.events import Cause
from evsession.export.parquet import SCHEMA
from evsession.outcome import Outcome
from evsession.proof import FaultKind
from evsession.stores.redis.keys import Keys

ROOT = Path(__file__).parents[2]
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").rglob("*.md"))]
POLICIES = (SessionPolicy, CookiePolicy, CachePolicy, StorePolicy, AuditPolicy)
LINK = re.compile(r"\[[^\]]*\]\(([^)#\s]*)#([^)\s]+)\)")
HEADING = re.compile(r"^#+ (.+)$", re.MULTILINE)
TICKED = re.compile(r"`([^`]+)`")
NOWHERE = {"app", "store", "clock"}
"""Arguments that no page lists: the framework's own, the one for stores of one's own, and the one for tests."""


def named(page: Path) -> str:
    return str(page.relative_to(ROOT))


def text_of(name: str) -> str:
    return (ROOT / "docs" / name).read_text()


def section(text: str, heading: str) -> str:
    """Return what stands between a heading and the next one of the same kind."""
    return re.split(r"^## ", text.split(f"## {heading}\n", 1)[1], maxsplit=1, flags=re.MULTILINE)[0]


def rows(text: str) -> Iterator[list[str]]:
    """Yield the cells of each row of the tables in a text."""
    for line in text.splitlines():
        if line.startswith("|") and not line.startswith("|---"):
            yield [cell.strip() for cell in re.split(r"(?<!\\)\|", line)[1:-1]]


def ticked(text: str) -> list[str]:
    return TICKED.findall(text)


# ── settings ─────────────────────────────────────────────────────────────────────────────────────────────────────────

DAY = timedelta(days=1)
IN_WORDS: dict[str, dict[Any, str]] = {
    "max_bytes": {64 * 1024 * 1024: "64 MiB"},
    "renew_after": {None: "never"},
    "max_sessions": {None: "no limit"},
    "key": {None: "the secret key"},
    "redact": {DEFAULT_REDACT: "`DEFAULT_REDACT`"},
    "name": {"__Host-session": "`__Host-session`"},
    "path": {"/": "`/`"},
}


def shown(field: Field[Any]) -> str:
    """Return a default as the page has it."""
    value = field.default
    assert value is not MISSING
    if value in IN_WORDS.get(field.name, {}):
        return IN_WORDS[field.name][value]
    match value:
        case timedelta():
            return duration(value)
        case bool():
            return "yes" if value else "no"
        case None | ():
            return "none"
        case int():
            return f"{value:,}"
        case _:
            return f'`"{value}"`'


def duration(value: timedelta) -> str:
    for unit, name in ((DAY, "days"), (DAY / 24, "h"), (DAY / 1440, "min")):
        if value >= unit:
            return f"{value / unit:g} {name}"
    return f"{value.total_seconds():g} s"


@pytest.mark.parametrize("policy", POLICIES)
def test_the_settings_page_has_each_setting_with_its_default(policy: type) -> None:
    """All of them, none that is not there, and no default that was changed since."""
    said: dict[str, str] = {}
    for names, default, _ in list(rows(section(text_of("reference/settings.md"), policy.__name__)))[1:]:
        defaults = re.split(r" · |, ", default) if len(ticked(names)) > 1 else [default]
        said |= dict(zip(ticked(names), defaults, strict=True))
    assert said == {field.name: shown(field) for field in fields(policy)}


@pytest.mark.parametrize("of", [SessionManager, SessionMiddleware])
def test_the_settings_page_has_each_argument(of: type) -> None:
    """Of what is made by hand, in the same words."""
    page = section(text_of("reference/settings.md"), of.__name__)
    listed = {name for row in rows(page) for name in ticked(row[0])}
    assert not set(inspect.signature(of).parameters) - NOWHERE - listed


# ── errors ───────────────────────────────────────────────────────────────────────────────────────────────────────────


def carried(error: type[Exception]) -> set[str]:
    """Return what an error has as attributes of its own, or of its parent if it has none."""
    owner = next(one for one in error.__mro__ if "__init__" in vars(one))
    return set(re.findall(r"self\.(\w+) = ", inspect.getsource(vars(owner)["__init__"])))


def test_the_errors_page_says_what_each_error_carries() -> None:
    """No attribute that is not there, and none left out that the class has beyond its parent."""
    for name, carries, *_ in list(rows(text_of("reference/errors.md")))[1:]:
        error = getattr(errors, ticked(name)[0])
        has, inherited = carried(error), carried(error.__bases__[0])
        assert set(ticked(carries)) <= has, name
        assert has - inherited - {"detail"} <= set(ticked(carries)), name


def test_the_errors_page_names_every_cause() -> None:
    """A new way to end needs its word."""
    assert not [cause for cause in get_args(Cause) if f"`{cause}`" not in text_of("reference/errors.md")]


def test_every_error_is_public() -> None:
    """What the page names can be imported as it says."""
    tree = [name for name, value in vars(errors).items() if isinstance(value, type) and issubclass(value, Exception)]
    assert not set(tree) - set(evsession.__all__)


# ── the faces for other libraries ────────────────────────────────────────────────────────────────────────────────────


def test_the_page_on_starlette_has_its_constructor() -> None:
    """In Starlette's order, with Starlette's defaults, and with nothing that its class has beyond."""
    here = inspect.signature(drop_in.SessionMiddleware).parameters
    page = [ticked(row[0])[0] for row in list(rows(section(text_of("reference/starlette.md"), "The constructor")))[1:]]
    assert page == [name for name in here if name != "app"]
    theirs = inspect.signature(original.SessionMiddleware).parameters
    assert [name for name in theirs if name in here] == list(here)[: len(theirs)]
    assert all(here[name].default == value.default for name, value in theirs.items() if name != "secret_key")


def test_the_page_on_fastapi_names_all_of_it() -> None:
    """What is offered is explained."""
    page = text_of("how-to/fastapi.md")
    assert not [name for name in evsession.fastapi.__all__ if name not in page]


# ── the command line ─────────────────────────────────────────────────────────────────────────────────────────────────

COMMANDS: dict[str, click.Command] = getattr(typer.main.get_command(app), "commands")  # noqa: B009
ON_THEIR_OWN = {"archive": "how-to/archive.md", "export": "how-to/siem.md", "rebuild": "how-to/verify.md"}
"""Commands whose options stand on a page of their own."""
EVERYWHERE = {"--app", "--json", "--help"}


@pytest.mark.parametrize("name", COMMANDS)
def test_the_command_line_page_has_each_command_and_option(name: str) -> None:
    """In its row, in the section of its name, among the filters, or on the page that the row leads to."""
    page = text_of("reference/command-line.md")
    (row,) = [row for row in rows(section(page, "Commands")) if row[0].startswith(f"`{name}")]
    places = " ".join(row) + (section(page, name) if f"## {name}\n" in page else "")
    if "[filters]" in row[0]:
        places += next(part for part in page.split("\n\n") if part.startswith("Filters:"))
    if name in ON_THEIR_OWN:
        assert ON_THEIR_OWN[name] in places
        places += text_of(ON_THEIR_OWN[name])
    options = {option for one in COMMANDS[name].params for option in (*one.opts, *one.secondary_opts)}
    assert not [option for option in options - EVERYWHERE if option.startswith("--") and option not in places]


def test_the_command_line_page_has_no_option_that_is_not_there() -> None:
    """Of any command, in its row."""
    for row in rows(section(text_of("reference/command-line.md"), "Commands")):
        for name, command in COMMANDS.items():
            if row[0].startswith(f"`{name}"):
                known = {option for one in command.params for option in one.opts}
                assert set(re.findall(r"--[a-z-]+", row[0])) <= known, name


# ── Redis ────────────────────────────────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize("slot", [slot for slot in Keys.__slots__ if slot != "tag"])
def test_the_page_on_the_layout_names_every_key(slot: str) -> None:
    """A key that nobody explains looks like somebody else's."""
    page = text_of("reference/layout.md")
    assert any(f"`{getattr(Keys('ns', shard), slot).decode()}" in page for shard in ("NN", "ctl"))


def test_the_page_on_symptoms_names_each_outcome_of_a_request() -> None:
    """Each that the line of a request may have, in the order of the code."""
    table = text_of("how-to/troubleshooting.md").split("## My session", 1)[0]
    assert [ticked(row[0])[0] for row in list(rows(table))[1:]] == list(get_args(Outcome))


# ── the trail ────────────────────────────────────────────────────────────────────────────────────────────────────────


def test_the_page_on_integrity_names_each_fault() -> None:
    """Each that `verify` may report, and none that it does not."""
    listed = [ticked(row[0])[0] for row in list(rows(section(text_of("explanation/integrity.md"), "The faults")))[1:]]
    assert sorted(listed) == sorted(get_args(FaultKind))


def test_the_page_on_siems_names_each_column() -> None:
    """In the order of the file, so that a reader may copy them."""
    page = section(text_of("how-to/siem.md"), "Ask questions")
    columns = [field.name for field in SCHEMA]
    assert [name for name in ticked(page) if name in columns][: len(columns)] == columns


def test_the_page_on_redaction_names_what_is_redacted() -> None:
    """A name that it promises to hide is hidden."""
    (line,) = [line for line in text_of("how-to/redaction.md").split("\n- ") if line.startswith("The default has")]
    promised = [name for name in ticked(line) if "." not in name and "=" not in name]
    assert promised
    assert set(promised) <= set(DEFAULT_REDACT)


# ── everywhere ───────────────────────────────────────────────────────────────────────────────────────────────────────


def anchor(heading: str) -> str:
    """Return what a link to a heading says.  Source: GitHub's rule."""
    text = re.sub(r"\[([^\]]*)\]\([^)]*\)", r"\1", heading.strip())
    return re.sub(r"[^\w\- ]", "", text.lower()).replace(" ", "-")


@pytest.mark.parametrize("page", PAGES, ids=named)
def test_every_anchor_is_a_heading(page: Path) -> None:
    """Of the page that the link names, or of this one."""
    for target, fragment in LINK.findall(page.read_text()):
        if "://" not in target:
            other = (page.parent / target) if target else page
            assert fragment in map(anchor, HEADING.findall(other.read_text())), f"{target}#{fragment}"


@pytest.mark.parametrize("page", PAGES, ids=named)
def test_every_extra_target_and_file_is_there(page: Path) -> None:
    """What a reader is told to install, to make or to look at."""
    text, project = page.read_text(), tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    extras = {one for found in re.findall(r"evsession\[([a-z,]+)\]", text) for one in found.split(",")}
    assert extras <= set(project["optional-dependencies"])
    targets = re.findall(r"^([a-z-]+):", (ROOT / "Makefile").read_text(), re.MULTILINE)
    assert {*re.findall(r"`make ([a-z-]+)", text), *re.findall(r"^\$ make ([a-z-]+)", text, re.MULTILINE)} <= {*targets}
    assert not [name for name in re.findall(r"examples/\w+\.py", text) if not (ROOT / name).exists()]


def test_every_public_name_is_on_some_page() -> None:
    """What nobody explains is not public."""
    text = text_of("reference/api.md") + text_of("reference/errors.md")
    assert not [name for name in evsession.__all__ if f"`{name}" not in text]


INTERNAL = {
    Session: {"base", "committed", "dropped", "keepable", "might_differ", "plan", "rebased", "surviving"},
    SessionInfo: set[str](),
    Receipt: set[str](),
    Health: set[str](),
    NewSession: set[str](),
    Actor: {"kind"},
    Audit: {"archive", "end", "shards"},
    SessionManager: {
        "check_transport", "fetch", "may_create_anonymous", "prove", "remember", "server_now", "set_cookie", "slide",
        "slide_open", "stamp", "ticket", "touch", "warn_about_insecure",
    },
}  # fmt: skip
"""What the parts of evsession call of each other, and nobody else needs."""


@pytest.mark.parametrize("of", INTERNAL, ids=lambda of: of.__name__)
def test_the_page_of_names_has_each_method_and_field(of: type) -> None:
    """What it does not have is for evsession's own parts, and said so here."""
    page = text_of("reference/api.md")
    names = {name for name in dir(of) if not name.startswith("_") and not hasattr(dict, name)}
    assert not INTERNAL[of] - names
    assert not [name for name in names - INTERNAL[of] if not re.search(rf"[`.@ ]{name}\b", page)]
