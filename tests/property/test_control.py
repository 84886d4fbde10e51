"""Revocations through failovers: whoever must be dead is, on every worker, and who signed in again since is not."""

from __future__ import annotations

from dataclasses import dataclass, field

from hypothesis import example, given, settings
from hypothesis import strategies as st

from evsession.canonical import dumps, loads
from evsession.control import EVERYONE, Control, Image, Revocation, data_of, revocation_of
from evsession.positions import pack_position
from evsession.state import Snapshot
from evsession.store import EVENT_KEY
from evsession.wire import START, Position, StreamId, id_text

NAMES = ("user:1", "user:2", EVERYONE)
Known = tuple[str, str | None, int]
"""A revocation as it happened: the name, the session it excepts, and when."""


@dataclass
class Session:
    """A session of user 1, and when and on which history it began."""

    snapshot: Snapshot
    at: int
    is_between: bool
    """Whether it began after a failover and before what that lost was issued again, or met a second failover since.

    Or before a caller tried again what was lost: then it may have begun before that call as well as since.
    """


@dataclass
class Story:
    """A control log with failovers, and one worker that follows it."""

    log: list[Revocation] = field(default_factory=list)
    known: list[Known] = field(default_factory=list)
    sessions: list[Session] = field(default_factory=list)
    worker: Control = field(default_factory=Control)
    now: int = 0
    behind: int = 0
    """How much the clock of the present primary is behind."""
    former: list[Revocation] = field(default_factory=list)
    """The log that the last failover replaced."""
    has_restarted: bool = False
    """Whether the worker knows of some entries no more than that they stand in the log."""

    @property
    def end(self) -> Position:
        """The position of the last entry."""
        return self.log[-1].position if self.log else START

    def append(self, data: bytes, event: bytes, highest: StreamId) -> None:
        """Append an entry as the script does, and let the worker apply it."""
        ms, seq = max(self.end.id, highest)
        id_ = (self.now - self.behind, 0) if self.now - self.behind > ms else (ms, seq + 1)
        self.log.append(revocation_of(Position(id_, event), data))
        self.worker.apply(self.log[-1])

    def revoke(self, name: str, keep: int | None) -> None:
        """Revoke a name, from a caller that has seen nothing but the present log."""
        kept = self.sessions[keep % len(self.sessions)].snapshot.sid if keep is not None and self.sessions else None
        facts = {"name": name} | ({"keep": kept} if kept else {})
        self.known.append((name, kept, self.now))
        self.append(dumps(facts), self.now.to_bytes(EVENT_KEY) + bytes(4), self.end.id)

    def retry(self, number: int) -> None:
        """Let the caller of a revocation that was lost try it once more, since it has had no answer."""
        lost = list(self.worker.lost.values())
        if lost and not any(self.is_same(entry, lost[number % len(lost)]) for entry in self.log):
            entry = lost[number % len(lost)]
            facts = {"name": entry.name} | ({"keep": entry.keep} if entry.keep else {})
            for session in self.sessions:
                session.is_between = True
            self.append(dumps(facts), entry.position.event[:EVENT_KEY] + self.now.to_bytes(4), self.end.id)

    @staticmethod
    def is_same(one: Revocation, other: Revocation) -> bool:
        """Tell whether two entries are attempts at the same revocation."""
        return one.position.event[:EVENT_KEY] == other.position.event[:EVENT_KEY]

    def has(self, session: Session) -> bool:
        """Tell whether a session stands in the log, not where an entry has stood before a failover."""
        control = session.snapshot.control
        return not control or any(entry.position.text() == control for entry in self.log)

    def login(self) -> None:
        """Begin a session of user 1 that stands at the end of the log."""
        control = "" if self.end == START else self.end.text()
        snapshot = Snapshot(sid=f"s{self.now}", user_id="1", control=control)
        self.sessions.append(Session(snapshot, self.now, bool(self.worker.lost)))

    def fail_over(self, count: int, behind: int) -> None:
        """Lose the last entries, to a primary whose clock may be behind; the worker loads what is left."""
        for session in self.sessions:
            session.is_between |= bool(self.worker.lost) or not self.has(session) or self.has_restarted
        self.former = list(self.log)
        del self.log[max(0, len(self.log) - count) :]
        self.behind = behind
        self.worker.load(self.image())

    def fail_back(self) -> None:
        """Have the primary serve again that the last failover replaced."""
        for session in self.sessions:
            session.is_between = True
        self.log, self.former = self.former, list(self.log)
        self.worker.load(self.image())

    def image(self) -> Image:
        """Return the log as a store has it for a worker that starts."""
        names: dict[bytes, bytes] = {}
        for entry in self.log:
            if not entry.places:
                old = names.get(entry.name.encode(), b"0-0").decode().split(" ")
                before = old[2] if len(old) == 3 and old[1] == entry.keep else old[0]
                kept = f" {entry.keep} {before}" if entry.keep else ""
                names[entry.name.encode()] = f"{id_text(entry.position.id)}{kept}".encode()
        again = [(entry.position, entry.data) for entry in self.log if entry.places]
        return Image(names, b"".join(pack_position(entry.position) for entry in self.log), again)

    def issue_again(self) -> None:
        """Append what the worker knows and the log has lost, and give up what somebody else has appended."""
        for entry in list(self.worker.lost.values()):
            other = next((one for one in self.log if self.is_same(one, entry)), None)
            if other is None:
                self.append(data_of(entry), entry.position.event, self.worker.highest)
            else:
                self.worker.settle(entry.position.event, other.position)

    def restart(self) -> None:
        """Let another worker take over, which knows what the log holds."""
        self.issue_again()
        self.worker, self.has_restarted = self.fresh(), True

    def step(self, kind: str, number: int, name: str) -> None:
        """Let one thing happen."""
        self.now += 10
        match kind:
            case "revoke":
                self.revoke(name, None)
            case "keep":
                self.revoke(name, number)
            case "login":
                self.login()
            case "fail":
                self.fail_over(number, behind=0)
            case "fail behind":
                self.fail_over(number, behind=1000)
            case "back":
                self.fail_back()
            case "again":
                self.issue_again()
            case "retry":
                self.retry(number)
            case "restart":
                self.restart()

    def fresh(self) -> Control:
        """Return what a worker knows that starts now."""
        control = Control()
        control.load(self.image())
        return control

    def is_revoked(self, session: Session) -> bool:
        """Tell whether somebody revoked a session after it began."""
        sid = session.snapshot.sid
        return any(name in (EVERYONE, "user:1") and kept != sid and at > session.at for name, kept, at in self.known)


KINDS = (
    "revoke", "revoke", "keep", "login", "login", "fail", "fail behind", "back", "again", "retry", "restart",
)  # fmt: skip
steps = st.lists(
    st.tuples(
        st.sampled_from(KINDS),
        st.integers(1, 4),
        st.sampled_from(NAMES),
    ),
    max_size=14,
)
LOST_KEPT = [("revoke", 1, "user:1"), ("login", 1, "user:1"), ("keep", 4, "user:1"), ("fail", 2, "user:1")]
NEW_AT_OLD_ID = [("revoke", 1, "user:2"), ("login", 1, "x"), ("fail behind", 1, "x"), ("revoke", 1, "user:1")]
HIDDEN = [("revoke", 1, "user:1"), ("login", 1, "x"), ("fail", 1, "x"), ("revoke", 1, "user:1"), ("again", 1, "x")]

OTHERS = [("revoke", 1, "user:2")] * 3
LOWER_AGAIN = [
    *OTHERS, ("login", 1, "x"), ("fail", 1, "x"), ("again", 1, "x"), ("fail behind", 2, "x"), ("revoke", 1, "user:1"),
]  # fmt: skip

LOST_TWICE_FIRST = [
    ("revoke", 1, "user:1"), ("fail behind", 1, "x"), ("again", 1, "x"), ("login", 1, "x"), ("back", 1, "x"),
    ("revoke", 1, "user:1"), ("fail", 2, "x"),
]  # fmt: skip


@settings(max_examples=400)
@given(steps)
@example(LOST_KEPT)
@example(NEW_AT_OLD_ID)
@example(HIDDEN)
@example(LOWER_AGAIN)
@example(LOST_TWICE_FIRST)
def test_whoever_was_revoked_is_dead_everywhere(story_steps: list[tuple[str, int, str]]) -> None:
    """On the worker at every moment, and once all is issued again on one that starts then."""
    story = Story()
    for kind, number, name in story_steps:
        story.step(kind, number, name)
        for session in story.sessions:
            if story.is_revoked(session):
                assert story.worker.verdict(session.snapshot) != "alive", (kind, session)
    story.issue_again()
    fresh = story.fresh()
    for session in story.sessions:
        assert fresh.verdict(session.snapshot) == story.worker.verdict(session.snapshot)
        if story.is_revoked(session):
            assert fresh.verdict(session.snapshot) != "alive"


@settings(max_examples=400)
@given(steps)
@example([("revoke", 1, "user:1"), ("login", 1, "x"), ("fail", 1, "x")])
@example([("revoke", 1, "user:1"), ("login", 1, "x"), ("fail behind", 1, "x"), ("revoke", 1, "user:2")])
@example([*LOST_KEPT, ("again", 1, "x"), ("fail", 4, "x")])
def test_whoever_signed_in_since_lives(story_steps: list[tuple[str, int, str]]) -> None:
    """Also where the entry at which they stand was lost and issued again; only who began in between may be dead."""
    story = Story()
    for kind, number, name in story_steps:
        story.step(kind, number, name)
    story.issue_again()
    for control in (story.worker, story.fresh()):
        for session in story.sessions:
            if not story.is_revoked(session) and not session.is_between:
                assert control.verdict(session.snapshot) == "alive", session


@given(steps)
@example([("login", 1, "x"), ("revoke", 1, "user:1")])
@example([("login", 1, "x"), ("keep", 1, "user:1"), ("keep", 2, "user:1"), ("fail", 2, "x"), ("again", 1, "x")])
def test_a_log_that_grows_while_it_is_loaded_says_no_less(story_steps: list[tuple[str, int, str]]) -> None:
    """The names are read first; what was appended before the rest was read is held, and applied from the log."""
    story = Story()
    for kind, number, name in story_steps:
        story.step(kind, number, name)
    fresh, log, whole = story.fresh(), story.log, story.image()
    for count in range(len(log)):
        story.log = log[:count]
        control = Control()
        control.load(Image(story.image().names, whole.held, whole.again))
        for entry in log[count:]:
            control.apply(entry)
        for session in story.sessions:
            assert control.verdict(session.snapshot) == fresh.verdict(session.snapshot)


def test_an_entry_that_came_back_is_lost_no_more() -> None:
    """The history that holds it serves again: who signed in since lives, and there is nothing to issue again."""
    story = Story()
    for kind in ("revoke", "revoke", "login", "fail", "back"):
        story.step(kind, 1, "user:1")
    assert not story.worker.lost
    assert [story.worker.verdict(session.snapshot) for session in story.sessions] == ["alive"]
    for kind in ("fail", "again", "back"):
        story.step(kind, 1, "user:1")
    assert not story.worker.lost
    assert [story.worker.verdict(session.snapshot) for session in story.sessions] == ["alive"]


def test_an_entry_is_issued_again_with_all_the_places_where_it_stood() -> None:
    """And with its name, its reason and the session it excepts, but with nobody waiting for it."""
    story = Story()
    story.step("login", 1, "x")
    data = dumps({"name": "user:1", "keep": "s10", "reason": "stolen", "waits": True})
    story.append(data, bytes(16), (0, 0))
    story.fail_over(1, behind=0)
    (lost,) = story.worker.lost.values()
    assert loads(data_of(lost)) == {
        "name": "user:1",
        "keep": "s10",
        "reason": "stolen",
        "places": [["10-0", "0-0", pack_position(Position((10, 0), bytes(16))).hex()]],
    }
    story.issue_again()
    assert not story.worker.lost
    story.fail_over(1, behind=0)
    (lost,) = story.worker.lost.values()
    assert [place.id for place in lost.places] == [(10, 0), (10, 1)]
