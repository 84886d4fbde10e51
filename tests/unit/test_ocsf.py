"""OCSF: every kind of event is valid under the published schema, with no attribute that it does not know."""

from __future__ import annotations

from functools import cache
from pathlib import Path
from typing import Any

import pytest
from jsonschema import Draft202012Validator
from ocsf_json_schema import OcsfJsonSchemaEmbedded, get_ocsf_schema

from evsession.canonical import dumps, loads
from evsession.export.ocsf import SCHEMA, ocsf_of
from tests.unit.records import ALL, SID


@cache
def _validator(class_name: str) -> Draft202012Validator:
    schema = OcsfJsonSchemaEmbedded(get_ocsf_schema(version=SCHEMA)).get_class_schema(class_name=class_name)
    return Draft202012Validator(schema)


def _valid(name: str) -> dict[str, Any]:
    event: dict[str, Any] = loads(dumps(ocsf_of(ALL[name], "shop", "0.1.0")))
    names = {3002: "authentication", 3004: "entity_management"}
    errors = [
        f"{'.'.join(map(str, error.path))}: {error.message}"
        for error in _validator(names[event["class_uid"]]).iter_errors(event)
    ]
    assert not errors
    return event


@pytest.mark.parametrize("name", ALL)
def test_every_event_is_valid(name: str) -> None:
    """Required attributes, constraints, enumerations and types, of the class and of every object in it."""
    event = _valid(name)
    assert event["type_uid"] == event["class_uid"] * 100 + event["activity_id"]
    assert event["metadata"]["version"] == "1.8.0"
    assert event["time"] == 1_795_249_800_123


def test_the_validator_finds_what_is_wrong() -> None:
    """Or the test above could not fail."""
    event = ocsf_of(ALL["authenticated"], "shop", "0.1.0")
    assert _validator("authentication").is_valid(event)
    for key in ("user", "time", "metadata", "service", "activity_id"):
        assert not _validator("authentication").is_valid({name: event[name] for name in event if name != key})
    assert not _validator("authentication").is_valid(event | {"colour": "red"})
    assert not _validator("authentication").is_valid(event | {"activity_id": 42})


def _table() -> list[list[str]]:
    page = (Path(__file__).parents[2] / "docs" / "how-to" / "siem.md").read_text()
    rows = page.partition("## What the events are called")[2].partition("##")[0].splitlines()
    return [[cell.strip() for cell in row.strip("|").split("|")] for row in rows if row.startswith("| `")]


ROWS = dict(
    zip(
        (
            "created", "authenticated", "impersonation", "updated", "renewed", "ended logout", "ended token_reused",
            "ended anonymous", "named_revoked",
        ),
        _table(),
        strict=True,
    )
)  # fmt: skip


@pytest.mark.parametrize("name", ROWS)
def test_events_are_called_what_the_docs_say(name: str) -> None:
    """Class, activity, severity, OWASP's term and level: the table in docs/how-to/siem.md, row by row."""
    event, owasp = _valid(name), ALL[name].owasp
    _, term, level, kind, activity, severity = ROWS[name]
    assert kind == f"{event['class_name']} {event['class_uid']}"
    assert activity.startswith(event["activity_name"])
    assert severity == event["severity"]
    assert level == ("" if owasp is None else owasp[1])
    assert (owasp is None) == term.startswith("none")
    assert owasp is None or owasp[0].split(":")[0] == term.strip("`").split(":")[0].split("`")[0]


def test_who_where_and_why_are_where_a_rule_looks_for_them() -> None:
    """Subject, actor, address, route, cause."""
    event = _valid("ended by an admin")
    assert event["user"]["uid"] == "42"
    assert event["actor"]["user"] == {"uid": "joe", "type": "Admin", "type_id": 2}
    assert event["src_endpoint"] == {"ip": "203.0.113.0"}
    assert event["http_request"] == {"http_method": "POST", "url": {"path": "/cart/{item}"}}
    assert event["session"]["uid"] == SID
    assert event["session"]["expiration_reason"] == "revoked"
    assert event["status_detail"] == "LOGOFF_OTHER"
    assert event["unmapped"]["reason"] == "lost phone"
    assert event["metadata"]["labels"] == ["owasp:session_expired:42,revoked"]
    assert _valid("ended logout")["status_detail"] == "LOGOFF_USER_INITIATED"
    assert _valid("updated")["entity"]["data"] == {"set": {"cart": ["tea"], "ü": None}, "unset": ["old"]}
    assert _valid("created")["actor"] == {"app_name": "shop"}
