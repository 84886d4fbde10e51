"""Proving one part of what was read, here or in a process of its own.

`main` is that process. It is told everything through its standard input, so that no key stands in its command line or
its environment, and it touches neither network nor disk: terms, records and an empty batch come in, a report goes out.
It ends when its input does.
"""

from __future__ import annotations

import gc
import sys
from collections.abc import Iterable, Iterator, Mapping
from contextlib import suppress
from dataclasses import astuple
from typing import IO, Any, NamedTuple

from evsession.audit.report import Report
from evsession.audit.spill import SNAPSHOTS, Batch, framed, unframed
from evsession.keys import AuditKeys
from evsession.proof import Fault, Prover, Reach, Trace
from evsession.stores.memory import KEPT_PAST_ABSOLUTE_MS
from evsession.wire import parse_id


class Terms(NamedTuple):
    """What a part is proved with: keys, what was there of each shard's log, the server's time, the absolute timeout.

    Times in ms.
    """

    keys: AuditKeys
    reaches: Mapping[str, Reach]
    now: int
    absolute: int

    def plain(self) -> tuple[object, ...]:
        """Return them in plain types; the keys are in the open."""
        reaches = {shard: tuple(reach) for shard, reach in self.reaches.items()}
        return dict(self.keys.by_id), reaches, self.now, self.absolute

    @classmethod
    def of(cls, plain: Any) -> Terms:
        """Return the terms that `plain` returned."""
        keys, reaches, now, absolute = plain
        return cls(AuditKeys(keys), {shard: Reach(*reach) for shard, reach in reaches.items()}, now, absolute)


def may_have_lapsed(trace: Trace, now: int, absolute: int) -> bool:
    """Tell whether a snapshot's time to live may be over, because no sweeper was at work for a day."""
    since = parse_id(trace.authenticated_id or trace.first_id)[0]
    return now - since > (trace.remember or absolute) + KEPT_PAST_ABSOLUTE_MS


def take_in(prover: Prover, batch: Batch) -> None:
    """Tell a prover of some snapshots or entries."""
    source, records = batch
    if source == SNAPSHOTS:
        for sid, packed in records:
            prover.snapshot(sid.decode(), packed)
    else:
        for line in records:
            prover.entry(source, line)


def finished(prover: Prover, terms: Terms, report: Report) -> Iterator[tuple[str, Trace]]:
    """Yield each session of a part once the prover was told all of it, and count it in the report."""
    for sid, trace in prover.finish(lambda trace: may_have_lapsed(trace, terms.now, terms.absolute)):
        report.sessions += 1
        if trace.is_partial:
            report.add_not_checkable(sid)
        yield sid, trace


def proved(batches: Iterable[Batch], terms: Terms) -> Report:
    """Return what is wrong with the sessions of a part, and how many there are."""
    report = Report()
    prover = Prover(terms.keys, terms.reaches, report.add)
    for batch in batches:
        take_in(prover, batch)
    for _ in finished(prover, terms, report):
        pass
    return report


def plain_part(report: Report) -> tuple[object, ...]:
    """Return what `proved` found in plain types."""
    faults = [astuple(fault) for fault in report.faults]
    return report.sessions, report.fault_count, faults, report.not_checkable_count, report.not_checkable


def part_of(plain: Any) -> Report:
    """Return the report that `plain_part` returned."""
    sessions, fault_count, faults, not_checkable_count, not_checkable = plain
    names = ("kind", "shard", "session_id", "id", "version", "detail")
    return Report(
        sessions=sessions,
        fault_count=fault_count,
        faults=[Fault(**dict(zip(names, fault, strict=True))) for fault in faults],
        not_checkable_count=not_checkable_count,
        not_checkable=not_checkable,
    )


def main() -> None:
    """Prove one part after the other, until there are no more or whoever asks is gone."""
    gc.freeze()
    gc.disable()  # a part has no cycles to speak of, and is gone before the next
    source, sink = sys.stdin.buffer, sys.stdout.buffer
    with suppress(EOFError, BrokenPipeError):
        while True:
            report = proved(_batches(source), Terms.of(unframed(source)))
            sink.write(framed(plain_part(report)))
            sink.flush()
            gc.collect()


def _batches(source: IO[bytes]) -> Iterator[Batch]:
    while batch := unframed(source):
        yield batch
