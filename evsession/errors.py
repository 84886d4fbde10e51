"""Everything that evsession raises, as one tree.

::

    EvsessionError
    ├── ConfigError              a setting is wrong, or two contradict each other
    ├── CodecError               a value has no JSON form
    ├── StoreUnavailable         Redis did not answer in time, or refused
    │   └── ArchiveUnavailable   the place of the archive cannot be read or written
    ├── UnknownFormat            a newer evsession wrote this
    ├── LogTrimmed               the log does not reach back so far
    ├── CorruptSnapshot          a snapshot's body does not match its head
    ├── CorruptArchive           a file of the archive is not what its manifest says
    ├── ResponseStarted          too late for a cookie
    ├── SessionDetached          used outside its request
    ├── Unsupported              this store or server cannot do that
    ├── ProcessDied              a process that had a part of the work is gone
    ├── ConnectionClosed         (an OSError too) this socket or stream was closed with its session
    └── SessionError             this one session, or the right to have it
        ├── SessionEnded         it is over; what was changed was dropped
        ├── SessionConflict      somebody else changed it meanwhile
        ├── SessionTooLarge      its data is over a limit
        ├── SessionInvalid       its data does not fit the model that was asked for
        ├── SessionLimitReached  there are too many sessions
        └── InvalidUserId        (a ValueError too) this cannot identify a user

The evidence is in attributes; the text ends with the way out. No text holds a token or the password of a URL, not even
when the caller put one in.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from datetime import datetime, timedelta
from typing import Final

_PASSWORD: Final = re.compile(r"(?<=://)\S*@|(?<=[?&]password=)[^&\s'\"]+")
_TOKEN: Final = re.compile(r"([0-9a-z]{2}[\w-]{22})\.[\w-]{16,}(?:\.[\w-]*)?", re.ASCII)
"""A token, or the beginning of one: a text may have been cut before it came here."""
_SHOWN: Final = 80
"""Characters of a key's name that a text shows: names are the users' data and may be of any length."""
_FORMS: Final = "str(uuid), date.isoformat() or model.model_dump(mode='json')"


def _without_secrets(text: str) -> str:
    return _TOKEN.sub(r"\1.***", _PASSWORD.sub("***@", text))


def _shown(name: str) -> str:
    return repr(name if len(name) <= _SHOWN else f"{name[:_SHOWN]}…")


class EvsessionError(Exception):
    """The root: `except EvsessionError` catches whatever evsession raises."""

    def __init__(self, text: str) -> None:
        super().__init__(_without_secrets(text))


class ConfigError(EvsessionError):
    """A setting is wrong; the text names the setting that works. Raised at start, never by a request."""


class CodecError(EvsessionError):
    """A value has no JSON form; nothing was stored.

    `key` is the path of the value within the session (``""`` for the session itself), `type` says what was found there.
    """

    def __init__(self, key: str, type: str) -> None:
        self.key = key
        self.type = type
        where = f"session key {_shown(key)}" if key else "the session"
        fact = f"{where} holds what JSON has not: {type}"
        super().__init__(f"{fact}; store text, numbers, lists or dicts, such as {_FORMS}")


class StoreUnavailable(EvsessionError):
    """The store did not answer in time, or refuses to write.

    `retry_after` is how long a client should wait, `detail` what went wrong. `outcome_unknown` means that the command
    may have been executed: its reply was lost, not its request.
    """

    def __init__(self, retry_after: timedelta, detail: str = "", *, outcome_unknown: bool = False) -> None:
        self.retry_after = retry_after
        self.detail = detail
        self.outcome_unknown = outcome_unknown
        fact = f"the session store is unavailable{': ' if detail else ''}{detail}"
        doubt = "; the change may have been written or not, so read before you repeat it" if outcome_unknown else ""
        super().__init__(f"{fact}{doubt}; try again in {retry_after.total_seconds():g} s")


class ArchiveUnavailable(StoreUnavailable):
    """The place of the archive cannot be read or written; what is in the log stays there until it can.

    `place` is where it is.
    """

    def __init__(self, place: str, detail: str) -> None:
        self.place = place
        self.retry_after = timedelta(minutes=1)
        self.detail = detail
        self.outcome_unknown = False
        fact = f"the archive at {place} {detail}"
        EvsessionError.__init__(self, f"{fact}; nothing is lost or half done, so mend that and run it again")


class UnknownFormat(EvsessionError):
    """A newer evsession wrote this: it is refused, never taken for "no session".

    `what` was read, `found` is its format, `known` what this version reads.
    """

    def __init__(self, what: str, found: str, known: str) -> None:
        self.what = what
        self.found = found
        self.known = known
        super().__init__(f"{what} has the format {found!r}, this version reads {known}; upgrade evsession here")


class LogTrimmed(EvsessionError):
    """What was asked for is older than the log, and there is no archive that has it.

    `what` was looked for, `begins_at` is when the log, or what it has of that, begins.
    """

    def __init__(self, what: str, begins_at: datetime) -> None:
        self.what = what
        self.begins_at = begins_at
        fact = f"the log has nothing of {what} before {begins_at.isoformat(timespec='milliseconds')}"
        super().__init__(f"{fact}; give the archive as well, or begin there: since='start'")


class CorruptSnapshot(EvsessionError):
    """A snapshot's body does not match its head: somebody without the key wrote to Redis, or the key is another."""

    def __init__(self, session_id: str) -> None:
        self.session_id = session_id
        fact = f"the snapshot of session {session_id} does not match its head, so it is not served"
        super().__init__(f"{fact}; find out who can write to Redis, then run `evsession verify`")


class CorruptArchive(EvsessionError):
    """A file of the archive is not what its manifest says: somebody changed it, or the disk did.

    `file` is its name, `problem` what is wrong with it.
    """

    def __init__(self, file: str, problem: str) -> None:
        self.file = file
        self.problem = problem
        way_out = "restore it from a copy of the archive; `evsession verify --archive` names every such file"
        super().__init__(f"{file} in the archive {problem}; {way_out}")


class ResponseStarted(EvsessionError):
    """The headers are gone, so no cookie can be set any more; the session is as it was.

    `operation` is what was asked for, such as ``"login"``.
    """

    def __init__(self, operation: str) -> None:
        self.operation = operation
        fact = f"{operation} needs a cookie, and the response has started"
        super().__init__(f"{fact}; call it before you begin to answer")


class SessionDetached(EvsessionError):
    """A session was used after its request had ended, or outside of one; nothing was changed."""

    def __init__(self, operation: str = "this") -> None:
        self.operation = operation
        fact = f"{operation} needs the live session of a request"
        way_out = "elsewhere keep session.info.id and use manager.edit(id) or manager.update(id, change)"
        super().__init__(f"{fact}; {way_out}")


class Unsupported(EvsessionError):
    """The store, the server or this version cannot do that; nothing was done.

    `what` cannot be done, `instead` is what can.
    """

    def __init__(self, what: str, instead: str) -> None:
        self.what = what
        self.instead = instead
        super().__init__(f"{what} is not supported here; {instead}")


class ProcessDied(EvsessionError):
    """A process that was started for a part of some work is gone; the work was not done, and nothing was changed.

    `code` is what it ended with: minus the number of the signal that killed it, if one did.
    """

    def __init__(self, code: int) -> None:
        self.code = code
        how = f"was killed by signal {-code}" if code < 0 else f"ended with {code}"
        super().__init__(f"a process of this run {how}; if memory is short, ask for fewer with jobs=1 (--jobs 1)")


class ConnectionClosed(EvsessionError, OSError):
    """A socket or stream was closed by evsession, so nothing can be sent on it; raised where the handler sends.

    `reason` is why, one of `evsession.standing.Verdict`. An OSError, as servers raise when a client has gone, so that
    frameworks take it for that.  Source: ASGI HTTP & WebSocket message format, version 2.4, "send after disconnect".
    """

    def __init__(self, reason: str) -> None:
        self.reason = reason
        fact = f"the connection was closed ({reason}), and what was sent is dropped"
        super().__init__(f"{fact}; end the handler, as after any disconnect")


class SessionError(EvsessionError):
    """One session, or the right to have it: the store is well."""


_ANEW: Final = "begin a new one with session.login(user_id)"
_AFTER_END: Final = {
    "revoked": "sign in again: a login that began before the revocation does not survive it",
    "evicted": "sign in again: newer sessions of this user took its place, as SessionPolicy(max_sessions=…) wants",
}


class SessionEnded(SessionError):
    """The session is over and never comes back; what this request changed was dropped.

    `cause` is one of `evsession.events.CAUSES`.
    """

    def __init__(self, cause: str) -> None:
        self.cause = cause
        fact = f"the session has ended ({cause}) and the changes were dropped"
        super().__init__(f"{fact}; {_AFTER_END.get(cause, _ANEW)}")


class SessionConflict(SessionError):
    """Somebody else changed the same keys since they were read; nothing was written.

    `keys` are those that both changed.
    """

    def __init__(self, keys: Iterable[str]) -> None:
        self.keys = tuple(keys)
        names = ", ".join(_shown(key) for key in self.keys[:8]) + (", …" if len(self.keys) > 8 else "")
        fact = f"session keys {names} were changed meanwhile"
        super().__init__(f"{fact}; edit again, or use manager.update(session, change)")


class SessionTooLarge(SessionError):
    """The data is over a limit; nothing was written.

    `size` and `limit` count `unit` (``"bytes"`` of JSON or ``"keys"``), `largest_key` holds the most bytes.
    """

    def __init__(self, size: int, limit: int, largest_key: str, unit: str = "bytes") -> None:
        self.size = size
        self.limit = limit
        self.largest_key = largest_key
        self.unit = unit
        fact = f"the session has {size} {unit}, the limit is {limit}; the largest key is {_shown(largest_key)}"
        super().__init__(f"{fact}: keep it in your database, or raise SessionPolicy(max_{unit}=…)")


class SessionInvalid(SessionError):
    """The session's data does not fit a model, as it is stored or as it is to be committed; nothing was written.

    `model` is the name of the class, `field` the path of the first field that does not fit (``""`` for all of it),
    `problem` what is wrong with it. The value itself is not kept: it may be a secret.
    """

    def __init__(self, model: str, field: str, problem: str) -> None:
        self.model = model
        self.field = field
        self.problem = problem
        where = f"field {_shown(field)}" if field else "the session"
        fact = f"{where} does not fit the model {model}: {problem}"
        super().__init__(f"{fact}; set a value that fits, or give old sessions a default for it")


_AFTER_LIMIT: Final = {
    "max_sessions": "sign out elsewhere, let on_limit='evict_oldest' do it, or ",
    "anonymous_per_second": "try again in a second, write to fewer anonymous sessions, or ",
}


class SessionLimitReached(SessionError):
    """There are too many sessions already; none was created.

    `limit` is the value of the setting of `SessionPolicy` that `what` names: ``"max_sessions"`` of one user, or
    ``"anonymous_per_second"`` in this worker.
    """

    def __init__(self, limit: int, what: str) -> None:
        self.limit = limit
        self.what = what
        super().__init__(f"{what}={limit} is reached; {_AFTER_LIMIT.get(what, '')}raise SessionPolicy({what}=…)")


class InvalidUserId(SessionError, ValueError):
    """A value cannot identify a user; nobody was signed in.

    `type` is the name of the value's type. The value itself is not kept: it may be anything.
    """

    def __init__(self, type: str, problem: str) -> None:
        self.type = type
        self.problem = problem
        super().__init__(f"a user id of type {type} {problem}; pass a str, an int or a UUID of 1 to 256 characters")
