"""What a cache tells to whoever holds connections open for sessions."""

from __future__ import annotations

from typing import Final, Protocol

from evsession.events import Event
from evsession.state import Snapshot

HARMLESS: Final = frozenset(("created", "updated"))
"""The types of events that close nothing; of any other, those of later versions too, a watcher is told."""

CLOSING: Final = frozenset(("authenticated", "renewed", "ended"))
"""The types of events that may close something, as far as this version can read them."""


class Watcher(Protocol):
    """Who is told, at once and in the order of the log, of what may close a connection; it neither waits nor raises."""

    def on_event(self, sid: str, version: int, event: Event | None) -> None:
        """Learn of an event that is not `HARMLESS`; None if this version cannot read it, or its values are hidden."""

    def on_snapshot(self, snapshot: Snapshot) -> None:
        """Learn of a state that a fill, a commit or the feed brought."""

    def on_lost(self, sid: str) -> None:
        """Learn that a state which a reply brought never came by the log: a failover has lost it."""

    def on_control(self) -> None:
        """Learn that entries of the control log may have been applied."""


class Nobody:
    """A watcher that holds nothing open."""

    def on_event(self, sid: str, version: int, event: Event | None) -> None:
        """Ignore it."""

    def on_snapshot(self, snapshot: Snapshot) -> None:
        """Ignore it."""

    def on_lost(self, sid: str) -> None:
        """Ignore it."""

    def on_control(self) -> None:
        """Ignore it."""
