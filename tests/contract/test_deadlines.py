"""Deadlines: touches slide the idle one, and the expiry index names those that have passed."""

from evsession.testing.conformance.deadlines import *  # noqa: F403
