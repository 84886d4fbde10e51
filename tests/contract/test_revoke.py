"""The control log: one entry for one revocation, what a worker needs that starts, and what the others have applied."""

from evsession.testing.conformance.revoke import *  # noqa: F403
