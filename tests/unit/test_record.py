"""Exported records as JSON: complete, and of one form for every kind of event."""

from __future__ import annotations

import pytest

from evsession.canonical import dumps, loads
from evsession.export.record import json_of
from tests.unit.records import ALL, SID


@pytest.mark.parametrize("name", ALL)
def test_every_line_has_the_same_keys(name: str) -> None:
    """A table can be made of them, and none has a value that JSON has not."""
    line = loads(dumps(json_of(ALL[name])))
    assert list(line) == sorted(json_of(ALL["created"]))
    assert line["at"] == "2026-11-21T08:30:00.123+00:00"
    assert line["level"] in ("INFO", "CRITICAL")


def test_a_line_says_who_what_and_where() -> None:
    """Of a login, with its facts."""
    assert json_of(ALL["impersonation"]) == {
        "id": "1700000000000-0", "shard": "00", "type": "authenticated", "at": "2026-11-21T08:30:00.123+00:00",
        "session_id": SID, "version": 3, "user_id": "42", "name": None, "actor": {"kind": "admin", "id": "joe"},
        "context": ALL["impersonation"].context, "set": {"a": 1}, "unset": (),
        "facts": {"names": ["tenant:acme"], "detected": True, "facts": {"mfa": True}},
        "cause": None, "reason": "", "owasp": "authn_login_success:42", "level": "INFO",
    }  # fmt: skip


def test_a_renewal_says_its_phase_and_a_revocation_its_name() -> None:
    """What other events do not have is None."""
    assert json_of(ALL["renewed"])["facts"] == {"phase": "issued"}
    revoked = json_of(ALL["named_revoked"])
    assert (revoked["name"], revoked["session_id"], revoked["version"]) == ("user:42", None, None)
    assert json_of(ALL["updated"])["owasp"] is None
