"""Which events a reader of the whole log wants."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass
from typing import Final

from evsession.audit.reader import Reader
from evsession.audit.record import REVOKED, recorded
from evsession.audit.users import Users
from evsession.errors import ConfigError
from evsession.events import RecordedEvent
from evsession.tokens import is_sid, normalise_user_id
from evsession.view import CONTROL
from evsession.wire import Entry

SESSION_TYPES: Final = ("created", "authenticated", "updated", "renewed", "ended")
TYPES: Final = (*SESSION_TYPES, REVOKED)


@dataclass(frozen=True, slots=True)
class Selection:
    """The types, the user and the session that are wanted; None stands for all."""

    types: frozenset[str] | None
    user_id: str | None
    session_id: str | None

    @classmethod
    def of(cls, types: Collection[str] | str | None, user_id: object, session_id: str | None) -> Selection:
        """Return a selection from what a caller gives.

        Raises:
            ConfigError: there is no such type of event, or the session's id is none.
            InvalidUserId: this identifies no user.
        """
        named = None if types is None else frozenset((types,) if isinstance(types, str) else types)
        if named is not None and (unknown := sorted(named - set(TYPES))):
            msg = f"there are no events of type {', '.join(map(repr, unknown))}; there are {', '.join(TYPES)}"
            raise ConfigError(msg)
        if session_id is not None and not is_sid(session_id):
            msg = "this is no session id; pass the public id, 24 characters such as session.info.id"
            raise ConfigError(msg)
        return cls(named, None if user_id is None else normalise_user_id(user_id), session_id)

    def wants(self, entry: Entry) -> bool:
        """Tell whether an entry can be wanted, as long as its user is not known."""
        if self.types is not None and entry.type not in self.types:
            return False
        return self.session_id is None or entry.sid == self.session_id

    async def shards(self, reader: Reader) -> Sequence[str]:
        """Return the shards that have what is wanted."""
        if self.session_id is not None:
            return (self.session_id[:2],)
        if self.types is not None and REVOKED not in self.types:
            return await reader.shards()
        return (CONTROL,) if self.types == frozenset((REVOKED,)) else (*await reader.shards(), CONTROL)


class Sieve:
    """Lets pass what is wanted of entries that come in order, decoded and with their user."""

    def __init__(self, reader: Reader, selection: Selection) -> None:
        self._selection = selection
        self._users = Users(reader)

    def forget(self) -> None:
        """Begin anew: entries will come again, or others in their place."""
        self._users.forget()

    async def prepare(self, entries: Sequence[Entry]) -> None:
        """Find out what `passed` needs to know of these entries, which come next.

        Raises:
            StoreUnavailable: the store did not answer.
        """
        await self._users.learn([entry for entry in entries if self._selection.wants(entry)])

    def passed(self, entry: Entry) -> RecordedEvent | None:
        """Return the event of the next entry if it is wanted.

        Raises:
            UnknownFormat: a newer version wrote it.
        """
        user, selection = self._users.passing(entry), self._selection
        if not selection.wants(entry):
            return None
        event = recorded(entry, user)
        return event if selection.user_id is None or event.user_id == selection.user_id else None
