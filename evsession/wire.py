"""What stands in the log, in a snapshot and in a feed message, as plain records: positions, entries, notices."""

from __future__ import annotations

from base64 import urlsafe_b64decode, urlsafe_b64encode
from collections.abc import Iterable, Iterator
from functools import lru_cache
from hmac import compare_digest
from typing import Final, NamedTuple

from evsession.keys import mac

StreamId = tuple[int, int]
"""A stream id as two numbers, so that ids compare in the order of the log."""


class Position(NamedTuple):
    """A place in a log: an id and the event id that stands there.

    The id alone is no proof: after a failover it can come again with another event.
    """

    id: StreamId
    event: bytes

    def text(self) -> str:
        """Return the position as it stands in a session."""
        return f"{id_text(self.id)} {urlsafe_b64encode(self.event).decode().rstrip('=')}"

    @classmethod
    def parse(cls, text: str) -> Position:
        """Return the position that `text` describes."""
        id_, _, event = text.partition(" ")
        return cls(parse_id(id_.encode()), urlsafe_b64decode(event + "=" * (-len(event) % 4)))


START: Final = Position((0, 0), bytes(16))
"""The position of an empty log: older than every entry."""


def control_text(position: Position | None) -> str:
    """Return a control position as it stands in a session; nothing for the start of the log, older than every entry."""
    return "" if position is None or position == START else position.text()


def parse_id(raw: bytes) -> StreamId:
    """Return the two numbers of a stream id such as ``1700000000000-0``."""
    ms, _, seq = raw.partition(b"-")
    return int(ms), int(seq or b"0")


known_id = lru_cache(maxsize=64)(parse_id)
"""Does the same for an id that comes up again at once, as a commit's: in its reply, its message and the next one."""


def id_text(id_: StreamId) -> str:
    """Return a stream id as Redis writes it."""
    return f"{id_[0]}-{id_[1]}"


class Entry(NamedTuple):
    """One log entry, undecoded: the fields of design section 3 under their full names.

    A tuple, because a frozen dataclass takes 2.4 µs longer to make (measured), and readers make millions.
    """

    id: StreamId
    sid: str
    version: int
    type: str
    previous: str
    event_id: bytes
    offset: int
    actor: bytes
    context: bytes
    data: bytes
    key_id: str
    head: bytes

    @property
    def position(self) -> Position:
        """The entry's place in its log."""
        return Position(self.id, self.event_id)


Line = tuple[bytes, ...]
"""One log entry as it lies in the log: its id, then the values of `t s n p i o a c d k m` of design section 3.

Digests are made of these very bytes, so who checks them reads nothing else. What is none of ours is its id alone.
"""


def line_of(entry: Entry) -> Line:
    """Return an entry as it lies in the log."""
    return (
        id_text(entry.id).encode(), entry.type.encode(), entry.sid.encode(), b"%d" % entry.version,
        entry.previous.encode(), entry.event_id, b"%d" % entry.offset, entry.actor, entry.context, entry.data,
        entry.key_id.encode(), entry.head,
    )  # fmt: skip


def entry_of(line: Line) -> Entry:
    """Return the entry that lies in the log like this.

    Raises:
        ValueError: it is none of ours.
    """
    id_, type_, sid, version, previous, event_id, offset, actor, context, data, key_id, head = line
    return Entry(
        parse_id(id_), sid.decode(), int(version), type_.decode(), previous.decode(), event_id, int(offset), actor,
        context, data, key_id.decode(), head,
    )  # fmt: skip


class Notice(NamedTuple):
    """What a feed message tells of one commit; `data` is empty when a value in it is redacted.

    `prev` (the entry before it in the log) and `id` come from the server and are not covered by the tag; the rest comes
    from the committing worker.
    """

    prev: Position
    id: StreamId
    sid: str
    version: int
    previous_head: bytes
    head: bytes
    link: bytes
    event_id: bytes
    key_id: str
    type: str
    data: bytes


_TAG, _SID, _VERSION, _DIGEST, _KEY_ID = 16, 24, 10, 16, 4
_AFTER_SID = _SID + _VERSION
_AFTER_DIGESTS = _AFTER_SID + 4 * _DIGEST
_FIXED = _AFTER_DIGESTS + _KEY_ID


def pack_notice(
    key: bytes,
    *,
    sid: str,
    version: int,
    previous_head: bytes,
    head: bytes,
    link: bytes,
    event_id: bytes,
    key_id: str,
    type_: str,
    data: bytes,
) -> bytes:
    """Return the worker's part of a message: a 16-byte tag and what it covers.

    The tag is there because whoever can PUBLISH must not be able to write sessions.
    """
    notice = Notice(START, START.id, sid, version, previous_head, head, link, event_id, key_id, type_, data)
    return tagged(key, notice)


def tagged(key: bytes, notice: Notice) -> bytes:
    """Return a notice as the worker's part of a message; `prev` and `id` are the server's to say."""
    _, _, sid, version, previous_head, head, link, event_id, key_id, type_, data = notice
    content = b"%-24b%010d%b%b%b%b%b%b %b" % (
        sid.encode(), version, previous_head, head, link, event_id, key_id.encode(), type_.encode(), data
    )  # fmt: skip
    return mac(key, content) + content


def split_message(message: bytes) -> Iterable[tuple[Position, StreamId, bytes]]:
    """Return or yield (position before, id, worker's part) for each commit in a feed message.

    Each stands as ``prev-id id length\\n``, the 16 bytes of the event id before, and the worker's part.

    Raises:
        ValueError: the message is not of this form, told at once or when that place is reached.
    """
    line, _, rest = message.partition(b"\n")
    prev, _, more = line.partition(b" ")
    id_, _, size = more.partition(b" ")
    # Nearly always there is one commit, for which a generator would cost as much again.
    if size.isdigit() and int(size) + _DIGEST == len(rest):
        return ((Position(known_id(prev), rest[:_DIGEST]), known_id(id_), rest[_DIGEST:]),)
    return _split_all(message)


def _split_all(message: bytes) -> Iterator[tuple[Position, StreamId, bytes]]:
    at, end = 0, len(message)
    while at < end:
        line_end = message.index(b"\n", at)
        prev, id_, size = message[at:line_end].split(b" ")
        part, length = line_end + 1 + _DIGEST, int(size)
        at = part + length
        if length < 0 or at > end:
            msg = "a feed message is cut short"
            raise ValueError(msg)
        yield Position(known_id(prev), message[line_end + 1 : part]), known_id(id_), message[part:at]


def unpack_notice(prev: Position, id_: StreamId, part: bytes) -> Notice:
    """Return the notice in a worker's part whose tag was found good.

    Raises:
        ValueError: the part is not of this form.
    """
    content = part[_TAG:]
    type_, space, data = content[_FIXED:].partition(b" ")
    if not space:
        msg = "a feed message has no type"
        raise ValueError(msg)
    previous_head, head, link, event_id = (
        content[at : at + _DIGEST] for at in range(_AFTER_SID, _AFTER_DIGESTS, _DIGEST)
    )
    return Notice(
        prev=prev,
        id=id_,
        sid=content[:_SID].rstrip().decode(),
        version=int(content[_SID:_AFTER_SID]),
        previous_head=previous_head,
        head=head,
        link=link,
        event_id=event_id,
        key_id=content[_AFTER_DIGESTS:_FIXED].decode(),
        type=type_.decode(),
        data=data,
    )


def notice_key_id(part: bytes) -> str:
    """Return the id of the key that a worker's part claims to be tagged with."""
    at = _TAG + _AFTER_DIGESTS
    return part[at : at + _KEY_ID].decode("ascii", "replace")


def notice_tag_is_good(key: bytes, part: bytes) -> bool:
    """Tell whether a worker's part was made by somebody who has the key."""
    return compare_digest(mac(key, part[_TAG:]), part[:_TAG])
