"""Heartbeats: whether a position is in the log, and where the log ends. Fills, and what must come ahead of them."""

from evsession.testing.conformance.heartbeat import *  # noqa: F403
