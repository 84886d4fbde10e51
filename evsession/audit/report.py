"""What a verification found."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Final

from evsession.proof import Fault

MAX_LISTED: Final = 1_000
"""Faults, and sessions that could not be checked, that a report lists; the others it counts."""


Progress = Callable[[str, int, int], None]
"""Told what is being done, how much of it is done, and how much there is."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Trimmed:
    """The log of a shard begins at `first`, because `entries` before it were trimmed."""

    shard: str
    entries: int
    first: str


@dataclass(slots=True, kw_only=True)
class Report:
    """What was verified and what was found. `ok` says that there was no fault.

    `faults` lists the first 1,000 of `fault_count`; `not_checkable` likewise the sessions whose first events were
    trimmed, so that only versions, links and ends could be checked. `archived` events are in an archive, whose files
    were checked. `uncounted` names the shards whose server does not count what was appended and deleted (before Redis
    7.0). `seconds` is how long it took.
    """

    events: int = 0
    sessions: int = 0
    snapshots: int = 0
    faults: list[Fault] = field(default_factory=list)
    fault_count: int = 0
    not_checkable: list[str] = field(default_factory=list)
    not_checkable_count: int = 0
    trimmed: list[Trimmed] = field(default_factory=list)
    uncounted: list[str] = field(default_factory=list)
    archived: int = 0
    seconds: float = 0.0

    @property
    def ok(self) -> bool:
        """Whether nothing was wrong."""
        return not self.fault_count

    def add(self, fault: Fault) -> None:
        """Take in a fault."""
        self.fault_count += 1
        if len(self.faults) < MAX_LISTED:
            self.faults.append(fault)

    def add_part(self, part: Report) -> None:
        """Take in what the proof of a part found, as if each thing were added by itself."""
        self.sessions += part.sessions
        self.fault_count += part.fault_count
        self.faults += part.faults[: max(0, MAX_LISTED - len(self.faults))]
        self.not_checkable_count += part.not_checkable_count
        self.not_checkable += part.not_checkable[: max(0, MAX_LISTED - len(self.not_checkable))]

    def add_not_checkable(self, sid: str) -> None:
        """Take in a session whose first events are gone."""
        self.not_checkable_count += 1
        if len(self.not_checkable) < MAX_LISTED:
            self.not_checkable.append(sid)
