"""OWASP's vocabulary: the table in docs/how-to/siem.md."""

from __future__ import annotations

import pytest

from evsession.events import CAUSES
from evsession.export.owasp import term_of
from tests.unit.records import ALL, SID


@pytest.mark.parametrize(
    ("name", "term", "level"),
    [
        ("created", "session_created", "INFO"),
        ("authenticated", "authn_login_success:42", "INFO"),
        ("renewed", "session_renewed:42", "INFO"),
        ("ended logout", "session_expired:42,logout", "INFO"),
        ("ended idle", "session_expired:42,timeout", "INFO"),
        ("ended absolute", "session_expired:42,timeout", "INFO"),
        ("ended revoked", "session_expired:42,revoked", "INFO"),
        ("ended evicted", "session_expired:42,evicted", "INFO"),
        ("ended switched", "session_expired:42,switched", "INFO"),
        ("ended token_reused", f"authn_token_reuse:42,{SID}", "CRITICAL"),
        ("ended anonymous", "session_expired:,timeout", "INFO"),
        ("named_revoked", "authn_token_revoked:user_42,all", "INFO"),
    ],
)
def test_events_have_the_terms_that_the_docs_say(name: str, term: str, level: str) -> None:
    """With their arguments in the vocabulary's order, and its level."""
    assert ALL[name].owasp == (term, level)


def test_a_change_of_data_has_no_term() -> None:
    """Which of it is sensitive, only the application knows."""
    assert ALL["updated"].owasp is None


def test_every_cause_has_a_term() -> None:
    """A new cause must be given one."""
    assert all(ALL[f"ended {cause}"].owasp is not None for cause in CAUSES)


def test_an_argument_cannot_pass_for_two() -> None:
    """Nor break the line: user ids are the users' own text."""
    assert term_of("authenticated", "a,b:c\nd", None, None) == ("authn_login_success:a_b_c_d", "INFO")
