"""Bringing back a snapshot that was lost: by one more event, atomically, and only if nobody else has."""

from evsession.testing.conformance.restore import *  # noqa: F403
