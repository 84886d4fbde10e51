"""Each rule that looks like too much care has a schedule that breaks a promise without it."""

from __future__ import annotations

import os
from collections.abc import Iterator
from typing import Final

import pytest

from tests.simulation.model import breaks
from tests.simulation.rules import RULES
from tests.simulation.test_failovers import revoke_and_fail_over
from tests.simulation.world import simulate

SEEDS: Final = {
    "a_hit_needs_a_lease": 0,
    "only_heartbeats_extend_a_lease": 2,
    "a_lease_waits_for_its_end": 10,
    "a_lease_counts_from_the_request": 27,
    "serving_needs_the_control_lease": 48,
    "a_heartbeat_checks_the_history": 9,
    "a_position_has_an_event_id": 237,
    "a_gap_stops_the_feed": 64,
    "a_fork_begins_a_generation": 9,
    "a_fill_has_a_floor": 62,
    "a_fill_counts_in_its_generation": 86,
    "what_the_feed_has_not_told_is_proven_for_a_while": 52,
    "a_retry_walks_to_its_first_attempt": 30,
    "a_retry_keeps_its_event_id": 30,
    "a_request_reapplies_its_operations": 1,
    "the_token_is_checked_before_every_attempt": 6,
    "a_fence_asks_the_server": 43,
    "lost_ends_are_written_again": 0,
    "a_failed_repetition_of_ends_is_repeated": 2446,
    "a_login_stands_where_its_request_began": 4,
    "a_worker_that_starts_anew_loads_all_names": 5,
    "lost_revocations_are_issued_again": 5,
    "a_revocation_is_looked_for_before_it_is_appended": 12,
    "a_lost_revocation_is_in_force_until_the_other_attempt_is": 48,
}
"""The first seed that shows each; another change of the code may move it, so some more are tried."""

ELSEWHERE: Final = {"a_lost_revocation_is_in_force_until_the_other_attempt_is": revoke_and_fail_over}
"""The rules that a simulation of its own is for; among all that may happen, their case is too rare."""

MORE: Final = int(os.environ.get("EVSESSION_SIMULATIONS", "1000"))


def test_every_rule_has_its_seed() -> None:
    """No rule is left out of the table, and none stands there that is no rule."""
    assert SEEDS.keys() == RULES.keys()


@pytest.mark.timeout(0 if "EVSESSION_SIMULATIONS" in os.environ else 120)
@pytest.mark.parametrize("name", RULES)
def test_without_the_rule_a_promise_breaks(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """The real code with one rule switched off is caught; with it, the same schedule is clean."""
    simulation = ELSEWHERE.get(name, simulate)
    with monkeypatch.context() as patch:
        RULES[name](patch)
        seed = next((seed for seed in _candidates(name) if breaks(simulation, seed)), None)
    assert seed is not None, (
        f"{name} is missed by none of {MORE} seeds; search longer for one to pin: EVSESSION_SIMULATIONS=20000"
    )
    assert not breaks(simulation, seed)


def _candidates(name: str) -> Iterator[int]:
    yield SEEDS[name]
    yield from range(MORE)
