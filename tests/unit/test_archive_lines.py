"""Archived events as text: every byte of an entry comes back, whoever wrote it."""

from __future__ import annotations

import json
from hashlib import sha256
from typing import Any

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from evsession.archive.lines import from_line, id_of_line, to_lines
from evsession.wire import Entry, Line, line_of

PLAIN = Entry(
    id=(1_700_000_000_000, 3),
    sid="00abcdefghijklmnopqrstuv",
    version=2,
    type="updated",
    previous="1700000000000-0",
    event_id=bytes(range(16)),
    offset=-12,
    actor=b"admin joe",
    context=b'{"m":"POST","r":"/cart"}',
    data=b'{"set":{"a":1}}',
    key_id="abcd",
    head=bytes(range(16, 32)),
)

ODD: Line = (b"1-0",)
"""What is none of ours; beside it, every line is made the long way."""


def to_line(line: Line) -> bytes:
    """Return the line of an entry, which is the same whatever stands beside it."""
    (alone,), beside = to_lines([line]), to_lines([line, ODD, line_of(PLAIN), line])
    assert beside == [alone, b"", LINE, alone]
    return alone


(LINE,) = to_lines([line_of(PLAIN)])

anything = st.one_of(
    st.binary(max_size=40),
    st.text(max_size=20).map(str.encode),
    st.dictionaries(st.text(max_size=5), st.integers(-9, 9), max_size=3).map(lambda d: json.dumps(d).encode()),
    st.sampled_from(
        [b"", b"{}", b'{"b":1,"a":2}', b'{"a":1}\n', b'"{}"', b"[1]", b'{"a":1.0}', b'{"a":"\xff"}', b"{", b"null"]
    ),
)


@given(anything, anything, anything)
@example(b"", b'{"a":1e1}', b'{"a":1,"a":1}')
@example(b"", b"{", b"{}")
@example(b"user \xff", b"{}", b"{}")
def test_every_byte_comes_back(actor: bytes, context: bytes, data: bytes) -> None:
    """Heads cover the bytes, so an archive that changed one of them could not be verified."""
    entry = PLAIN._replace(actor=actor, context=context, data=data)
    line = to_line(line_of(entry))
    assert from_line(line) == entry
    assert line.endswith(b"\n")
    assert line.count(b"\n") == 1
    assert id_of_line(line) == entry.id


def test_a_line_is_plain_json() -> None:
    """Any tool can read it, without evsession: values stand as values, not as text within text."""
    line = json.loads(to_line(line_of(PLAIN)))
    assert line == {
        "id": "1700000000000-3", "sid": PLAIN.sid, "version": 2, "type": "updated", "previous": "1700000000000-0",
        "event_id": "000102030405060708090a0b0c0d0e0f", "offset": -12, "key_id": "abcd",
        "head": "101112131415161718191a1b1c1d1e1f", "actor": "admin joe",
        "context": {"m": "POST", "r": "/cart"}, "data": {"set": {"a": 1}},
    }  # fmt: skip


def test_what_is_not_canonical_stands_as_text() -> None:
    """Only a foreign writer leaves it, and it must come back with its spaces."""
    assert json.loads(to_line(line_of(PLAIN._replace(data=b'{"set": {}}'))))["data"] == '{"set": {}}'


@pytest.mark.parametrize(
    "line",
    [
        b"", b"{}", b"[]", b"null", b"{", b'{"id":"1-0"}', b'{"id":1}',
        LINE.replace(b'"admin joe"', b"7"), LINE.replace(b'{"set":{"a":1}}', b"[1]"),
        LINE.replace(b"000102", b"0001zz"), LINE.replace(b"1700000000000-3", b"x-3"),
    ],
)  # fmt: skip
def test_what_is_no_line_is_refused(line: bytes) -> None:
    """With what stands there, cut to a readable length."""
    with pytest.raises(ValueError, match="no archived event"):
        from_line(line)


@pytest.mark.parametrize("line", [b"", b"{}", b'{"id":"x"}', b'{"id":"1-0'])
def test_a_line_without_an_id_is_refused(line: bytes) -> None:
    """Nothing is guessed."""
    with pytest.raises(ValueError, match=r".*"):
        id_of_line(line)


@pytest.mark.parametrize(
    "change",
    [
        {"sid": 'idp:a"b|c'}, {"sid": "tenant:ä"}, {"type": "named\nrevoked"}, {"previous": "0"}, {"key_id": "ABCD"},
        {"offset": 0}, {"version": 0}, {"actor": b'user "x"\\'}, {"sid": "a\x00b"}, {"sid": ""},
    ],
)  # fmt: skip
def test_what_needs_a_second_look_has_the_same_form(change: dict[str, Any]) -> None:
    """Names of the control log may hold any text; the short way and the long way write alike."""
    entry = PLAIN._replace(**change)
    line = to_line(line_of(entry))
    assert from_line(line) == entry
    assert list(json.loads(line)) == list(json.loads(to_line(line_of(PLAIN))))


@pytest.mark.parametrize("at", range(12))
def test_an_entry_that_is_none_of_ours_has_no_line(at: int) -> None:
    """Too few fields, numbers that are none, text that is none."""
    line = line_of(PLAIN)
    assert not to_line(line[:at])
    if at in (3, 6):
        assert not to_line((*line[:at], b"many", *line[at + 1 :]))
        assert not to_line((*line[:at], b"9" * 30, *line[at + 1 :])), "no JSON has such a number"
    if at in (1, 2, 4, 10):
        assert not to_line((*line[:at], b"\xff", *line[at + 1 :]))


@pytest.mark.parametrize("context", [b"", b'["w","GET /","10.0.0.0"]', b'{"w":"w"}', b'{"w": "w"}'])
def test_contexts_of_all_forms_stand_in_one_page(context: bytes) -> None:
    """A request's is a list, that of somebody acting for another an object, and a sweeper has none."""
    page = [line_of(PLAIN), line_of(PLAIN._replace(context=context)), line_of(PLAIN)]
    assert [from_line(line).context for line in to_lines(page)] == [PLAIN.context, context, PLAIN.context]
    assert to_lines(page) == [to_line(line) for line in page]


def test_an_empty_page_has_no_lines() -> None:
    """A log may end where a page did."""
    assert to_lines([]) == []


def test_lines_are_those_of_every_version_before() -> None:
    """The digests of files are in signed manifests: an archiver of another version must make the very same ones."""
    page = [
        line_of(PLAIN._replace(version=version, actor=actor, context=context, data=data, sid=sid))
        for version, sid in ((1, PLAIN.sid), (123, "user:42"), (2, 'idp:"a"|ä'))
        for actor in (b"", b"admin joe", b"\xff")
        for context in (b"", b'["w","GET /"]', b'{"w":"w"}')
        for data in (b"{}", b'{"set":{"a":"\xc3\xa4"}}', b'{"set": {}}', b'{"b":1,"a":2}', b"{")
    ]
    lines = b"".join(to_lines(page)), b"".join(to_line(line) for line in page)
    digest = "0291306d1a161c6083ed0c493a3b3917e99f36f34bb87fac68dd1f6ee4674ca3"
    assert [sha256(text).hexdigest() for text in lines] == [digest, digest]


def test_equal_entries_have_equal_lines() -> None:
    """Two archivers at the same work must write the same file."""
    again: dict[str, Any] = PLAIN._asdict()
    assert to_line(line_of(Entry(**again))) == to_line(line_of(PLAIN))
