"""Turns at a background job of a shard: one holder at a time, fencing numbers, and what is left for the next."""

from evsession.testing.conformance.turns import *  # noqa: F403
