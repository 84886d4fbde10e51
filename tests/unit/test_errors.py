"""The error tree: evidence in attributes, a way out at the end of each text, never a secret."""

from __future__ import annotations

import re
from datetime import UTC, datetime, timedelta

import pytest

from evsession import errors
from evsession.errors import (
    ArchiveUnavailable,
    CodecError,
    ConfigError,
    ConnectionClosed,
    CorruptArchive,
    CorruptSnapshot,
    EvsessionError,
    InvalidUserId,
    LogTrimmed,
    ProcessDied,
    ResponseStarted,
    SessionConflict,
    SessionDetached,
    SessionEnded,
    SessionLimitReached,
    SessionTooLarge,
    StoreUnavailable,
    UnknownFormat,
    Unsupported,
)

SECOND = timedelta(seconds=1)
TOKEN = "00" + "i" * 21 + "A." + "s" * 42 + "A." + "t" * 21 + "A"


def test_the_tree_is_the_one_that_the_docstring_draws() -> None:
    """Each class stands in the drawing, under its parent's place, and nothing else does."""
    drawn = re.findall(r"(\w+)(?= {2,}\S|\n)", errors.__doc__ or "")
    classes = [c for c in vars(errors).values() if isinstance(c, type) and issubclass(c, Exception)]
    names = {c.__name__ for c in classes}
    assert names <= set(drawn) | {"EvsessionError"}
    above: type[EvsessionError] = EvsessionError
    for line in (errors.__doc__ or "").splitlines():
        if match := re.match(r" {4}([│ ]   )?[├└]── (\w+)", line):
            found: type[EvsessionError] = getattr(errors, match[2])
            assert (above if match[1] else EvsessionError) in found.__bases__
            above = above if match[1] else found
            names.discard(match[2])
    assert names == {"EvsessionError"}


@pytest.mark.parametrize(
    ("error", "way_out"),
    [
        (ConfigError("secret_key is missing; set EVSESSION_SECRET_KEY"), "set EVSESSION_SECRET_KEY"),
        (CodecError("cart.when", "datetime"), "such as str(uuid), date.isoformat() or model.model_dump(mode='json')"),
        (StoreUnavailable(SECOND), "try again in 1 s"),
        (StoreUnavailable(SECOND, outcome_unknown=True), "so read before you repeat it; try again in 1 s"),
        (UnknownFormat("snapshot of session 00x", "3", "2"), "upgrade evsession here"),
        (LogTrimmed("session 00x", datetime(2026, 11, 21, tzinfo=UTC)), "or begin there: since='start'"),
        (CorruptSnapshot("00x"), "find out who can write to Redis, then run `evsession verify`"),
        (ArchiveUnavailable("s3://b/a", "cannot be written: full"), "so mend that and run it again"),
        (CorruptArchive("00/00000003.json", "is missing"), "`evsession verify --archive` names every such file"),
        (ResponseStarted("login()"), "call it before you begin to answer"),
        (SessionDetached(), "use manager.edit(id) or manager.update(id, change)"),
        (Unsupported("MULTI in a cluster", "use one shard"), "use one shard"),
        (ProcessDied(-9), "was killed by signal 9; if memory is short, ask for fewer with jobs=1 (--jobs 1)"),
        (ProcessDied(1), "ended with 1; if memory is short, ask for fewer with jobs=1 (--jobs 1)"),
        (ConnectionClosed("revoked"), "end the handler, as after any disconnect"),
        (SessionEnded("logout"), "begin a new one with session.login(user_id)"),
        (SessionEnded("revoked"), "a login that began before the revocation does not survive it"),
        (SessionConflict(["cart"]), "use manager.update(session, change)"),
        (SessionTooLarge(70_000, 65_536, "cart"), "or raise SessionPolicy(max_bytes=…)"),
        (SessionTooLarge(1025, 1024, "cart", unit="keys"), "or raise SessionPolicy(max_keys=…)"),
        (SessionLimitReached(5, "max_sessions"), "or raise SessionPolicy(max_sessions=…)"),
        (SessionLimitReached(100, "anonymous_per_second"), "or raise SessionPolicy(anonymous_per_second=…)"),
        (SessionLimitReached(7, "sockets"), "raise SessionPolicy(sockets=…)"),
        (InvalidUserId("bool", "says yes or no, not who"), "pass a str, an int or a UUID of 1 to 256 characters"),
    ],
)
def test_every_text_ends_with_the_way_out(error: EvsessionError, way_out: str) -> None:
    """Whoever reads only the last words knows what to do."""
    assert str(error).endswith(way_out)


def test_evidence_is_in_attributes() -> None:
    """A program decides by attributes, never by a text."""
    unavailable = StoreUnavailable(SECOND, "connection refused", outcome_unknown=True)
    assert (unavailable.retry_after, unavailable.outcome_unknown) == (SECOND, True)
    assert StoreUnavailable(SECOND).outcome_unknown is False
    assert "connection refused" in str(unavailable)
    away = ArchiveUnavailable("s3://b/a", "cannot be written: full")
    assert (away.place, away.detail, away.outcome_unknown) == ("s3://b/a", "cannot be written: full", False)
    assert away.retry_after == timedelta(minutes=1)
    corrupt = CorruptArchive("00/00000003.json", "is missing")
    assert (corrupt.file, corrupt.problem) == ("00/00000003.json", "is missing")
    large = SessionTooLarge(7, 5, "cart")
    assert (large.size, large.limit, large.largest_key, large.unit) == (7, 5, "cart", "bytes")
    limit = SessionLimitReached(5, "max_sessions")
    assert (limit.limit, limit.what) == (5, "max_sessions")
    format_ = UnknownFormat(what="event", found="9", known="1")
    assert (format_.what, format_.found, format_.known) == ("event", "9", "1")
    codec = CodecError("when", "datetime")
    assert (codec.key, codec.type) == ("when", "datetime")
    user = InvalidUserId("float", "cannot identify a user")
    assert (user.type, user.problem) == ("float", "cannot identify a user")
    assert isinstance(user, ValueError)
    closed = ConnectionClosed("revoked")
    assert closed.reason == "revoked"
    assert isinstance(closed, OSError)
    unsupported = Unsupported("this", "do that")
    assert (unsupported.what, unsupported.instead) == ("this", "do that")
    assert ProcessDied(-9).code == -9
    assert SessionEnded("idle").cause == "idle"
    assert SessionConflict(iter(["a", "b"])).keys == ("a", "b")
    assert CorruptSnapshot("00x").session_id == "00x"
    assert ResponseStarted("login()").operation == "login()"
    assert SessionDetached("save()").operation == "save()"


def test_a_value_of_the_session_itself_has_no_key() -> None:
    """An empty key is not printed as one."""
    assert str(CodecError("", "set")).startswith("the session holds what JSON has not: set")


def test_names_of_keys_are_shortened_and_escaped() -> None:
    """A key may be of any length and hold a line break that would forge a log line."""
    assert len(str(CodecError("k" * 10_000, "set"))) < 300
    assert "\n" not in str(SessionConflict(["a\nb"]))
    assert "…" not in str(SessionConflict(f"key{n}" for n in range(8))) + str(CodecError("k" * 80, "set"))
    many = str(SessionConflict(f"key{n}" for n in range(9)))
    assert "'key7', …" in many
    assert "key8" not in many


@pytest.mark.parametrize(
    "url",
    [
        "redis://user:hunter2@redis:6379/0",
        "redis://:hunter2@redis",
        "rediss://u:hunt@hunter2@redis",
        "unix:///run/redis.sock?password=hunter2&db=1",
        "redis://redis?db=1&password=hunter2",
    ],
)
def test_no_text_holds_the_password_of_a_url(url: str) -> None:
    """Not even when the caller put it there, and what follows it stays readable."""
    text = str(StoreUnavailable(SECOND, f"no answer from {url} within 1 s"))
    assert "hunter2" not in text
    assert "within 1 s" in text


@pytest.mark.parametrize("text", [TOKEN, f"{TOKEN}~17", TOKEN[:50], f"cookie={TOKEN}; x"])
def test_no_text_holds_a_token(text: str) -> None:
    """Not whole, not cut off; the session's id, which is public, stays."""
    shown = str(ConfigError(f"found {text} here"))
    assert "sssss" not in shown
    assert "ttttt" not in shown
    assert TOKEN[:24] in shown


def test_a_token_used_as_a_key_is_hidden_too() -> None:
    """A name is cut before secrets are sought, so a token that was cut must still be found."""
    assert "sssss" not in str(SessionConflict([TOKEN]))
